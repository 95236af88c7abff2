//! Seeds: small inputs that are as they should be, from which a fuzzer finds its way to those that are not.

use litebox_core::manifest::{LogLevel, Manifest, Root, StreamKind};

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

/// The least that is accepted, one with everything, one that lacks its program.
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
    vec![
        b"litebox-manifest=1\0exec=/x\0".to_vec(),
        full.encode().unwrap_or_default(),
        b"litebox-manifest=1\0arg=x\0".to_vec(),
    ]
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
