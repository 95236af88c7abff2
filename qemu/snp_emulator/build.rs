//! Link arguments: those of the kernel, which is made for the same machine.

include!("../../kernel/link_args.rs");

fn main() {
    link_args(concat!(env!("CARGO_MANIFEST_DIR"), "/../../kernel"));
}
