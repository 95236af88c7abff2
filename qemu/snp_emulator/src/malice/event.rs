//! Events: what happens in the machine that a rule can wait for.

use super::script::{Span, Trigger};
use serde::{Deserialize, Serialize};

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moment {
    /// The guest is being launched.
    Launch,
    /// The CPU left the guest.
    Exit,
    /// The guest asks the host (VMGEXIT), which has read the request and not served it.
    Request,
    /// The host has answered, and the guest has not gone on.
    Answer,
    /// PVALIDATE of a page, before it does anything.
    Validate,
    /// The host has converted a page.
    Convert,
    /// The guest is about to touch a page that is watched.
    Touch,
}

/// Names of requests, as the report counts them: through the GHCB page, and through its MSR.
pub const REQUESTS: [&str; 38] = [
    "read-dr7",
    "write-dr7",
    "rdtsc",
    "rdpmc",
    "cpuid",
    "invd",
    "port-in",
    "port-out",
    "rdmsr",
    "wrmsr",
    "vmmcall",
    "rdtscp",
    "wbinvd",
    "monitor",
    "mwait",
    "mmio-read",
    "mmio-write",
    "nmi-complete",
    "ap-reset-hold",
    "ap-jump-table",
    "page-state-change",
    "guest-request",
    "extended-guest-request",
    "ap-creation",
    "apic-ids",
    "run-vmpl",
    "hypervisor-features",
    "terminate",
    "msr-sev-information",
    "msr-cpuid",
    "msr-ap-reset-hold",
    "msr-preferred-ghcb",
    "msr-register-ghcb",
    "msr-page-state-change",
    "msr-run-vmpl",
    "msr-hypervisor-features",
    "msr-terminate",
    "msr-unknown",
];

impl Moment {
    /// All of them.
    pub const ALL: [Moment; 7] = [
        Moment::Launch,
        Moment::Exit,
        Moment::Request,
        Moment::Answer,
        Moment::Validate,
        Moment::Convert,
        Moment::Touch,
    ];

    /// The kinds that it has.
    pub fn kinds(self) -> &'static [&'static str] {
        match self {
            Moment::Launch => &["memory-map", "vp-count", "cpuid", "start"],
            Moment::Exit => &[],
            Moment::Request | Moment::Answer => &REQUESTS,
            Moment::Validate => &["validate", "rescind"],
            Moment::Convert => &["private", "shared"],
            Moment::Touch => &["read", "write", "fetch"],
        }
    }

    /// Whether it belongs to a request.
    pub fn is_request(self) -> bool {
        matches!(self, Moment::Request | Moment::Answer)
    }

    /// Its name in scripts and reports.
    pub fn name(self) -> &'static str {
        match self {
            Moment::Launch => "launch",
            Moment::Exit => "exit",
            Moment::Request => "request",
            Moment::Answer => "answer",
            Moment::Validate => "validate",
            Moment::Convert => "convert",
            Moment::Touch => "touch",
        }
    }
}

/// An event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its kind.
    pub moment: Moment,
    /// The CPU.
    pub cpu: usize,
    /// What more exactly: one of [`Moment::kinds`], or empty.
    pub kind: &'static str,
    /// The SVM exit code of an exit.
    pub code: Option<u64>,
    /// The port of a request.
    pub port: Option<u16>,
    /// The MSR of a request.
    pub msr: Option<u32>,
    /// The guest-physical address that it is about.
    pub gpa: Option<u64>,
    /// The guest's privilege level, where there is a guest.
    pub cpl: Option<u8>,
    /// Its instruction pointer.
    pub rip: u64,
}

impl Event {
    /// An event with nothing known about it.
    pub fn new(moment: Moment, cpu: usize) -> Event {
        Event { moment, cpu, kind: "", code: None, port: None, msr: None, gpa: None, cpl: None, rip: 0 }
    }

    /// Whether a rule waits for it, whatever its turn. A watched page is compared by whoever knows where it is.
    pub fn matches(&self, trigger: &Trigger) -> bool {
        let among = |wanted: Option<Span>, have: Option<u64>| {
            wanted.is_none_or(|span| have.is_some_and(|have| span.holds(have)))
        };
        trigger.on == self.moment
            && trigger.kind.as_deref().is_none_or(|kind| kind == self.kind)
            && among(trigger.code, self.code)
            && among(trigger.port, self.port.map(u64::from))
            && among(trigger.msr, self.msr.map(u64::from))
            && among(trigger.gpa, self.gpa)
            && trigger.cpl.is_none_or(|cpl| self.cpl == Some(cpl))
            && trigger.cpu.is_none_or(|cpu| usize::from(cpu) == self.cpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ghcb::exits::{ApRequest, Exit, PortAccess};
    use crate::ghcb::msr::{Request, Termination};

    #[test]
    fn a_filter_needs_what_it_asks_for() {
        let event =
            Event { port: Some(0x3f8), cpl: Some(3), kind: "port-out", ..Event::new(Moment::Request, 1) };
        let any = Trigger::on(Moment::Request);
        assert!(event.matches(&any));
        assert!(!event.matches(&Trigger::on(Moment::Answer)));
        let port = |from, to| Trigger { port: Some(Span { from, to }), ..any.clone() };
        assert!(event.matches(&port(0x3f0, 0x3ff)) && !event.matches(&port(0x3f9, 0x3ff)));
        assert!(!event.matches(&Trigger { msr: Some(Span { from: 0, to: u64::MAX }), ..any.clone() }));
        assert!(event.matches(&Trigger { cpl: Some(3), cpu: Some(1), ..any.clone() }));
        assert!(!event.matches(&Trigger { cpl: Some(0), ..any.clone() }));
        assert!(!event.matches(&Trigger { kind: Some("port-in".into()), ..any }));
    }

    /// The list is that of the decoders: a name that they do not give could never match.
    #[test]
    fn every_request_has_its_name_in_the_list() {
        let port = |input| PortAccess { port: 0, size: 1, input, string: None };
        let what = ApRequest::Destroy;
        let (request, response, certificates, pages, gpa) = (0, 0, 0, 0, 0);
        let by_page = [
            Exit::ReadDr7,
            Exit::WriteDr7(0),
            Exit::Rdtsc,
            Exit::Rdpmc,
            Exit::Cpuid { leaf: 0, subleaf: 0, xcr0: 0 },
            Exit::Invd,
            Exit::Port(port(true)),
            Exit::Port(port(false)),
            Exit::ReadMsr(0),
            Exit::WriteMsr(0, 0),
            Exit::Vmmcall,
            Exit::Rdtscp,
            Exit::Wbinvd,
            Exit::Monitor,
            Exit::Mwait,
            Exit::MmioRead { gpa, size: 1 },
            Exit::MmioWrite { gpa, size: 1 },
            Exit::NmiComplete,
            Exit::ResetHold,
            Exit::JumpTable,
            Exit::PageState,
            Exit::GuestRequest { request, response },
            Exit::ExtendedGuestRequest { request, response, certificates, pages },
            Exit::ApCreation { what, apic_id: 0, vmpl: 0, vmsa: 0, features: 0 },
            Exit::ApicIds { pages, gpa },
            Exit::RunVmpl(0),
            Exit::Features,
            Exit::Terminate { set: 0, code: 0 },
        ];
        let by_msr = [
            Request::SevInformation,
            Request::Cpuid { leaf: 0, register: 0 },
            Request::ResetHold,
            Request::PreferredPage,
            Request::Register(0),
            Request::PageState { gpa, operation: 1 },
            Request::RunVmpl(0),
            Request::Features,
            Request::Terminate(Termination { set: 0, code: 0 }),
            Request::Unknown(0),
        ];
        let names: Vec<_> = by_page.iter().map(Exit::name).chain(by_msr.iter().map(Request::name)).collect();
        assert_eq!(names, REQUESTS);
    }
}
