//! Memory: the page pool, the workload's mappings, and access to its memory.

mod buffer;
mod page;
mod pool;

pub use buffer::{Mappable, Sink, Source};
pub use page::{LargePage, Page};
pub use pool::{AcceptHook, PagePool, ReclaimHook};
