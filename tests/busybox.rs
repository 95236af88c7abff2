//! Debian's busybox-static: applets that need no second process, on a tree of many kinds of files, byte for byte as on Linux.
//!
//! The order in which a directory lists its entries is a file system's own (hash order here, name order there), so tools
//! that pass it on are compared line by line in sorted order. Nothing else is normalised.

use std::path::{Path, PathBuf};

use e2e::tools::may_mount;
use e2e::{Outcome, Program, Suite, debian, needs, tree};

/// The tree with busybox in it, or why there is none.
fn rootfs() -> Result<PathBuf, String> {
    if !may_mount() {
        return Err("comparing inside a root file system needs root (chroot, mount)".into());
    }
    let packages = debian::rootfs("busybox-static-2", &["busybox-static"])?;
    Ok(tree::data(&packages.join("bin/busybox")))
}

fn applet(root: &Path, args: &[&str]) -> Program {
    Program::within(root, "/bin/busybox").args(args)
}

/// As [`Program::compare`], with the lines of both outputs sorted.
fn compare_sorted(program: &Program) -> Result<(), String> {
    let sorted = |mut outcome: Outcome| {
        let mut lines: Vec<_> =
            outcome.stdout.split_inclusive(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
        lines.sort();
        outcome.stdout = lines.concat();
        outcome
    };
    sorted(program.guest()).same_as(&sorted(program.host()))
}

/// Applets that only read the tree.
const READING: &[&[&str]] = &[
    &["cat", "/data/words", "/data/empty", "/data/binary"],
    &["cat", "-n", "/data/name with space", "/data/näme"],
    &["cat", "/data/missing"],
    &["cat", "/data"],
    &["ls", "-l", "/data/words", "/data/link", "/data/absolute", "/data/dangling"],
    &["ls", "-a", "/data"],
    &["ls", "-1R", "/data"],
    &["ls", "-lR", "/data"],
    &["ls", "/data/missing", "/data/one"],
    &["sort", "/data/words"],
    &["sort", "-t", "\t", "-k", "3,3", "-n", "-r", "/data/table"],
    &["sort", "-u", "/data/repeats"],
    &["uniq", "-c", "/data/repeats"],
    &["md5sum", "/data/words", "/data/page", "/data/empty"],
    &["sha1sum", "/data/page+1", "/data/page-1"],
    &["sha256sum", "/data/binary", "/data/näme"],
    &["sha512sum", "/data/binary"],
    &["sha3sum", "/data/binary"],
    &["cksum", "/data/binary"],
    &["sum", "/data/binary"],
    &["crc32", "/data/binary"],
    &[
        "awk",
        "{ n[$2] += $1 } END { for (i = 0; i < 7; i++) print i, n[\"name\" i]; printf \"%.6f\\n\", exp(1) }",
        "/data/table",
    ],
    &[
        "awk",
        "BEGIN { while ((getline line < \"/data/sorted\") > 0) s += line; print s; print length(s), substr(\"guest\", 2, 3) }",
    ],
    &["sed", "-n", "s/page\\(.*\\)guest/<\\1>/p", "/data/words"],
    &["sed", "-e", "1,10d", "-e", "y/abc/ABC/", "-e", "$!N;s/\\n/+/", "/data/words"],
    &["dd", "if=/data/binary", "bs=1000", "skip=3", "count=7", "status=none"],
    &[
        "stat",
        "-c",
        "%n %s %a %u %g %F %h %Y",
        "/data/words",
        "/data/binary",
        "/data/one",
        "/data/script",
        "/data/empty",
    ],
    &["stat", "-c", "%n %N %F %a", "/data/link", "/data/dangling", "/data/deep", "/tmp", "/data/näme"],
    &["stat", "-L", "-c", "%s %F", "/data/link"],
    &["stat", "/data/loop/x"],
    &["wc", "/data/words", "/data/binary", "/data/long"],
    &["head", "-n", "5", "/data/words", "/data/table"],
    &["head", "-c", "-100", "/data/page"],
    &["tail", "-n", "7", "/data/words"],
    &["tail", "-c", "5000", "/data/binary"],
    &["tail", "-n", "+190", "/data/table"],
    &["cut", "-f", "2,3", "/data/table"],
    &["cut", "-c", "1-3,5", "/data/sorted"],
    &["od", "-A", "x", "-t", "x1z", "/data/page-1"],
    &["od", "-c", "/data/dos"],
    &["hexdump", "-C", "/data/page"],
    &["xxd", "-l", "256", "/data/binary"],
    &["base64", "/data/page+1"],
    &["comm", "/data/sorted", "/data/other"],
    &["comm", "-12", "/data/sorted", "/data/other"],
    &["diff", "/data/sorted", "/data/other"],
    &["diff", "-u", "-L", "a", "-L", "b", "/data/sorted", "/data/other"],
    &["cmp", "/data/page", "/data/page+1"],
    &["cmp", "/data/words", "/data/link"],
    &["readlink", "/data/link"],
    &["readlink", "-f", "/data/up/a/../a/b"],
    &["realpath", "/data/up/a/b/../../a", "/data/absolute"],
    &["realpath", "/data/loop"],
    &["fold", "-w", "30", "-s", "/data/words"],
    &["expand", "/data/tabs"],
    &["unexpand", "-a", "/data/tabs"],
    &["nl", "/data/dos"],
    &["paste", "-d", ",", "/data/sorted", "/data/other"],
    &["rev", "/data/words"],
    &["tac", "/data/sorted"],
    &["strings", "-n", "6", "/data/binary"],
    &["gzip", "-c", "/data/words"],
    &["bzip2", "-c", "/data/words"],
    &["uuencode", "/data/page", "name"],
    &["grep", "-n", "Kernel", "/data/words"],
    &["grep", "-c", "-v", "-i", "kernel", "/data/words"],
    &["egrep", "-o", "(guest|host) [a-z]+", "/data/words"],
    &["fgrep", "-x", "0042", "/data/sorted"],
    &["grep", "absent", "/data/words"],
    &["test", "-x", "/data/script", "-a", "-h", "/data/link"],
    &["test", "/data/words", "-nt", "/data/missing"],
    &["[", "-d", "/data/words", "]"],
    &["which", "busybox", "sh"],
    &["tar", "c", "-C", "/", "data/deep", "data/one", "data/link", "data/näme", "data/page+1"],
    &["tr", "a", "b"],
];

/// Applets that compute from their arguments.
const COMPUTING: &[&[&str]] = &[
    &["ascii"],
    &["arch"],
    &["basename", "/usr/lib/libc.so.6", ".6"],
    &["dirname", "/usr/lib/libc.so.6"],
    &["cal", "2", "2024"],
    &["date", "-u", "-d", "@1700000000"],
    &["date", "-u", "-d", "@0", "+%Y-%m-%dT%H:%M:%S %j %a %s"],
    &["dc", "-e", "7 k 2 v p"],
    &["echo", "-e", "a\\tb\\x41", "", "two  spaces", "new\nline"],
    &["env"],
    &["expr", "6", "*", "7"],
    &["expr", "length", "hypervisor"],
    &["factor", "1234567890", "4294967291"],
    &["false"],
    &["getopt", "-o", "ab:", "--", "-b", "x", "-a", "rest"],
    &["groups", "nobody"],
    &["id", "-u"],
    &["id", "nobody"],
    &["ipcalc", "-n", "-b", "10.1.2.3/12"],
    &["printenv", "LC_ALL"],
    &["printf", "%05d|%-8s|%x|%c|%5.2f\n", "42", "left", "255", "z", "3.14159"],
    &["pwd"],
    &["seq", "1", "3", "20"],
    &["seq", "-w", "8", "12"],
    &["sleep", "0.05"],
    &["usleep", "1000"],
    &["true"],
    &["tty"],
    &["uname", "-s", "-m"],
    &["whoami"],
    &["no-such-applet"],
    &["sh", "-c", "i=0; s=0; while [ $i -lt 1000 ]; do s=$((s + i * i)); i=$((i + 1)); done; echo $s"],
    &[
        "sh",
        "-c",
        "echo one > /tmp/a; echo two >> /tmp/a; while read x; do echo \"<$x>\"; done < /tmp/a; [ -s /tmp/a ]",
    ],
    &["sh", "-c", "for f in /data/d*; do echo \"$f\"; done; cd /data/deep/a && pwd; echo ${f##*/} $#"],
    &[
        "sh",
        "-c",
        "exec 3> /tmp/three; echo to three >&3; exec 3>&-; read -r x < /tmp/three; echo $x; umask; exit 7",
    ],
    &[
        "sh",
        "-c",
        "echo out; echo err >&2; cat() { echo shadow; }; cat; set -- a 'b c'; printf '[%s]' \"$@\"; kill -0 $$",
    ],
    &["sh", "-c", "trap 'echo bye' EXIT; case abc in a*) echo match;; esac; nope"],
];

/// Applets that write in /tmp; with -v where that shows what was done.
const WRITING: &[&[&str]] = &[
    &["mkdir", "-p", "-v", "/tmp/x/y/z"],
    &["mkdir", "/tmp"],
    &["rmdir", "/tmp/none"],
    &["touch", "-d", "@86400", "/tmp/t"],
    &["cp", "-a", "-v", "/data/deep", "/tmp"],
    &["cp", "/data/words", "/tmp/none/words"],
    &["ln", "-s", "-v", "/data/words", "/tmp/l"],
    &["ln", "/tmp/none", "/tmp/l"],
    &["mv", "/tmp/none", "/tmp/other"],
    &["rm", "/tmp/none"],
    &["rm", "-r", "-f", "/tmp/none"],
    &["split", "-l", "100", "/data/sorted", "/tmp/part-"],
    &["truncate", "-s", "1M", "/tmp/big"],
    &["dd", "if=/dev/zero", "of=/tmp/zeros", "bs=64k", "count=20", "status=none"],
    &["shuf", "-n", "1", "-i", "5-5"],
    &[
        "awk",
        "BEGIN { for (i = 0; i < 3000; i++) print i > \"/tmp/n\"; close(\"/tmp/n\"); while ((getline x < \"/tmp/n\") > 0) s += x; print s }",
    ],
    &["chmod", "-v", "600", "/tmp"],
];

#[test]
fn applets_that_read() {
    let Some(root) = needs("busybox", rootfs()) else { return };
    let mut suite = Suite::new("busybox, reading");
    for args in READING {
        suite.compare(applet(&root, args));
    }
    for args in [
        &["find", "/data"] as &[_],
        &["find", "/data", "-type", "f", "-size", "+4", "-name", "*a*"],
        &["find", "-L", "/data/up", "-newer", "/data/words"],
        &["grep", "-r", "attestation", "/data/many"],
        &["grep", "-r", "-l", "-i", "KERNEL", "/data"],
        &["tar", "c", "-v", "-f", "/dev/null", "-C", "/data", "many"],
        &["ls", "-U", "/data/many"],
    ] {
        let program = applet(&root, args);
        suite.check(program.line(), move || compare_sorted(&program));
    }
    suite.run();
}

#[test]
fn applets_that_compute() {
    let Some(root) = needs("busybox", rootfs()) else { return };
    let mut suite = Suite::new("busybox, computing");
    for args in COMPUTING {
        suite.compare(applet(&root, args));
    }
    suite.compare(applet(&root, &["pwd"]).workdir("/data/deep/a"));
    suite.compare(applet(&root, &["cat", "../one", "name with space"]).workdir("/data/deep/.."));
    suite.run();
}

#[test]
fn applets_that_write() {
    let Some(root) = needs("busybox", rootfs()) else { return };
    let mut suite = Suite::new("busybox, writing");
    for args in WRITING {
        suite.compare(applet(&root, args));
    }
    suite.run();
}

#[test]
fn applets_that_filter() {
    let Some(root) = needs("busybox", rootfs()) else { return };
    let input = std::fs::read(root.join("data/words")).expect("the tree has words");
    let made = |args: &[&str]| applet(&root, args).host().stdout;
    let (gz, bz2) = (made(&["gzip", "-c", "/data/words"]), made(&["bzip2", "-c", "/data/binary"]));
    let tar = made(&["tar", "c", "-C", "/data", "deep", "many", "binary", "link"]);
    let uu = made(&["uuencode", "/data/page", "/tmp/page"]);
    let base64 = made(&["base64", "/data/binary"]);
    let names = b"data/one\ndata/words\ndata/link\ndata/deep\n".to_vec();
    let cpio = applet(&root, &["cpio", "-o", "-H", "newc"]).workdir("/").stdin(names).host().stdout;

    let mut suite = Suite::new("busybox, filtering");
    let cases: &[(&[&str], &[u8])] = &[
        (&["cat"], &input),
        (&["sort", "-r"], &input),
        (&["tr", "a-z", "A-Z"], &input),
        (&["tr", "-d", "\\n"], &input),
        (&["tee", "/tmp/copy"], &input),
        (&["wc"], &input),
        (&["md5sum"], &input),
        (&["gunzip", "-c"], &gz),
        (&["bunzip2", "-c"], &bz2),
        (&["tar", "t", "-v"], &tar),
        (&["tar", "x", "-v", "-C", "/tmp"], &tar),
        (&["tar", "x", "-O", "many/file-077", "binary"], &tar),
        (&["uudecode"], &uu),
        (&["uudecode", "-o", "/dev/stdout"], &uu),
        (&["base64", "-d"], &base64),
        (&["cpio", "-t", "-v"], &cpio),
        (&["dos2unix"], b"a\r\nb\r\n"),
        (&["unix2dos"], b"a\nb\n"),
        (&["head", "-n", "1"], &input),
        (&["sh", "-s", "argument"], b"read line < /data/sorted; echo $line $1\nexit 9\n"),
        (&["sh", "-c", "read a; read b; echo \"$b/$a\""], b"first\nsecond\nthird\n"),
        (&["ed", "/data/dos"], b"1p\n$p\nq\n"),
        (&["bc", "-q"], b"scale=30; 4*3.1/7\n2^64\n"),
        (&["xxd", "-r", "-p"], b"68656c6c6f0a"),
        (&["dd", "bs=7", "status=none"], &input),
        (&["patch", "-p0", "--dry-run"], b""),
    ];
    for (args, stdin) in cases {
        suite.compare(applet(&root, args).workdir("/").stdin(*stdin));
    }
    suite.run();
}
