//! Attack scripts as people write them: TOML (`docs/emulator.md`, "Attacks"), read strictly and translated for the emulator.
//!
//! What is wrong is said with the line it is in: a key that does not exist or does not belong to what the rule does, a number out of range, a combination that cannot be.

mod names;
mod raw;

use std::fmt;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail};
use snp_emulator::malice::event::Moment;
use snp_emulator::malice::script::{
    Action, BYTES_MAX, Change, Flaw, Injection, Place, Rule, Script, Span, Trigger, When,
};
use snp_emulator::malice::wire;
use toml::Spanned;

use raw::{Bytes, Number, RawRule, RawScript};

/// The version of the language.
const VERSION: u64 = 1;

/// A mistake, and where in the text it is.
#[derive(Debug, PartialEq, Eq)]
struct Mistake {
    at: Range<usize>,
    why: String,
}

impl Mistake {
    fn new(at: Range<usize>, why: impl fmt::Display) -> Self {
        Self { at, why: why.to_string() }
    }
}

/// Reads a script file: the bytes that the emulator takes.
///
/// # Errors
/// It cannot be read, or the first mistake in it.
pub fn open(file: &Path) -> Result<Vec<u8>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("the script, {}", file.display()))?;
    translate(&text, file)
}

/// Translates a script: the bytes that the emulator takes.
///
/// # Errors
/// The first mistake, with its line.
fn translate(text: &str, file: &Path) -> Result<Vec<u8>> {
    let script = read(text).with_context(|| format!("{}", file.display()))?;
    let bytes = wire::encode(&script);
    if bytes.len() > wire::SIZE_MAX {
        bail!("{}: the script is too long: it has {} bytes for the emulator", file.display(), bytes.len());
    }
    Ok(bytes)
}

/// What a script says of itself to a suite of scripts: how the guest ends.
#[derive(Debug)]
pub struct Expectation {
    /// The exit status.
    pub status: i32,
    /// The emulator's name for the ending.
    pub ending: Option<String>,
}

/// What a script expects of the guest; `None` where it says nothing.
///
/// # Errors
/// It is no script.
pub fn expectation(text: &str) -> Result<Option<Expectation>> {
    let expect = parse(text)?.expect;
    Ok(expect.map(|expect| Expectation { status: expect.status, ending: expect.ending }))
}

fn parse(text: &str) -> Result<RawScript> {
    // Its own words name line and column.
    toml::from_str(text).map_err(|error| anyhow::anyhow!("{}", error.to_string().trim_end()))
}

/// Reads a script's text.
///
/// # Errors
/// The first mistake, with its line.
pub fn read(text: &str) -> Result<Script> {
    let raw = parse(text)?;
    script(&raw).map_err(|mistake| {
        let line = text.get(..mistake.at.start).unwrap_or_default().matches('\n').count() + 1;
        anyhow::anyhow!("line {line}: {}", mistake.why)
    })
}

fn script(raw: &RawScript) -> Result<Script, Mistake> {
    if raw.version.get_ref().0 != VERSION {
        let why = format!("this is language version {VERSION}: write `version = {VERSION}`");
        return Err(Mistake::new(raw.version.span(), why));
    }
    let rules = raw
        .rule
        .iter()
        .map(|raw| Reader { raw: raw.get_ref(), at: raw.span() }.rule())
        .collect::<Result<_, _>>()?;
    let secret = raw.secret.as_ref().map(|secret| secret.get_ref().0.clone()).unwrap_or_default();
    let tick = raw.tick.as_ref().map_or(Ok(0), |tick| {
        u32::try_from(tick.get_ref().0).map_err(|_| Mistake::new(tick.span(), "`tick` is out of range"))
    });
    let script = Script { secret, seed: raw.seed.as_ref().map_or(1, |seed| seed.0), tick_us: tick?, rules };
    let place = |flaw: &Flaw| match flaw.rule {
        Some(rule) => raw.rule.get(rule).map_or(0..0, Spanned::span),
        None => {
            let tick = || raw.tick.as_ref().map(Spanned::span);
            raw.secret.as_ref().map(Spanned::span).or_else(tick).unwrap_or(0..0)
        }
    };
    script.check().map_err(|flaw| Mistake::new(place(&flaw), flaw.why))?;
    Ok(script)
}

/// Reads one rule.
struct Reader<'a> {
    raw: &'a RawRule,
    at: Range<usize>,
}

/// The keys that each action takes beside those that say when.
const ACTIONS: [(&str, &[&str]); 15] = [
    ("unmap", &["target"]),
    ("remap", &["target", "to"]),
    ("replace", &["target"]),
    ("swap", &["target", "to"]),
    ("save", &["target", "slot"]),
    ("restore", &["target", "slot"]),
    ("rmp", &["target", "assigned", "validated"]),
    (
        "change",
        &[
            "place", "field", "offset", "entry", "leaf", "subleaf", "register", "size", "set", "bytes",
            "xor", "add", "find", "with",
        ],
    ),
    ("refuse", &["info1", "info2", "value"]),
    ("skip", &[]),
    ("repeat", &["times"]),
    ("postpone", &["requests"]),
    ("delay", &["ms"]),
    ("inject", &["vector", "as", "error"]),
    ("tsc", &["add"]),
];

impl Reader<'_> {
    fn wrong(&self, why: impl fmt::Display) -> Mistake {
        Mistake::new(self.at.clone(), why)
    }

    fn need<'k, T>(&self, key: &str, value: &'k Option<Spanned<T>>) -> Result<&'k T, Mistake> {
        let words = || format!("do = \"{}\" needs `{key}`", self.raw.r#do.get_ref());
        value.as_ref().map(Spanned::get_ref).ok_or_else(|| self.wrong(words()))
    }

    /// A number that fits.
    fn fit<T: TryFrom<u64>>(&self, key: &str, value: &Option<Spanned<Number>>) -> Result<Option<T>, Mistake> {
        let Some(value) = value else { return Ok(None) };
        let number = value.get_ref().0;
        let too_large = |_| Mistake::new(value.span(), format!("`{key}` = {number:#x} is out of range"));
        T::try_from(number).map(Some).map_err(too_large)
    }

    fn fit_needed<T: TryFrom<u64>>(&self, key: &str, value: &Option<Spanned<Number>>) -> Result<T, Mistake> {
        self.need(key, value)?;
        self.fit(key, value)?.ok_or_else(|| self.wrong(format!("`{key}` is missing")))
    }

    fn rule(&self) -> Result<Rule, Mistake> {
        let verb = self.raw.r#do.get_ref().as_str();
        let Some((_, keys)) = ACTIONS.iter().find(|action| action.0 == verb) else {
            let known: Vec<_> = ACTIONS.iter().map(|action| action.0).collect();
            let why = format!("there is no do = \"{verb}\"; there are {}", known.join(", "));
            return Err(Mistake::new(self.raw.r#do.span(), why));
        };
        if let Some((key, at)) = self.raw.action_keys().into_iter().find(|(key, _)| !keys.contains(key)) {
            return Err(Mistake::new(at, format!("`{key}` does not go with do = \"{verb}\"")));
        }
        let trigger = self.trigger()?;
        let action = self.action(verb)?;
        Ok(Rule { name: self.raw.name.get_ref().clone(), trigger, action })
    }

    fn trigger(&self) -> Result<Trigger, Mistake> {
        let raw = self.raw;
        let name = raw.on.get_ref().as_str();
        let Some(on) = Moment::ALL.into_iter().find(|moment| moment.name() == name) else {
            let known: Vec<_> = Moment::ALL.iter().map(|moment| moment.name()).collect();
            return Err(Mistake::new(
                raw.on.span(),
                format!("there is no on = \"{name}\"; there are {}", known.join(", ")),
            ));
        };
        if let Some(kind) = &raw.kind
            && !on.kinds().contains(&kind.get_ref().as_str())
        {
            let known = if on.kinds().is_empty() { "none".into() } else { on.kinds().join(", ") };
            let why = format!("on = \"{name}\" has no kind \"{}\"; there are {known}", kind.get_ref());
            return Err(Mistake::new(kind.span(), why));
        }
        let span = |range: &Option<Spanned<raw::Range>>| range.as_ref().map(|range| range.get_ref().0);
        let page = match &raw.page {
            None => None,
            Some(page) => Some(names::page(page.get_ref()).map_err(|why| Mistake::new(page.span(), why))?),
        };
        Ok(Trigger {
            on,
            kind: raw.kind.as_ref().map(|kind| kind.get_ref().clone()),
            code: span(&raw.code),
            port: span(&raw.port),
            msr: span(&raw.msr),
            gpa: self.device_or_range()?,
            cpl: self.fit("cpl", &raw.cpl)?,
            cpu: self.fit("cpu", &raw.cpu)?,
            page,
            when: self.when()?,
        })
    }

    /// `gpa`, or `device` with `at`: a register of a virtio-mmio device.
    fn device_or_range(&self) -> Result<Option<Span>, Mistake> {
        let raw = self.raw;
        match (&raw.gpa, &raw.device) {
            (Some(gpa), None) if raw.at.is_none() => Ok(Some(gpa.get_ref().0)),
            (None, Some(device)) => {
                let base = names::device(device.get_ref()).map_err(|why| Mistake::new(device.span(), why))?;
                let at = raw.at.as_ref().map_or(Span { from: 0, to: 0x1ff }, |at| at.get_ref().0);
                if at.from > at.to || at.to >= 0x200 {
                    return Err(self.wrong("`at` is an offset in a device's 512 bytes of registers"));
                }
                Ok(Some(Span { from: base + at.from, to: base + at.to }))
            }
            (None, None) if raw.at.is_none() => Ok(None),
            (Some(_), Some(_)) => Err(self.wrong("`gpa` and `device` are two ways to say one thing")),
            _ => Err(self.wrong("`at` is a register of a `device`")),
        }
    }

    /// `n`, or `from` and `to`, or all; and `chance`.
    fn when(&self) -> Result<When, Mistake> {
        let raw = self.raw;
        let all = When::ALWAYS;
        let (from, to) = match (&raw.n, &raw.from, &raw.until) {
            (Some(_), None, None) => {
                let n = self.fit_needed("n", &raw.n)?;
                (n, n)
            }
            (None, from, until) => {
                (self.fit("from", from)?.unwrap_or(all.from), self.fit("until", until)?.unwrap_or(all.to))
            }
            _ => {
                return Err(
                    self.wrong("`n` is one event, `from` and `until` are several: take one of the two")
                );
            }
        };
        let permille = match &raw.chance {
            None => all.permille,
            Some(chance) if (0.0..=1.0).contains(chance.get_ref()) => {
                (chance.get_ref() * 1000.0).round() as u16
            }
            Some(chance) => return Err(Mistake::new(chance.span(), "`chance` is a number from 0.0 to 1.0")),
        };
        Ok(When { from, to, permille })
    }

    fn page_of(
        &self,
        key: &str,
        value: &Option<Spanned<String>>,
    ) -> Result<snp_emulator::malice::script::PageRef, Mistake> {
        self.need(key, value)?;
        let Some(value) = value else { return Err(self.wrong("unreachable")) };
        names::page(value.get_ref()).map_err(|why| Mistake::new(value.span(), why))
    }

    fn action(&self, verb: &str) -> Result<Action, Mistake> {
        let raw = self.raw;
        let target = || self.page_of("target", &raw.target);
        let to = || self.page_of("to", &raw.to);
        let slot = || self.fit_needed("slot", &raw.slot);
        Ok(match verb {
            "unmap" => Action::Unmap { page: target()? },
            "remap" => Action::Remap { page: target()?, to: to()? },
            "replace" => Action::Replace { page: target()? },
            "swap" => Action::Swap { page: target()?, with: to()? },
            "save" => Action::Save { page: target()?, slot: slot()? },
            "restore" => Action::Restore { page: target()?, slot: slot()? },
            "rmp" => Action::Rmp {
                page: target()?,
                assigned: *self.need("assigned", &raw.assigned)?,
                validated: *self.need("validated", &raw.validated)?,
            },
            "change" => Action::Change { place: self.place()?, change: self.change()? },
            "refuse" => match (&raw.value, &raw.info1, &raw.info2) {
                (Some(_), None, None) => {
                    Action::Refuse { info1: 2, info2: self.fit_needed("value", &raw.value)? }
                }
                (None, Some(_), Some(_)) => Action::Refuse {
                    info1: self.fit_needed("info1", &raw.info1)?,
                    info2: self.fit_needed("info2", &raw.info2)?,
                },
                _ => {
                    let why = "do = \"refuse\" takes `info1` and `info2` for the GHCB page, or `value` for the GHCB MSR";
                    return Err(self.wrong(why));
                }
            },
            "skip" => Action::Skip,
            "repeat" => Action::Repeat { times: self.fit_needed("times", &raw.times)? },
            "postpone" => Action::Postpone { requests: self.fit_needed("requests", &raw.requests)? },
            "delay" => Action::Delay { ms: self.fit_needed("ms", &raw.ms)? },
            "inject" => Action::Inject {
                vector: self.fit_needed("vector", &raw.vector)?,
                kind: self.injection()?,
                error: self.fit("error", &raw.error)?,
            },
            _ => Action::Tsc { add: self.need("add", &raw.add)?.0.cast_signed() },
        })
    }

    fn injection(&self) -> Result<Injection, Mistake> {
        let name = self.need("as", &self.raw.r#as)?;
        match name.as_str() {
            "interrupt" => Ok(Injection::Interrupt),
            "nmi" => Ok(Injection::Nmi),
            "exception" => Ok(Injection::Exception),
            "software" => Ok(Injection::Software),
            _ => Err(self.wrong("`as` is interrupt, nmi, exception or software")),
        }
    }

    fn place(&self) -> Result<Place, Mistake> {
        let raw = self.raw;
        self.need("place", &raw.place)?;
        let Some(place) = &raw.place else { return Err(self.wrong("unreachable")) };
        let parts = names::Parts {
            field: raw.field.as_ref().map(|field| field.get_ref().as_str()),
            offset: self.fit("offset", &raw.offset)?,
            entry: self.fit("entry", &raw.entry)?,
            leaf: self.fit("leaf", &raw.leaf)?,
            subleaf: self.fit("subleaf", &raw.subleaf)?,
            register: raw.register.as_ref().map(|register| register.get_ref().as_str()),
        };
        names::place(place.get_ref(), &parts).map_err(|why| Mistake::new(place.span(), why))
    }

    /// Exactly one of `set`, `bytes`, `xor`, `add`, `find` with `with`.
    fn change(&self) -> Result<Change, Mistake> {
        let raw = self.raw;
        let size = match self.fit::<u8>("size", &raw.size)? {
            Some(size) if matches!(size, 1 | 2 | 4 | 8) => size,
            Some(_) => return Err(self.wrong("`size` is 1, 2, 4 or 8")),
            None => names::size(
                raw.place.as_ref().map(|p| p.get_ref().as_str()),
                raw.field.as_ref().map(|f| f.get_ref().as_str()),
            ),
        };
        let number = |key: &str, value: &Option<Spanned<Number>>| -> Result<Option<Vec<u8>>, Mistake> {
            let Some(value) = value else { return Ok(None) };
            let (number, bits) = (value.get_ref().0, 8 * u32::from(size));
            if bits < 64 && number >> bits != 0 {
                let why = format!("`{key}` = {number:#x} has more than the {size} bytes that are changed");
                return Err(Mistake::new(value.span(), why));
            }
            Ok(number.to_le_bytes().get(..usize::from(size)).map(<[u8]>::to_vec))
        };
        let limit = |value: &Spanned<Bytes>| {
            let bytes = value.get_ref().0.clone();
            let whole = (1..=BYTES_MAX).contains(&bytes.len());
            if whole {
                Ok(bytes)
            } else {
                Err(Mistake::new(value.span(), format!("1 to {BYTES_MAX} bytes go here")))
            }
        };
        let mut changes = Vec::new();
        changes.extend(number("set", &raw.set)?.map(Change::Set));
        changes.extend(number("xor", &raw.xor)?.map(Change::Xor));
        changes.extend(raw.bytes.as_ref().map(limit).transpose()?.map(Change::Set));
        changes.extend(raw.add.as_ref().map(|add| Change::Add { size, value: add.get_ref().0 }));
        match (&raw.find, &raw.with) {
            (Some(find), Some(with)) => changes.push(Change::Swap { find: limit(find)?, with: limit(with)? }),
            (None, None) => {}
            _ => return Err(self.wrong("`find` and `with` go together")),
        }
        match (changes.pop(), changes.is_empty()) {
            (Some(change), true) => Ok(change),
            _ => Err(self
                .wrong("do = \"change\" takes one of `set`, `xor`, `add`, `bytes`, or `find` with `with`")),
        }
    }
}

#[cfg(test)]
mod tests;
