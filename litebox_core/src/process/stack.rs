//! The initial stack: strings, the auxiliary vector, environment, arguments (psABI, 3.4.1; `getauxval(3)`).

use crate::errno::{Errno, Result};
use alloc::vec::Vec;
use core::ops::Range;

/// Entries of the auxiliary vector.
#[allow(missing_docs)]
pub mod at {
    pub const NULL: u64 = 0;
    pub const PHDR: u64 = 3;
    pub const PHENT: u64 = 4;
    pub const PHNUM: u64 = 5;
    pub const PAGESZ: u64 = 6;
    pub const BASE: u64 = 7;
    pub const FLAGS: u64 = 8;
    pub const ENTRY: u64 = 9;
    pub const UID: u64 = 11;
    pub const EUID: u64 = 12;
    pub const GID: u64 = 13;
    pub const EGID: u64 = 14;
    pub const PLATFORM: u64 = 15;
    pub const HWCAP: u64 = 16;
    pub const CLKTCK: u64 = 17;
    pub const SECURE: u64 = 23;
    pub const RANDOM: u64 = 25;
    pub const HWCAP2: u64 = 26;
    pub const EXECFN: u64 = 31;
    pub const SYSINFO_EHDR: u64 = 33;
    pub const MINSIGSTKSZ: u64 = 51;
}

/// The most bytes that arguments and environment may take together (a quarter of the stack limit, as on Linux).
pub const MAX_STRINGS: usize = 2 << 20;
/// The longest single string (`MAX_ARG_STRLEN`).
const MAX_STRING: usize = 128 << 10;

/// What goes onto the stack.
pub struct InitialStack<'a> {
    /// Arguments.
    pub args: &'a [Vec<u8>],
    /// Environment.
    pub env: &'a [Vec<u8>],
    /// The program's path, for AT_EXECFN.
    pub path: &'a [u8],
    /// For AT_RANDOM.
    pub random: [u8; 16],
    /// The vector without PLATFORM, RANDOM, EXECFN and NULL, which are added.
    pub auxv: &'a [(u64, u64)],
}

/// The stack's bytes, and where they go.
#[derive(Debug)]
pub struct Image {
    /// Stack pointer at entry: the address of the first byte.
    pub rsp: usize,
    /// The bytes from there up to the top.
    pub bytes: Vec<u8>,
    /// Where in them the argument strings are, each ended by NUL (/proc/PID/cmdline).
    pub args: Range<usize>,
    /// The environment (/proc/PID/environ).
    pub env: Range<usize>,
    /// The auxiliary vector (/proc/PID/auxv).
    pub auxv: Range<usize>,
}

impl Image {
    /// A copy of a part.
    pub fn part(&self, range: &Range<usize>) -> Vec<u8> {
        self.bytes.get(range.clone()).unwrap_or_default().to_vec()
    }
}

/// The name of the machine, for AT_PLATFORM.
const PLATFORM: &[u8] = b"x86_64\0";

/// The bytes of the stack, from the stack pointer upwards.
struct Writer(Vec<u8>);

impl Writer {
    #[inline(never)]
    fn word(&mut self, word: u64) {
        self.0.extend_from_slice(&word.to_le_bytes());
    }

    /// The addresses of strings that lie one behind the other from `at` on, and a null; where the last one ends.
    fn addresses(&mut self, mut at: u64, strings: &[Vec<u8>]) -> u64 {
        for string in strings {
            self.word(at);
            at += string.len() as u64 + 1;
        }
        self.word(0);
        at
    }

    /// Strings, each ended by NUL, and where they are.
    fn strings(&mut self, strings: &[Vec<u8>]) -> Range<usize> {
        let start = self.0.len();
        for string in strings {
            self.0.extend_from_slice(string);
            self.0.push(0);
        }
        start..self.0.len()
    }
}

impl InitialStack<'_> {
    /// Lays the stack out below `top`. E2BIG.
    pub fn build(self, top: usize) -> Result<Image> {
        let mut size = self.path.len() + 1;
        for string in self.args.iter().chain(self.env) {
            if string.len() >= MAX_STRING {
                return Err(Errno::E2BIG);
            }
            size += string.len() + 1;
        }
        let pointers = 8 * (self.args.len() + self.env.len());
        if size + pointers > MAX_STRINGS {
            return Err(Errno::E2BIG);
        }
        // Strings, from low to high addresses: platform, random, arguments, environment, path, and eight zero bytes at the top.
        size += PLATFORM.len() + self.random.len() + 8;
        // Below them the number of arguments, their addresses and the environment's, each list with a null, and the vector.
        let words = 8 * 3 + pointers + 16 * (self.auxv.len() + 4);
        let base = top.checked_sub(size).ok_or(Errno::E2BIG)?;
        let rsp = base.checked_sub(words).ok_or(Errno::E2BIG)? & !15;
        let mut to = Writer(Vec::with_capacity(top - rsp));
        let platform = base as u64;
        let random = platform + PLATFORM.len() as u64;
        to.word(self.args.len() as u64);
        let env = to.addresses(random + self.random.len() as u64, self.args);
        let path = to.addresses(env, self.env);
        let auxv = to.0.len();
        let added = [(at::PLATFORM, platform), (at::RANDOM, random), (at::EXECFN, path), (at::NULL, 0)];
        for &(key, value) in self.auxv.iter().chain(&added) {
            to.word(key);
            to.word(value);
        }
        let auxv = auxv..to.0.len();
        to.0.resize(base - rsp, 0);
        to.0.extend_from_slice(PLATFORM);
        to.0.extend_from_slice(&self.random);
        let args = to.strings(self.args);
        let env = to.strings(self.env);
        to.0.extend_from_slice(self.path);
        to.0.resize(top - rsp, 0);
        Ok(Image { rsp, bytes: to.0, args, env, auxv })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_the_abis() {
        let args = [b"prog".to_vec(), b"".to_vec(), b"two words".to_vec()];
        let env = [b"A=1".to_vec()];
        let stack = InitialStack {
            args: &args,
            env: &env,
            path: b"/bin/prog",
            random: [7; 16],
            auxv: &[(at::PAGESZ, 4096)],
        };
        let top = 0x7fff_0000_1234;
        let image = stack.build(top).unwrap();
        assert_eq!(image.rsp % 16, 0);
        assert_eq!(image.rsp + image.bytes.len(), top);
        let word = |i: usize| u64::from_le_bytes(image.bytes[8 * i..8 * i + 8].try_into().unwrap());
        let string = |address: u64| {
            let from = &image.bytes[address as usize - image.rsp..];
            &from[..from.iter().position(|&b| b == 0).unwrap()]
        };
        assert_eq!(word(0), 3);
        assert_eq!(
            (string(word(1)), string(word(2)), string(word(3))),
            (&b"prog"[..], &b""[..], &b"two words"[..])
        );
        assert_eq!((word(4), string(word(5)), word(6)), (0, &b"A=1"[..], 0));
        assert_eq!((word(7), word(8)), (at::PAGESZ, 4096));
        assert_eq!((word(9), string(word(10))), (at::PLATFORM, &b"x86_64"[..]));
        assert_eq!(word(11), at::RANDOM);
        assert_eq!(image.bytes[word(12) as usize - image.rsp..][..16], [7; 16]);
        assert_eq!((word(13), string(word(14))), (at::EXECFN, &b"/bin/prog"[..]));
        assert_eq!((word(15), word(16)), (at::NULL, 0));
        assert_eq!(image.part(&image.args), b"prog\0\0two words\0");
        assert_eq!(image.part(&image.env), b"A=1\0");
        assert_eq!(image.part(&image.auxv), image.bytes[7 * 8..17 * 8]);
    }

    #[test]
    fn too_much_is_e2big() {
        let stack = |args: &[Vec<u8>]| {
            InitialStack { args, env: &[], path: b"/x", random: [0; 16], auxv: &[] }.build(1 << 40).err()
        };
        assert_eq!(stack(&[alloc::vec![b'x'; 128 << 10]]), Some(Errno::E2BIG));
        assert_eq!(stack(&alloc::vec![alloc::vec![b'x'; 100_000]; 30]), Some(Errno::E2BIG));
        assert_eq!(stack(&alloc::vec![Vec::new(); 1000]), None);
    }
}
