//! What was done to the guest, for the report: a test must be able to see that an attack really happened.

use super::event::Event;
use crate::json::json_string;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

/// Attacks that are kept; the others are only counted.
const KEPT: usize = 64;

/// An attack that was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attack {
    /// The rule's number.
    pub rule: usize,
    /// What was done, in words.
    pub what: String,
    /// At what.
    pub at: Event,
    /// Exits of the CPU until then.
    pub exits: u64,
    /// Requests of the guest until then.
    pub requests: u64,
}

/// All that was done.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// The rules' names.
    rules: Vec<String>,
    /// How often each was carried out.
    done: Vec<u64>,
    attacks: Vec<Attack>,
}

impl Journal {
    /// Nothing yet.
    pub fn new(rules: Vec<String>) -> Self {
        Self { done: alloc::vec![0; rules.len()], rules, attacks: Vec::new() }
    }

    /// Notes an attack.
    pub fn note(&mut self, attack: Attack) {
        if let Some(done) = self.done.get_mut(attack.rule) {
            *done += 1;
        }
        if self.attacks.len() < KEPT {
            self.attacks.push(attack);
        }
    }

    /// How often a rule was carried out.
    pub fn times(&self, rule: usize) -> u64 {
        self.done.get(rule).copied().unwrap_or(0)
    }

    /// The attacks, the first ones of many.
    pub fn attacks(&self) -> &[Attack] {
        &self.attacks
    }

    /// As members of a JSON object: `attacks`, `rules` with how often each was carried out, and the names of those that never were.
    pub fn json(&self, out: &mut String) {
        out.push_str(",\"attacks\":[");
        for (i, attack) in self.attacks.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let _ = write!(out, "{comma}{{\"rule\":");
            json_string(out, self.rules.get(attack.rule).map_or("", String::as_str));
            out.push_str(",\"action\":");
            json_string(out, &attack.what);
            let at = &attack.at;
            let _ =
                write!(out, ",\"on\":\"{}\",\"kind\":\"{}\",\"cpu\":{}", at.moment.name(), at.kind, at.cpu);
            let _ = write!(out, ",\"exits\":{},\"vmgexits\":{}", attack.exits, attack.requests);
            for (name, value) in [
                ("code", at.code),
                ("port", at.port.map(u64::from)),
                ("msr", at.msr.map(u64::from)),
                ("gpa", at.gpa),
                ("rip", at.cpl.map(|_| at.rip)),
            ] {
                if let Some(value) = value {
                    let _ = write!(out, ",\"{name}\":\"{value:#x}\"");
                }
            }
            out.push('}');
        }
        out.push_str("],\"rules\":{");
        for (i, (name, done)) in self.rules.iter().zip(&self.done).enumerate() {
            out.push_str(if i == 0 { "" } else { "," });
            json_string(out, name);
            let _ = write!(out, ":{done}");
        }
        out.push_str("},\"never_carried_out\":[");
        let never = self.rules.iter().zip(&self.done).filter(|(_, done)| **done == 0);
        for (i, (name, _)) in never.enumerate() {
            out.push_str(if i == 0 { "" } else { "," });
            json_string(out, name);
        }
        out.push(']');
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::Moment;
    use super::*;
    use alloc::vec;

    #[test]
    fn what_was_done_and_what_never_was() {
        let mut journal = Journal::new(vec!["a \"quoted\" rule".into(), "idle".into()]);
        let at = Event { port: Some(0x3f8), kind: "port-out", ..Event::new(Moment::Request, 0) };
        for _ in 0..70 {
            journal.note(Attack { rule: 0, what: "skipped".into(), at, exits: 3, requests: 2 });
        }
        let mut out = String::new();
        journal.json(&mut out);
        assert_eq!(out.matches("\"action\":\"skipped\"").count(), 64);
        for want in [
            r#"{"rule":"a \"quoted\" rule","action":"skipped","on":"request","kind":"port-out","cpu":0,"exits":3,"vmgexits":2,"port":"0x3f8"}"#,
            r#""rules":{"a \"quoted\" rule":70,"idle":0}"#,
            r#""never_carried_out":["idle"]"#,
        ] {
            assert!(out.contains(want), "{want} is not in {out}");
        }
        assert_eq!(journal.times(0), 70);
    }
}
