//! The platform of unit tests: pages from the heap, a page table in a map, threads of the host.
