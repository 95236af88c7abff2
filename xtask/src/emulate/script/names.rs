//! Names of pages and places.
//!
//! A page: `ghcb`, `rip`, `rsp`, `cr3`, `event`, `question`, `reply`, `launched N`, `validated N`, `shared N`, a number, or a part of a virtqueue: `disk Q PART`,
//! `console Q PART`. A place to change: `ghcb`, `msr`, `fw-cfg`, `memory-map`, `vp-count`, `cpuid`, or any of the pages.

use snp_emulator::malice::places;
use snp_emulator::malice::script::{PageRef, Place, Ring, RingPart};

/// What else a rule says about its place.
#[derive(Debug, Default)]
pub struct Parts<'a> {
    pub field: Option<&'a str>,
    pub offset: Option<u32>,
    pub entry: Option<u32>,
    pub leaf: Option<u32>,
    pub subleaf: Option<u32>,
    pub register: Option<&'a str>,
}

const PAGES: &str = "a page is ghcb, rip, rsp, cr3, event, question, reply, `launched N`, `validated N`, `shared N`, an address, or a part of a \
    queue: `disk Q PART` or `console Q PART` with descriptors, available, used-flags, used-index, used-id, used-length, data or status";

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The first register of a device, by its name in `run-snp`'s machine or by its address.
pub fn device(name: &str) -> Result<u64, String> {
    match name {
        "console" => Ok(0xfeb0_0000),
        "disk" => Ok(0xfeb0_0200),
        other => number(other).filter(|at| at % 0x200 == 0).ok_or_else(|| {
            format!(
                "there is no device `{other}`: it is console, disk, or the address of a virtio-mmio device"
            )
        }),
    }
}

fn ring(name: &str) -> Option<Ring> {
    let mut words = name.split_whitespace();
    let (Some(which), Some(queue), Some(part), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return None;
    };
    let part = match part {
        "descriptors" => RingPart::Descriptors,
        "available" => RingPart::Available,
        "used-flags" => RingPart::UsedFlags,
        "used-index" => RingPart::UsedIndex,
        "used-id" => RingPart::UsedId,
        "used-length" => RingPart::UsedLength,
        "data" => RingPart::Data,
        "status" => RingPart::Status,
        _ => return None,
    };
    Some(Ring { device: device(which).ok()?, queue: queue.parse().ok()?, part })
}

/// A page by its name.
pub fn page(name: &str) -> Result<PageRef, String> {
    let nth = |word: &str| name.strip_prefix(word).and_then(|n| n.trim().parse().ok());
    let found = match name {
        "ghcb" => Some(PageRef::Ghcb),
        "rip" => Some(PageRef::Rip),
        "rsp" => Some(PageRef::Rsp),
        "cr3" => Some(PageRef::Cr3),
        "event" => Some(PageRef::Event),
        "question" => Some(PageRef::Question),
        "reply" => Some(PageRef::Reply),
        _ => number(name)
            .filter(|gpa| gpa % 4096 == 0)
            .map(PageRef::Gpa)
            .or_else(|| nth("launched ").map(PageRef::Launched))
            .or_else(|| nth("validated ").map(PageRef::Validated))
            .or_else(|| nth("shared ").map(PageRef::Shared))
            .or_else(|| ring(name).map(PageRef::Ring)),
    };
    found.ok_or_else(|| format!("there is no page `{name}`: {PAGES}"))
}

/// Bytes that a change of a number changes, where the rule does not say.
pub fn size(place: Option<&str>, field: Option<&str>) -> u8 {
    let place = place.unwrap_or_default();
    let named = |fields: &[(&str, u16, u8)]| {
        field.and_then(|field| places::field(fields, field)).map(|field| field.1)
    };
    match place {
        "ghcb" => named(&places::GHCB).unwrap_or(8),
        "memory-map" => named(&places::MEMORY_MAP).unwrap_or(8),
        "question" | "reply" => named(&places::MESSAGE).unwrap_or(8),
        "vp-count" | "cpuid" => 4,
        _ => match ring(place).map(|ring| ring.part) {
            Some(RingPart::UsedFlags | RingPart::UsedIndex | RingPart::Available) => 2,
            Some(RingPart::UsedId | RingPart::UsedLength) => 4,
            Some(RingPart::Status) => 1,
            _ => 8,
        },
    }
}

/// A place by its name and what the rule says about it.
pub fn place(name: &str, parts: &Parts<'_>) -> Result<Place, String> {
    let only = |allowed: &[&str]| {
        for (key, there) in [
            ("field", parts.field.is_some()),
            ("offset", parts.offset.is_some()),
            ("entry", parts.entry.is_some()),
            ("leaf", parts.leaf.is_some()),
            ("subleaf", parts.subleaf.is_some()),
            ("register", parts.register.is_some()),
        ] {
            if there && !allowed.contains(&key) {
                return Err(format!("`{key}` does not go with place = \"{name}\""));
            }
        }
        Ok(())
    };
    let named = |fields: &[(&str, u16, u8)]| match (parts.field, parts.offset) {
        (Some(_), Some(_)) => Err("`field` and `offset` are two ways to say one thing".into()),
        (None, offset) => Ok(offset.unwrap_or(0)),
        (Some(field), None) => {
            places::field(fields, field).map(|field| u32::from(field.0)).ok_or_else(|| {
                let known: Vec<_> = fields.iter().map(|field| field.0).collect();
                format!("place = \"{name}\" has no field `{field}`; there are {}", known.join(", "))
            })
        }
    };
    let small = |at: u32| u16::try_from(at).map_err(|_| "a page has 4096 bytes".to_owned());
    match name {
        "ghcb" => {
            only(&["field", "offset"])?;
            Ok(Place::Ghcb(small(named(&places::GHCB)?)?))
        }
        "msr" => only(&[]).map(|()| Place::Msr),
        "fw-cfg" => only(&["offset"]).map(|()| Place::FwCfg(parts.offset.unwrap_or(0))),
        "memory-map" => {
            only(&["field", "offset", "entry"])?;
            let entry = parts.entry.unwrap_or(0).saturating_mul(places::MEMORY_MAP_ENTRY);
            Ok(Place::MemoryMap(entry.saturating_add(named(&places::MEMORY_MAP)?)))
        }
        "vp-count" => only(&[]).map(|()| Place::VpCount),
        "cpuid" => {
            only(&["leaf", "subleaf", "register"])?;
            let register =
                parts.register.and_then(|name| ["eax", "ebx", "ecx", "edx"].iter().position(|r| *r == name));
            let (Some(leaf), Some(register)) = (parts.leaf, register) else {
                return Err("place = \"cpuid\" needs `leaf` and `register` (eax, ebx, ecx or edx)".into());
            };
            Ok(Place::Cpuid { leaf, subleaf: parts.subleaf.unwrap_or(0), register: register as u8 })
        }
        _ => {
            if let Some(ring) = ring(name) {
                only(&["offset"])?;
                return Ok(Place::Ring(ring, parts.offset.unwrap_or(0)));
            }
            only(&["field", "offset"])?;
            if parts.field.is_some() && !matches!(name, "question" | "reply") {
                return Err(format!("place = \"{name}\" has no fields: use `offset`"));
            }
            Ok(Place::Page(page(name)?, small(named(&places::MESSAGE)?)?))
        }
    }
}
