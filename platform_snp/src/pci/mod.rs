//! PCI: finding a function, walking its capabilities, placing its base address registers, pointing its interrupts at us.
//!
//! Everything in configuration space is the host's word. Invariant: a register region that leaves this module lies inside of a BAR whose size was measured and
//! whose address *we* chose, from a window that holds no memory; two of them never overlap, whatever the host says or firmware left. All walks are
//! bounded. Source: PCI Local Bus Specification 3.0, chapter 6; configuration by ports 0xcf8 and 0xcfc, section 3.2.2.3.2, which every PC has,
//! firmware or not.

mod bar;
mod capability;
mod config;
mod msix;
mod scan;

pub use bar::{Bars, Region, Window};
pub use capability::{Capability, capabilities};
pub use config::{Address, Config};
pub use msix::{ID as MSIX, Message, MsiX};
pub use scan::{Identity, functions};
