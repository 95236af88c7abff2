//! The South: what the LiteBox core needs from below, as small traits.
//!
//! `kernel/` implements those that are the CPU's ([`Memory`], [`UserAccess`], [`Cpu`], [`Threads`], [`Entropy`]),
//! `platform_snp/` those that are the host's ([`BlockDevice`], [`Console`], [`Clock`]'s source, [`Power`]). The type that
//! joins both lives in `kernel/`; `hosted` is the one for unit tests.

mod block;
mod console;
mod cpu;
mod entropy;
#[cfg(any(test, feature = "std"))]
pub mod hosted;
mod memory;
mod power;
mod thread;
mod time;
mod user;

pub use block::{BLOCK_SIZE, BlockDevice, BlockError};
pub use console::{Console, Input, Stream};
pub use cpu::{Access, Cpu, Exception, PageFault, Registers, UserExit};
pub use entropy::Entropy;
pub use memory::{LARGE_PAGE_SIZE, Mapping, Memory, OutOfMemory, PAGE_SIZE, PageTable, Prot};
pub use power::{Attack, ExitStatus, Power};
pub use thread::{ThreadToken, Threads};
pub use time::{Clock, ClockScale};
pub use user::UserAccess;

use core::fmt;

/// Everything below the core, joined in one type. One value exists for the life of the machine.
pub trait Platform:
    Memory + UserAccess + Cpu + Threads + Clock + Entropy + Power + Sized + Send + Sync + 'static
{
    /// The console: the workload's standard input, output and error.
    fn console(&self) -> &dyn Console;

    /// The device that holds the workload image, if the host gave one.
    fn root_device(&self) -> Option<&'static dyn BlockDevice>;

    /// Whether [`Platform::log`] does anything; callers may skip formatting when it does not.
    fn log_enabled(&self) -> bool;

    /// One line for the kernel log, which the host can read: never a secret, never a workload's data.
    fn log(&self, line: fmt::Arguments<'_>);

    /// How many pages [`Platform::vdso_page`] has; fewer than two: there is no vDSO.
    fn vdso_pages(&self) -> usize;

    /// Page `index` of the vDSO, the same one at every call. Page 0 is data that the vDSO reads (clock parameters), for programs read-only; the
    /// others are an ELF shared object, read-only and executable.
    fn vdso_page(&self, index: usize) -> Option<crate::mm::Page>;
}
