//! Link arguments of the kernel: they hold for the bare-metal target only.

include!("link_args.rs");

fn main() {
    link_args(&std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
}
