//! Seeds: small inputs that are as they should be, from which a fuzzer finds its way to those that are not.

use crate::image::tree::{Attributes, Bytes, Kind, Node, Tree};
use crate::image::writer;
use crate::machine::to_sparse;
use litebox_core::manifest::{LogLevel, Manifest, Root, StreamKind};
use std::collections::BTreeMap;

/// Puts bytes somewhere into a buffer.
fn put(into: &mut [u8], at: usize, bytes: &[u8]) {
    into[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Program headers as seven words each: type and flags, offset, address, physical address, sizes in file and memory, alignment.
fn elf_file(kind: u16, headers: &[[u64; 7]]) -> Vec<u8> {
    let mut file = vec![0; 0x2100];
    put(&mut file, 0, b"\x7fELF\x02\x01\x01");
    put(&mut file, 16, &kind.to_le_bytes());
    put(&mut file, 18, &62u16.to_le_bytes());
    put(&mut file, 24, &0x1000u64.to_le_bytes());
    put(&mut file, 32, &64u64.to_le_bytes());
    put(&mut file, 54, &56u16.to_le_bytes());
    put(&mut file, 56, &(headers.len() as u16).to_le_bytes());
    put(&mut file, 0x400, b"/lib64/ld-linux-x86-64.so.2\0");
    for (i, word) in headers.iter().flatten().enumerate() {
        put(&mut file, 64 + 8 * i, &word.to_le_bytes());
    }
    file
}

/// A static program, a position-independent one with an interpreter, one that consists of its first page.
pub fn elf() -> Vec<Vec<u8>> {
    const LOAD_RX: u64 = 1 | 5 << 32;
    const LOAD_RW: u64 = 1 | 6 << 32;
    const STACK: [u64; 7] = [0x6474_e551 | 6 << 32, 0, 0, 0, 0, 0, 16];
    let interpreter = [3 | 4 << 32, 0x400, 0x400, 0x400, 28, 28, 1];
    let mut tiny = elf_file(2, &[[LOAD_RX, 0, 0x40_0000, 0, 120, 120, 4096]]);
    tiny.truncate(120);
    vec![
        elf_file(
            2,
            &[
                [LOAD_RX, 0, 0x40_0000, 0, 0x1800, 0x1800, 0x1000],
                [LOAD_RW, 0x2000, 0x40_2000, 0, 0x100, 0x3000, 0x1000],
                STACK,
            ],
        ),
        elf_file(
            3,
            &[
                [6 | 4 << 32, 64, 64, 64, 280, 280, 8],
                interpreter,
                [LOAD_RX, 0, 0, 0, 0x1800, 0x1800, 0x20_0000],
                [LOAD_RW, 0x1ff8, 0x2ff8, 0, 0x100, 0x3000, 0x20_0000],
                STACK,
            ],
        ),
        tiny,
    ]
}

/// The same, with an interpreter that is there; and scripts.
pub fn exec() -> Vec<Vec<u8>> {
    let mut seeds = elf();
    if let Some(dynamic) = seeds.get_mut(1) {
        put(dynamic, 0x400, b"/i\0");
        put(dynamic, 64 + 56 + 32, &3u64.to_le_bytes());
    }
    seeds.extend([b"#!/i -x\n".to_vec(), b"#! /tmp/program\n".to_vec(), b"#!\n".to_vec()]);
    seeds
}

/// The least that is accepted, one with everything, and that one cut off.
pub fn manifest() -> Vec<Vec<u8>> {
    let full = Manifest {
        root: Some(Root { verity: [0xa5; 32], blocks: 1234 }),
        exec: b"/bin/sh".to_vec(),
        args: vec![b"sh".to_vec(), b"-c".to_vec(), b"echo a=b".to_vec(), Vec::new()],
        env: vec![b"PATH=/bin".to_vec(), b"X=".to_vec()],
        cwd: b"/tmp".to_vec(),
        hostname: "box-1.example".into(),
        stdin: StreamKind::Tty,
        stdout: StreamKind::Pipe,
        stderr: StreamKind::Tty,
        winsize: Some((80, 25)),
        log: LogLevel::Debug,
    };
    let least = Manifest { exec: b"/x".to_vec(), ..Manifest::default() };
    let full = full.encode().unwrap_or_default();
    let cut = full[..full.len() - 1].to_vec();
    vec![least.encode().unwrap_or_default(), full, cut]
}

/// Memory with a start info at 0x40, a map of three entries and a command line; its address in front, as the target wants it.
pub fn start_info() -> Vec<Vec<u8>> {
    let mut memory = vec![0; 0x180];
    put(&mut memory, 0x40, &0x336e_c578u32.to_le_bytes());
    put(&mut memory, 0x44, &1u32.to_le_bytes());
    put(&mut memory, 0x40 + 24, &0x100u64.to_le_bytes());
    put(&mut memory, 0x40 + 40, &0x80u64.to_le_bytes());
    put(&mut memory, 0x40 + 48, &3u32.to_le_bytes());
    put(&mut memory, 0x100, b"console=mmio:0xfeb00000:5 tsc_khz=2000000\0");
    let map = [(0u64, 0x9_fc00u64, 1u32), (0xf_0000, 0x1_0000, 2), (0x10_0000, 0xff0_0000, 1)];
    for (i, (start, size, kind)) in map.iter().enumerate() {
        put(&mut memory, 0x80 + 24 * i, &start.to_le_bytes());
        put(&mut memory, 0x88 + 24 * i, &size.to_le_bytes());
        put(&mut memory, 0x90 + 24 * i, &kind.to_le_bytes());
    }
    vec![[&0x40u32.to_le_bytes()[..], &memory].concat()]
}

/// One with everything that QEMU handles and an ID block, one with 2 MiB pages and headers of all kinds, one of version 2.
pub fn igvm_file() -> Vec<Vec<u8>> {
    use litebox_igvm::format::layout::SnpIdBlock;
    use litebox_igvm::format::*;
    use litebox_igvm::vmsa::{KVM_VMSA_GPA, Vmsa};
    const MASK: u32 = 1;
    let code = [0x90; 4096];
    let vmsa = Vmsa::long_mode(0x1000, 0x2000).to_page();
    let page = |gpa, data_type, data| PageData {
        gpa,
        compatibility_mask: MASK,
        large: false,
        unmeasured: false,
        shared: false,
        data_type,
        data,
    };
    let mut block: SnpIdBlock = zerocopy::FromZeros::new_zeroed();
    (block.compatibility_mask, block.version) = (MASK.into(), 1.into());
    let area = |index, size| Directive::ParameterArea(ParameterArea { index, size, initial: None });
    let insert =
        |index, gpa| Directive::ParameterInsert(ParameterInsert { gpa, compatibility_mask: MASK, index });
    let parameter = |index, kind, byte_offset| Directive::Parameter(Parameter { kind, index, byte_offset });
    let context =
        |gpa| Directive::VpContext(VpContext { gpa, compatibility_mask: MASK, vp_index: 0, data: &vmsa });
    let policy = Initialization::GuestPolicy { policy: 0x3_0000, compatibility_mask: MASK };

    let mut whole = FileBuilder::new(Revision::V1);
    whole.platform(Platform::sev_snp(MASK)).initialization(policy);
    for directive in [
        area(0, 0x2000),
        parameter(0, ParameterKind::VpCount, 0),
        parameter(0, ParameterKind::MemoryMap, 0),
        insert(0, 0x8000),
        Directive::PageData(page(0x1000, PageDataType::Normal, Some(&code))),
        Directive::PageData(page(0x2000, PageDataType::Normal, None)),
        Directive::PageData(page(0x3000, PageDataType::Secrets, None)),
        Directive::PageData(page(0x4000, PageDataType::CpuidData, Some(&code))),
        Directive::RequiredMemory(RequiredMemory {
            gpa: 0,
            compatibility_mask: MASK,
            size: 0x10_0000,
            vtl2_protectable: false,
        }),
        Directive::SnpIdBlock(&block),
        context(KVM_VMSA_GPA),
    ] {
        whole.directive(directive);
    }

    let mut odd = FileBuilder::new(Revision::V1);
    odd.platform(Platform::sev_snp(MASK))
        .platform(Platform { platform_type: PlatformType::Native, ..Platform::sev_snp(2) });
    odd.initialization(policy).initialization(Initialization::CorimDocument {
        compatibility_mask: MASK,
        document: b"\xd9\x01\xf5",
    });
    for directive in [
        Directive::PageData(PageData { large: true, ..page(0x20_0000, PageDataType::Normal, None) }),
        Directive::PageData(PageData { shared: true, ..page(0x1000, PageDataType::Normal, Some(&code)) }),
        Directive::ErrorRange(ErrorRange { gpa: 0x3000, compatibility_mask: 2, size: 0x1000 }),
        Directive::Unknown(Unknown { header_type: 0x8000_03f0, body: &[1, 2, 3] }),
        context(0x5000),
    ] {
        odd.directive(directive);
    }

    let mut second = FileBuilder::new(Revision::V2(Architecture::X64));
    second.platform(Platform::sev_snp(MASK)).initialization(policy).page(MASK, 0x1000, &code);
    [whole, odd, second].iter().map(|builder| builder.write().expect("a seed that is valid")).collect()
}

/// The same files under each host, a Linux with and without an initial RAM disk, and options.
pub fn load() -> Vec<Vec<u8>> {
    let files = igvm_file();
    let hosts = (0..4).flat_map(|host| files.iter().map(move |file| [&[host, 0], &file[..]].concat()));
    let mut kernel = vec![0; 0x600];
    put(&mut kernel, 0x1f1, &[2]);
    put(&mut kernel, 0x1fe, &[0x55, 0xaa]);
    put(&mut kernel, 0x201, b"\x6aHdrS\x0f\x02");
    put(&mut kernel, 0x236, &[1]);
    put(&mut kernel, 0x238, &2047u32.to_le_bytes());
    let linux = |initrd: u32| {
        let head = [&[6, 5][..], &0x1000u32.to_le_bytes(), &initrd.to_le_bytes(), b"quiet", &[3, 0, 1, 1]];
        [&head.concat(), &kernel[..]].concat()
    };
    let options = b"\x07\x00cpus=2\nc_bit=47\nseed=9\nhost=openvmm\nreport_version=5\nappend=a b=c\n";
    hosts.chain([linux(0), linux(0x1001), options.to_vec()]).collect()
}

/// A guest that registers a GHCB, uses ports, MMIO and MSRs; that changes and validates pages; that starts its second CPU; with paging and
/// without.
pub fn ghcb() -> Vec<Vec<u8>> {
    // Numbers as the target reads them.
    let n = |value: u8| vec![value + 8];
    let raw = |value: u64| [&[0][..], &value.to_le_bytes()].concat();
    let request = |code: u8, info1: Vec<u8>, info2: Vec<u8>, fields: u8, values: &[Vec<u8>]| {
        [&[2, code][..], &info1, &info2, &[fields], &values.concat()].concat()
    };
    let msr = |kind: u8| vec![0, kind];
    let start = [msr(0xc0), msr(0x20)].concat();
    let psc = |entry: u64| {
        let header = [&[12, 0x00, 0x08, 16][..], &[0; 8], &entry.to_le_bytes()].concat();
        [header, request(18, n(0), n(0), 0x10, &[vec![2]])].concat()
    };
    let pvalidate = |page: u8, large: u8, validate: u8| vec![6, page, large, validate];
    let requests = [
        start.clone(),
        request(6, raw(0x3f8_0010), n(0), 1, &[n(65)]),
        request(6, raw(0x3f8_0011), n(0), 0, &[]),
        request(6, raw(0x3f8_021c), n(9), 0x10, &[vec![2]]),
        request(4, n(0), n(0), 3, &[n(1), n(0)]),
        request(7, n(0), n(0), 2, &[n(0x1b)]),
        request(7, n(1), n(0), 7, &[n(0), n(0x10), n(0)]),
        request(13, raw(0xfee0_0020), n(4), 0x10, &[vec![2]]),
        request(14, raw(0xfee0_00f0), n(4), 0x10, &[vec![2]]),
        request(14, raw(0xfed0_0000), n(8), 0x10, &[vec![2]]),
        vec![14, 0, 0, 0, 9, 0x40, 0],
        vec![13, 2, 8],
    ];
    let pages = [
        start.clone(),
        pvalidate(0x20, 0, 1),
        pvalidate(0x41, 1, 1),
        psc(0x20_0000 | 2 << 52 | 1 << 56),
        psc(0x20_0000 | 1 << 52 | 1 << 56),
        pvalidate(0x41, 1, 1),
        pvalidate(0x41, 0, 0),
        psc(0x6000 | 2 << 52),
        vec![9, 0x20, 0x80],
        vec![9, 0x06, 0x02],
        vec![0, 0x80, 2, 0x21],
    ];
    let second = [
        start,
        vec![8, 0, 5, 0, 0x01, 0x0f, 0x01, 0],
        request(21, vec![7, 0, 1], raw(0x5000), 1, &[n(1)]),
        vec![15, 0x14],
        msr(0x06),
        request(19, raw(0x1_1000), raw(0x1_2000), 0, &[]),
        request(20, raw(0x1_1000), raw(0x1_2000), 9, &[raw(0x1_3000), n(1)]),
        request(25, raw(0x1_3000), n(0), 1, &[n(1)]),
    ];
    let mut seeds = Vec::new();
    for steps in [requests.concat(), pages.concat(), second.concat()] {
        seeds.extend([0, 1, 3, 4].map(|mode| [&[mode], &steps[..]].concat()));
    }
    seeds
}

/// Launches that are finished and asked for reports, keys and TSC information; what is replayed, changed and made up.
pub fn psp() -> Vec<Vec<u8>> {
    let start = |mode: u8| [&[mode][..], &0x3_0000u64.to_le_bytes(), &[7, 0]].concat();
    let report = |vmpck: u8, vmpl: u8| [&[5, vmpck, 65][..], &[0x5a; 64], &[vmpl]].concat();
    let key =
        |vmpck: u8, fields: u8| [&[5, 4 | vmpck, 17][..], &[0; 8], &[fields], &[0; 7], &[vmpck]].concat();
    let newer = [&[5, 8, 0][..]].concat();
    let tsc = vec![5, 12, 0];
    let replay = vec![2];
    let other_key = [&[3, 0, 0, 1][..], &[0; 8]].concat();
    let ahead = [&[3, 0, 0, 0, 2][..], &[0; 7]].concat();
    let changed = vec![4, 0, 0, 0x60, 0, 1];
    let unknown = vec![5, 16, 9, 1, 4, 0, 0];
    let made_up = [&[1][..], &[0xff; 64]].concat();
    vec![
        [start(0), report(0, 0), replay.clone(), report(0, 3), key(0, 0x3f), key(0, 0x3f)].concat(),
        [start(5), tsc, newer, report(2, 2), report(2, 1), key(2, 1)].concat(),
        [start(8), other_key, ahead, changed, unknown, made_up, replay].concat(),
        [&[2][..], &0x1_0000u64.to_le_bytes(), &[7, 0]].concat(),
    ]
}

/// Dialogues with a host that answers well, and one that lies; pages for each of the parsers.
pub fn answers() -> Vec<Vec<u8>> {
    let call = |what: u8, size: u16| [&[what][..], &size.to_le_bytes()].concat();
    let exit = |how: u8| vec![how, 1, 2, 3, 4, 5, 6, 7, 8];
    let honest = [
        vec![1],
        call(0, 0),
        vec![0, 0],
        call(1, 5),
        vec![0],
        call(2, 5),
        vec![0],
        call(3, 0),
        exit(0),
        call(8, 2),
        exit(0),
        vec![0; 3],
        call(0x8a, 0),
        vec![0; 3],
        exit(0),
        exit(0),
        vec![0; 3],
    ];
    let lies = [
        vec![1],
        call(0, 0),
        vec![0xc1],
        call(6, 0),
        exit(0xe1),
        vec![0x0d, 3, 0, 0x80, 0, 0, 0, 0],
        call(8, 600),
        exit(0),
        vec![0xf4],
        call(9, 1),
        exit(0xf0),
    ];
    let page =
        |contents: &[u8]| [&[0][..], &[0; 16], &0x0002_0001_3300_0001u64.to_le_bytes(), contents].concat();
    let mut cpuid = vec![0; 16 + 2 * 48];
    put(&mut cpuid, 0, &[2]);
    put(&mut cpuid, 16, &0x8000_001fu32.to_le_bytes());
    put(&mut cpuid, 16 + 28, &51u32.to_le_bytes());
    put(&mut cpuid, 64, &[0xd]);
    put(&mut cpuid, 64 + 8, &[1]);
    let mut map = vec![0; 72];
    put(&mut map, 8, &[0x9f]);
    put(&mut map, 24, &0x100u64.to_le_bytes());
    put(&mut map, 32, &0x1000u64.to_le_bytes());
    let mut secrets = vec![0x5a; 4096];
    put(&mut secrets, 0, &3u32.to_le_bytes());
    let mut block = b"LITEBOX1".to_vec();
    for word in
        [0x10_0000u64, 0x20_0000, 0x18_0000, 0x19_0000, 0x1a_0000, 0x1a_1000, 0x1a_2000, 0x1a_3000, 77, 51]
    {
        block.extend(word.to_le_bytes());
    }
    vec![honest.concat(), lies.concat(), page(&cpuid), page(&map), page(&secrets), page(&block)]
}

/// Images of a small tree, of an empty one, and of one with many names.
pub fn erofs() -> Vec<Vec<u8>> {
    let scratch = std::env::temp_dir().join(format!("litebox-fuzz-{}", std::process::id()));
    let contents = scratch.join("contents");
    std::fs::create_dir_all(&scratch).expect("a temporary directory");
    std::fs::write(&contents, [b'x'; 4100]).expect("a temporary file");
    let attributes = Attributes { mode: 0o755, uid: 1, gid: 2, mtime: (77, 5) };
    let bytes = |size| Kind::File(Bytes { file: contents.clone(), offset: 0, size });
    let kinds = |size| {
        vec![
            (&b"file"[..], bytes(size)),
            (b"link", Kind::Symlink(b"dir/../file".to_vec())),
            (b"dir", Kind::Directory(BTreeMap::new())),
            (b"null", Kind::Character(1, 3)),
            (b"fifo", Kind::Fifo),
            (b"loop", Kind::Symlink(b"loop".to_vec())),
        ]
    };
    let tree_of = |kinds: Vec<(&[u8], Kind)>| {
        let mut tree = Tree::new(attributes);
        for (name, kind) in kinds {
            let node = tree.add(Node { kind, attributes });
            tree.link(0, name, node).expect("a name that a file can have");
        }
        if let Some(directory) = tree.child(0, b"dir") {
            for (name, kind) in [(&b"inner"[..], bytes(10)), (b"up", Kind::Symlink(b"..".to_vec()))] {
                let node = tree.add(Node { kind, attributes });
                tree.link(directory, name, node).expect("a name that a file can have");
                tree.link(0, &[b"hard-", name].concat(), node).expect("the same");
            }
        }
        tree
    };
    let mut many = Tree::new(attributes);
    for i in 0..60 {
        let node = many.add(Node { kind: Kind::Fifo, attributes });
        many.link(0, format!("{i:0100}").as_bytes(), node).expect("a name that a file can have");
    }
    let trees = [tree_of(Vec::new()), tree_of(kinds(10)), tree_of(kinds(4100)), many];
    let file = scratch.join("image");
    let seeds = trees.iter().map(|tree| {
        let written = writer::write(tree, &file, &mut |_, _| {}).expect("an image can be written");
        let mut image = std::fs::read(&file).expect("the file just written");
        image.truncate(written.data_blocks as usize * 4096);
        to_sparse(&image)
    });
    let seeds = seeds.collect();
    // What stays is a temporary file.
    let _ = std::fs::remove_dir_all(&scratch);
    seeds
}

/// Reads of images with and without a tree; a flipped byte in data and in the tree, another block served, a failing device.
pub fn verity() -> Vec<Vec<u8>> {
    let flip = |block: u16| [&[0][..], &block.to_le_bytes(), &[9, 0, 0x80]].concat();
    let read = |block: u16| [&[4][..], &block.to_le_bytes()].concat();
    vec![
        [vec![0, 0], read(0), read(1)].concat(),
        [vec![4, 0], read(0), read(128), read(127), read(5)].concat(),
        [vec![5, 0], read(399), flip(200), read(3), read(200)].concat(),
        [vec![5, 0], flip(402), read(0), vec![3], read(0)].concat(),
        [vec![3, 0], vec![1, 7, 0, 8, 0], read(7), vec![2, 1], read(9), read(90)].concat(),
        vec![2, 1, 3],
    ]
}

/// What a kernel says, whole and broken; the first byte says where it is cut.
pub fn protocol() -> Vec<Vec<u8>> {
    let whole: &[u8] = b"\x03log\r\n\x1ebooted\nmore\n\x1eexited 3\n";
    let words = [
        "exited 255",
        "exited -1",
        "signaled 11",
        "signaled 65",
        "not-executable truncated",
        "not-found /bin/x",
        "bad-launch why",
        "host-attack BadRing what",
        "kernel-bug panicked",
        "what",
    ];
    let all: String = words.iter().map(|word| format!("\u{1e}{word}\n")).collect();
    vec![whole.to_vec(), [&[0][..], all.as_bytes()].concat(), b"\x10\xff\xfe\x1e\n\x1ebooted".to_vec()]
}

/// An archive with every kind of entry that is read, one that leads out, one of long names.
pub fn archive() -> Vec<Vec<u8>> {
    let archive = |entries: &[(tar::EntryType, &str, &str)]| {
        let mut builder = tar::Builder::new(Vec::new());
        for (kind, name, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(1);
            let linked = matches!(kind, tar::EntryType::Link | tar::EntryType::Symlink);
            header.set_size(if linked { 0 } else { text.len() as u64 });
            let done = if linked {
                builder.append_link(&mut header, name, text)
            } else {
                builder.append_data(&mut header, name, text.as_bytes())
            };
            done.expect("memory can be written");
        }
        builder.into_inner().expect("memory can be written")
    };
    use tar::EntryType as E;
    let long = "d/".repeat(90) + "name";
    vec![
        archive(&[
            (E::Directory, "bin", ""),
            (E::Regular, "bin/sh", "contents"),
            (E::Link, "bin/hard", "bin/sh"),
            (E::Symlink, "link", "bin/sh"),
            (E::Fifo, "fifo", ""),
            (E::Char, "null", ""),
        ]),
        archive(&[(E::Regular, "a", "x"), (E::Directory, "a", ""), (E::Link, "a/b", "a")]),
        archive(&[(E::Regular, &long, "x"), (E::Symlink, "l", &long)]),
    ]
}

/// The device's greeting, a directory of one item, and the item; the same refused, late, and too long.
pub fn fw_cfg() -> Vec<Vec<u8>> {
    let mut entry = vec![0; 64];
    put(&mut entry, 0, &5u32.to_be_bytes());
    put(&mut entry, 4, &0x21u16.to_be_bytes());
    put(&mut entry, 8, b"opt/org.litebox/manifest");
    let greeting = b"QEMU\x02".to_vec();
    let count = [&1u32.to_be_bytes()[..], &[0]].concat();
    let late = [&1u32.to_be_bytes()[..], &[0xfe, 2, 0, 0, 0, 0, 1]].concat();
    let mut huge = entry.clone();
    put(&mut huge, 0, &0x1_0001u32.to_be_bytes());
    let done = vec![0];
    vec![
        [greeting.clone(), count.clone(), entry.clone(), done.clone(), b"hello\0".to_vec()].concat(),
        [greeting.clone(), late, entry.clone(), done.clone(), b"hello\xff".to_vec()].concat(),
        [greeting, count, huge, done].concat(),
    ]
}

/// Chains that are posted, completed, completed twice.
pub fn queue() -> Vec<Vec<u8>> {
    let post = [0, 2, 10, 0, 0, 0, 1, 20, 0, 0, 0, 1];
    let done = |slot: u8, id: u8, len: u8, index: u8| [2, slot, id, len, 0, index];
    vec![
        [&[2][..], &post, &done(0, 0, 10, 1), &[3], &post, &[3]].concat(),
        [&[3][..], &post, &post, &done(0, 0, 30, 2), &done(1, 0, 30, 2), &[3, 3]].concat(),
        [&[0][..], &[0, 1, 4, 0, 0, 0, 1], &done(0, 0, 4, 1), &[3, 3]].concat(),
    ]
}

/// A disk that answers, with registers as they should be, and one that lies.
pub fn blk() -> Vec<Vec<u8>> {
    // Bytes that are not 0xff let registers be honest; there are about a dozen reads before the first request.
    let honest = [0; 14];
    let serve = [0, 0, 7, 7];
    vec![
        [&honest[..], &[3, 1], &serve, &[9, 2], &serve].concat(),
        [&honest[..], &[3, 1], &[8, 0, 0, 0, 1, 16, 0, 0]].concat(),
        [&honest[..], &[0, 40], &serve.repeat(4)].concat(),
        [&[0, 0, 0, 0xff][..], &[1; 8], &serve].concat(),
    ]
}

/// A console that is written to and read from, by an honest device and by one that is not.
pub fn console() -> Vec<Vec<u8>> {
    let honest = [0; 24];
    let (write, read) = ([0, 100, 0], [2, 50, 0]);
    let control = [7, 2, 1, 0, 0, 0, 6, 0, 0, 0, 8];
    let typed = [0, 4, b'x'];
    vec![
        [&honest[..], &write, &[0, 7], &read, &typed, &read, &control, &read].concat(),
        [&honest[..], &[5, 0, 0], &control, &[3, 0, 0], &read, &[4, 0, 0], &[8, 7, 9, 0, 1, 0, 0, 0]]
            .concat(),
        [&honest[..], &[0, 0xff, 0xff], &[0, 7].repeat(40), &[4, 0, 0]].concat(),
    ]
}

/// Trees that are made, moved and removed.
pub fn paths() -> Vec<Vec<u8>> {
    vec![
        vec![0, 1, 0, 0, 2, 0, 1, 1, 1, 3, 2, 0, 1, 12, 1, 3, 4, 1, 0, 1, 2, 0],
        vec![0, 1, 0, 7, 1, 0, 0, 1, 1, 9, 2, 6, 0, 1, 9, 2, 1, 6, 0, 3, 1, 1, 1],
        vec![2, 1, 11, 2, 2, 10, 0, 6, 2, 10, 0, 0, 2, 10, 1, 8, 2, 10, 0, 0x42, 0, 0, 0, 3, 2, 10, 0, 0],
        vec![1, 1, 3, 1, 3, 1, 1, 4, 2, 3, 4, 12, 1, 3, 12, 1, 4, 9, 1, 4, 3],
    ]
}

/// Programs as `syscalls` reads them: a call is its number and six arguments, most of them a byte; see `argument` there.
pub fn syscalls() -> Vec<Vec<u8>> {
    /// A small number.
    const fn n(value: u8) -> u8 {
        value + 14
    }
    /// A path, by its slot in `constants`.
    const fn p(slot: u8) -> [u8; 2] {
        [12, slot]
    }
    /// A structure, likewise.
    const fn s(slot: u8) -> [u8; 2] {
        [13, slot]
    }
    /// So many pages.
    const fn pages(count: u8) -> [u8; 3] {
        [10, count, 0]
    }
    /// A place that can be written.
    const BUFFER: [u8; 3] = [1, 0, 2];
    const LAST: [u8; 1] = [0];
    const CWD: [u8; 1] = [7];
    const ANY: [u8; 1] = [n(0)];
    let call = |number: u8, arguments: &[&[u8]]| {
        let zeros = vec![n(0); 6 - arguments.len()];
        [&[number][..], &arguments.concat(), &zeros].concat()
    };
    let new = |number: u8, arguments: &[&[u8]]| [vec![0xf0], call(number, arguments)].concat();
    let open = |path: u8, flags: u8| call(2, &[&p(path), &[n(flags)], &[4, 0xa4, 1, 0, 0]]);
    let touch = |kind: u8| vec![0xfd, 0, kind];
    let read_all = |paths: std::ops::Range<u8>| -> Vec<u8> {
        paths.flat_map(|path| [open(path, 0), call(0, &[&LAST, &BUFFER, &pages(1)])].concat()).collect()
    };
    let tiny = elf().pop().unwrap_or_default();
    let write_elf = [vec![0xfa, 0, 0, tiny.len() as u8], tiny].concat();
    vec![
        // Files: written, read, mapped, cut, moved.
        [
            open(0, 0o102),
            call(1, &[&[n(3)], &p(0), &[n(100)]]),
            call(8, &[&[n(3)]]),
            call(20, &[&[n(3)], &s(2), &[n(2)]]),
            call(19, &[&[n(3)], &s(2), &[n(2)]]),
            call(9, &[&ANY, &pages(2), &[n(3)], &[n(1)], &[n(3)]]),
            touch(0),
            call(26, &[&LAST, &pages(1), &[n(4)]]),
            call(77, &[&[n(3)], &[n(50)]]),
            call(11, &[&LAST, &pages(1)]),
            call(82, &[&p(0), &p(1)]),
            call(86, &[&p(1), &p(0)]),
            call(87, &[&p(1)]),
        ]
        .concat(),
        [
            open(0, 0o102),
            call(18, &[&[n(3)], &p(0), &[n(90)], &pages(1)]),
            call(17, &[&[n(3)], &BUFFER, &[n(90)], &[n(5)]]),
            new(45, &[&[n(3)], &ANY, &pages(1), &pages(1)]), // fallocate, 285
            new(55, &[&[n(3)], &s(2), &[n(1)]]),             // preadv, 295
            call(72, &[&[n(3)], &[n(5)], &s(9)]),            // fcntl, getlk
            call(72, &[&[n(3)], &[n(4)], &[10, 1, 0]]),      // setfl
            call(76, &[&p(0), &pages(2)]),
            call(8, &[&[n(3)], &ANY, &[n(3)]]), // lseek to data
            call(74, &[&[n(3)]]),
            call(40, &[&[n(3)], &[n(3)], &s(14), &pages(1)]), // sendfile
            call(32, &[&[n(3)]]),
            call(33, &[&[n(3)], &[n(9)]]),
            new(196, &[&[n(4)], &[n(20)], &[n(4)]]), // close_range, 436
            new(86, &[&[n(3)], &ANY, &[n(9)], &s(14), &[n(9)]]), // copy_file_range, 326
        ]
        .concat(),
        // Directories and links.
        [
            call(83, &[&p(2), &[4, 0xff, 1, 0, 0]]),
            call(80, &[&p(2)]),
            call(79, &[&BUFFER, &[n(100)]]),
            open(4, 0o102),
            call(88, &[&p(4), &p(11)]),
            call(89, &[&p(11), &BUFFER, &[n(100)]]),
            open(6, 0),
            call(217, &[&LAST, &BUFFER, &pages(1)]),
            new(24, &[&CWD, &p(11), &CWD, &p(1), &pages(1)]), // renameat, 264
            new(76, &[&CWD, &p(4), &CWD, &p(1), &[n(2)]]),    // renameat2, 316
            call(84, &[&p(2)]),
            call(161, &[&p(2)]),
            call(133, &[&p(1), &[4, 0xff, 0x11, 0, 0]]),
            call(137, &[&p(8), &BUFFER]),
            call(90, &[&p(0), &[n(7)]]),
            call(92, &[&p(0), &[n(1)], &[n(1)]]),
            new(40, &[&CWD, &p(0), &s(20)]), // utimensat, 280
        ]
        .concat(),
        [
            new(17, &[&CWD, &p(0), &[n(0o102)]]),                // openat, 257
            new(22, &[&CWD, &p(0), &BUFFER]),                    // newfstatat, 262
            new(92, &[&CWD, &p(0), &ANY, &[10, 1, 0], &BUFFER]), // statx, 332
            new(197, &[&CWD, &p(4), &s(10), &[n(24)]]),          // openat2, 437
            new(197, &[&CWD, &p(3), &s(11), &[n(24)]]),
            new(199, &[&CWD, &p(0), &[n(4)]]), // faccessat2, 439
            new(79, &[&p(0), &[n(1)]]),        // memfd_create, 319
            call(4, &[&p(0), &BUFFER]),
            call(5, &[&[n(3)], &BUFFER]),
            call(191, &[&p(0), &p(45), &BUFFER, &[n(50)]]),
            call(188, &[&p(0), &p(45), &BUFFER, &[n(5)]]),
        ]
        .concat(),
        // Everything that can be read in /proc, /dev and /sys, in two parts, and what writes there.
        read_all(12..28),
        read_all(28..46),
        [open(30, 2), call(1, &[&LAST, &p(4), &[n(1)]]), open(29, 2), call(1, &[&LAST, &p(4), &[n(1)]])]
            .concat(),
        [
            open(14, 1),
            call(1, &[&LAST, &p(4), &[n(1)]]),
            open(15, 2),
            call(16, &[&LAST, &[4, 0, 0x52, 4, 0x80], &BUFFER]),
        ]
        .concat(),
        // Memory.
        [
            call(9, &[&ANY, &[10, 0, 3], &[n(3)], &[n(0x22)], &[6, 1]]),
            touch(1),
            call(10, &[&LAST, &pages(1), &[n(1)]]),
            call(9, &[&ANY, &pages(9), &[n(3)], &[n(0x22)], &[6, 1]]),
            touch(1),
            call(25, &[&LAST, &pages(9), &pages(20), &[n(1)]]),
            call(28, &[&LAST, &pages(2), &[n(4)]]),
            call(27, &[&LAST, &pages(2), &BUFFER]),
            call(149, &[&LAST, &pages(2)]),
            call(12, &[&ANY]),
            call(12, &[&[4, 0, 0, 0x40, 0]]),
            call(9, &[&[4, 0, 0, 0, 0x30], &pages(2), &[n(3)], &[4, 0x22, 1, 0, 0], &[6, 1]]), // growing down
            vec![0xfd, 4, 0, 0xf8, 0xff, 0x2f, 1],
            call(11, &[&[4, 0, 0, 0, 0x20], &pages(1)]),
        ]
        .concat(),
        // Waiting.
        [
            call(22, &[&BUFFER]),
            call(1, &[&[n(4)], &p(0), &[n(9)]]),
            call(7, &[&s(4), &[n(2)], &[n(5)]]),
            new(31, &[&s(4), &[n(2)], &s(0), &s(6), &[n(8)]]), // ppoll, 271
            call(23, &[&[n(5)], &s(16), &ANY, &ANY, &s(13)]),
            new(30, &[&[n(5)], &s(16), &ANY, &ANY, &s(0), &s(18)]), // pselect6, 270
            call(35, &[&s(0), &BUFFER]),
            call(230, &[&[n(1)], &ANY, &s(1), &BUFFER]),
            call(202, &[&BUFFER, &[n(128)], &ANY, &s(0)]),
            call(202, &[&BUFFER, &[n(129)], &[n(1)]]),
            call(202, &[&BUFFER, &[n(3)], &[n(1)], &[n(1)], &s(22)]),
            call(0, &[&[n(3)], &BUFFER, &[n(100)]]),
            call(16, &[&[n(3)], &[4, 0x1b, 0x54, 0, 0], &BUFFER]), // FIONREAD
            new(53, &[&BUFFER, &[10, 0, 8]]),                      // pipe2, 293
            call(3, &[&[n(4)]]),
            call(0, &[&[n(3)], &BUFFER, &[n(100)]]),
            call(0, &[&[n(5)], &BUFFER, &[n(100)]]), // for ever
        ]
        .concat(),
        // Signals.
        [
            call(13, &[&[n(10)], &s(7), &BUFFER, &[n(8)]]),
            call(62, &[&[n(1)], &[n(10)]]),
            call(14, &[&ANY, &s(6), &BUFFER, &[n(8)]]),
            call(13, &[&[n(10)], &s(8), &ANY, &[n(8)]]),
            call(131, &[&s(19), &BUFFER]),
            call(200, &[&[n(1)], &[n(10)]]),
            call(127, &[&BUFFER, &[n(8)]]),
            call(128, &[&s(6), &BUFFER, &s(0), &[n(8)]]),
            call(130, &[&s(22), &[n(8)]]),
            vec![0xfe, 0],
        ]
        .concat(),
        // Who and what.
        [
            call(97, &[&[n(7)], &BUFFER]),
            new(62, &[&ANY, &[n(7)], &s(12), &BUFFER]), // prlimit64, 302
            call(98, &[&ANY, &BUFFER]),
            call(63, &[&BUFFER]),
            call(99, &[&BUFFER]),
            call(125, &[&s(17), &BUFFER]),
            call(116, &[&[n(2)], &s(22)]),
            call(115, &[&[n(9)], &BUFFER]),
            call(157, &[&[n(15)], &p(4)]),
            call(157, &[&[n(16)], &BUFFER]),
            call(158, &[&[4, 2, 0x10, 0, 0], &BUFFER]),
            call(204, &[&ANY, &[n(64)], &BUFFER]),
            call(228, &[&[n(1)], &BUFFER]),
            call(96, &[&BUFFER, &BUFFER]),
            call(100, &[&BUFFER]),
            new(78, &[&BUFFER, &[n(100)]]), // getrandom, 318
            call(117, &[&[n(5)], &[n(5)], &[n(5)]]),
            open(0, 0o102),
            call(16, &[&ANY, &[4, 0x13, 0x54, 0, 0], &BUFFER]), // TIOCGWINSZ
            call(16, &[&ANY, &[4, 1, 0x54, 0, 0], &BUFFER]),    // TCGETS
            call(0, &[&ANY, &BUFFER, &[n(100)]]),
        ]
        .concat(),
        // A program of its own.
        [
            write_elf,
            open(0, 0o102),
            call(1, &[&[n(3)], &[1, 0, 0], &[n(120)]]),
            call(90, &[&p(0), &[4, 0xed, 1, 0, 0]]),
            call(3, &[&[n(3)]]),
            call(59, &[&p(0), &s(15), &s(15)]),
            call(12, &[&ANY]),
            call(231, &[&[n(3)]]),
        ]
        .concat(),
    ]
}
