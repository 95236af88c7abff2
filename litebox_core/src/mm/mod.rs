//! Memory: the page pool, the workload's mappings, and access to its memory.

mod buffer;
mod page;

pub use buffer::{Mappable, Sink, Source};
pub use page::{LargePage, Page, PagePool};
