//! The kernel's options: the words of the command line.
//!
//! Words `key=value` with spaces between them; of several with one key the last counts, and a key that is not known is left alone, since
//! loaders add words of their own. All of it is the host's word: what a value is good for is up to whoever uses it.

/// Where a device's registers and interrupt are: `mmio:0xADDRESS:LINE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceLocation {
    /// Physical address of the registers: a multiple of 4 below 4 GiB.
    pub address: u64,
    /// Input of the I/O APIC: one of 24.
    pub line: u8,
}

/// What the command line says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `tsc_khz=`: the TSC's rate.
    pub tsc_khz: Option<u64>,
    /// `realtime_ns=`: nanoseconds since 1970 at the start.
    pub realtime_ns: Option<u64>,
    /// `console=`: the virtio console.
    pub console: Option<DeviceLocation>,
    /// `root=`: the disk with the workload image.
    pub root: Option<DeviceLocation>,
}

/// The option whose value makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadOption(pub &'static str);

impl Options {
    /// Reads a command line.
    pub fn parse(line: &[u8]) -> Result<Options, BadOption> {
        let mut options = Options::default();
        for word in line.split(|&byte| byte == b' ') {
            let Some(at) = word.iter().position(|&byte| byte == b'=') else { continue };
            let (key, value) = (&word[..at], &word[at + 1..]);
            // Not a `match`, which would compare byte by byte.
            if key == b"console" {
                options.console = Some(location(value).ok_or(BadOption("console"))?);
            } else if key == b"root" {
                options.root = Some(location(value).ok_or(BadOption("root"))?);
            } else if key == b"tsc_khz" {
                options.tsc_khz = Some(number(value).ok_or(BadOption("tsc_khz"))?);
            } else if key == b"realtime_ns" {
                options.realtime_ns = Some(number(value).ok_or(BadOption("realtime_ns"))?);
            }
        }
        Ok(options)
    }
}

/// Decimal, or hexadecimal behind `0x`.
#[inline(never)]
fn number(text: &[u8]) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix(b"0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    let mut value = if digits.is_empty() { None } else { Some(0u64) };
    for &digit in digits {
        let digit = char::from(digit).to_digit(radix)?;
        value = value?.checked_mul(radix.into())?.checked_add(digit.into());
    }
    value
}

#[inline(never)]
fn location(text: &[u8]) -> Option<DeviceLocation> {
    let rest = text.strip_prefix(b"mmio:")?;
    let at = rest.iter().position(|&byte| byte == b':')?;
    let (address, line) = (number(&rest[..at])?, number(&rest[at + 1..])?);
    (address % 4 == 0 && address < 1 << 32 && line < 24)
        .then_some(DeviceLocation { address, line: line as u8 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_word_with_a_key_counts() {
        let line = b"a=1 tsc_khz=5 quiet  tsc_khz=7 xtsc_khz=9 console=mmio:0xfeb00000:5 root=mmio:4096:23";
        let options = Options {
            tsc_khz: Some(7),
            realtime_ns: None,
            console: Some(DeviceLocation { address: 0xfeb0_0000, line: 5 }),
            root: Some(DeviceLocation { address: 4096, line: 23 }),
        };
        assert_eq!(Options::parse(line), Ok(options));
        assert_eq!(Options::parse(b""), Ok(Options::default()));
    }

    #[test]
    fn nonsense_is_refused() {
        for (line, key) in [
            ("tsc_khz=", "tsc_khz"),
            ("tsc_khz=0x", "tsc_khz"),
            ("tsc_khz=-1", "tsc_khz"),
            ("realtime_ns=18446744073709551616", "realtime_ns"),
            ("realtime_ns=1f", "realtime_ns"),
            ("console=mmio:0xfeb00000", "console"),
            ("console=pci:0:5", "console"),
            ("console=mmio:0x100000000:5", "console"),
            ("root=mmio:0xfeb00001:5", "root"),
            ("root=mmio:0xfeb00000:24", "root"),
        ] {
            assert_eq!(Options::parse(line.as_bytes()), Err(BadOption(key)), "{line}");
        }
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(number(b"0xffffffffffffffff"), Some(u64::MAX));
    }

    proptest! {
        #[test]
        fn any_line_is_survived(line in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Options::parse(&line);
        }

        #[test]
        fn numbers_are_read_back(value: u64) {
            prop_assert_eq!(number(format!("{value}").as_bytes()), Some(value));
            prop_assert_eq!(number(format!("{value:#x}").as_bytes()), Some(value));
        }
    }
}
