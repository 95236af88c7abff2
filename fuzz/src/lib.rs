//! What the fuzz targets share: seeds, and a way to read an input as numbers.
//!
//! A target is a function of bytes that panics when an invariant does not hold: that nothing untrusted may panic is the
//! least of them, the rest is what the code behind the parser relies on. The same bytes take the same path in every run.

use litebox_core::platform::hosted::Ended;
use std::path::PathBuf;

pub mod constants;
pub mod device;
pub mod emulated;
pub mod image;
pub mod machine;
pub mod seeds;

#[path = "../../xtask/src/protocol.rs"]
pub mod protocol;

pub use libfuzzer_sys::fuzz_target;

/// Names the directory that a target writes its seeds to before it starts (`cargo xtask fuzz` sets it).
pub const SEEDS: &str = "LITEBOX_FUZZ_SEEDS";

/// Defines a target by its seeds, made when they are wanted, and by what it does with an input.
#[macro_export]
macro_rules! target {
    ($seeds:expr, $run:expr) => {
        $crate::fuzz_target!(init: $crate::start($seeds), |data: &[u8]| $run(data));
    };
}

/// Lets a machine end without ending the fuzzer, and writes the seeds where they are asked for. libFuzzer reads the corpus after this.
pub fn start(seeds: fn() -> Vec<Vec<u8>>) {
    let abort = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // The end of a hosted machine is no panic.
        if !info.payload().is::<Ended>() {
            abort(info);
        }
    }));
    let Some(directory) = std::env::var_os(SEEDS).map(PathBuf::from) else { return };
    let written = std::fs::create_dir_all(&directory).and_then(|()| {
        seeds()
            .iter()
            .enumerate()
            .try_for_each(|(i, seed)| std::fs::write(directory.join(format!("seed-{i:02}")), seed))
    });
    if let Err(error) = written {
        panic!("cannot write seeds to {}: {error}", directory.display());
    }
}

/// Reads an input as numbers; after its end everything is zero, so every input means something.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// Reads from the beginning.
    pub fn new(bytes: &'a [u8]) -> Input<'a> {
        Input(bytes)
    }

    /// Whether all was read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next bytes; fewer at the end.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// What is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let bytes = self.bytes(N);
        array[..bytes.len()].copy_from_slice(bytes);
        array
    }

    /// A byte.
    pub fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    /// Two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// Four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }
}
