//! Debian's shells and Python as they start processes: pipelines, subshells, here-documents, traps, jobs; output and status as on Linux.

use std::path::PathBuf;

use e2e::build::{self, Link};
use e2e::tools::may_mount;
use e2e::{Program, Suite, debian, needs};

/// A root file system with the programs below.
fn rootfs() -> Option<PathBuf> {
    let packages = [
        "dash",
        "bash",
        "coreutils",
        "findutils",
        "grep",
        "sed",
        "mawk",
        "gzip",
        "python3-minimal",
        "libpython3-stdlib",
    ];
    let made = if may_mount() {
        debian::rootfs("shells-1", &packages)
    } else {
        Err("comparing inside a root file system needs root (chroot, mount)".into())
    };
    needs("shells", made)
}

/// What any shell understands.
const SCRIPTS: [&str; 14] = [
    "seq 1 1000 | sort -rn | head -3; echo a b c | tr ' ' '\\n' | while read x; do echo \"<$x>\"; done; false | true; echo $?",
    "(cd /tmp; x=1; exit 3); echo $? ${x-unset}; y=$(echo inner; exit 4); echo \"$y $?\"; echo $( (echo nested) | cat)",
    "cat <<E | sed s/o/0/\none $((6 * 7))\ntwo\nE\ncat <<'E'\n$HOME `false`\nE\ncat <<-E\n\tindented\n\tE",
    "sleep 0.05 & p=$!; wait $p; echo $?; (exit 7) & wait $!; echo $?; for i in 1 2 3; do (echo $i) & wait; done; wait; echo all",
    "trap 'echo at exit' EXIT; trap 'echo usr1' USR1; kill -USR1 $$; echo after; trap '' TERM; kill -TERM $$; echo alive; exit 5",
    "trap 'echo child said' USR1; (kill -USR1 $$); wait; sleep 0.01; echo done",
    // Without the pid that bash's message holds.
    "exec 2>/dev/null; sh -c 'kill -9 $$'; echo $?; sh -c 'kill -TERM $$'; echo $?; sh -c 'exit 300'; echo $?",
    "no-such-command; echo $?; /etc/passwd; echo $?; /tmp; echo $?",
    "find /etc -name 'p*' -exec echo found {} \\; | sort; find /etc -type f | sort | xargs -n 2 echo | head -2; printf '%s\\n' a b c | xargs -I{} sh -c 'echo [{}]'",
    "seq 1 5000 | gzip -c | gzip -dc | tail -1; seq 1 100 | awk '{ s += $1 } END { print s }'; echo text > /tmp/f; grep -c e /tmp/f /etc/passwd",
    "exec 3>/tmp/out; echo three >&3; exec 3>&-; cat /tmp/out; { echo out; echo err >&2; } 2>&1 | sort; echo $(cat < /tmp/out)",
    "f() { echo \"in $1\"; return 6; }; f function | cat; f x > /dev/null; echo $?; i=0; while [ $i -lt 50 ]; do i=$((i + 1)); : | :; done; echo $i",
    "yes | head -2; echo ${?}; cat /dev/zero | head -c 100000 | wc -c; (sleep 10; echo never) & kill $!; wait $! ; echo $?",
    "exec sh -c 'echo replaced $0 $1' zero one",
];

#[test]
fn dash_and_bash() {
    let Some(root) = rootfs() else { return };
    let mut suite = Suite::new("shells");
    for shell in ["dash", "bash"] {
        for script in SCRIPTS {
            suite.compare(Program::within(&root, format!("/bin/{shell}")).args(["-c", script]));
        }
        suite.compare(
            Program::within(&root, format!("/bin/{shell}")).stdin("echo from stdin | cat; exit 9\n"),
        );
    }
    for script in [
        "cat <(echo a) <(echo b); false | true | false; echo ${PIPESTATUS[@]}; set -o pipefail; false | true; echo $?",
        "coproc cat; echo hello >&${COPROC[1]}; read -u ${COPROC[0]} line; echo $line; eval \"exec ${COPROC[1]}>&-\"; wait; echo $?",
        "for i in {1..5}; do (sleep 0.0$i; exit $i) & done; while wait -n; s=$?; [ $s -ne 127 ]; do echo $s; done | sort; echo x",
        "mapfile -t lines < <(seq 3); echo ${#lines[@]} ${lines[2]}; time_none=1; echo ${BASH_SUBSHELL} $(echo $BASH_SUBSHELL)",
    ] {
        suite.compare(Program::within(&root, "/bin/bash").args(["-c", script]));
    }
    suite.run();
}

const PYTHON: [&str; 5] = [
    "import subprocess as s\nprint(s.run(['sh', '-c', 'echo out; exit 3'], capture_output=True))\n\
     p = s.Popen(['sort'], stdin=s.PIPE, stdout=s.PIPE)\nprint(p.communicate(b'b\\na\\n'), p.returncode)\n\
     print(s.run(['sh', '-c', 'kill -9 $$']).returncode)\n\
     try: s.run(['sleep', '10'], timeout=0.05)\nexcept s.TimeoutExpired as e: print('timed out', e.cmd)\n\
     try: s.run(['/nowhere'])\nexcept FileNotFoundError as e: print(e)\nprint(s.getoutput('echo a | tr a b'))",
    "import os\nr, w = os.pipe()\npid = os.fork()\nif pid == 0:\n    os.close(r); os.write(w, b'child'); os._exit(4)\n\
     os.close(w)\nprint(os.read(r, 99), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n\
     pids = [os.fork() or os._exit(i) for i in range(5)]\nprint([os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]) for p in pids])",
    "import threading, queue\nq = queue.Queue()\ntotal = 0\nlock = threading.Lock()\n\
     def work():\n    global total\n    while (n := q.get()) is not None:\n        with lock: total += n\n\
     ts = [threading.Thread(target=work) for _ in range(4)]\n[t.start() for t in ts]\n[q.put(n) for n in range(1000)]\n\
     [q.put(None) for _ in ts]\n[t.join() for t in ts]\nprint(total)\n\
     b = threading.Barrier(3)\nts = [threading.Thread(target=b.wait) for _ in range(2)]\n[t.start() for t in ts]\nb.wait()\n\
     e = threading.Event()\nprint(e.wait(0.01))\nthreading.Timer(0.01, e.set).start()\nprint(e.wait())",
    "import signal, time, os\ngot = []\nsignal.signal(signal.SIGALRM, lambda s, f: got.append(s))\nsignal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)\n\
     while len(got) < 3: signal.pause()\nsignal.setitimer(signal.ITIMER_REAL, 0)\nprint(set(got))\n\
     signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\nos.kill(os.getpid(), signal.SIGUSR1)\nprint(signal.sigpending(), signal.sigwait([signal.SIGUSR1]))\n\
     signal.signal(signal.SIGINT, signal.default_int_handler)\ntry: os.kill(os.getpid(), signal.SIGINT); time.sleep(1)\nexcept KeyboardInterrupt: print('interrupted')",
    "import faulthandler, ctypes\nprint('alive', flush=True)\nctypes.string_at(0)",
];

#[test]
fn python_processes_threads_and_signals() {
    let Some(root) = rootfs() else { return };
    let mut suite = Suite::new("python's processes");
    for script in PYTHON {
        suite.compare(Program::within(&root, "/usr/bin/python3").args(["-c", script]).timeout(120));
    }
    suite.run();
}

/// What `processes.c` sees of fork, exec and wait is what it sees on Linux.
#[test]
fn processes() {
    let mut suite = Suite::new("processes");
    for link in [Link::StaticMusl, Link::StaticGlibc] {
        let Some(elf) = needs("processes.c", build::c("processes.c", link)) else { continue };
        suite.compare(Program::elf(&elf));
    }
    suite.run();
}
