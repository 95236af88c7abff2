//! Each kind of malice bites a guest that does not defend itself: what such a guest would believe afterwards is wrong.
//!
//! The guest here is naive: it reads answers where they are, looks at no valid bitmap, checks no carry flag, and reads a page twice.

use super::super::testing::{TestMachine, machine, share};
use super::super::{Next, State};
use crate::ending::Ending;
use crate::ghcb::page::{Field, Snapshot, Writer};
use crate::malice::event::Moment;
use crate::malice::script::*;
use crate::malice::{Malice, wire};
use crate::memory::{Attribute, PhysicalMemory};
use crate::rmp::{Access, PAGE, Size};
use crate::vmcb::{Registers, Vmcb, exit};
use alloc::vec;
use alloc::vec::Vec;

const GHCB: u64 = 0x1000;
const A: u64 = 0x4000;
const B: u64 = 0x5000;
const SPARE: u64 = 0x3_0000;
const SHARED: u64 = 0x6000;

/// A machine that carries this out, with a registered GHCB, two private pages, a shared one and one to spare.
fn attacked(rules: Vec<(Trigger, Action)>) -> TestMachine {
    let mut machine = machine(0x4_0000);
    let rules =
        rules.into_iter().map(|(trigger, action)| Rule { name: "r".into(), trigger, action }).collect();
    let script =
        Script { secret: b"a secret that nobody may see".to_vec(), seed: 1, rules, ..Script::default() };
    let mut malice = Malice::new(wire::decode(&wire::encode(&script)).expect("a script that can be"));
    malice.spare.push(SPARE);
    machine.malice = Some(alloc::boxed::Box::new(malice));
    for (page, byte) in [(A, 0xaa), (B, 0xbb)] {
        machine.launch_page(page, &[byte; PAGE as usize]);
    }
    share(&mut machine, GHCB);
    share(&mut machine, SHARED);
    machine.cpus[0].ghcb = Some(GHCB);
    machine.cpus[0].state = State::Running;
    machine
}

fn on(on: Moment) -> Trigger {
    Trigger::on(on)
}

fn page(gpa: u64) -> PageRef {
    PageRef::Gpa(gpa)
}

/// Sets off the rules for an exit of the CPU.
fn exits(machine: &mut TestMachine) {
    let mut vmcb = Vmcb::ZERO;
    vmcb.exit_code = exit::INTR;
    machine.exit_event(0, &vmcb);
}

fn attacked_at_exit(action: Action) -> TestMachine {
    let mut machine = attacked(vec![(on(Moment::Exit), action)]);
    exits(&mut machine);
    assert_eq!(machine.malice.as_ref().unwrap().journal.times(0), 1, "it was carried out and noted");
    machine
}

/// What a private read of a byte meets, and gives.
fn read(machine: &TestMachine, gpa: u64) -> (Access, u8) {
    let spa = machine.map.spa(gpa).unwrap();
    let mut byte = [0];
    machine.memory.read(spa, &mut byte);
    (machine.rmp.check(spa, gpa, true, 0, 1), byte[0])
}

/// A request through the GHCB, from the guest's fields to those that it finds.
fn ask(machine: &mut TestMachine, fields: &[(Field, u64)]) -> Snapshot {
    machine.memory.write(GHCB, &[0; 0x800]);
    machine.memory.write(GHCB + 0xffa, &[2, 0]);
    let all = [(Field::ExitInfo1, 0), (Field::ExitInfo2, 0)];
    for &(field, value) in all.iter().chain(fields) {
        Writer { memory: &machine.memory, spa: GHCB }.set(field, value);
    }
    machine.cpus[0].ghcb_msr = GHCB;
    assert_eq!(machine.vmgexit(0, &Vmcb::ZERO), Next::Run);
    Snapshot::take(&machine.memory, GHCB)
}

const CPUID: [(Field, u64); 3] = [(Field::ExitCode, 0x72), (Field::Rax, 1), (Field::Rcx, 0)];

/// A request by the GHCB MSR.
fn ask_msr(machine: &mut TestMachine, value: u64) -> u64 {
    machine.cpus[0].ghcb_msr = value;
    assert_eq!(machine.vmgexit(0, &Vmcb::ZERO), Next::Run);
    machine.cpus[0].ghcb_msr
}

fn change(place: Place, bytes: &[u8]) -> Action {
    Action::Change { place, change: Change::Set(bytes.to_vec()) }
}

#[test]
fn memory_that_is_taken_away_is_gone() {
    let machine = attacked_at_exit(Action::Unmap { page: page(A) });
    assert_eq!((machine.map.spa(A), machine.map.is_ram(A)), (None, true));
}

#[test]
fn a_page_mapped_to_another_shows_that_one_and_the_table_knows() {
    let machine = attacked_at_exit(Action::Remap { page: page(A), to: page(B) });
    assert_eq!(read(&machine, A), (Access::WrongAddress, 0xbb));
    // Of shared memory the table says nothing: a guest that trusts it reads the other's bytes.
    let machine = attacked_at_exit(Action::Remap { page: page(SHARED), to: page(GHCB) });
    machine.memory.write(GHCB, &[7]);
    let spa = machine.map.spa(SHARED).unwrap();
    assert_eq!((spa, machine.rmp.check(spa, SHARED, false, 0, 1)), (GHCB, Access::Granted));
}

#[test]
fn other_memory_is_used_by_a_guest_that_validates_what_it_is_told_to() {
    let mut machine = attacked_at_exit(Action::Replace { page: page(A) });
    assert_eq!(read(&machine, A), (Access::NotValidated, 0));
    // The naive guest validates on #VC 0x404, and goes on with zeros instead of its data.
    assert_eq!(machine.rmp.pvalidate(SPARE, Size::Small, Size::Small, true), Ok(false));
    assert_eq!(read(&machine, A), (Access::Granted, 0));
}

#[test]
fn swapped_pages_are_each_others_to_a_guest_that_validates_again() {
    let mut machine = attacked_at_exit(Action::Swap { page: page(A), with: page(B) });
    assert_eq!((read(&machine, A).0, read(&machine, B).0), (Access::NotValidated, Access::NotValidated));
    for spa in [A, B] {
        assert_eq!(machine.rmp.pvalidate(spa, Size::Small, Size::Small, true), Ok(false));
    }
    assert_eq!((read(&machine, A), read(&machine, B)), ((Access::Granted, 0xbb), (Access::Granted, 0xaa)));
}

#[test]
fn an_old_page_comes_back() {
    let save = Trigger { when: When::nth(1), ..on(Moment::Exit) };
    let restore = Trigger { when: When::nth(2), ..on(Moment::Exit) };
    for (gpa, private) in [(A, true), (SHARED, false)] {
        let mut machine = attacked(vec![
            (save.clone(), Action::Save { page: page(gpa), slot: 0 }),
            (restore.clone(), Action::Restore { page: page(gpa), slot: 0 }),
        ]);
        let mut before = [0; 4];
        machine.memory.read(gpa, &mut before);
        exits(&mut machine);
        machine.memory.write(gpa, &[0x11; 4]);
        exits(&mut machine);
        let mut after = [0; 4];
        machine.memory.read(gpa, &mut after);
        assert_eq!(after, before, "what was written since is undone");
        if private {
            assert_eq!(read(&machine, gpa).0, Access::NotValidated, "and the guest is told");
        }
    }
}

#[test]
fn a_page_validated_behind_the_guest_is_noticed_by_the_carry_flag_only() {
    let mut machine = attacked_at_exit(Action::Rmp { page: page(0x8000), assigned: true, validated: true });
    assert_eq!(machine.rmp.pvalidate(0x8000, Size::Small, Size::Small, true), Ok(true));
    assert_eq!(read(&machine, 0x8000).0, Access::Granted);
    let machine = attacked_at_exit(Action::Rmp { page: page(A), assigned: false, validated: false });
    assert_eq!(read(&machine, A).0, Access::WrongOwner);
}

#[test]
fn ciphertext_that_is_changed_changes_plaintext() {
    let change = Action::Change { place: Place::Page(page(A), 8), change: Change::Xor(vec![0x0f]) };
    let machine = attacked_at_exit(change);
    assert_eq!(read(&machine, A + 8), (Access::NotValidated, 0xa5));
    assert_eq!(read(&machine, A + 9).1, 0xaa);
}

#[test]
fn every_field_of_an_answer_can_be_a_lie() {
    let rules = vec![
        (on(Moment::Answer), change(Place::Ghcb(Field::Rax as u16), &[0x99])),
        (on(Moment::Answer), change(Place::Ghcb(Field::ExitInfo1 as u16), &[1])),
        (on(Moment::Answer), change(Place::Ghcb(0x3f0), &[0; 16])),
    ];
    let mut machine = attacked(rules);
    ask(&mut machine, &CPUID);
    assert_eq!(machine.memory.read_u64(GHCB + Field::Rax as u64) & 0xff, 0x99);
    assert_eq!(machine.memory.read_u64(GHCB + Field::ExitInfo1 as u64), 1);
    assert_eq!(machine.memory.read_u64(GHCB + 0x3f8), 0, "nothing is marked valid");
}

#[test]
fn answers_of_the_msr_protocol_can_be_lies() {
    let rule = Trigger { kind: Some("msr-sev-information".into()), ..on(Moment::Answer) };
    let add = Change::Add { size: 8, value: 1 << 48 };
    let mut machine = attacked(vec![(rule, Action::Change { place: Place::Msr, change: add })]);
    assert_eq!(ask_msr(&mut machine, 0x002) >> 48, 3);
    assert_eq!(ask_msr(&mut machine, 0x080) >> 12, 3, "another request's answer is true");
}

#[test]
fn what_is_refused_or_skipped_does_not_happen() {
    let kind = |kind: &str| Trigger { kind: Some(kind.into()), ..on(Moment::Request) };
    let mut machine = attacked(vec![
        (kind("cpuid"), Action::Refuse { info1: 2, info2: 6 }),
        (kind("msr-page-state-change"), Action::Skip),
        (kind("msr-register-ghcb"), Action::Refuse { info1: 2, info2: 0x7013 }),
    ]);
    let answer = ask(&mut machine, &CPUID);
    assert_eq!((answer.get(Field::ExitInfo1), answer.get(Field::ExitInfo2)), (Some(2), Some(6)));
    assert_eq!(answer.get(Field::Rax), None);
    let request = 2 << 52 | 0x9000 | 0x014;
    assert_eq!(ask_msr(&mut machine, request), request, "the MSR is as the guest left it");
    assert_eq!(machine.map.attribute(0x9000), Attribute::Private, "and the page too");
    assert_eq!(ask_msr(&mut machine, 0x1012), 0x7013);
}

/// A machine whose guest writes `value` to a port, and what reached the host.
fn port_out(machine: &mut TestMachine, port: u16, value: u64) {
    let fields =
        [(Field::ExitCode, 0x7b), (Field::ExitInfo1, u64::from(port) << 16 | 4 << 4), (Field::Rax, value)];
    ask(machine, &fields);
}

#[test]
fn a_write_is_made_twice_or_later() {
    let port = |port| Trigger { port: Some(Span { from: port, to: port }), ..on(Moment::Request) };
    let mut machine = attacked(vec![
        (port(0x100), Action::Repeat { times: 3 }),
        (port(0x5f0), Action::Postpone { requests: 2 }),
    ]);
    port_out(&mut machine, 0x100, 1);
    assert_eq!(machine.counters.io_bytes, 12, "three times four bytes");
    // A mark, which shows when the write is made.
    port_out(&mut machine, 0x5f0, 0x4d00_0007);
    assert!(machine.counters.marks.is_empty());
    port_out(&mut machine, 0x101, 0);
    assert!(machine.counters.marks.is_empty());
    port_out(&mut machine, 0x101, 0);
    assert!(machine.counters.marks.contains_key(&7));
}

#[test]
fn any_event_is_injected_at_the_next_entry() {
    for (kind, vector, error, want) in [
        (Injection::Interrupt, 0x80, None, 0x8000_0080u64),
        (Injection::Nmi, 2, None, 0x8000_0202),
        (Injection::Exception, 28, None, 0x8000_031c),
        (Injection::Exception, 14, Some(6), 0x6_8000_0b0e),
        (Injection::Software, 0x80, None, 0x8000_0480),
    ] {
        let mut machine = attacked_at_exit(Action::Inject { vector, kind, error });
        let mut vmcb = Vmcb::ZERO;
        assert_eq!(machine.enter(0, &mut vmcb, &mut Registers::default()), Next::Run);
        assert_eq!(vmcb.event_injection, want, "{kind:?}");
        vmcb.event_injection = 0;
        assert_eq!(machine.enter(0, &mut vmcb, &mut Registers::default()), Next::Run);
        assert_eq!(vmcb.event_injection, 0, "once");
    }
}

#[test]
fn a_vc_is_injected_with_any_error_code() {
    let inject = Action::Inject { vector: 29, kind: Injection::Exception, error: Some(0x72) };
    let mut machine = attacked_at_exit(inject);
    let mut vmcb = Vmcb::ZERO;
    // Real mode has no #VC: that it cannot be delivered shows that it was tried.
    let next = machine.enter(0, &mut vmcb, &mut Registers::default());
    assert!(matches!(next, Next::End(Ending::Undeliverable { error: 0x72, .. })), "{next:?}");
}

#[test]
fn time_jumps_and_stands_still() {
    let mut machine = attacked_at_exit(Action::Tsc { add: -1000 });
    let mut vmcb = Vmcb::ZERO;
    assert_eq!(machine.enter(0, &mut vmcb, &mut Registers::default()), Next::Run);
    assert_eq!(vmcb.tsc_offset, 0u64.wrapping_sub(1000));
    let answer = ask(&mut machine, &[(Field::ExitCode, 0x6e)]);
    assert_eq!(answer.get(Field::Rdx), Some(0xffff_ffff), "the host's own answer agrees");
    let mut machine = attacked_at_exit(Action::Delay { ms: 5 });
    let mut vmcb = Vmcb::ZERO;
    assert_eq!(machine.enter(0, &mut vmcb, &mut Registers::default()), Next::Sleep(Some(10_000_000)));
}

#[test]
fn the_kth_touch_changes_a_page_between_check_and_use() {
    let second = Trigger { page: Some(page(SHARED)), when: When::nth(2), ..on(Moment::Touch) };
    let mut machine = attacked(vec![(second, change(Place::Page(page(SHARED), 0), &[0x66]))]);
    machine.memory.write(SHARED, &[0x11]);
    let mut vmcb = Vmcb::ZERO;
    // Paged, so that an address without the C-bit is shared.
    (vmcb.cr0, vmcb.cr4, vmcb.efer) = (0x8000_0001, 0x20, 0x500);
    let touch = |machine: &mut TestMachine, vmcb: &mut Vmcb| {
        assert_eq!(machine.enter(0, vmcb, &mut Registers::default()), Next::Run);
        assert_eq!(
            machine.nested.lookup(&machine.memory, false, SHARED),
            None,
            "not reachable without a fault"
        );
        (vmcb.exit_code, vmcb.exit_info1, vmcb.exit_info2) = (exit::NPF, 1 << 32, SHARED);
        assert_eq!(machine.exit(0, vmcb, &mut Registers::default()), Next::Run);
        assert!(machine.nested.lookup(&machine.memory, false, SHARED).is_some(), "for one instruction");
        assert_ne!(vmcb.rflags & 0x100, 0, "which traps after it");
        let mut seen = [0];
        machine.memory.read(SHARED, &mut seen);
        vmcb.exit_code = 0x41;
        assert_eq!(machine.exit(0, vmcb, &mut Registers::default()), Next::Run);
        assert_eq!(vmcb.rflags & 0x100, 0);
        seen[0]
    };
    assert_eq!(touch(&mut machine, &mut vmcb), 0x11, "the check");
    assert_eq!(touch(&mut machine, &mut vmcb), 0x66, "the use");
}

#[test]
fn the_memory_map_and_the_number_of_cpus_can_be_lies() {
    let rules = vec![
        (on(Moment::Launch), change(Place::MemoryMap(24), &[9])),
        (on(Moment::Launch), change(Place::VpCount, &[200])),
    ];
    let mut machine = attacked(rules);
    let mut map = vec![1; 24];
    machine.deposit("memory-map", &mut map);
    assert_eq!((map.len(), map[24]), (4096, 9), "a region that is not there");
    let mut count = vec![1, 0, 0, 0];
    machine.deposit("vp-count", &mut count);
    assert_eq!(count, [200, 0, 0, 0]);
}

#[test]
fn cpuid_can_be_a_lie_where_the_psp_lets_it() {
    let place = |leaf, register| Place::Cpuid { leaf, subleaf: 0, register };
    let mut machine = attacked(vec![(on(Moment::Launch), change(place(1, 1), &[0x77; 4]))]);
    assert_eq!(machine.deposit_cpuid(), Ok(()));
    assert_eq!(machine.cpuid.register(1, 0, 1), Some(0x7777_7777));
    let mut machine = attacked(vec![(on(Moment::Launch), change(place(0x8000_001f, 1), &[47]))]);
    assert!(matches!(machine.deposit_cpuid(), Err(Ending::Launch(_))), "another C-bit");
}

#[test]
fn what_fw_cfg_read_is_changed_where_it_lies() {
    let rule = Trigger { port: Some(Span { from: 0x518, to: 0x518 }), ..on(Moment::Answer) };
    let swap = Change::Swap { find: b"khz=2000".to_vec(), with: b"khz=9000".to_vec() };
    let mut machine = attacked(vec![(rule, Action::Change { place: Place::FwCfg(0), change: swap })]);
    // The access structure, big-endian: control, length, address; then the data.
    machine.memory.write(SHARED, &[0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0x60, 0x40]);
    machine.memory.write(SHARED + 0x40, b"tsc_khz=2000 x=1");
    port_out(&mut machine, 0x514, 0);
    port_out(&mut machine, 0x518, (SHARED as u32).swap_bytes().into());
    let mut data = [0; 16];
    machine.memory.read(SHARED + 0x40, &mut data);
    assert_eq!(&data, b"tsc_khz=9000 x=1");
}

#[test]
fn a_device_lies_in_its_ring() {
    const DEVICE: u64 = 0xfeb0_0200;
    let ring = Ring { device: DEVICE, queue: 0, part: RingPart::UsedLength };
    let rule = Trigger { gpa: Some(Span { from: DEVICE + 0x50, to: DEVICE + 0x50 }), ..on(Moment::Answer) };
    let add = Change::Add { size: 4, value: 0x1000 };
    let mut machine = attacked(vec![(rule, Action::Change { place: Place::Ring(ring, 0), change: add })]);
    let write = |machine: &mut TestMachine, register: u64, value: u64| {
        machine.memory.write_u64(GHCB + 0x800, value);
        let fields = [
            (Field::ExitCode, 0x8000_0002),
            (Field::ExitInfo1, DEVICE + register),
            (Field::ExitInfo2, 4),
            (Field::Scratch, GHCB + 0x800),
        ];
        ask(machine, &fields);
    };
    for (register, value) in
        [(0x30, 0), (0x38, 4), (0x80, SHARED), (0x90, SHARED + 0x40), (0xa0, SHARED + 0x100)]
    {
        write(&mut machine, register, value);
    }
    // Used once: id 0, length 5.
    machine.memory.write(SHARED + 0x102, &[1, 0, 0, 0, 0, 0, 5, 0, 0, 0]);
    write(&mut machine, 0x50, 0);
    assert_eq!(machine.memory.read_u64(SHARED + 0x108) as u32, 0x1005);
}

#[test]
fn the_answer_of_the_psp_is_changed_dropped_or_an_old_one() {
    const QUESTION: u64 = 0x7000;
    const REPLY: u64 = 0xa000;
    let requests = [(Field::ExitCode, 0x8000_0011), (Field::ExitInfo1, QUESTION), (Field::ExitInfo2, REPLY)];
    let nth = |moment, n| Trigger { kind: Some("guest-request".into()), when: When::nth(n), ..on(moment) };
    let mut machine = attacked(vec![
        (nth(Moment::Answer, 1), Action::Save { page: PageRef::Reply, slot: 3 }),
        (nth(Moment::Answer, 2), Action::Restore { page: PageRef::Reply, slot: 3 }),
        (nth(Moment::Answer, 3), change(Place::Page(PageRef::Reply, 0x36), &[0xff, 0xff])),
        (nth(Moment::Request, 4), Action::Skip),
        (nth(Moment::Answer, 5), change(Place::Ghcb(Field::ExitInfo2 as u16), &[0x16])),
    ]);
    share(&mut machine, QUESTION);
    share(&mut machine, REPLY);
    machine.psp = Some(alloc::boxed::Box::new(Echo(0)));
    let reply = |machine: &TestMachine| machine.memory.read_u64(REPLY) as u8;
    ask(&mut machine, &requests);
    assert_eq!(reply(&machine), 1);
    ask(&mut machine, &requests);
    assert_eq!(reply(&machine), 1, "the second is the first once more");
    ask(&mut machine, &requests);
    assert_eq!(machine.memory.read_u64(REPLY + 0x36) as u16, 0xffff);
    ask(&mut machine, &requests);
    assert_eq!(reply(&machine), 3, "the fourth never reached the PSP");
    let answer = ask(&mut machine, &requests);
    assert_eq!(answer.get(Field::ExitInfo2), Some(0x16));
}

/// A PSP that counts.
struct Echo(u8);

impl super::super::Psp for Echo {
    fn request(&mut self, _: &[u8; 4096], response: &mut [u8; 4096]) -> u32 {
        self.0 += 1;
        response[0] = self.0;
        0
    }
    fn certificate_table(&self) -> Vec<u8> {
        Vec::new()
    }
}

#[test]
fn a_secret_is_found_wherever_the_host_sees_it() {
    let secret = b"a secret that nobody may see";
    let found = |machine: &TestMachine| machine.malice.as_ref().unwrap().scanner.as_ref().unwrap().is_found();
    let mut machine = attacked(vec![]);
    machine.memory.write(A, secret);
    machine.scan_shared();
    assert!(!found(&machine), "a private page is not seen");
    machine.memory.write(SHARED + 0x123, &secret[4..20]);
    machine.scan_shared();
    assert!(found(&machine));
    // Through a register, of which the port needs one byte only.
    let mut machine = attacked(vec![]);
    let rax = u64::from_le_bytes(secret[..8].try_into().unwrap());
    port_out(&mut machine, 0x80, rax);
    assert!(found(&machine));
    // In a page that becomes private again: the host saw it before.
    let mut machine = attacked(vec![]);
    machine.memory.write(SHARED, secret);
    machine.convert(0, SHARED, Size::Small, Attribute::Private);
    assert!(found(&machine));
}

#[test]
fn what_cannot_be_done_is_not_said_to_have_been() {
    let mut machine = attacked(vec![
        (on(Moment::Exit), Action::Unmap { page: PageRef::Launched(99) }),
        (on(Moment::Exit), change(Place::Page(page(SHARED), 0), &[0])),
    ]);
    exits(&mut machine);
    let mut out = alloc::string::String::new();
    machine.malice.as_ref().unwrap().journal.json(&mut out);
    assert!(out.contains("\"never_carried_out\":[\"r\",\"r\"]"), "{out}");
}
