//! What tests of several modules need: reports as the emulator's PSP would make them, of any version and generation.

use std::sync::{Mutex, PoisonError};

use test_psp::certificates::table;
use test_psp::chip::{Chip, FirmwareVersion, TcbVersion};
use test_psp::hierarchy::{Certificates, vcek};
use test_psp::report::{Report, ReportVersion};
use zerocopy::IntoBytes;

use crate::certificates::Bundle;

/// The policy of the reports here.
pub const POLICY: u64 = 0x3_0000;
/// The measurement of the reports here.
pub const MEASUREMENT: [u8; 48] = [0x5a; 48];

/// A Milan.
pub fn milan(version: ReportVersion) -> Chip {
    Chip::test(version)
}

/// A Genoa.
pub fn genoa() -> Chip {
    Chip { model: 0x11, ..Chip::test(ReportVersion::V3) }
}

/// A Turin, which has FMC firmware, another order of the TCB, and a short identity.
pub fn turin(version: ReportVersion) -> Chip {
    let tcb = TcbVersion { fmc: Some(1), bootloader: 2, tee: 3, snp: 4, microcode: 5 };
    let mut id = [0; 64];
    id[..8].copy_from_slice(b"TESTCHIP");
    let (current_tcb, reported_tcb, committed_tcb) = (tcb, tcb, tcb);
    Chip { id, family: 0x1a, model: 2, current_tcb, reported_tcb, committed_tcb, ..Chip::test(version) }
}

/// A report of a chip, before it is signed.
pub fn unsigned(chip: &Chip, report_data: [u8; 64]) -> Report {
    let FirmwareVersion { major, minor, build } = chip.current_version;
    let version = test_psp::report::VersionBytes { build, minor, major, reserved: 0 };
    Report {
        policy: POLICY.into(),
        measurement: MEASUREMENT,
        report_data,
        report_id: [7; 32],
        report_id_ma: [0xff; 32],
        platform_info: chip.platform_info.bits().into(),
        family: chip.family,
        model: chip.model,
        stepping: chip.stepping,
        chip_id: chip.id,
        current_tcb: chip.current_tcb.to_bytes(),
        reported_tcb: chip.reported_tcb.to_bytes(),
        committed_tcb: chip.committed_tcb.to_bytes(),
        launch_tcb: chip.current_tcb.to_bytes(),
        current_version: version,
        committed_version: version,
        ..Report::new(chip.report_version())
    }
}

/// Signs, and gives the bytes.
pub fn signed(chip: &Chip, mut report: Report) -> Vec<u8> {
    report.sign(&vcek(chip)).expect("the key signs");
    report.as_bytes().to_vec()
}

/// The certificates of a chip, as the host hands them out. They are made once: it takes three signatures.
pub fn certificate_table(chip: &Chip) -> Vec<u8> {
    type Made = Vec<(Chip, Vec<u8>)>;
    static MADE: Mutex<Made> = Mutex::new(Vec::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, table)) = made.iter().find(|(of, _)| of == chip) {
        return table.clone();
    }
    let table = table(&Certificates::of(chip).expect("the certificates are constants"));
    made.push((chip.clone(), table.clone()));
    table
}

/// The same, sorted.
pub fn bundle(chip: &Chip) -> Bundle {
    let mut bundle = Bundle::default();
    bundle.add_table(&certificate_table(chip));
    bundle
}
