//! Unmodified Debian programs, dynamically linked, out of a root file system made of packages.

use std::path::PathBuf;

use e2e::tools::may_mount;
use e2e::{Program, Suite, debian, needs};

/// A root file system with the programs below.
fn rootfs() -> Option<PathBuf> {
    let packages = ["hello", "coreutils", "sqlite3", "lua5.4", "python3-minimal", "libpython3-stdlib"];
    let made = if may_mount() {
        debian::rootfs("debian-3", &packages)
    } else {
        Err("comparing inside a root file system needs root (chroot, mount)".into())
    };
    needs("Debian programs", made)
}

#[test]
fn hello_and_coreutils() {
    let Some(root) = rootfs() else { return };
    let mut suite = Suite::new("hello and coreutils");
    let text = b"delta\nalpha\ncharlie\nbravo\nalpha\n";
    let runs: &[(&str, &[&str])] = &[
        ("hello", &[]),
        ("hello", &["--greeting=salut", "--traditional"]),
        ("ls", &["-l", "/usr/bin/hello", "/bin"]),
        ("ls", &["--color=always", "/etc"]),
        ("cat", &["/etc/passwd", "-"]),
        ("sort", &["-r"]),
        ("uniq", &["-c"]),
        ("wc", &["-l", "/usr/bin/python3.11", "-"]),
        ("sha256sum", &["/usr/bin/python3.11", "/usr/bin/sqlite3"]),
        ("sha512sum", &["/usr/bin/lua5.4"]),
        ("md5sum", &["-"]),
        ("b2sum", &["/usr/bin/hello"]),
        ("head", &["-c", "100", "/usr/bin/hello"]),
        ("tail", &["-n", "2"]),
        ("tr", &["a-z", "A-Z"]),
        ("cut", &["-c2-3"]),
        ("od", &["-An", "-tx4", "/etc/group"]),
        ("base64", &["/usr/bin/hello"]),
        ("seq", &["-f", "%.3f", "0", "0.125", "2"]),
        ("factor", &["18446744073709551617"]),
        ("expr", &["2", "+", "40"]),
        ("printf", &["%s|%d\\n", "x", "7"]),
        ("date", &["-u", "-d", "@1700000000", "+%F %T"]),
        ("stat", &["-c", "%n %s %A %F", "/usr/bin/hello", "/lib"]),
        ("readlink", &["-f", "/lib/x86_64-linux-gnu/libc.so.6"]),
        ("env", &[]),
        ("pwd", &[]),
        ("id", &["-u"]),
        ("nl", &[]),
        ("tsort", &[]),
        ("numfmt", &["--to=iec", "123456789"]),
        ("dd", &["if=/usr/bin/hello", "bs=512", "count=3", "status=none"]),
        ("cp", &["-v", "/etc/passwd", "/tmp/copy"]),
        ("mkdir", &["-v", "-p", "/tmp/a/b"]),
        ("touch", &["/tmp/new"]),
        ("ln", &["-s", "-v", "/etc", "/tmp/link"]),
        ("rm", &["/tmp/none"]),
        ("ls", &["--no-such-option"]),
        ("true", &[]),
        ("false", &[]),
    ];
    for (name, args) in runs {
        suite.compare(Program::within(&root, format!("/usr/bin/{name}")).args(*args).stdin(text.as_slice()));
    }
    suite.run();
}

#[test]
fn sqlite() {
    let Some(root) = rootfs() else { return };
    let mut sql = String::from("create table t(id integer primary key, name text, value real);\n");
    for n in 0..1000 {
        sql += &format!("insert into t(name, value) values('name {}', {}.5);\n", n % 97, n * n % 1013);
        sql += &format!("select id, name, value from t where id = {};\n", n / 2 + 1);
    }
    sql += "create index by_name on t(name);\nbegin; update t set value = value * 2 where id % 3 = 0; rollback;\n\
        select name, count(*), sum(value), avg(value) from t group by name order by 3 desc, 1;\n\
        select a.id, b.id from t a join t b on a.value = b.value and a.id < b.id order by 1, 2 limit 50;\n\
        pragma integrity_check;\nvacuum;\nselect count(*) from t;\nselect * from missing;\n";
    let mut suite = Suite::new("sqlite3");
    suite.compare(Program::within(&root, "/usr/bin/sqlite3").args(["/tmp/a.db"]).stdin(sql.clone()));
    suite.compare(Program::within(&root, "/usr/bin/sqlite3").args([":memory:"]).stdin(sql.clone()));
    suite.compare(
        Program::within(&root, "/usr/bin/sqlite3")
            .args(["/tmp/a.db"])
            .stdin(format!("begin;\n{sql}\ncommit;\n")),
    );
    suite.compare(
        Program::within(&root, "/usr/bin/sqlite3").args(["/tmp/a.db", "select sqlite_version(), 6 * 7"]),
    );
    suite.compare(Program::within(&root, "/usr/bin/sqlite3").args(["/none/a.db", "create table t(x)"]));
    suite.run();
}

const LUA: &str = r#"
local words = {}
for n = 1, 20000 do local k = "k" .. (n * 7919 % 1009); words[k] = (words[k] or 0) + n end
local keys = {}
for k in pairs(words) do keys[#keys + 1] = k end
table.sort(keys)
print(#keys, keys[1], words[keys[1]], ("%.12f"):format(math.sin(1)))
local f = assert(io.open("/tmp/lua", "w"))
for n = 1, 1000 do f:write(n, "\n") end
f:close()
local sum = 0
for line in io.lines("/tmp/lua") do sum = sum + tonumber(line) end
print(sum, os.rename("/tmp/lua", "/tmp/lua2"), os.remove("/tmp/lua2"))
print(io.open("/tmp/lua"))
local co = coroutine.wrap(function() for n = 1, 3 do coroutine.yield(n) end end)
print(co(), co(), co(), os.date("!%F", 86400), os.getenv("LC_ALL"), pcall(error, "caught"))
print(io.read("l"), io.read("n"), io.read("a"))
os.exit(5)
"#;

#[test]
fn lua() {
    let Some(root) = rootfs() else { return };
    let mut suite = Suite::new("lua");
    let lua = || Program::within(&root, "/usr/bin/lua5.4");
    suite.compare(lua().args(["-e", LUA]).stdin("line\n42 rest\nof it"));
    suite.compare(lua().args(["-"]).stdin("print('from stdin', ...)"));
    suite.compare(lua().args(["-e", "error('uncaught')"]));
    suite.run();
}

const PYTHON: &[&str] = &[
    "print('hello', 6 * 7)",
    "import json; d = {'a': [1, 2.5, None, True], 'ü': {'x': 'y' * 10}}; s = json.dumps(d, sort_keys=True, indent=1); print(s); assert json.loads(s) == d",
    "import hashlib\nfor n in ('md5', 'sha1', 'sha256', 'sha3_256', 'blake2b'): print(n, hashlib.new(n, b'x' * 1000000).hexdigest())",
    "import re; t = 'guest 12, host 345; page 6' * 1000; print(len(re.findall(r'(\\w+) (\\d+)', t)), re.sub(r'\\d', '#', t)[:40])",
    "import os\nn = s = 0\nfor top, dirs, files in os.walk('/usr/lib/python3.11'):\n  dirs.sort()\n  for f in sorted(files): n += 1; s += os.path.getsize(os.path.join(top, f))\nprint(n, s)",
    "import os, sys; print(os.getcwd(), sys.argv, sys.version_info[:2], os.environ['TZ'], os.listdir('/tmp'), os.cpu_count() > 0)",
    "import os, tempfile\nwith tempfile.TemporaryDirectory() as d:\n  p = os.path.join(d, 'f')\n  open(p, 'w').write('x' * 100000)\n  print(os.stat(p).st_size, sorted(os.listdir(d)))\n  os.rename(p, p + '2'); print(os.path.exists(p))",
    "import sys; data = sys.stdin.buffer.read(); print(len(data), data[:20]); sys.exit(7)",
    "import collections, itertools, math, random, datetime, zlib, struct; random.seed(1); print(random.random(), math.factorial(50), collections.Counter('abracadabra').most_common(2), datetime.datetime.fromtimestamp(0, datetime.timezone.utc), zlib.crc32(b'x'), struct.pack('>I', 7))",
    "import time; a = time.monotonic(); time.sleep(0.02); print(time.monotonic() - a >= 0.02, time.time() > 1.7e9)",
    "import mmap, os; f = open('/tmp/m', 'w+b'); f.truncate(8192); m = mmap.mmap(f.fileno(), 8192); m[5000:5005] = b'hello'; m.flush(); f.seek(5000); print(f.read(5))",
    "import sqlite3; c = sqlite3.connect('/tmp/p.db'); c.execute('create table t(x)'); c.executemany('insert into t values(?)', [(n,) for n in range(1000)]); c.commit(); print(c.execute('select sum(x) from t').fetchone())",
    "raise ValueError('uncaught')",
    "import os; os.abort()",
];

#[test]
fn python() {
    let Some(root) = rootfs() else { return };
    let mut suite = Suite::new("python3");
    for code in PYTHON {
        // -B: no caches written; isolated from site directories, which are the distribution's to set up.
        let program = Program::within(&root, "/usr/bin/python3").args(["-B", "-c", code, "argument"]);
        suite.compare(program.stdin("some input for whoever reads it").timeout(120));
    }
    suite.run();
}
