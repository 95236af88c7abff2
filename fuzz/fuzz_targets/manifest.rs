//! Manifests: one that is accepted says the same when it is written again, and holds only what a process may be given.
#![no_main]

use litebox_core::manifest::{MAX_SIZE, Manifest};

litebox_fuzz::target!(litebox_fuzz::seeds::manifest, run);

fn run(bytes: &[u8]) {
    let Ok(manifest) = Manifest::parse(bytes) else { return };
    assert!(bytes.len() <= MAX_SIZE);
    for path in [&manifest.exec, &manifest.cwd] {
        assert!(path.starts_with(b"/") && path.len() < 4096 && !path.contains(&0));
    }
    for string in manifest.args.iter().chain(&manifest.env) {
        assert!(!string.contains(&0));
    }
    assert!((1..=64).contains(&manifest.hostname.len()));
    let encoded = manifest.encode().expect("what was accepted can be written");
    assert_eq!(Manifest::parse(&encoded).as_ref(), Ok(&manifest));
    assert_eq!(encoded, bytes, "a value has one encoding");
}
