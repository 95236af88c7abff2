//! Links as the kernel does.

include!("../../kernel/link_args.rs");

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    link_args(&format!("{here}/../../kernel"));
}
