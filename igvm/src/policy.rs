//! The guest policy: on which platform, and how, the owner of a guest lets it run.
//!
//! It is no part of the launch digest. Reports hold it, and an ID block fixes it: who verifies a guest has to look at it.
//!
//! Source: SEV-SNP firmware ABI (56860), table "Guest Policy Structure".

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use bitflags::bitflags;

bitflags! {
    /// The flags of a policy. Bits 7:0 and 15:8 are the ABI version, minor and major, that the guest asks for.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PolicyFlags: u64 {
        /// Simultaneous multithreading may be on.
        const SMT = 1 << 16;
        /// Reserved, and one.
        const RESERVED_ONE = 1 << 17;
        /// A migration agent may be associated.
        const MIGRATE_MA = 1 << 18;
        /// The host may debug the guest.
        const DEBUG = 1 << 19;
        /// The guest may run on one socket only.
        const SINGLE_SOCKET = 1 << 20;
        /// CXL devices and memory may be there.
        const CXL_ALLOW = 1 << 21;
        /// Memory must be encrypted with AES-256-XTS.
        const MEM_AES_256_XTS = 1 << 22;
        /// Power reporting must be off.
        const RAPL_DISABLED = 1 << 23;
        /// Ciphertext hiding must be on.
        const CIPHERTEXT_HIDING = 1 << 24;
        /// The host may not move or swap pages.
        const PAGE_SWAP_DISABLED = 1 << 25;
    }
}

/// What a flag is called where a policy is written, and what it says when it is set and when it is clear.
const FLAGS: [(PolicyFlags, &str, &str, &str); 9] = [
    (PolicyFlags::SMT, "smt", "SMT may be on", "SMT must be off"),
    (PolicyFlags::MIGRATE_MA, "migrate", "a migration agent may move the guest", "no migration agent"),
    (PolicyFlags::DEBUG, "debug", "THE HOST MAY READ AND CHANGE THE GUEST (debugging)", "no debugging"),
    (PolicyFlags::SINGLE_SOCKET, "single-socket", "one socket only", "any number of sockets"),
    (PolicyFlags::CXL_ALLOW, "cxl", "CXL memory may be there", "no CXL memory"),
    (PolicyFlags::MEM_AES_256_XTS, "aes-256-xts", "memory must be encrypted with AES-256-XTS", ""),
    (
        PolicyFlags::RAPL_DISABLED,
        "no-rapl",
        "power reporting must be off",
        "power may be reported to the host",
    ),
    (PolicyFlags::CIPHERTEXT_HIDING, "ciphertext-hiding", "ciphertext must be hidden from the host", ""),
    (PolicyFlags::PAGE_SWAP_DISABLED, "no-page-swap", "the host may not move or swap pages", ""),
];

/// A guest policy, as SNP_LAUNCH_START takes it. Any number can be one; which are legal is the PSP's to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestPolicy(pub u64);

impl Default for GuestPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl GuestPolicy {
    /// SMT may be on; no migration agent, no debugging.
    pub const DEFAULT: Self = Self(PolicyFlags::RESERVED_ONE.bits() | PolicyFlags::SMT.bits());

    /// The flags that are known.
    pub const fn flags(self) -> PolicyFlags {
        PolicyFlags::from_bits_truncate(self.0)
    }

    /// Whether the host may read and change the guest's memory: nothing that such a guest says is worth anything.
    pub const fn is_debug(self) -> bool {
        self.flags().contains(PolicyFlags::DEBUG)
    }

    /// The least version of the firmware's ABI: major, minor.
    pub const fn minimum_abi(self) -> (u8, u8) {
        let [minor, major, ..] = self.0.to_le_bytes();
        (major, minor)
    }

    /// What it allows and demands, one clause for each thing that a reader should know.
    pub fn clauses(self) -> Vec<String> {
        let mut clauses: Vec<String> = FLAGS
            .into_iter()
            .map(|(flag, _, set, clear)| if self.flags().contains(flag) { set } else { clear })
            .filter(|clause| !clause.is_empty())
            .map(String::from)
            .collect();
        let (major, minor) = self.minimum_abi();
        if (major, minor) != (0, 0) {
            clauses.push(format!("firmware of ABI {major}.{minor} or newer"));
        }
        let unknown = self.0 & !0xffff & !PolicyFlags::all().bits();
        if unknown != 0 {
            clauses.push(format!("unknown bits {unknown:#x}, which firmware refuses"));
        }
        if !self.flags().contains(PolicyFlags::RESERVED_ONE) {
            clauses.push("bit 17 is clear, which firmware refuses".into());
        }
        clauses
    }
}

impl fmt::Display for GuestPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// The word of a policy's text that means nothing, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError(String);

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for PolicyError {}

/// Words with commas between them, from left to right: `default`, a number such as `0x30000`, `abi=1.55`, and the flags' names, alone or with
/// `=yes` or `=no`. Without a number in front it starts from the default. The word `debug` must be there for a policy that allows debugging.
impl FromStr for GuestPolicy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let mut policy = Self::DEFAULT.0;
        let mut debug_by_name = false;
        for word in text.split(',') {
            let (name, value) = word.split_once('=').unwrap_or((word, "yes"));
            if word == "default" {
                policy = Self::DEFAULT.0;
            } else if let Some(number) = number(word) {
                policy = number;
            } else if name == "abi" {
                policy = policy & !0xffff | abi(value).ok_or_else(|| wrong_abi(word))?;
            } else if let Some((flag, ..)) = FLAGS.into_iter().find(|(_, known, ..)| *known == name) {
                match value {
                    "yes" => policy |= flag.bits(),
                    "no" => policy &= !flag.bits(),
                    _ => return Err(PolicyError(format!("`{word}`: write {name}, {name}=yes or {name}=no"))),
                }
                debug_by_name |= flag == PolicyFlags::DEBUG && value == "yes";
            } else {
                let names: Vec<&str> = FLAGS.iter().map(|(_, name, ..)| *name).collect();
                return Err(PolicyError(format!(
                    "`{word}` is no part of a policy: there are default, a number in hexadecimal (0x30000), abi=MAJOR.MINOR, {}",
                    names.join(", ")
                )));
            }
        }
        if Self(policy).is_debug() && !debug_by_name {
            return Err(PolicyError(format!(
                "{policy:#x} lets the host read and change the guest: if that is meant, say it by name ({policy:#x},debug)"
            )));
        }
        if policy & PolicyFlags::RESERVED_ONE.bits() == 0
            || policy & !0xffff & !PolicyFlags::all().bits() != 0
        {
            return Err(PolicyError(format!(
                "{policy:#x} is refused by every firmware: bit 17 must be one, bits 26 to 63 zero"
            )));
        }
        Ok(Self(policy))
    }
}

fn number(word: &str) -> Option<u64> {
    u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()
}

fn wrong_abi(word: &str) -> PolicyError {
    PolicyError(format!("`{word}`: a version is two numbers up to 255, such as abi=1.55"))
}

fn abi(version: &str) -> Option<u64> {
    let (major, minor) = version.split_once('.')?;
    Some(u64::from(major.parse::<u8>().ok()?) << 8 | u64::from(minor.parse::<u8>().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<u64, String> {
        text.parse().map(|GuestPolicy(bits)| bits).map_err(|error: PolicyError| error.0)
    }

    #[test]
    fn names_and_numbers() {
        for (text, bits) in [
            ("default", 0x3_0000),
            ("0x20000", 0x2_0000),
            ("smt=no", 0x2_0000),
            ("single-socket", 0x13_0000),
            ("migrate,abi=1.55", 0x7_0137),
            ("smt=no,default", 0x3_0000),
            ("0x20000,smt", 0x3_0000),
            ("debug", 0xb_0000),
            ("0xb0000,debug", 0xb_0000),
            ("debug,debug=no", 0x3_0000),
            ("ciphertext-hiding,no-page-swap", 0x303_0000),
        ] {
            assert_eq!(parse(text), Ok(bits), "{text}");
        }
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for (text, why) in [
            ("", "no part of a policy"),
            ("30000", "no part of a policy"),
            ("smt=maybe", "smt=yes or smt=no"),
            ("abi=1", "abi=1.55"),
            ("abi=1.256", "abi=1.55"),
            ("0x0", "bit 17"),
            ("0x4020000", "bits 26 to 63"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn debugging_is_asked_for_by_name() {
        assert!(parse("0xb0000").unwrap_err().contains("0xb0000,debug"));
        assert!(parse("debug=no,0xb0000").is_err());
        assert!(GuestPolicy(0xb_0000).is_debug() && !GuestPolicy::DEFAULT.is_debug());
    }

    #[test]
    fn every_bit_has_words() {
        let default = GuestPolicy::DEFAULT.clauses();
        assert_eq!(default[..3], ["SMT may be on", "no migration agent", "no debugging"]);
        for bit in (0..64).filter(|bit| *bit != 17) {
            let changed = GuestPolicy(GuestPolicy::DEFAULT.0 ^ 1 << bit).clauses();
            assert_ne!(changed, default, "bit {bit}");
        }
        assert!(GuestPolicy(0).clauses().iter().any(|clause| clause.contains("bit 17")));
    }
}
