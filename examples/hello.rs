//! The smallest Rust program: `rustc --target x86_64-unknown-linux-musl examples/hello.rs && cargo xtask run-snp hello`.

fn main() {
    println!("hello, world");
}
