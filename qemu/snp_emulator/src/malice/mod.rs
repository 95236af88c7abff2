//! Malice: what a host does that an honest one does not, by a script.
//!
//! A [`script::Script`] has rules: *when* ([`script::Trigger`]) and *what* ([`script::Action`]). The machine tells [`Malice`] of each [`event::Event`]; the rules that
//! match are carried out on the machine (`vm/malice/`), noted in the [`journal::Journal`], and told to the launcher with everything else. A machine without a
//! script has no `Malice` and pays one comparison per event.

pub mod event;
pub mod journal;
pub mod kind;
pub mod places;
pub mod psp;
pub mod scan;
pub mod script;
pub mod wire;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use event::Event;
use journal::Journal;
use scan::Scanner;
use script::{Injection, Rule, Script, When};

/// What the host does about a request instead of serving it once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Turn {
    /// Serve it.
    #[default]
    Serve,
    /// Say that it is done, and do nothing.
    Skip,
    /// Answer with these values of SW_EXITINFO1 and 2, or with the second as the GHCB MSR, and do nothing.
    Refuse(u64, u64),
    /// Serve it again and again, this often altogether.
    Repeat(u8),
    /// Say that it is done, and do it this many requests later.
    Postpone(u32),
}

/// A write to a device that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    /// Requests until it is done.
    pub left: u32,
    /// Device memory, not a port.
    pub mmio: bool,
    /// Port or address.
    pub at: u64,
    /// Bytes.
    pub size: u8,
    /// Value.
    pub value: u64,
}

/// An event that waits to be injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injected {
    /// The vector.
    pub vector: u8,
    /// What it is said to be.
    pub kind: Injection,
    /// Its error code.
    pub error: Option<u32>,
}

/// A page as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Its guest-physical address.
    pub gpa: u64,
    /// What the host saw there.
    pub bytes: Vec<u8>,
}

/// A script, how far it has come, and what it needs to know of the machine.
pub struct Malice {
    rules: Vec<Rule>,
    /// Microseconds between exits at least; 0: as it comes.
    pub tick_us: u32,
    /// How often each rule's event has been.
    seen: Vec<u32>,
    random: u64,
    /// What was done.
    pub journal: Journal,
    /// The secret that must not be seen.
    pub scanner: Option<Scanner>,
    /// Pages that the launch put in place, in its order.
    pub launched: Vec<u64>,
    /// Pages that the guest validated, in its order.
    pub validated: Vec<u64>,
    /// Pages that became shared, in their order.
    pub shared: Vec<u64>,
    /// Pages that were copied, by slot.
    pub copies: BTreeMap<u8, Copy>,
    /// Address of the last access structure of fw_cfg, in the two halves in which the guest says it.
    pub fw_cfg: [u32; 2],
    /// The answer to the request that is being served.
    pub turn: Turn,
    /// To be injected at the next entries, one at each.
    pub injections: Vec<Injected>,
    /// Writes to devices that come later.
    pub late: Vec<Late>,
    /// Added to the TSC.
    pub tsc_offset: u64,
    /// Until when a CPU waits for the host, by the TSC.
    pub held: Option<(usize, u64)>,
    /// System-physical addresses of pages that are nobody's yet.
    pub spare: Vec<u64>,
    /// A touched page that is mapped for one instruction.
    pub stepping: bool,
    /// By rule: whether it watches the page that is being touched.
    pub watching: Vec<bool>,
}

impl Malice {
    /// A script that begins.
    pub fn new(script: Script) -> Self {
        let scanner = (!script.secret.is_empty()).then(|| Scanner::new(&script.secret));
        Self {
            seen: alloc::vec![0; script.rules.len()],
            journal: Journal::new(script.rules.iter().map(|rule| rule.name.clone()).collect()),
            rules: script.rules,
            tick_us: script.tick_us,
            // Any number but 0 will do.
            random: script.seed | 1,
            scanner,
            launched: Vec::new(),
            validated: Vec::new(),
            shared: Vec::new(),
            copies: BTreeMap::new(),
            fw_cfg: [0; 2],
            turn: Turn::Serve,
            injections: Vec::new(),
            late: Vec::new(),
            tsc_offset: 0,
            held: None,
            spare: Vec::new(),
            stepping: false,
            watching: Vec::new(),
        }
    }

    /// The rules that an event sets off, by their numbers; it is counted for all that it matches.
    pub fn set_off(&mut self, event: &Event) -> Vec<usize> {
        let mut due = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            let elsewhere = rule.trigger.page.is_some() && self.watching.get(index) != Some(&true);
            if elsewhere || !event.matches(&rule.trigger) {
                continue;
            }
            let Some(seen) = self.seen.get_mut(index) else { continue };
            *seen = seen.saturating_add(1);
            let When { from, to, permille } = rule.trigger.when;
            if !(from..=to).contains(seen) {
                continue;
            }
            // xorshift64: the same seed does the same.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            if self.random % 1000 < u64::from(permille) {
                due.push(index);
            }
        }
        due
    }

    /// A rule.
    pub fn rule(&self, index: usize) -> Option<&Rule> {
        self.rules.get(index)
    }

    /// All rules.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

#[cfg(test)]
mod tests {
    use super::event::Moment;
    use super::script::{Action, Trigger};
    use super::*;

    fn malice(when: When) -> Malice {
        let trigger = Trigger { when, ..Trigger::on(Moment::Request) };
        let rules = alloc::vec![Rule { name: "r".into(), trigger, action: Action::Skip }];
        Malice::new(Script { seed: 9, rules, ..Script::default() })
    }

    fn fires(when: When) -> Vec<bool> {
        let mut malice = malice(when);
        (0..8).map(|_| !malice.set_off(&Event::new(Moment::Request, 0)).is_empty()).collect()
    }

    #[test]
    fn once_from_to_and_always() {
        assert_eq!(fires(When::nth(3)), [false, false, true, false, false, false, false, false]);
        let some = When { from: 2, to: 4, permille: 1000 };
        assert_eq!(fires(some), [false, true, true, true, false, false, false, false]);
        assert_eq!(fires(When::ALWAYS), [true; 8]);
    }

    #[test]
    fn chance_follows_from_the_seed() {
        let half = When { permille: 500, ..When::ALWAYS };
        let (one, two) = (fires(half), fires(half));
        assert_eq!(one, two);
        assert!(one.contains(&true) && one.contains(&false), "{one:?}");
        assert_eq!(fires(When { permille: 0, ..When::ALWAYS }), [false; 8]);
    }
}
