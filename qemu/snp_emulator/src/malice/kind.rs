//! Kinds of malice: what a host can do that bites a guest in a way of its own.
//!
//! An action that is not of a kind does not compile, and a kind has at least one script that shows how it bites (`cargo xtask conformance --malice`).

use super::script::{Action, Injection, PageRef, Place};

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $name:ident = $word:literal,)*) => {
        /// A kind of malice.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $($(#[doc = $doc])* $name,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Kind] = &[$(Kind::$name),*];

            /// In words.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$name => $word,)* }
            }
        }
    };
}

kinds! {
    /// Memory is taken away.
    Unmap = "unmap",
    /// A page shows another's memory.
    Remap = "remap",
    /// A page gets other memory.
    Replace = "replace",
    /// Two pages change places.
    Swap = "swap",
    /// A page is copied.
    Save = "save",
    /// A page is as it was.
    Restore = "restore",
    /// The reverse map table is changed behind the guest.
    Rmp = "rmp",
    /// A lie in the GHCB page.
    ChangeGhcb = "change of the GHCB",
    /// A lie in the GHCB MSR.
    ChangeMsr = "change of the GHCB MSR",
    /// Memory of the guest's is changed.
    ChangePage = "change of a page",
    /// A message to the PSP is changed.
    ChangeQuestion = "change of a message to the PSP",
    /// A message of the PSP is changed.
    ChangeReply = "change of a message of the PSP",
    /// What fw_cfg read is changed.
    ChangeFwCfg = "change of what fw_cfg read",
    /// A virtqueue is changed.
    ChangeRing = "change of a virtqueue",
    /// A lie in the memory map.
    ChangeMemoryMap = "change of the memory map",
    /// A lie about the number of CPUs.
    ChangeVpCount = "change of the number of CPUs",
    /// A lie on the CPUID page.
    ChangeCpuid = "change of the CPUID page",
    /// A request is refused.
    Refuse = "refuse",
    /// A request is not served.
    Skip = "skip",
    /// A request is served several times.
    Repeat = "repeat",
    /// A request is served later.
    Postpone = "postpone",
    /// The guest waits.
    Delay = "delay",
    /// An interrupt.
    InjectInterrupt = "injected interrupt",
    /// An NMI.
    InjectNmi = "injected NMI",
    /// An exception.
    InjectException = "injected exception",
    /// #VC.
    InjectVc = "injected #VC",
    /// #HV.
    InjectHv = "injected #HV",
    /// A software interrupt.
    InjectSoftware = "injected software interrupt",
    /// Another time.
    Tsc = "change of the TSC",
}

/// Vectors of #HV and #VC (APM volume 2, section 8.1).
const HV: u8 = 28;
const VC: u8 = 29;

impl Action {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Action::Unmap { .. } => Kind::Unmap,
            Action::Remap { .. } => Kind::Remap,
            Action::Replace { .. } => Kind::Replace,
            Action::Swap { .. } => Kind::Swap,
            Action::Save { .. } => Kind::Save,
            Action::Restore { .. } => Kind::Restore,
            Action::Rmp { .. } => Kind::Rmp,
            Action::Change { place, .. } => place.kind(),
            Action::Refuse { .. } => Kind::Refuse,
            Action::Skip => Kind::Skip,
            Action::Repeat { .. } => Kind::Repeat,
            Action::Postpone { .. } => Kind::Postpone,
            Action::Delay { .. } => Kind::Delay,
            Action::Inject { vector: VC, kind: Injection::Exception, .. } => Kind::InjectVc,
            Action::Inject { vector: HV, .. } => Kind::InjectHv,
            Action::Inject { kind: Injection::Interrupt, .. } => Kind::InjectInterrupt,
            Action::Inject { kind: Injection::Nmi, .. } => Kind::InjectNmi,
            Action::Inject { kind: Injection::Exception, .. } => Kind::InjectException,
            Action::Inject { kind: Injection::Software, .. } => Kind::InjectSoftware,
            Action::Tsc { .. } => Kind::Tsc,
        }
    }
}

impl Place {
    fn kind(&self) -> Kind {
        match self {
            Place::Ghcb(_) => Kind::ChangeGhcb,
            Place::Msr => Kind::ChangeMsr,
            Place::Page(PageRef::Question, _) => Kind::ChangeQuestion,
            Place::Page(PageRef::Reply, _) => Kind::ChangeReply,
            Place::Page(..) => Kind::ChangePage,
            Place::FwCfg(_) => Kind::ChangeFwCfg,
            Place::Ring(..) => Kind::ChangeRing,
            Place::MemoryMap(_) => Kind::ChangeMemoryMap,
            Place::VpCount => Kind::ChangeVpCount,
            Place::Cpuid { .. } => Kind::ChangeCpuid,
        }
    }
}
