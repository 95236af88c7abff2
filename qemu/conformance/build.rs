//! Links as the kernel does.

include!("../../kernel/link_args.rs");

fn main() {
    link_args(concat!(env!("CARGO_MANIFEST_DIR"), "/../../kernel"));
}
