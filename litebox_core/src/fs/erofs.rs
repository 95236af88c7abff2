//! EROFS, uncompressed: the file system in the workload image (Linux's `Documentation/filesystems/erofs.rst`).
//!
//! The blocks are verified before they come here, so they are what the image's maker wrote; the maker may still have been careless or
//! hostile. Every number is checked before it is used, loops are bounded by the image's size, and what makes no sense is EIO.

use super::erofs_layout::{
    BLOCK, BLOCK_BITS, CompactInode, DirectoryEntry, ExtendedInode, MAGIC, SLOT, SUPERBLOCK_OFFSET,
    Superblock, data_layout, file_type,
};
use super::verity::VerityDevice;
use super::{DeviceId, FileType, Lower, LowerEntry, LowerId, LowerMetadata, Timestamp};
use crate::errno::{Errno, Result};
use crate::mm::Page;
use alloc::vec::Vec;
use spin::Mutex;
use zerocopy::FromBytes;

/// Blocks of metadata and directories that are kept.
const CACHED_BLOCKS: usize = 64;
/// The longest symbolic link.
const MAX_LINK: u64 = 4096;
/// Incompatible features that are understood: none.
const KNOWN_INCOMPAT: u32 = 0;

/// From this many pages on, a request is taken for reading in sequence.
const SEQUENTIAL: usize = 16;

/// An inode, decoded.
#[derive(Clone, Copy, Debug)]
struct Node {
    metadata: LowerMetadata,
    /// First data block.
    data: u64,
    /// Where data that is stored behind the inode begins, in bytes from the start of the image.
    inline_at: Option<u64>,
}

/// A mounted image.
pub struct Erofs {
    device: VerityDevice,
    root: u64,
    meta_block: u64,
    blocks: u64,
    build_time: (u64, u32),
    /// The most recently read last.
    cache: Mutex<Vec<(u64, Page)>>,
}

impl Erofs {
    /// Mounts the image.
    pub fn new(device: VerityDevice) -> Result<Erofs, &'static str> {
        let first = device.read(0).map_err(|_| "its first block cannot be read")?;
        let mut bytes = [0; size_of::<Superblock>()];
        first.read(SUPERBLOCK_OFFSET, &mut bytes);
        let raw = Superblock::read_from_bytes(&bytes).map_err(|_| "too short")?;
        if raw.magic.get() != MAGIC {
            return Err("it is no EROFS file system");
        }
        if raw.block_bits != BLOCK_BITS {
            return Err("its blocks are not of 4096 bytes");
        }
        if raw.feature_incompat.get() & !KNOWN_INCOMPAT != 0 || raw.extra_devices.get() != 0 {
            return Err("it has features that are not supported (compression, chunks or several devices)");
        }
        let blocks = device.blocks().min(u64::from(raw.blocks.get()));
        let image = Erofs {
            root: u64::from(raw.root_nid.get()),
            meta_block: u64::from(raw.meta_block.get()),
            build_time: (raw.build_time.get(), raw.build_time_ns.get()),
            blocks,
            device,
            cache: Mutex::new(alloc::vec![(0, first)]),
        };
        match image.node(LowerId(image.root)) {
            Ok(node) if node.metadata.file_type == FileType::Directory => Ok(image),
            _ => Err("its root is no directory"),
        }
    }

    /// A block through the cache.
    fn block(&self, number: u64) -> Result<Page> {
        if let Some((_, block)) = self.cache.lock().iter().find(|(n, _)| *n == number) {
            return Ok(block.clone());
        }
        let block = self.device.read(number)?;
        let mut cache = self.cache.lock();
        if cache.len() >= CACHED_BLOCKS {
            cache.remove(0);
        }
        cache.push((number, block.clone()));
        Ok(block)
    }

    /// Copies bytes from anywhere in the image.
    fn bytes(&self, at: u64, into: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < into.len() {
            let from = at.checked_add(done as u64).ok_or(Errno::EIO)?;
            let block = self.block(from / BLOCK as u64)?;
            let offset = (from % BLOCK as u64) as usize;
            let len = (BLOCK - offset).min(into.len() - done);
            block.read(offset, into.get_mut(done..done + len).ok_or(Errno::EIO)?);
            done += len;
        }
        Ok(())
    }

    fn node(&self, id: LowerId) -> Result<Node> {
        let at =
            id.0.checked_mul(SLOT)
                .and_then(|offset| offset.checked_add(self.meta_block * BLOCK as u64))
                .filter(|&at| at / (BLOCK as u64) < self.blocks)
                .ok_or(Errno::EIO)?;
        let mut raw = [0; size_of::<ExtendedInode>()];
        let compact_size = size_of::<CompactInode>();
        self.bytes(at, &mut raw[..compact_size])?;
        let (compact, _) = CompactInode::read_from_prefix(&raw).map_err(|_| Errno::EIO)?;
        let format = compact.format.get();
        if format & !0xf != 0 {
            return Err(Errno::EIO);
        }
        let extended = format & 1 != 0;
        let xattrs = match compact.xattr_count.get() {
            0 => 0,
            count => 12 + 4 * (u64::from(count) - 1),
        };
        let (mode, data, inode_size, metadata) = if extended {
            self.bytes(at, &mut raw)?;
            let inode = ExtendedInode::read_from_bytes(&raw).map_err(|_| Errno::EIO)?;
            let mtime =
                Timestamp { sec: inode.mtime.get() as i64, nsec: inode.mtime_ns.get().min(999_999_999) };
            let fields = (inode.size.get(), inode.uid.get(), inode.gid.get(), inode.nlink.get(), mtime);
            (inode.mode.get(), inode.data.get(), size_of::<ExtendedInode>(), fields)
        } else {
            let mtime = Timestamp { sec: self.build_time.0 as i64, nsec: self.build_time.1.min(999_999_999) };
            let (uid, gid) = (u32::from(compact.uid.get()), u32::from(compact.gid.get()));
            let fields = (u64::from(compact.size.get()), uid, gid, u32::from(compact.nlink.get()), mtime);
            (compact.mode.get(), compact.data.get(), compact_size, fields)
        };
        let (size, uid, gid, nlink, mtime) = metadata;
        let kind = FileType::from_mode(u32::from(mode)).ok_or(Errno::EIO)?;
        let device = matches!(kind, FileType::CharDevice | FileType::BlockDevice);
        let inline_at = match format >> 1 & 7 {
            data_layout::FLAT_PLAIN => None,
            data_layout::FLAT_INLINE => Some(at + inode_size as u64 + xattrs),
            _ => return Err(Errno::EIO),
        };
        let stored = matches!(kind, FileType::Regular | FileType::Directory | FileType::Symlink);
        if stored {
            // All of it lies in the image, so nothing later runs away.
            let whole = if inline_at.is_some() { size / BLOCK as u64 } else { size.div_ceil(BLOCK as u64) };
            let end = if whole == 0 { Some(0) } else { u64::from(data).checked_add(whole) };
            if end.is_none_or(|end| end > self.blocks) {
                return Err(Errno::EIO);
            }
        }
        let rdev = if device { decode_device(data) } else { DeviceId::new(0, 0) };
        Ok(Node {
            metadata: LowerMetadata {
                file_type: kind,
                mode: u32::from(mode) & 0o7777,
                uid,
                gid,
                nlink: nlink.max(1),
                size: if stored { size } else { 0 },
                mtime,
                rdev,
            },
            data: u64::from(data),
            inline_at: if stored { inline_at } else { None },
        })
    }

    /// Copies bytes of a node's data, which must be within its size.
    fn data(&self, node: &Node, offset: u64, into: &mut [u8]) -> Result<()> {
        let size = node.metadata.size;
        if offset.checked_add(into.len() as u64).is_none_or(|end| end > size) {
            return Err(Errno::EIO);
        }
        let tail_start = if node.inline_at.is_some() { size / BLOCK as u64 * BLOCK as u64 } else { u64::MAX };
        let plain = into.len().min(tail_start.saturating_sub(offset).min(into.len() as u64) as usize);
        let (front, back) = into.split_at_mut(plain);
        self.bytes(node.data * BLOCK as u64 + offset, front)?;
        match node.inline_at {
            Some(at) if !back.is_empty() => self.bytes(at + (offset + plain as u64 - tail_start), back),
            _ => Ok(()),
        }
    }

    /// One block of a directory: its bytes, as many as it has.
    fn directory_block(&self, node: &Node, index: u64) -> Result<Vec<u8>> {
        let offset = index * BLOCK as u64;
        let len = node.metadata.size.saturating_sub(offset).min(BLOCK as u64) as usize;
        let mut bytes = alloc::vec![0; len];
        self.data(node, offset, &mut bytes)?;
        Ok(bytes)
    }

    fn directory(&self, id: LowerId) -> Result<Node> {
        let node = self.node(id)?;
        if node.metadata.file_type == FileType::Directory { Ok(node) } else { Err(Errno::ENOTDIR) }
    }
}

/// `new_decode_dev`.
fn decode_device(raw: u32) -> DeviceId {
    DeviceId::new(raw >> 8 & 0xfff, raw & 0xff | raw >> 12 & 0xfff00)
}

/// The entries of a directory block, checked.
struct Entries<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl<'a> Entries<'a> {
    fn new(bytes: &'a [u8]) -> Result<Entries<'a>> {
        const SIZE: usize = size_of::<DirectoryEntry>();
        let (first, _) = DirectoryEntry::read_from_prefix(bytes).map_err(|_| Errno::EIO)?;
        let names = usize::from(first.name_offset.get());
        if names < SIZE || names % SIZE != 0 || names > bytes.len() {
            return Err(Errno::EIO);
        }
        Ok(Entries { bytes, count: names / SIZE })
    }

    fn raw(&self, i: usize) -> Result<DirectoryEntry> {
        let at = self.bytes.get(i * size_of::<DirectoryEntry>()..).ok_or(Errno::EIO)?;
        DirectoryEntry::read_from_prefix(at).map(|(entry, _)| entry).map_err(|_| Errno::EIO)
    }

    /// Entry `i` and its name.
    fn get(&self, i: usize) -> Result<(DirectoryEntry, &'a [u8])> {
        let entry = self.raw(i)?;
        let start = usize::from(entry.name_offset.get());
        let end = if i + 1 < self.count {
            usize::from(self.raw(i + 1)?.name_offset.get())
        } else {
            self.bytes.len()
        };
        let name = self.bytes.get(start..end).ok_or(Errno::EIO)?;
        // The last name may be followed by zeros.
        let name = match name.iter().position(|&b| b == 0) {
            Some(end) if i + 1 == self.count => &name[..end],
            _ => name,
        };
        if name.is_empty() || name.len() > 255 || name.iter().any(|&b| b == 0 || b == b'/') {
            return Err(Errno::EIO);
        }
        Ok((entry, name))
    }
}

impl Lower for Erofs {
    fn root(&self) -> LowerId {
        LowerId(self.root)
    }

    fn metadata(&self, id: LowerId) -> Result<LowerMetadata> {
        self.node(id).map(|node| node.metadata)
    }

    fn lookup(&self, dir: LowerId, name: &[u8]) -> Result<Option<LowerId>> {
        let node = self.directory(dir)?;
        // The last block whose first name is not greater, then within it.
        let (mut low, mut high) = (0, node.metadata.size.div_ceil(BLOCK as u64));
        while low < high {
            let middle = (low + high) / 2;
            let bytes = self.directory_block(&node, middle)?;
            let entries = Entries::new(&bytes)?;
            if entries.get(0)?.1 > name {
                high = middle;
                continue;
            }
            let (mut first, mut last) = (0, entries.count);
            while first < last {
                let at = (first + last) / 2;
                let (entry, found) = entries.get(at)?;
                match found.cmp(name) {
                    core::cmp::Ordering::Equal => return Ok(Some(LowerId(entry.nid.get()))),
                    core::cmp::Ordering::Less => first = at + 1,
                    core::cmp::Ordering::Greater => last = at,
                }
            }
            if first < entries.count {
                return Ok(None);
            }
            low = middle + 1;
        }
        Ok(None)
    }

    fn readdir(&self, dir: LowerId, each: &mut dyn FnMut(LowerEntry<'_>)) -> Result<()> {
        let node = self.directory(dir)?;
        for index in 0..node.metadata.size.div_ceil(BLOCK as u64) {
            let bytes = self.directory_block(&node, index)?;
            let entries = Entries::new(&bytes)?;
            for i in 0..entries.count {
                let (entry, name) = entries.get(i)?;
                if name == b"." || name == b".." {
                    continue;
                }
                let file_type = match entry.file_type {
                    file_type::REGULAR => FileType::Regular,
                    file_type::DIRECTORY => FileType::Directory,
                    file_type::CHARACTER => FileType::CharDevice,
                    file_type::BLOCK => FileType::BlockDevice,
                    file_type::FIFO => FileType::Fifo,
                    file_type::SOCKET => FileType::Socket,
                    file_type::SYMLINK => FileType::Symlink,
                    _ => return Err(Errno::EIO),
                };
                each(LowerEntry { id: LowerId(entry.nid.get()), file_type, name });
            }
        }
        Ok(())
    }

    fn readlink(&self, id: LowerId) -> Result<Vec<u8>> {
        let node = self.node(id)?;
        if node.metadata.file_type != FileType::Symlink {
            return Err(Errno::EINVAL);
        }
        if node.metadata.size >= MAX_LINK {
            return Err(Errno::EIO);
        }
        let mut text = alloc::vec![0; node.metadata.size as usize];
        self.data(&node, 0, &mut text)?;
        Ok(text)
    }

    fn page(&self, id: LowerId, index: u64) -> Result<Page> {
        let mut pages = Vec::new();
        self.pages(id, index, 1, &mut pages)?;
        pages.pop().ok_or(Errno::EIO)
    }

    fn pages(&self, id: LowerId, first: u64, count: usize, into: &mut Vec<Page>) -> Result<()> {
        let node = self.node(id)?;
        let size = node.metadata.size;
        // Blocks that are the file's alone are mapped as they are; the rest of the last one is zero in an image as it should be,
        // and made zero in one that is not.
        let whole = size / BLOCK as u64;
        if first < whole {
            // A long run is a file that is read in sequence; a short one is a guess, and a page is verified when it is wanted.
            let run = if count >= SEQUENTIAL { (whole - first).min(count as u64) } else { 1 };
            let at = node.data.checked_add(first).ok_or(Errno::EIO)?;
            for block in at..at + run {
                into.push(self.device.read(block)?);
            }
            return Ok(());
        }
        let page = self.device.pool().alloc(true)?;
        let rest = (size.saturating_sub(first.saturating_mul(BLOCK as u64))).min(BLOCK as u64) as usize;
        if rest > 0 {
            let mut bytes = alloc::vec![0; rest];
            self.data(&node, first * BLOCK as u64, &mut bytes)?;
            page.write(0, &bytes);
        }
        into.push(page);
        Ok(())
    }

    fn blocks(&self) -> u64 {
        self.blocks
    }
}
