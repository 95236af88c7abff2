// Link arguments of a program that is, or is linked with, the kernel. Included by the build scripts of all of them.

/// Tells cargo how to link, when the target is the bare machine; `kernel` is the directory of the linker script.
fn link_args(kernel: &str) {
    println!("cargo:rerun-if-changed={kernel}/kernel.ld");
    println!("cargo:rerun-if-changed={kernel}/link_args.rs");
    let target = std::env::var("TARGET").expect("cargo sets TARGET");
    if !target.ends_with("-none") {
        return;
    }
    for argument in [
        &format!("-T{kernel}/kernel.ld"),
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
    // QEMU reads and sorts the symbols that it finds, which takes a millisecond before the first instruction; the global ones stay. For a
    // debugger or a profiler: LITEBOX_SYMBOLS=1.
    println!("cargo:rerun-if-env-changed=LITEBOX_SYMBOLS");
    if std::env::var_os("LITEBOX_SYMBOLS").is_none() {
        println!("cargo:rustc-link-arg-bins=--discard-all");
    }
}
