//! The kernel's side of memory: its own mappings, the workload's page tables, the heap, stacks, access to user memory.

pub mod heap;
pub mod kernel_map;
pub mod layout;
pub mod page_table;
pub mod stack;
pub mod user_access;
