//! The PVH start info: whatever lies in physical memory, the memory map that comes out is one that can be used.
#![no_main]

use boot::start_info::{PhysicalMemory, parse};
use boot::{BootError, DeviceLocation, LOW_MEMORY_END, MAX_COMMAND_LINE, MAX_REGIONS, Options};
use litebox_fuzz::Input;

litebox_fuzz::target!(litebox_fuzz::seeds::start_info, run);

/// What boot maps; zero where the input does not reach.
struct FirstGiB<'a>(&'a [u8]);

impl PhysicalMemory for FirstGiB<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), BootError> {
        if address.checked_add(into.len() as u64).is_none_or(|end| end > 1 << 30) {
            return Err(BootError::OutOfReach);
        }
        let from = self.0.get(address as usize..).unwrap_or_default();
        let len = from.len().min(into.len());
        into.fill(0);
        into[..len].copy_from_slice(&from[..len]);
        Ok(())
    }
}

fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let at = input.u32();
    let Ok(info) = parse(&FirstGiB(input.rest()), at.into(), 7) else { return };
    assert_eq!(info.entry_tsc, 7);
    let regions = info.memory();
    assert!((1..=MAX_REGIONS).contains(&regions.len()));
    let mut free_from = 0;
    for region in regions {
        assert!(free_from <= region.start && region.start < region.end);
        assert_eq!((region.start % 4096, region.end % 4096), (0, 0));
        free_from = region.end;
    }
    if let Some(manifest) = info.manifest() {
        assert!(manifest.end <= LOW_MEMORY_END);
        assert!(regions.iter().any(|region| region.start <= manifest.start && manifest.end <= region.end));
    }
    let line = info.command_line();
    assert!(line.len() <= MAX_COMMAND_LINE && !line.contains(&0));
    let Ok(options) = Options::parse(line) else { return };
    for device in [options.console, options.root].into_iter().flatten() {
        if let DeviceLocation::Mmio { address, line } = device {
            assert!(address % 4 == 0 && address < 1 << 32 && line < 24);
        }
    }
}
