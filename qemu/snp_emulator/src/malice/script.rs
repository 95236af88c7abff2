//! The script: rules of an attack, as the emulator takes them. `docs/emulator.md` explains the language in which people write them, which the launcher
//! translates into these types; [`super::wire`] is how they travel.

use super::event::Moment;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Rules that a script may have.
pub const RULES_MAX: usize = 64;
/// Bytes that a name, a change or a secret may have.
pub const BYTES_MAX: usize = 512;
/// Bytes of a secret at least: fewer are found by chance.
pub const SECRET_MIN: usize = 16;

/// A script.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// What must not be seen in memory or registers that the host sees; empty: nothing is looked for.
    pub secret: Vec<u8>,
    /// What rules with a probability follow from.
    pub seed: u64,
    /// Microseconds after which the CPU leaves the guest if nothing else makes it, so that a rule can meet it anywhere; 0: not for that reason.
    pub tick_us: u32,
    /// The rules, in the order in which those of one event are carried out.
    pub rules: Vec<Rule>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// What reports call it.
    pub name: String,
    /// When.
    pub trigger: Trigger,
    /// What.
    pub action: Action,
}

/// Numbers from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// First.
    pub from: u64,
    /// Last.
    pub to: u64,
}

impl Span {
    /// Whether it holds a number.
    pub fn holds(self, number: u64) -> bool {
        (self.from..=self.to).contains(&number)
    }
}

/// Which of the events that match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct When {
    /// The first that counts, from 1.
    pub from: u32,
    /// The last.
    pub to: u32,
    /// How many in a thousand of these.
    pub permille: u16,
}

impl When {
    /// Each of them.
    pub const ALWAYS: When = When { from: 1, to: u32::MAX, permille: 1000 };

    /// One of them, from 1.
    pub fn nth(n: u32) -> When {
        When { from: n, to: n, permille: 1000 }
    }
}

/// When a rule is carried out. What is `None` does not matter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trigger {
    /// At what.
    pub on: Moment,
    /// Name of the request, or of what happens to a page.
    pub kind: Option<String>,
    /// SVM exit code.
    pub code: Option<Span>,
    /// Port.
    pub port: Option<Span>,
    /// MSR.
    pub msr: Option<Span>,
    /// Guest-physical address.
    pub gpa: Option<Span>,
    /// Privilege level of the guest.
    pub cpl: Option<u8>,
    /// CPU.
    pub cpu: Option<u8>,
    /// The page that is watched, where the moment is a touch.
    pub page: Option<PageRef>,
    /// Which of these.
    pub when: When,
}

impl Trigger {
    /// Every such moment.
    pub fn on(on: Moment) -> Trigger {
        let (kind, page) = (None, None);
        let (code, port, msr, gpa) = (None, None, None, None);
        Trigger { on, kind, code, port, msr, gpa, cpl: None, cpu: None, page, when: When::ALWAYS }
    }
}

/// A page of the guest's: a script cannot know addresses, which each build changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PageRef {
    /// The one at this guest-physical address.
    Gpa(u64),
    /// The CPU's GHCB.
    Ghcb,
    /// The n-th that was launched, from 0.
    Launched(u32),
    /// The n-th that the guest validated, from 0.
    Validated(u32),
    /// The n-th that became shared, from 0.
    Shared(u32),
    /// The one with the instruction that the guest is at.
    Rip,
    /// The one with the top of its stack.
    Rsp,
    /// The root of its page tables.
    Cr3,
    /// The one that the event is about.
    Event,
    /// The page with a guest message's request.
    Question,
    /// The page for its answer.
    Reply,
    /// The one with a part of a virtqueue.
    Ring(Ring),
}

/// A part of a virtqueue of a virtio-mmio device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ring {
    /// Address of the device's first register.
    pub device: u64,
    /// The queue.
    pub queue: u16,
    /// The part.
    pub part: RingPart,
}

/// What of a virtqueue (virtio 1.2, section 2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RingPart {
    /// The descriptor table.
    Descriptors,
    /// Flags and index of the available ring.
    Available,
    /// Flags of the used ring, 2 bytes.
    UsedFlags,
    /// Index of the used ring, 2 bytes.
    UsedIndex,
    /// The id of the used ring's last entry, 4 bytes.
    UsedId,
    /// The length in it, 4 bytes.
    UsedLength,
    /// The first buffer of the last used chain that the device may write.
    Data,
    /// The last buffer of the last used chain.
    Status,
}

/// What the host calls an event that it injects (APM volume 2, section 15.20).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Injection {
    /// An external interrupt, whatever the guest's IF says.
    Interrupt,
    /// An NMI.
    Nmi,
    /// An exception.
    Exception,
    /// A software interrupt.
    Software,
}

/// What the host does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Takes the memory behind a page away.
    Unmap {
        /// The page.
        page: PageRef,
    },
    /// Shows a page the memory of another; the reverse map table stays as it is.
    Remap {
        /// The page.
        page: PageRef,
        /// The other.
        to: PageRef,
    },
    /// Gives a page other memory of the host's, assigned to the guest and not validated.
    Replace {
        /// The page.
        page: PageRef,
    },
    /// Exchanges the memory of two pages, and assigns both anew.
    Swap {
        /// One.
        page: PageRef,
        /// The other.
        with: PageRef,
    },
    /// Copies what the host sees of a page.
    Save {
        /// The page.
        page: PageRef,
        /// Where it is kept.
        slot: u8,
    },
    /// Puts a copy back: into a private page by taking it, writing and assigning it again.
    Restore {
        /// The page.
        page: PageRef,
        /// Where it was kept.
        slot: u8,
    },
    /// Changes a page's entry of the reverse map table, as no hardware lets a host do.
    Rmp {
        /// The page.
        page: PageRef,
        /// It is the guest's.
        assigned: bool,
        /// It is validated.
        validated: bool,
    },
    /// Changes what the guest will read.
    Change {
        /// Where.
        place: Place,
        /// How.
        change: Change,
    },
    /// Does not serve a request: SW_EXITINFO1 and 2, or the GHCB MSR's value in the second.
    Refuse {
        /// SW_EXITINFO1.
        info1: u64,
        /// SW_EXITINFO2.
        info2: u64,
    },
    /// Says that a request is done, and does nothing.
    Skip,
    /// Serves a request this often.
    Repeat {
        /// Times.
        times: u8,
    },
    /// Says that a write to a device is done, and does it this many requests later.
    Postpone {
        /// Requests.
        requests: u32,
    },
    /// Lets the guest wait.
    Delay {
        /// Milliseconds.
        ms: u32,
    },
    /// Injects an event at the next entry.
    Inject {
        /// The vector.
        vector: u8,
        /// What it is said to be.
        kind: Injection,
        /// Its error code.
        error: Option<u32>,
    },
    /// Moves the TSC.
    Tsc {
        /// By this many ticks.
        add: i64,
    },
}

/// Something that the host can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// The GHCB page, from this byte on.
    Ghcb(u16),
    /// The answer in the GHCB MSR.
    Msr,
    /// A page, from this byte on. In private memory the host changes the ciphertext, after taking the page, and assigns it again.
    Page(PageRef, u16),
    /// The memory to which fw_cfg just read an item, from this byte on.
    FwCfg(u32),
    /// A part of a virtqueue, from this byte on; the host first waits for the device to have used what was made available.
    Ring(Ring, u32),
    /// The memory map that the host deposits for an IGVM file, from this byte on; at the launch only.
    MemoryMap(u32),
    /// The number of CPUs that the host deposits; at the launch only.
    VpCount,
    /// A register (0 EAX to 3 EDX) of a leaf that the host asks the PSP to put on the CPUID page; at the launch only.
    Cpuid {
        /// EAX on input.
        leaf: u32,
        /// ECX on input.
        subleaf: u32,
        /// Which.
        register: u8,
    },
}

/// A change of bytes. Numbers are little-endian.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// These instead.
    Set(Vec<u8>),
    /// Exclusive or with these.
    Xor(Vec<u8>),
    /// A number of this many bytes plus this one.
    Add {
        /// Bytes: 1, 2, 4 or 8.
        size: u8,
        /// What is added, modulo the size.
        value: u64,
    },
    /// All of the first in the place, and in the [`BYTES_MAX`] bytes after it, become the second, which is as long.
    Swap {
        /// What is looked for.
        find: Vec<u8>,
        /// What is put there.
        with: Vec<u8>,
    },
}

impl Change {
    /// Bytes that it looks at.
    pub fn span(&self) -> usize {
        match self {
            Change::Set(bytes) | Change::Xor(bytes) => bytes.len(),
            Change::Add { size, .. } => usize::from(*size),
            Change::Swap { .. } => BYTES_MAX,
        }
    }

    /// Does it; whether that changed anything.
    pub fn apply(&self, bytes: &mut [u8]) -> bool {
        let before = bytes.to_vec();
        match self {
            Change::Set(new) => bytes.iter_mut().zip(new).for_each(|(byte, new)| *byte = *new),
            Change::Xor(mask) => bytes.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask),
            Change::Add { size, value } => {
                let mut number = [0; 8];
                let size = usize::from(*size).min(8).min(bytes.len());
                number.iter_mut().zip(bytes.iter().take(size)).for_each(|(to, from)| *to = *from);
                let sum = u64::from_le_bytes(number).wrapping_add(*value).to_le_bytes();
                bytes.iter_mut().take(size).zip(sum).for_each(|(to, from)| *to = from);
            }
            Change::Swap { find, with } => {
                let mut at = 0;
                while let Some(here) = bytes.get_mut(at..at + find.len()) {
                    if here == find {
                        here.iter_mut().zip(with).for_each(|(to, from)| *to = *from);
                        at += find.len();
                    } else {
                        at += 1;
                    }
                }
            }
        }
        bytes != before
    }
}

/// What is wrong with a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// The rule, from 0; `None`: the script as a whole.
    pub rule: Option<usize>,
    /// What, and what to do.
    pub why: &'static str,
}

impl Script {
    /// Checks what the types alone do not hold: sizes, and that an action fits its moment.
    ///
    /// # Errors
    /// The first flaw.
    pub fn check(&self) -> Result<(), Flaw> {
        let whole = |why| Err(Flaw { rule: None, why });
        if self.rules.len() > RULES_MAX {
            return whole("a script has at most 64 rules: make several scripts");
        }
        if self.tick_us != 0 && !(100..=10_000_000).contains(&self.tick_us) {
            return whole("a tick has 100 to 10000000 microseconds");
        }
        if !self.secret.is_empty() && !(SECRET_MIN..=BYTES_MAX).contains(&self.secret.len()) {
            return whole("a secret has 16 to 512 bytes: fewer are found by chance");
        }
        for (index, rule) in self.rules.iter().enumerate() {
            rule.check().map_err(|why| Flaw { rule: Some(index), why })?;
        }
        Ok(())
    }
}

impl Rule {
    fn check(&self) -> Result<(), &'static str> {
        if self.name.is_empty() || self.name.len() > BYTES_MAX || self.name.chars().any(char::is_control) {
            return Err("a rule's name has 1 to 512 printable bytes");
        }
        self.trigger.check()?;
        self.action.check(self.trigger.on)
    }
}

impl Trigger {
    fn check(&self) -> Result<(), &'static str> {
        let (on, When { from, to, permille }) = (self.on, self.when);
        if from == 0 || from > to {
            return Err("events are counted from 1, and the first to count is not after the last");
        }
        if permille > 1000 {
            return Err("a probability is at most 1000 in a thousand");
        }
        if [self.code, self.port, self.msr, self.gpa].into_iter().flatten().any(|span| span.from > span.to) {
            return Err("a range begins with its smaller number");
        }
        if self.cpl.is_some_and(|cpl| cpl > 3) {
            return Err("privilege levels are 0 to 3");
        }
        if let Some(kind) = &self.kind
            && !on.kinds().contains(&kind.as_str())
        {
            return Err("there is no such `kind` of this moment (docs/emulator.md lists them)");
        }
        if self.page.is_some() != (on == Moment::Touch) {
            return Err("`page` says what is watched: it goes with on = \"touch\", and only with that");
        }
        if self.code.is_some() && on != Moment::Exit {
            return Err("`code` is that of an exit of the CPU: it goes with on = \"exit\"");
        }
        if (self.port.is_some() || self.msr.is_some()) && !on.is_request() {
            return Err("`port` and `msr` go with on = \"request\" or on = \"answer\"");
        }
        if on == Moment::Launch && (self.gpa.is_some() || self.cpl.is_some() || self.cpu.is_some()) {
            return Err("at the launch there is no CPU and no address yet");
        }
        Ok(())
    }
}

impl Action {
    fn check(&self, on: Moment) -> Result<(), &'static str> {
        match self {
            Action::Refuse { .. } | Action::Skip | Action::Repeat { .. } | Action::Postpone { .. } => {
                if on != Moment::Request {
                    return Err("what is done about a request goes with on = \"request\"");
                }
                if matches!(self, Action::Repeat { times: 0 | 1 }) {
                    return Err("`times` is at least 2: once is what an honest host does");
                }
            }
            Action::Delay { ms } if *ms == 0 || *ms > 600_000 => {
                return Err("a delay is 1 to 600000 ms");
            }
            Action::Change { place, change } => {
                place.check(on)?;
                change.check()?;
            }
            Action::Inject { kind, error, .. } => {
                if on == Moment::Launch {
                    return Err("at the launch there is nothing to inject into yet");
                }
                if error.is_some() && *kind != Injection::Exception {
                    return Err("only exceptions have error codes");
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Place {
    fn check(&self, on: Moment) -> Result<(), &'static str> {
        match self {
            Place::MemoryMap(_) | Place::VpCount | Place::Cpuid { .. } if on != Moment::Launch => {
                Err("this is changed at the launch: on = \"launch\"")
            }
            Place::Cpuid { register, .. } if *register > 3 => Err("registers are 0 to 3"),
            Place::Msr | Place::FwCfg(_) if on != Moment::Answer => {
                Err("this is changed when it is there: on = \"answer\"")
            }
            Place::Ring(..) if !matches!(on, Moment::Answer | Moment::Touch) => {
                Err("a queue is changed when it was used: on = \"answer\", or on = \"touch\"")
            }
            Place::Ghcb(at) | Place::Page(_, at) if usize::from(*at) >= 4096 => Err("a page has 4096 bytes"),
            _ => Ok(()),
        }
    }
}

impl Change {
    fn check(&self) -> Result<(), &'static str> {
        match self {
            Change::Set(bytes) | Change::Xor(bytes) if bytes.is_empty() || bytes.len() > BYTES_MAX => {
                Err("a change has 1 to 512 bytes")
            }
            Change::Add { size, .. } if !matches!(size, 1 | 2 | 4 | 8) => {
                Err("a number has 1, 2, 4 or 8 bytes")
            }
            Change::Swap { find, with }
                if find.is_empty() || find.len() != with.len() || find.len() > 128 =>
            {
                Err("what is found and what is put there are equally long, 1 to 128 bytes")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn changed(change: &Change, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut bytes = bytes.to_vec();
        let done = change.apply(&mut bytes);
        (bytes, done)
    }

    #[test]
    fn changes() {
        assert_eq!(changed(&Change::Set(vec![7, 8]), &[1, 2, 3]), (vec![7, 8, 3], true));
        assert_eq!(changed(&Change::Set(vec![1]), &[1]), (vec![1], false));
        assert_eq!(changed(&Change::Xor(vec![0xff]), &[1, 2]), (vec![0xfe, 2], true));
        let add = Change::Add { size: 2, value: u64::MAX };
        assert_eq!(changed(&add, &[0, 0, 9]), (vec![0xff, 0xff, 9], true));
        assert_eq!(changed(&add, &[0]), (vec![0xff], true), "what is cut off stays inside");
        let swap = Change::Swap { find: vec![1, 2], with: vec![5, 6] };
        assert_eq!(changed(&swap, &[1, 1, 2, 1, 2]), (vec![1, 5, 6, 5, 6], true));
        assert_eq!(changed(&swap, &[1]), (vec![1], false));
    }

    fn flaw(trigger: Trigger, action: Action) -> Option<&'static str> {
        let rules = vec![Rule { name: "r".into(), trigger, action }];
        Script { rules, ..Script::default() }.check().err().map(|flaw| flaw.why)
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let on = Trigger::on;
        assert_eq!(flaw(on(Moment::Request), Action::Skip), None);
        let set = |place| Action::Change { place, change: Change::Set(vec![1]) };
        for (trigger, action) in [
            (on(Moment::Answer), Action::Skip),
            (on(Moment::Request), Action::Repeat { times: 1 }),
            (on(Moment::Exit), Action::Delay { ms: 0 }),
            (on(Moment::Touch), Action::Delay { ms: 1 }),
            (Trigger { page: Some(PageRef::Ghcb), ..on(Moment::Exit) }, Action::Delay { ms: 1 }),
            (Trigger { kind: Some("no-such".into()), ..on(Moment::Request) }, Action::Skip),
            (Trigger { when: When::nth(0), ..on(Moment::Request) }, Action::Skip),
            (Trigger { cpl: Some(4), ..on(Moment::Request) }, Action::Skip),
            (Trigger { gpa: Some(Span { from: 2, to: 1 }), ..on(Moment::Request) }, Action::Skip),
            (Trigger { port: Some(Span { from: 1, to: 1 }), ..on(Moment::Exit) }, Action::Delay { ms: 1 }),
            (on(Moment::Request), set(Place::Msr)),
            (on(Moment::Request), set(Place::MemoryMap(0))),
            (on(Moment::Answer), set(Place::Ghcb(4096))),
            (on(Moment::Answer), Action::Change { place: Place::Msr, change: Change::Set(vec![]) }),
            (on(Moment::Launch), Action::Inject { vector: 3, kind: Injection::Nmi, error: None }),
            (on(Moment::Exit), Action::Inject { vector: 3, kind: Injection::Nmi, error: Some(1) }),
        ] {
            assert!(flaw(trigger.clone(), action.clone()).is_some(), "{trigger:?} {action:?}");
        }
        assert!(Script { secret: vec![1; 8], ..Script::default() }.check().is_err());
        assert!(Script { tick_us: 1, ..Script::default() }.check().is_err());
    }
}
