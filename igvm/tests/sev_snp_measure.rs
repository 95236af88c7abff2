//! The Python package `sev-snp-measure` as an oracle (class `gctx.GCTX`): the same digest for generated lists of pages of every
//! type. Needs Python with `venv` and a package index; says why it skips where they are missing.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use litebox_igvm::PAGE_SIZE;
use litebox_igvm::digest::{LaunchDigest, PageType, VmplPermissions};
use litebox_igvm::vmsa::KVM_VMSA_GPA;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

const PACKAGE: &str = "sev-snp-measure==0.0.13";

/// Reads lines `TYPE GPA FILL` and `end`; prints a digest for each list.
const SCRIPT: &str = "
import sys
from sevsnpmeasure.gctx import GCTX
gctx = GCTX()
for line in sys.stdin:
    if line.strip() == 'end':
        print(gctx.ld().hex())
        gctx = GCTX()
        continue
    kind, gpa, fill = (int(word, 0) for word in line.split())
    data = bytes((fill + i * 7) & 0xff for i in range(4096))
    if kind == 1: gctx.update_normal_pages(gpa, data)
    elif kind == 2: gctx.update_vmsa_page(data)
    elif kind == 3: gctx.update_zero_pages(gpa, 4096)
    elif kind == 4: gctx.update_unmeasured_pages(gpa, 4096)
    elif kind == 5: gctx.update_secrets_page(gpa)
    elif kind == 6: gctx.update_cpuid_page(gpa)
";

/// A Python that has the package, or why there is none.
fn python() -> Result<PathBuf, String> {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("sev-snp-measure");
    let python = directory.join("bin/python3");
    let run = |command: &mut Command| -> Result<(), String> {
        let output =
            command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    };
    let mut import = Command::new(&python);
    import.args(["-c", "import sevsnpmeasure.gctx"]);
    if run(&mut import).is_err() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&directory))?;
        run(Command::new(&python)
            .args("-m pip -q install --timeout 10 --retries 1".split(' '))
            .arg(PACKAGE))?;
        run(&mut import)?;
    }
    Ok(python)
}

fn pages() -> impl Strategy<Value = Vec<(PageType, u64, u8)>> {
    let page_type = prop::sample::select(vec![
        PageType::Normal,
        PageType::Vmsa,
        PageType::Zero,
        PageType::Unmeasured,
        PageType::Secrets,
        PageType::Cpuid,
    ]);
    prop::collection::vec((page_type, 0..1u64 << 36, any::<u8>()), 0..20).prop_map(|mut pages| {
        for (page_type, gpa, _) in &mut pages {
            // The package knows one address of save areas, that of KVM.
            *gpa = if *page_type == PageType::Vmsa { KVM_VMSA_GPA } else { *gpa << 12 };
        }
        pages
    })
}

#[test]
fn digests_are_equal() {
    let python = match python() {
        Ok(python) => python,
        Err(reason) => {
            println!("SKIPPED, since {PACKAGE} is not to be had: {reason}");
            return;
        }
    };
    let mut runner = TestRunner::deterministic();
    let mut input = String::new();
    let mut expected = String::new();
    for _ in 0..64 {
        let mut digest = LaunchDigest::new();
        for (page_type, gpa, fill) in pages().new_tree(&mut runner).unwrap().current() {
            writeln!(input, "{} {gpa:#x} {fill}", page_type as u8).unwrap();
            let data: [u8; PAGE_SIZE] = std::array::from_fn(|i| fill.wrapping_add((i * 7) as u8));
            digest.page(page_type, gpa, Some(&data), false, VmplPermissions::NONE);
        }
        input += "end\n";
        for byte in digest.value() {
            write!(expected, "{byte:02x}").unwrap();
        }
        expected += "\n";
    }
    let mut child = Command::new(python)
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the Python that imported the package");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}
