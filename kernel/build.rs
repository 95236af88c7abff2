//! Link arguments of the kernel: they hold for the bare-metal target only.

fn main() {
    println!("cargo:rerun-if-changed=kernel.ld");
    println!("cargo:rerun-if-changed=build.rs");
    let directory = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let target = std::env::var("TARGET").expect("cargo sets TARGET");
    if !target.ends_with("-none") {
        return;
    }
    for argument in [
        &format!("-T{directory}/kernel.ld"),
        "--gc-sections",
        "-zmax-page-size=4096",
        "-znorelro",
        "-znoexecstack",
        "--no-eh-frame-hdr",
        "--build-id=none",
        "--no-dynamic-linker",
        "--orphan-handling=error",
        "-no-pie",
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
