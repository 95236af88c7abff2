//! Writes a cpio archive in the `newc` format, which is what Linux unpacks as its initramfs.
//!
//! Every entry is a header of 110 ASCII characters, the name with a NUL byte, and the data, the latter two padded to four bytes.
//! An archive needs no privileges to write, so its device nodes do not either. Source: Linux's
//! `Documentation/driver-api/early-userspace/buffer-format.rst`.

/// File types, as in `st_mode`.
const DIRECTORY: u32 = 0o04_0000;
const CHARACTER_DEVICE: u32 = 0o02_0000;
const REGULAR: u32 = 0o10_0000;

/// An archive under construction. Owner and group of everything are 0, and so are the times: equal contents give equal
/// archives.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a directory.
    pub fn directory(&mut self, name: &str, permissions: u32) {
        self.entry(name, DIRECTORY | permissions, (0, 0), &[]);
    }

    /// Adds a character device.
    pub fn character_device(&mut self, name: &str, permissions: u32, device: (u32, u32)) {
        self.entry(name, CHARACTER_DEVICE | permissions, device, &[]);
    }

    /// Adds a regular file; what is beyond 4 GiB, which the format cannot hold, is cut off.
    pub fn file(&mut self, name: &str, permissions: u32, data: &[u8]) {
        self.entry(name, REGULAR | permissions, (0, 0), data);
    }

    /// Ends the archive and returns it.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), data: &[u8]) {
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        self.entries += 1;
        self.bytes.extend_from_slice(b"070701");
        // inode, mode, uid, gid, links, mtime, size, device major and minor, rdev major and minor, name's size, checksum.
        for field in [self.entries, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0] {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data.get(..size as usize).unwrap_or(data));
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut archive = Archive::default();
        archive.directory("dev", 0o755);
        archive.character_device("dev/console", 0o600, (5, 1));
        archive.file("init", 0o755, b"hello");
        archive.finish()
    }

    #[test]
    fn entries_are_aligned_and_in_order() {
        let bytes = sample();
        let mut names = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            assert_eq!(&rest[..6], b"070701");
            let field = |index: usize| {
                let text = std::str::from_utf8(&rest[6 + 8 * index..14 + 8 * index]).unwrap();
                usize::from_str_radix(text, 16).unwrap()
            };
            let (size, name_size) = (field(6), field(11));
            names.push(String::from_utf8(rest[110..110 + name_size - 1].to_vec()).unwrap());
            let data = (110 + name_size).next_multiple_of(4);
            match names.last().unwrap().as_str() {
                "init" => assert_eq!((&rest[data..data + size], field(1)), (&b"hello"[..], 0o100755)),
                "dev/console" => assert_eq!((field(1), field(9), field(10)), (0o020600, 5, 1)),
                "dev" => assert_eq!(field(1), 0o040755),
                _ => {}
            }
            rest = &rest[data + size.next_multiple_of(4)..];
        }
        assert_eq!(names, ["dev", "dev/console", "init", "TRAILER!!!"]);
    }

    #[test]
    fn equal_contents_give_equal_archives() {
        assert_eq!(sample(), sample());
    }
}
