//! Memory: the page pool, the workload's mappings, and access to its memory.

mod page;

pub use page::{LargePage, Page, PagePool};
