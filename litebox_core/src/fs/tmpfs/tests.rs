use super::super::testing::{SliceSource, TestHost, VecSink};
use super::super::{
    FsContext, LowerEntry, LowerMetadata, MountTable, OFlags, OpenFile, ResolveFlags, Whence, ops,
};
use super::*;
use crate::fs::{NewNode, RenameMode};
use crate::mm::{MapFlags, MapRequest, Mm, Page};
use crate::platform::hosted::Hosted;
use crate::platform::{PAGE_SIZE, Prot};
use alloc::vec::Vec;
use proptest::prelude::*;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};

const DEV: DeviceId = DeviceId::new(0, 20);

/// `/a/b` with two pages and a bit of `x`, and a link to it.
struct OneFile(&'static TestHost);

impl Lower for OneFile {
    fn root(&self) -> LowerId {
        LowerId(1)
    }
    fn metadata(&self, id: LowerId) -> Result<LowerMetadata> {
        let (file_type, size) = match id.0 {
            1 | 2 => (FileType::Directory, 0),
            3 => (FileType::Regular, 9000),
            4 => (FileType::Symlink, 3),
            _ => return Err(Errno::EIO),
        };
        let (mtime, rdev) = (Timestamp::default(), DeviceId::default());
        // What an image says of a directory's links is nobody's to check.
        let nlink = if file_type == FileType::Directory { u32::MAX } else { 1 };
        Ok(LowerMetadata { file_type, mode: 0o755, uid: 0, gid: 0, nlink, size, mtime, rdev })
    }
    fn lookup(&self, dir: LowerId, name: &[u8]) -> Result<Option<LowerId>> {
        let mut found = None;
        self.readdir(dir, &mut |entry| {
            if entry.name == name {
                found = Some(entry.id);
            }
        })?;
        Ok(found)
    }
    fn readdir(&self, dir: LowerId, each: &mut dyn FnMut(LowerEntry<'_>)) -> Result<()> {
        if dir.0 == 1 {
            each(LowerEntry { id: LowerId(2), file_type: FileType::Directory, name: b"a" });
        } else {
            each(LowerEntry { id: LowerId(3), file_type: FileType::Regular, name: b"b" });
            each(LowerEntry { id: LowerId(4), file_type: FileType::Symlink, name: b"l" });
        }
        Ok(())
    }
    fn readlink(&self, _id: LowerId) -> Result<Vec<u8>> {
        Ok(b"b".to_vec())
    }
    fn page(&self, _id: LowerId, index: u64) -> Result<Page> {
        let page = self.0.pages().alloc_zeroed()?;
        page.fill(0, if index < 2 { 4096 } else { 9000 - 8192 }, b'x');
        Ok(page)
    }
    fn blocks(&self) -> u64 {
        10
    }
}

fn plain(limit: u64) -> (Arc<Tmpfs>, FsContext) {
    let (fs, root) = Tmpfs::new(TestHost::leak(4096), DEV, None, None, limit).unwrap();
    (fs, FsContext::new(MountTable::new(root, "tmpfs", "rw", None).root()))
}

fn layered() -> (Arc<Tmpfs>, FsContext) {
    let host = TestHost::leak(1024);
    let (fs, root) = Tmpfs::new(host, DEV, Some(Arc::new(OneFile(host))), None, 100).unwrap();
    (fs, FsContext::new(MountTable::new(root, "tmpfs", "rw", None).root()))
}

fn open(context: &FsContext, path: &[u8], flags: OFlags) -> Result<Arc<OpenFile>> {
    ops::open(context, &context.cwd, path, flags, 0o644, ResolveFlags::empty())
}

fn read(file: &OpenFile, len: usize) -> Vec<u8> {
    let mut sink = VecSink { bytes: Vec::new(), room: len };
    file.read(&mut sink).unwrap();
    sink.bytes
}

fn names(context: &FsContext, path: &[u8]) -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    let dir = open(context, path, OFlags::DIRECTORY).unwrap();
    dir.readdir(&mut |entry| {
        names.push(entry.name.to_vec());
        true
    })
    .unwrap();
    names.sort();
    names
}

#[test]
fn lower_files_are_read_changed_removed() {
    let (fs, context) = layered();
    let file = open(&context, b"/a/l", OFlags::RDWR).unwrap();
    assert_eq!(read(&file, 10_000), vec![b'x'; 9000]);
    assert_eq!(fs.usage().0, 0);
    assert_eq!(fs.reclaim(2), 2);
    file.seek(4095, Whence::Start).unwrap();
    assert_eq!(file.write(&mut SliceSource(b"yz")).unwrap(), 2);
    assert_eq!(fs.usage().0, 2);
    file.seek(4094, Whence::Start).unwrap();
    assert_eq!(read(&file, 4), b"xyzx");
    file.file().unwrap().truncate(5000).unwrap();
    file.file().unwrap().truncate(9000).unwrap();
    file.seek(4999, Whence::Start).unwrap();
    assert_eq!(read(&file, 4001), [b"x".to_vec(), vec![0; 4000]].concat());
    assert_eq!(names(&context, b"/a"), [&b"."[..], b"..", b"b", b"l"]);
    ops::unlink(&context, &context.cwd, b"a/b", false).unwrap();
    assert_eq!(names(&context, b"/a"), [&b"."[..], b"..", b"l"]);
    assert_eq!(open(&context, b"/a/l", OFlags::RDONLY).err(), Some(Errno::ENOENT));
    assert_eq!(file.location().unwrap().path(&context.root), b"/a/b (deleted)");
    drop(open(&context, b"/a/l", OFlags::CREAT | OFlags::WRONLY).unwrap());
    assert_eq!(names(&context, b"/a").len(), 4);
    drop(file);
    assert_eq!(fs.usage().0, 0);
}

#[test]
fn a_directory_of_the_image_takes_new_directories_whatever_its_link_count() {
    let (_fs, context) = layered();
    for path in [&b"/d"[..], b"/a/d"] {
        ops::make(&context, &context.cwd, path, NewNode::Directory, 0o777).unwrap();
        ops::unlink(&context, &context.cwd, path, true).unwrap();
    }
}

#[test]
fn limits_are_kept_and_space_comes_back() {
    let (fs, context) = plain(3);
    let file = open(&context, b"f", OFlags::CREAT | OFlags::RDWR).unwrap();
    assert_eq!(file.write(&mut SliceSource(&[1; 20_000])), Ok(3 * 4096));
    assert_eq!(file.write(&mut SliceSource(&[1; 1])), Err(Errno::ENOSPC));
    ops::unlink(&context, &context.cwd, b"f", false).unwrap();
    assert_eq!(fs.usage().0, 3);
    drop(file);
    assert_eq!(fs.usage().0, 0);
}

#[test]
fn paths_resolve_as_on_linux() {
    let (_fs, context) = plain(100);
    let cwd = &context.cwd;
    let make = |path: &[u8], what: NewNode<'_>| ops::make(&context, cwd, path, what, 0o777);
    make(b"d", NewNode::Directory).unwrap();
    make(b"d/e/", NewNode::Directory).unwrap();
    make(b"loop", NewNode::Symlink(b"loop")).unwrap();
    make(b"up", NewNode::Symlink(b"d/../d/e/")).unwrap();
    let path = |path: &[u8]| ops::resolve(&context, cwd, path, true).map(|place| place.path(&context.root));
    assert_eq!(path(b"/../../d/./e").as_deref(), Ok(&b"/d/e"[..]));
    assert_eq!(path(b"up/..").as_deref(), Ok(&b"/d"[..]));
    assert_eq!(path(b"/").as_deref(), Ok(&b"/"[..]));
    assert_eq!(path(b"loop"), Err(Errno::ELOOP));
    assert_eq!(path(b""), Err(Errno::ENOENT));
    assert_eq!(path(&[b'n'; 256]), Err(Errno::ENAMETOOLONG));
    drop(open(&context, b"file", OFlags::CREAT).unwrap());
    assert_eq!(path(b"file/"), Err(Errno::ENOTDIR));
    assert_eq!(path(b"file/x"), Err(Errno::ENOTDIR));
    assert_eq!(open(&context, b"d", OFlags::RDWR).err(), Some(Errno::EISDIR));
    assert_eq!(open(&context, b"up", OFlags::NOFOLLOW).err(), Some(Errno::ELOOP));
    assert_eq!(open(&context, b"file", OFlags::CREAT | OFlags::EXCL).err(), Some(Errno::EEXIST));
    let rename = |a: &[u8], b: &[u8], mode| ops::rename(&context, (cwd, a), (cwd, b), mode);
    assert_eq!(rename(b"d", b"d/e/f", RenameMode::Replace), Err(Errno::EINVAL));
    assert_eq!(rename(b"d/e", b"d", RenameMode::Replace), Err(Errno::ENOTEMPTY));
    assert_eq!(rename(b"file", b"d", RenameMode::Replace), Err(Errno::EISDIR));
    assert_eq!(rename(b"d", b"file", RenameMode::Replace), Err(Errno::ENOTDIR));
    assert_eq!(rename(b"d", b"file", RenameMode::NoReplace), Err(Errno::EEXIST));
    rename(b"d/e", b"file", RenameMode::Exchange).unwrap();
    assert_eq!(path(b"file").as_deref(), Ok(&b"/file"[..]));
    assert_eq!(ops::resolve(&context, cwd, b"d", true).unwrap().inode.metadata().unwrap().nlink, 2);
    assert_eq!(ops::unlink(&context, cwd, b"d", true), Err(Errno::ENOTEMPTY));
    assert_eq!(ops::unlink(&context, cwd, b"d", false), Err(Errno::EISDIR));
    assert_eq!(ops::unlink(&context, cwd, b"d/.", true), Err(Errno::EINVAL));
}

#[derive(Clone, Debug)]
enum Op {
    Write(u8, u64, usize),
    Truncate(u8, u64),
    Remove(u8),
    Rename(u8, u8),
    Link(u8, u8),
    Mkdir(u8),
    Rmdir(u8),
    Check(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let n = 0u8..6;
    let at = 0u64..12_000;
    prop_oneof![
        (n.clone(), at.clone(), 0usize..9000).prop_map(|(n, at, len)| Op::Write(n, at, len)),
        (n.clone(), at).prop_map(|(n, at)| Op::Truncate(n, at)),
        n.clone().prop_map(Op::Remove),
        (n.clone(), n.clone()).prop_map(|(a, b)| Op::Rename(a, b)),
        (n.clone(), n.clone()).prop_map(|(a, b)| Op::Link(a, b)),
        n.clone().prop_map(Op::Mkdir),
        n.clone().prop_map(Op::Rmdir),
        n.prop_map(Op::Check),
    ]
}

/// Names 3..6 lie in the directory that is name 0, when it is one.
fn name(n: u8) -> String {
    if n < 3 { format!("n{n}") } else { format!("n0/m{n}") }
}

fn errno(error: std::io::Error) -> u16 {
    error.raw_os_error().unwrap_or(0) as u16
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    #[cfg_attr(miri, ignore)]
    fn behaves_as_the_host_does(ops_list in proptest::collection::vec(op(), 1..60)) {
        static SERIAL: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("litebox-fs-{}-{serial}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let (_fs, context) = plain(3000);
        let cwd = &context.cwd;
        for op in ops_list {
            let label = format!("{op:?}");
            let (ours, theirs): (Result<Vec<u8>>, std::io::Result<Vec<u8>>) = match op {
                Op::Write(n, at, len) => {
                    let path = name(n);
                    let data: Vec<u8> = (0..len).map(|i| (i as u64 * 7 + at) as u8 | 1).collect();
                    let ours = open(&context, path.as_bytes(), OFlags::CREAT | OFlags::RDWR).and_then(|file| {
                        file.write_at(at, &mut SliceSource(&data)).map(|_| Vec::new())
                    });
                    let open = std::fs::OpenOptions::new().create(true).truncate(false).read(true).write(true).open(dir.join(path));
                    (ours, open.and_then(|mut file| {
                        file.seek(SeekFrom::Start(at))?;
                        file.write_all(&data)?;
                        Ok(Vec::new())
                    }))
                }
                Op::Truncate(n, at) => {
                    let path = name(n);
                    let ours = open(&context, path.as_bytes(), OFlags::RDWR)
                        .and_then(|file| file.file()?.truncate(at).map(|()| Vec::new()));
                    let open = std::fs::OpenOptions::new().read(true).write(true).open(dir.join(path));
                    (ours, open.and_then(|file| file.set_len(at).map(|()| Vec::new())))
                }
                Op::Remove(n) => (
                    ops::unlink(&context, cwd, name(n).as_bytes(), false).map(|()| Vec::new()),
                    std::fs::remove_file(dir.join(name(n))).map(|()| Vec::new()),
                ),
                Op::Rename(a, b) => (
                    ops::rename(&context, (cwd, name(a).as_bytes()), (cwd, name(b).as_bytes()), RenameMode::Replace)
                        .map(|()| Vec::new()),
                    std::fs::rename(dir.join(name(a)), dir.join(name(b))).map(|()| Vec::new()),
                ),
                Op::Link(a, b) => (
                    ops::resolve(&context, cwd, name(a).as_bytes(), false)
                        .and_then(|place| ops::link(&context, &place, cwd, name(b).as_bytes())).map(|()| Vec::new()),
                    std::fs::hard_link(dir.join(name(a)), dir.join(name(b))).map(|()| Vec::new()),
                ),
                Op::Mkdir(n) => (
                    ops::make(&context, cwd, name(n).as_bytes(), NewNode::Directory, 0o777).map(|()| Vec::new()),
                    std::fs::create_dir(dir.join(name(n))).map(|()| Vec::new()),
                ),
                Op::Rmdir(n) => (
                    ops::unlink(&context, cwd, name(n).as_bytes(), true).map(|()| Vec::new()),
                    std::fs::remove_dir(dir.join(name(n))).map(|()| Vec::new()),
                ),
                Op::Check(n) => {
                    let ours = open(&context, name(n).as_bytes(), OFlags::RDONLY).and_then(|file| {
                        let mut sink = VecSink { bytes: Vec::new(), room: 1 << 20 };
                        file.read(&mut sink)?;
                        Ok(sink.bytes)
                    });
                    let theirs = std::fs::File::open(dir.join(name(n))).and_then(|mut file| {
                        let mut bytes = Vec::new();
                        file.read_to_end(&mut bytes)?;
                        Ok(bytes)
                    });
                    (ours, theirs)
                }
            };
            prop_assert_eq!(ours.map_err(Errno::raw), theirs.map_err(errno), "{}", label);
        }
        for n in 0..6 {
            use std::os::unix::fs::MetadataExt as _;
            let ours = ops::resolve(&context, cwd, name(n).as_bytes(), false).and_then(|place| place.inode.metadata());
            let theirs = std::fs::symlink_metadata(dir.join(name(n)));
            if let (Ok(ours), Ok(theirs)) = (ours, theirs)
                && ours.file_type == FileType::Regular
            {
                prop_assert_eq!((ours.size, u64::from(ours.nlink)), (theirs.size(), theirs.nlink()));
            }
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

#[test]
fn what_truncation_cuts_off_is_unmapped() {
    let host = Hosted::leak(512);
    let (_fs, root) = Tmpfs::new(host, DEV, None, None, 100).unwrap();
    let inode = root.create_unnamed(0o600, &Credentials::default(), true).unwrap();
    let file = inode.open(OFlags::RDWR).unwrap();
    file.truncate(3 * PAGE_SIZE as u64).unwrap();
    let mm = Mm::new(host).unwrap();
    mm.activate();
    let map = |flags| {
        let object = Some((file.mappable().unwrap(), PAGE_SIZE as u64));
        let prot = Prot::READ | Prot::WRITE;
        mm.mmap(MapRequest { at: 0, len: 2 * PAGE_SIZE, prot, flags, object, name: None }).unwrap()
    };
    for at in [map(MapFlags::SHARED), map(MapFlags::empty())] {
        file.truncate(3 * PAGE_SIZE as u64).unwrap();
        mm.write(at, b"one").unwrap();
        mm.write(at + PAGE_SIZE, b"two").unwrap();
        file.truncate(2 * PAGE_SIZE as u64).unwrap();
        let mut bytes = [0; 3];
        assert_eq!(mm.read(at + PAGE_SIZE, &mut bytes), Err(Errno::EFAULT));
        mm.read(at, &mut bytes).unwrap();
        assert_eq!(&bytes, b"one");
        file.truncate(3 * PAGE_SIZE as u64).unwrap();
        mm.read(at + PAGE_SIZE, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 3]);
    }
}

#[test]
fn a_hole_is_punched_into_what_is_mapped_too() {
    let host = Hosted::leak(512);
    let (_fs, root) = Tmpfs::new(host, DEV, None, None, 100).unwrap();
    let inode = root.create_unnamed(0o600, &Credentials::default(), true).unwrap();
    let file = inode.open(OFlags::RDWR).unwrap();
    file.truncate(2 * PAGE_SIZE as u64).unwrap();
    let mm = Mm::new(host).unwrap();
    mm.activate();
    let map = |flags| {
        let object = Some((file.mappable().unwrap(), 0));
        let prot = Prot::READ | Prot::WRITE;
        mm.mmap(MapRequest { at: 0, len: 2 * PAGE_SIZE, prot, flags, object, name: None }).unwrap()
    };
    let (shared, private) = (map(MapFlags::SHARED), map(MapFlags::empty()));
    mm.write(shared, b"shared").unwrap();
    mm.write(private, b"mine").unwrap();
    const PUNCH_HOLE_KEEP_SIZE: u32 = 3;
    file.allocate(PUNCH_HOLE_KEEP_SIZE, 0, 2 * PAGE_SIZE as u64).unwrap();
    let mut bytes = [0xff; 4];
    mm.read(shared, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 4]);
    mm.read(private, &mut bytes).unwrap();
    assert_eq!(&bytes, b"mine", "a private copy is its owner's");
    mm.write(shared, b"anew").unwrap();
    let mut sink = VecSink { bytes: Vec::new(), room: 4 };
    file.read_at(0, &mut sink).unwrap();
    assert_eq!(sink.bytes, b"anew", "what is mapped is still the file");
}

#[test]
fn a_file_that_has_lost_its_last_name_gets_no_other() {
    let (_fs, root) = Tmpfs::new(TestHost::leak(64), DEV, None, None, 100).unwrap();
    let cred = Credentials::default();
    let node = root.create(b"a", NewNode::Regular, 0o600, &cred).unwrap();
    root.link(b"b", &node).unwrap();
    root.unlink(b"a").unwrap();
    root.unlink(b"b").unwrap();
    assert_eq!(root.link(b"c", &node), Err(Errno::ENOENT));
    let hidden = root.create_unnamed(0o600, &cred, false).unwrap();
    assert_eq!(root.link(b"d", &hidden), Err(Errno::ENOENT));
    root.link(b"d", &root.create_unnamed(0o600, &cred, true).unwrap()).unwrap();
}
