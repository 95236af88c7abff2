use super::*;
use snp_emulator::malice::script::{PageRef, Ring, RingPart};

fn rule(text: &str) -> Rule {
    let script = read(&format!("version = 1\n[[rule]]\nname = \"r\"\n{text}")).unwrap();
    script.rules.into_iter().next().unwrap()
}

fn error(text: &str) -> String {
    format!("{:#}", read(text).unwrap_err())
}

#[test]
fn a_whole_script() {
    let text = r#"
version = 1
about = "a device that lies about a length"
attack = "malicious virtio ring"
secret = "0123456789abcdef"
seed = 7

[expect]
status = 121
reason = "BadDevice"

[[rule]]
name = "longer"
on = "answer"
kind = "mmio-write"
device = "disk"
at = 0x50
n = 3
do = "change"
place = "disk 0 used-length"
add = -1

[[rule]]
name = "again"
on = "request"
port = [0x70, 0x71]
from = 2
chance = 0.25
do = "repeat"
times = 2
"#;
    let script = read(text).unwrap();
    assert_eq!((script.secret.as_slice(), script.seed), (&b"0123456789abcdef"[..], 7));
    let [longer, again] = script.rules.as_slice() else { panic!("{script:?}") };
    assert_eq!(longer.trigger.gpa, Some(Span { from: 0xfeb0_0250, to: 0xfeb0_0250 }));
    assert_eq!(longer.trigger.when, When::nth(3));
    let ring = Ring { device: 0xfeb0_0200, queue: 0, part: RingPart::UsedLength };
    let change = Change::Add { size: 4, value: u64::MAX };
    assert_eq!(longer.action, Action::Change { place: Place::Ring(ring, 0), change });
    assert_eq!(again.trigger.port, Some(Span { from: 0x70, to: 0x71 }));
    assert_eq!(again.trigger.when, When { from: 2, to: u32::MAX, permille: 250 });
    assert_eq!(wire::decode(&wire::encode(&script)), Ok(script));
}

#[test]
fn every_action() {
    let request = "on = \"request\"\n";
    let refuse = |info1, info2| Action::Refuse { info1, info2 };
    for (text, want) in [
        ("do = \"unmap\"\ntarget = \"rip\"", Action::Unmap { page: PageRef::Rip }),
        (
            "do = \"remap\"\ntarget = \"launched 3\"\nto = \"0x5000\"",
            Action::Remap { page: PageRef::Launched(3), to: PageRef::Gpa(0x5000) },
        ),
        ("do = \"replace\"\ntarget = \"shared 0\"", Action::Replace { page: PageRef::Shared(0) }),
        (
            "do = \"swap\"\ntarget = \"cr3\"\nto = \"rsp\"",
            Action::Swap { page: PageRef::Cr3, with: PageRef::Rsp },
        ),
        ("do = \"save\"\ntarget = \"ghcb\"\nslot = 1", Action::Save { page: PageRef::Ghcb, slot: 1 }),
        ("do = \"restore\"\ntarget = \"ghcb\"\nslot = 1", Action::Restore { page: PageRef::Ghcb, slot: 1 }),
        (
            "do = \"rmp\"\ntarget = \"validated 9\"\nassigned = true\nvalidated = false",
            Action::Rmp { page: PageRef::Validated(9), assigned: true, validated: false },
        ),
        ("do = \"refuse\"\ninfo1 = 1\ninfo2 = \"0x8000000000000b0d\"", refuse(1, 0x8000_0000_0000_0b0d)),
        ("do = \"refuse\"\nvalue = 0x100000015", refuse(2, 0x1_0000_0015)),
        ("do = \"skip\"", Action::Skip),
        ("do = \"repeat\"\ntimes = 3", Action::Repeat { times: 3 }),
        ("do = \"postpone\"\nrequests = 5", Action::Postpone { requests: 5 }),
        ("do = \"delay\"\nms = 100", Action::Delay { ms: 100 }),
        (
            "do = \"inject\"\nvector = 29\nas = \"exception\"\nerror = 0x72",
            Action::Inject { vector: 29, kind: Injection::Exception, error: Some(0x72) },
        ),
        (
            "do = \"inject\"\nvector = 0x80\nas = \"interrupt\"",
            Action::Inject { vector: 0x80, kind: Injection::Interrupt, error: None },
        ),
        ("do = \"tsc\"\nadd = -5", Action::Tsc { add: -5 }),
    ] {
        assert_eq!(rule(&format!("{request}{text}")).action, want, "{text}");
    }
}

#[test]
fn every_place() {
    let answer = "on = \"answer\"\ndo = \"change\"\nset = 1\n";
    let launch = "on = \"launch\"\ndo = \"change\"\nset = 1\n";
    let set = |place, size: usize| {
        let mut bytes = vec![0; size];
        bytes[0] = 1;
        Action::Change { place, change: Change::Set(bytes) }
    };
    let ring = |part| Ring { device: 0xfeb0_0000, queue: 4, part };
    for (when, text, want) in [
        (answer, "place = \"ghcb\"\nfield = \"exit-info-2\"", set(Place::Ghcb(0x3a0), 8)),
        (answer, "place = \"ghcb\"\noffset = 0x801\nsize = 1", set(Place::Ghcb(0x801), 1)),
        (answer, "place = \"ghcb\"\nfield = \"version\"", set(Place::Ghcb(0xffa), 2)),
        (answer, "place = \"msr\"", set(Place::Msr, 8)),
        (answer, "place = \"fw-cfg\"\noffset = 60\nsize = 1", set(Place::FwCfg(60), 1)),
        (answer, "place = \"shared 2\"\noffset = 8", set(Place::Page(PageRef::Shared(2), 8), 8)),
        (answer, "place = \"reply\"\nfield = \"sequence\"", set(Place::Page(PageRef::Reply, 0x20), 8)),
        (answer, "place = \"console 4 used-index\"", set(Place::Ring(ring(RingPart::UsedIndex), 0), 2)),
        (
            answer,
            "place = \"console 4 data\"\noffset = 9000\nsize = 1",
            set(Place::Ring(ring(RingPart::Data), 9000), 1),
        ),
        (launch, "place = \"memory-map\"\nentry = 2\nfield = \"pages\"", set(Place::MemoryMap(56), 8)),
        (launch, "place = \"vp-count\"", set(Place::VpCount, 4)),
        (
            launch,
            "place = \"cpuid\"\nleaf = 0x8000001f\nregister = \"ebx\"",
            set(Place::Cpuid { leaf: 0x8000_001f, subleaf: 0, register: 1 }, 4),
        ),
    ] {
        assert_eq!(rule(&format!("{when}{text}")).action, want, "{text}");
    }
}

#[test]
fn mistakes_are_named_with_their_line() {
    let script = |text: &str| format!("version = 1\n\n[[rule]]\nname = \"r\"\n{text}\n");
    for (text, line, words) in [
        ("on = \"request\"\ndo = \"skp\"", 6, "there is no do = \"skp\"; there are unmap"),
        ("on = \"never\"\ndo = \"skip\"", 5, "there is no on = \"never\"; there are launch"),
        ("on = \"request\"\nkind = \"port\"\ndo = \"skip\"", 6, "no kind \"port\"; there are read-dr7"),
        ("on = \"request\"\ndo = \"skip\"\nms = 5", 7, "`ms` does not go with do = \"skip\""),
        ("on = \"request\"\ndo = \"delay\"", 3, "needs `ms`"),
        (
            "on = \"request\"\ndo = \"inject\"\nas = \"nmi\"\nvector = 256",
            8,
            "`vector` = 0x100 is out of range",
        ),
        ("on = \"exit\"\ndo = \"unmap\"\ntarget = \"heap\"", 7, "there is no page `heap`: a page is ghcb"),
        ("on = \"exit\"\ndo = \"unmap\"\ntarget = \"0x1001\"", 7, "there is no page"),
        ("on = \"answer\"\ndo = \"skip\"", 3, "goes with on = \"request\""),
        ("on = \"request\"\nn = 1\nfrom = 2\ndo = \"skip\"", 3, "take one of the two"),
        ("on = \"request\"\nn = 0\ndo = \"skip\"", 3, "counted from 1"),
        ("on = \"request\"\nchance = 1.5\ndo = \"skip\"", 6, "from 0.0 to 1.0"),
        ("on = \"request\"\ngpa = 1\ndevice = \"disk\"\ndo = \"skip\"", 3, "two ways"),
        ("on = \"request\"\nat = 1\ndo = \"skip\"", 3, "register of a `device`"),
        ("on = \"request\"\ndevice = \"disk\"\nat = 0x200\ndo = \"skip\"", 3, "512 bytes"),
        ("on = \"request\"\ndevice = \"net\"\ndo = \"skip\"", 6, "no device `net`"),
        ("on = \"touch\"\ndo = \"delay\"\nms = 1", 3, "`page` says what is watched"),
        ("on = \"answer\"\ndo = \"change\"\nplace = \"ghcb\"", 3, "takes one of"),
        ("on = \"answer\"\ndo = \"change\"\nplace = \"ghcb\"\nset = 1\nxor = 1", 3, "takes one of"),
        (
            "on = \"answer\"\ndo = \"change\"\nplace = \"ghcb\"\nfield = \"rsi\"\nset = 1",
            7,
            "no field `rsi`; there are cpl",
        ),
        (
            "on = \"answer\"\ndo = \"change\"\nplace = \"msr\"\noffset = 1\nset = 1",
            7,
            "`offset` does not go with place",
        ),
        (
            "on = \"answer\"\ndo = \"change\"\nplace = \"ghcb\"\nfield = \"version\"\nset = 65536",
            9,
            "more than the 2 bytes",
        ),
        (
            "on = \"answer\"\ndo = \"change\"\nplace = \"ghcb\"\nfind = \"a\"",
            3,
            "`find` and `with` go together",
        ),
        (
            "on = \"answer\"\ndo = \"change\"\nplace = \"ghcb\"\nfind = \"a\"\nwith = \"bc\"",
            3,
            "equally long",
        ),
        ("on = \"request\"\ndo = \"refuse\"\ninfo1 = 1", 3, "`info1` and `info2`"),
        (
            "on = \"launch\"\ndo = \"change\"\nplace = \"cpuid\"\nleaf = 1\nset = 1",
            7,
            "needs `leaf` and `register`",
        ),
    ] {
        let error = error(&script(text));
        assert!(
            error.starts_with(&format!("line {line}: ")) && error.contains(words),
            "{text}\ngave {error}"
        );
    }
    for (text, words) in [
        ("", "missing field `version`"),
        ("version = 2", "language version 1"),
        ("version = 1\nrules = 3", "unknown field `rules`"),
        (
            "version = 1\n[[rule]]\nname = \"r\"\non = \"exit\"\ndo = \"skip\"\nwhen = 3",
            "unknown field `when`",
        ),
        ("version = 1\nsecret = \"short\"", "16 to 512 bytes"),
        ("version = 1\n[expect]\nstatus = 1\nwhy = 2", "unknown field `why`"),
        (
            "version = 1\n[[rule]]\nname = \"r\"\non = \"request\"\nport = [2, 1]\ndo = \"skip\"",
            "not the larger one",
        ),
        ("version = 1 1", "TOML parse error at line 1"),
    ] {
        let error = error(text);
        assert!(error.contains(words), "{text}\ngave {error}");
    }
}
