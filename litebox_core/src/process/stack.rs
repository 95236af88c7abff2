//! The initial stack: strings, the auxiliary vector, environment, arguments (psABI, 3.4.1; `getauxval(3)`).

use crate::errno::{Errno, Result};
use alloc::vec::Vec;

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
    pub auxv: Vec<(u64, u64)>,
}

/// The stack's bytes, and where they go.
#[derive(Debug)]
pub struct Image {
    /// Stack pointer at entry: the address of the first byte.
    pub rsp: usize,
    /// The bytes from there up to the top.
    pub bytes: Vec<u8>,
    /// The auxiliary vector as it is in memory (/proc/PID/auxv).
    pub auxv: Vec<u8>,
    /// The lowest address of the argument strings.
    pub arg_start: usize,
}

impl InitialStack<'_> {
    /// Lays the stack out below `top`. E2BIG.
    pub fn build(mut self, top: usize) -> Result<Image> {
        let strings = || self.args.iter().chain(self.env);
        let size = strings().map(|s| s.len() + 1 + 8).sum::<usize>() + self.path.len();
        if size > MAX_STRINGS || strings().any(|s| s.len() >= MAX_STRING) {
            return Err(Errno::E2BIG);
        }
        // Strings, from low to high addresses: platform, random, arguments, environment, path, and eight zero bytes at the top.
        let mut area = Vec::new();
        let mut offsets = Vec::new();
        let mut put = |bytes: &[u8], nul: bool| {
            offsets.push(area.len());
            area.extend_from_slice(bytes);
            if nul {
                area.push(0);
            }
        };
        put(b"x86_64", true);
        put(&self.random, false);
        for arg in self.args {
            put(arg, true);
        }
        for variable in self.env {
            put(variable, true);
        }
        put(self.path, true);
        area.extend_from_slice(&[0; 8]);
        let base = top.checked_sub(area.len()).ok_or(Errno::E2BIG)?;
        let address = |i: usize| (base + offsets.get(i).copied().unwrap_or(0)) as u64;
        let (args, env) = (self.args.len(), self.env.len());
        self.auxv.extend([
            (at::PLATFORM, address(0)),
            (at::RANDOM, address(1)),
            (at::EXECFN, address(2 + args + env)),
            (at::NULL, 0),
        ]);
        let mut words: Vec<u64> = Vec::new();
        words.push(args as u64);
        words.extend((0..args).map(|i| address(2 + i)));
        words.push(0);
        words.extend((0..env).map(|i| address(2 + args + i)));
        words.push(0);
        let auxv: Vec<u8> = self.auxv.iter().flat_map(|&(k, v)| [k, v]).flat_map(u64::to_le_bytes).collect();
        let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        bytes.extend_from_slice(&auxv);
        let rsp = base.checked_sub(bytes.len()).ok_or(Errno::E2BIG)? & !15;
        bytes.resize(base - rsp, 0);
        bytes.extend_from_slice(&area);
        Ok(Image { rsp, bytes, auxv, arg_start: address(2) as usize })
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
            auxv: alloc::vec![(at::PAGESZ, 4096)],
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
    }

    #[test]
    fn too_much_is_e2big() {
        let stack = |args: &[Vec<u8>]| {
            InitialStack { args, env: &[], path: b"/x", random: [0; 16], auxv: Vec::new() }
                .build(1 << 40)
                .err()
        };
        assert_eq!(stack(&[alloc::vec![b'x'; 128 << 10]]), Some(Errno::E2BIG));
        assert_eq!(stack(&alloc::vec![alloc::vec![b'x'; 100_000]; 30]), Some(Errno::E2BIG));
        assert_eq!(stack(&alloc::vec![Vec::new(); 1000]), None);
    }
}
