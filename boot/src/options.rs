//! The kernel's options: the words of the command line.
//!
//! Words `key=value` with spaces between them; of several with one key the last counts, and a key that is not known is left alone, since
//! loaders add words of their own. All of it is the host's word: what a value is good for is up to whoever uses it.

use platform_snp::pci::Address;

/// Where a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceLocation {
    /// `mmio:0xADDRESS:LINE`: registers in memory.
    Mmio {
        /// Physical address of the registers: a multiple of 4 below 4 GiB.
        address: u64,
        /// Input of the I/O APIC: one of 24.
        line: u8,
    },
    /// `pci:BUS:DEVICE.FUNCTION`, hexadecimal as `lspci` has it; `pci`: the first device of its kind on bus 0.
    Pci(Option<Address>),
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
fn number(text: &[u8]) -> Option<u64> {
    match text.strip_prefix(b"0x") {
        Some(digits) => digits_of(digits, 16),
        None => digits_of(text, 10),
    }
}

#[inline(never)]
fn digits_of(digits: &[u8], radix: u32) -> Option<u64> {
    let mut value = if digits.is_empty() { None } else { Some(0u64) };
    for &digit in digits {
        let digit = char::from(digit).to_digit(radix)?;
        value = value?.checked_mul(radix.into())?.checked_add(digit.into());
    }
    value
}

/// What is in front of the first `mark`, and behind it.
fn cut(text: &[u8], mark: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&byte| byte == mark)?;
    Some((&text[..at], &text[at + 1..]))
}

#[inline(never)]
fn location(text: &[u8]) -> Option<DeviceLocation> {
    if text == b"pci" {
        return Some(DeviceLocation::Pci(None));
    }
    if let Some(rest) = text.strip_prefix(b"pci:") {
        let (bus, rest) = cut(rest, b':')?;
        let (device, function) = cut(rest, b'.')?;
        let part = |text| u8::try_from(digits_of(text, 16)?).ok();
        return Some(DeviceLocation::Pci(Some(Address::new(part(bus)?, part(device)?, part(function)?)?)));
    }
    let (address, line) = cut(text.strip_prefix(b"mmio:")?, b':')?;
    let (address, line) = (number(address)?, number(line)?);
    (address % 4 == 0 && address < 1 << 32 && line < 24)
        .then_some(DeviceLocation::Mmio { address, line: line as u8 })
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
            console: Some(DeviceLocation::Mmio { address: 0xfeb0_0000, line: 5 }),
            root: Some(DeviceLocation::Mmio { address: 4096, line: 23 }),
        };
        assert_eq!(Options::parse(line), Ok(options));
        assert_eq!(Options::parse(b""), Ok(Options::default()));
    }

    #[test]
    fn devices_on_pci() {
        let options = Options::parse(b"console=pci:00:1f.7 root=pci").unwrap();
        assert_eq!(options.console, Some(DeviceLocation::Pci(Address::new(0, 31, 7))));
        assert_eq!(options.root, Some(DeviceLocation::Pci(None)));
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
            ("console=pci:", "console"),
            ("console=pci:0:20.0", "console"),
            ("console=pci:0:1.8", "console"),
            ("root=pci:100:1.0", "root"),
            ("root=pci:0:1.", "root"),
            ("root=pc", "root"),
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
