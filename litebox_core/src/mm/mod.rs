//! Memory: the page pool, the workload's mappings, and access to its memory.

mod area;
mod buffer;
mod fault;
mod fork;
mod map;
mod page;
mod pool;
mod remap;
#[cfg(test)]
mod tests;
mod user;

pub use area::MapName;
pub(crate) use area::SharedMemory;
pub use buffer::{Mappable, Mapper, Sink, Source};
pub use fault::FaultError;
pub use map::{AreaInfo, MapFlags, MapRequest, MemoryLimits, MemoryUse, Mm};
pub use page::{LargePage, Page};
pub use pool::{AcceptHook, PagePool, ReclaimHook};
pub use remap::{Advice, RemapFlags};
pub use user::{UserBuffers, UserPtr, read_cstr};
