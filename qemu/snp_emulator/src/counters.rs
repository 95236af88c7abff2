//! What happened, counted.

use alloc::collections::BTreeMap;
use alloc::string::String;
use core::fmt::Write;

/// Events of a run.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Exits of the CPU, by code.
    pub exits: BTreeMap<u64, u64>,
    /// Requests through the GHCB, page or MSR, by name.
    pub requests: BTreeMap<&'static str, u64>,
    /// #VC delivered, by error code.
    pub exceptions: BTreeMap<u64, u64>,
    /// 4 KiB pages validated.
    pub validated: u64,
    /// 4 KiB pages whose validation was rescinded.
    pub rescinded: u64,
    /// 4 KiB pages made shared.
    pub made_shared: u64,
    /// 4 KiB pages made private.
    pub made_private: u64,
    /// Pages that the host converted because the guest touched them the other way.
    pub implicit: u64,
    /// Private pages that the guest's page walks or fetches reached without the C-bit.
    pub walk_alias: u64,
    /// Interrupts injected.
    pub interrupts: u64,
    /// Bytes that the guest wrote to ports or device memory.
    pub io_bytes: u64,
    /// Pages of the launch whose contents are measured.
    pub measured_pages: u64,
    /// Pages of the launch, save areas apart.
    pub launched_pages: u64,
    /// Marks: name and TSC since the first instruction, total exits then.
    pub marks: BTreeMap<u32, (u64, u64)>,
}

impl Counters {
    /// Exits of all kinds that left the guest for the host's sake: VMGEXITs.
    pub fn vmgexits(&self) -> u64 {
        self.requests.values().sum()
    }

    /// As members of a JSON object.
    pub fn json(&self, out: &mut String) {
        let mut map = |name: &str, items: &mut dyn Iterator<Item = (String, u64)>| {
            let _ = write!(out, ",\"{name}\":{{");
            for (i, (key, value)) in items.enumerate() {
                let _ = write!(out, "{}\"{key}\":{value}", if i == 0 { "" } else { "," });
            }
            out.push('}');
        };
        let hex = |(code, n): (&u64, &u64)| (alloc::format!("{code:#x}"), *n);
        map("exits", &mut self.exits.iter().map(hex));
        map("vmgexit", &mut self.requests.iter().map(|(name, n)| (String::from(*name), *n)));
        map("vc", &mut self.exceptions.iter().map(hex));
        for (name, value) in [
            ("vmgexits", self.vmgexits()),
            ("validated_pages", self.validated),
            ("rescinded_pages", self.rescinded),
            ("made_shared_pages", self.made_shared),
            ("made_private_pages", self.made_private),
            ("implicit_conversions", self.implicit),
            ("walk_alias_pages", self.walk_alias),
            ("interrupts", self.interrupts),
            ("io_bytes", self.io_bytes),
            ("measured_pages", self.measured_pages),
            ("launched_pages", self.launched_pages),
        ] {
            let _ = write!(out, ",\"{name}\":{value}");
        }
        out.push_str(",\"marks\":[");
        for (i, (id, (cycles, exits))) in self.marks.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let _ = write!(out, "{comma}{{\"mark\":{id},\"cycles\":{cycles},\"vmgexits\":{exits}}}");
        }
        out.push(']');
    }
}
