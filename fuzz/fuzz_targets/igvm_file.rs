//! IGVM files: whatever a file says, what is read can be written and read again, every host's rules can judge it, and a plan gives
//! no memory twice (`litebox_igvm::format`, `profile`, `load`).
#![no_main]

use std::collections::BTreeMap;

use litebox_igvm::PAGE_SIZE;
use litebox_igvm::format::{Directive, FileBuilder, IgvmFile, Initialization, seal};
use litebox_igvm::id_block::Identity;
use litebox_igvm::load::{LoadError, LoadOp, LoadPlan, MAX_LAUNCH_PAGES};
use litebox_igvm::parameter::{MAX_PARAMETER_BYTES, ParameterAreas};
use litebox_igvm::profile::HostProfile;

litebox_fuzz::target!(litebox_fuzz::seeds::igvm_file, run);

/// Pages that are worth being hashed here.
const FEW: u64 = 64;

fn run(bytes: &[u8]) {
    // Nobody finds a CRC by chance: the file as it is, and with the checksum that it should have.
    read(bytes);
    let mut sealed = bytes.to_vec();
    seal(&mut sealed);
    read(&sealed);
}

fn read(bytes: &[u8]) {
    let file = match IgvmFile::parse(bytes) {
        Ok(file) => file,
        Err(error) => {
            assert!(error.offset() <= bytes.len());
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let directives: Vec<Directive<'_>> = file.directives().map(|at| at.header).collect();
    let initializations: Vec<Initialization<'_>> = file.initializations().map(|at| at.header).collect();
    let again = FileBuilder::from_file(&file).write().expect("what was read can be written");
    let again = IgvmFile::parse(&again).unwrap();
    assert!(again.directives().map(|at| at.header).eq(directives));
    assert!(again.initializations().map(|at| at.header).eq(initializations));

    for profile in HostProfile::ALL {
        let violations = profile.check(&file);
        match LoadPlan::new(&file, profile) {
            Ok(plan) => {
                assert!(violations.is_empty());
                follow(&plan);
            }
            Err(LoadError::Refused(reasons)) => assert!(!reasons.is_empty() && reasons == violations),
            Err(error) => assert!(violations.is_empty() && !error.to_string().is_empty()),
        }
    }
}

/// Does what the plan says, in an address space that notices what is given twice.
fn follow(plan: &LoadPlan<'_>) {
    let mut memory = BTreeMap::new();
    let mut give = |gpa: u64, size: u64| {
        if size == 0 {
            return 0;
        }
        let end = gpa.checked_add(size).expect("an address");
        assert!(memory.range(..end).next_back().is_none_or(|(_, &last)| last <= gpa), "given twice");
        memory.insert(gpa, end);
        size / PAGE_SIZE as u64
    };
    let mut areas = ParameterAreas::new();
    let mut pages = 0;
    for op in &plan.ops {
        match op {
            LoadOp::Page { gpa, large, data, .. } => {
                let size = if *large { 2 << 20 } else { PAGE_SIZE };
                assert!(data.is_none_or(|data| data.len() == size));
                pages += give(*gpa, size as u64);
            }
            // Other hosts put all of them at one address, one after the other.
            LoadOp::Vmsa { .. } => pages += 1,
            LoadOp::Shared { gpa, size, .. } => {
                give(*gpa, *size);
            }
            LoadOp::ParameterArea(area) => areas.declare(area).expect("areas were counted"),
            LoadOp::Parameter(parameter) => areas.write(parameter, &[1]).expect("parameters were checked"),
            LoadOp::ParameterInsert { gpa, index, size } => {
                assert!(*size <= MAX_PARAMETER_BYTES);
                assert_eq!(areas.take(*index).unwrap().len() as u64, *size);
                pages += give(*gpa, *size);
            }
            _ => {}
        }
    }
    assert!(pages <= MAX_LAUNCH_PAGES);
    if pages <= FEW {
        let digest = plan.digest();
        if let Some(block) = plan.id_block {
            let identity = Identity::from_header(block, plan.policy);
            assert_eq!(identity.to_header(block.compatibility_mask.get()), *block);
            let _ = identity.check(&digest, plan.policy);
        }
    }
}
