//! The GHCB page: a copy of it to check, and the fields that the host writes back (specification, table 3).

use crate::memory::PhysicalMemory;

/// Bytes of the page.
pub const SIZE: usize = 4096;
/// The shared buffer's place in the page.
pub const BUFFER: core::ops::Range<u64> = 0x800..0xff0;

/// A quadword of the save area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
#[allow(missing_docs)]
pub enum Field {
    Cpl = 0xc8,
    Xss = 0x140,
    Dr7 = 0x160,
    Rax = 0x1f8,
    Rcx = 0x308,
    Rdx = 0x310,
    Rbx = 0x318,
    ExitCode = 0x390,
    ExitInfo1 = 0x398,
    ExitInfo2 = 0x3a0,
    Scratch = 0x3a8,
    Xcr0 = 0x3e8,
}

const VALID_BITMAP: u64 = 0x3f0;
const VERSION: usize = 0xffa;
const USAGE: usize = 0xffc;

/// Why the host refuses a request: SW_EXITINFO2 when SW_EXITINFO1 is 2 (specification, table 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Malformed {
    /// The page was not registered.
    NotRegistered = 1,
    /// The usage field is not known.
    Usage = 2,
    /// The scratch area is not where it may be.
    Scratch = 3,
    /// A field that must be valid is not marked so.
    MissingInput = 4,
    /// A field holds what it may not.
    Input = 5,
    /// The exit code is not known.
    Event = 6,
}

impl Malformed {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::NotRegistered => "the GHCB page is not registered",
            Self::Usage => "the GHCB's usage or version is not known",
            Self::Scratch => "the scratch area is not in shared memory",
            Self::MissingInput => "a field that the exit needs is not marked valid",
            Self::Input => "a field holds what the exit does not allow",
            Self::Event => "the exit code is not known",
        }
    }
}

/// What the guest had written when it exited.
pub struct Snapshot {
    bytes: [u8; SIZE],
}

impl Snapshot {
    /// Copies the page at `spa`.
    pub fn take(memory: &impl PhysicalMemory, spa: u64) -> Snapshot {
        let mut bytes = [0; SIZE];
        memory.read(spa, &mut bytes);
        Snapshot { bytes }
    }

    /// A page made of these bytes.
    pub fn of(bytes: [u8; SIZE]) -> Snapshot {
        Snapshot { bytes }
    }

    fn quad(&self, at: usize) -> u64 {
        self.bytes
            .get(at..at + 8)
            .map_or(0, |b| u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
    }

    /// A field, if it is marked valid.
    pub fn get(&self, field: Field) -> Option<u64> {
        let at = field as usize;
        let (bitmap, bit) = (self.quad(VALID_BITMAP as usize + at / 8 / 64 * 8), at / 8 % 64);
        (bitmap >> bit & 1 != 0).then(|| self.quad(at))
    }

    /// A field that the exit needs.
    pub fn need(&self, field: Field) -> Result<u64, Malformed> {
        self.get(field).ok_or(Malformed::MissingInput)
    }

    /// Checks what every use of the page must hold.
    pub fn check(&self) -> Result<(), Malformed> {
        let version = u16::from_le_bytes([self.bytes[VERSION], self.bytes[VERSION + 1]]);
        let usage = self.bytes.get(USAGE..USAGE + 4).is_some_and(|b| b.iter().all(|&b| b == 0));
        if !(super::msr::VERSIONS.0..=super::msr::VERSIONS.1).contains(&version) || !usage {
            return Err(Malformed::Usage);
        }
        Ok(())
    }
}

/// The page in shared memory, to answer in. Fields that are written become valid.
pub struct Writer<'a, M> {
    /// System memory.
    pub memory: &'a M,
    /// The page.
    pub spa: u64,
}

impl<M: PhysicalMemory> Writer<'_, M> {
    /// Marks every field invalid, as the host does before it answers.
    pub fn clear(&self) {
        self.memory.write(self.spa + VALID_BITMAP, &[0; 16]);
    }

    /// Writes a field.
    pub fn set(&self, field: Field, value: u64) {
        let at = field as u64;
        self.memory.write_u64(self.spa + at, value);
        let word = self.spa + VALID_BITMAP + at / 8 / 64 * 8;
        self.memory.write_u64(word, self.memory.read_u64(word) | 1 << (at / 8 % 64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing::TestMemory;

    #[test]
    fn only_what_is_valid_is_read() {
        let memory = TestMemory::new(0x2000);
        let writer = Writer { memory: &memory, spa: 0x1000 };
        writer.set(Field::ExitCode, 0x72);
        writer.set(Field::Rax, 7);
        memory.write_u64(0x1000 + 0x308, 9);
        let snapshot = Snapshot::take(&memory, 0x1000);
        assert_eq!((snapshot.get(Field::ExitCode), snapshot.get(Field::Rax)), (Some(0x72), Some(7)));
        assert_eq!(snapshot.need(Field::Rcx), Err(Malformed::MissingInput));
        assert_eq!(snapshot.check(), Err(Malformed::Usage), "version 0");
        memory.write(0x1ffa, &[2, 0]);
        assert_eq!(Snapshot::take(&memory, 0x1000).check(), Ok(()));
        memory.write(0x1ffc, &[1]);
        assert_eq!(Snapshot::take(&memory, 0x1000).check(), Err(Malformed::Usage));
        writer.clear();
        assert_eq!(Snapshot::take(&memory, 0x1000).get(Field::Rax), None);
    }
}
