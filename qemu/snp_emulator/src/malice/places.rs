//! Names of places that scripts may change, as offsets.
//!
//! Sources: GHCB specification (56421), table 3; IGVM specification, IGVM_VHS_MEMORY_MAP_ENTRY; SNP firmware ABI (56860), table 95 (message header).

/// Fields of the GHCB page: name, offset, bytes.
pub const GHCB: [(&str, u16, u8); 17] = [
    ("cpl", 0xcb, 1),
    ("xss", 0x140, 8),
    ("dr7", 0x160, 8),
    ("rax", 0x1f8, 8),
    ("rcx", 0x308, 8),
    ("rdx", 0x310, 8),
    ("rbx", 0x318, 8),
    ("exit-code", 0x390, 8),
    ("exit-info-1", 0x398, 8),
    ("exit-info-2", 0x3a0, 8),
    ("scratch", 0x3a8, 8),
    ("xcr0", 0x3e8, 8),
    ("valid-low", 0x3f0, 8),
    ("valid-high", 0x3f8, 8),
    ("buffer", 0x800, 8),
    ("version", 0xffa, 2),
    ("usage", 0xffc, 4),
];

/// Fields of an entry of the memory map, of 24 bytes: name, offset, bytes.
pub const MEMORY_MAP: [(&str, u16, u8); 3] = [("start", 0, 8), ("pages", 8, 8), ("type", 16, 2)];

/// Bytes of an entry of the memory map.
pub const MEMORY_MAP_ENTRY: u32 = 24;

/// Fields of a guest message: name, offset, bytes.
pub const MESSAGE: [(&str, u16, u8); 8] = [
    ("tag", 0x00, 8),
    ("sequence", 0x20, 8),
    ("algorithm", 0x30, 1),
    ("header-version", 0x31, 1),
    ("type", 0x34, 1),
    ("message-version", 0x35, 1),
    ("size", 0x36, 2),
    ("payload", 0x60, 8),
];

/// A field by its name.
pub fn field(fields: &[(&str, u16, u8)], name: &str) -> Option<(u16, u8)> {
    fields.iter().find(|field| field.0 == name).map(|&(_, at, size)| (at, size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ghcb::page::{BUFFER, Field};

    #[test]
    fn names_are_where_the_page_has_them() {
        for (name, place) in [
            ("rax", Field::Rax),
            ("rcx", Field::Rcx),
            ("exit-code", Field::ExitCode),
            ("exit-info-1", Field::ExitInfo1),
            ("exit-info-2", Field::ExitInfo2),
            ("scratch", Field::Scratch),
            ("xcr0", Field::Xcr0),
        ] {
            assert_eq!(field(&GHCB, name), Some((place as u16, 8)));
        }
        assert_eq!(field(&GHCB, "buffer").map(|f| u64::from(f.0)), Some(BUFFER.start));
        assert_eq!(field(&GHCB, "rsi"), None);
    }
}
