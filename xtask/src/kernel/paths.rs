//! Keeps this machine's folders out of what is built for the bare machine, so that equal sources give equal bytes in any folder: messages of
//! panics hold paths of sources, and debug information does.
//!
//! Cargo itself takes care of symbol names, which do not depend on the folder. Source: rustc's `--remap-path-prefix`, of which the last that
//! fits counts.

use std::path::{Path, PathBuf};

use super::TARGET;
use crate::host;

/// An option for cargo that gives rustc more flags for our target, beside those of `.cargo/config.toml`.
pub fn config() -> String {
    // Both as they are called and, where symbolic links lead there, as they are: rustc sees either.
    let real = |from: &Path| from.canonicalize().ok().filter(|real| real != from);
    let flags: Vec<String> = renamed()
        .into_iter()
        .flat_map(|(from, to)| {
            [real(&from), Some(from)].into_iter().flatten().map(move |from| flag(&from, &to))
        })
        .collect();
    format!("target.{TARGET}.rustflags=[{}]", flags.join(","))
}

/// What is called otherwise: the folder of the sources, that of the output, that of crates, and that of the standard library's sources where they are
/// installed (where not, they are called so by rustc).
fn renamed() -> Vec<(PathBuf, String)> {
    let cargo_home = cargo_home();
    let mut renamed = vec![
        (host::workspace(), "/litebox".to_owned()),
        (host::target_dir(), "/litebox/target".to_owned()),
        (cargo_home.clone(), "/cargo".to_owned()),
    ];
    // Each registry has a folder, whose name depends on where its index was fetched from.
    let registries = std::fs::read_dir(cargo_home.join("registry/src"));
    let mut folders: Vec<PathBuf> =
        registries.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    folders.sort();
    renamed.extend(folders.into_iter().map(|folder| (folder, "/cargo/crates".to_owned())));
    let (sysroot, commit) = (env!("LITEBOX_SYSROOT"), env!("LITEBOX_RUSTC_COMMIT"));
    if !sysroot.is_empty() && !commit.is_empty() {
        renamed.push((Path::new(sysroot).join("lib/rustlib/src/rust"), format!("/rustc/{commit}")));
    }
    renamed
}

/// Cargo's folder in the user's.
fn cargo_home() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cargo");
    std::env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}

/// A flag as a string of TOML.
fn flag(from: &Path, to: &str) -> String {
    let mut out = String::from("\"");
    for c in format!("--remap-path-prefix={}={to}", from.display()).chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out += &format!("\\u{:04x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_folder_is_a_string_of_toml() {
        assert_eq!(flag(Path::new("/a b"), "/c"), "\"--remap-path-prefix=/a b=/c\"");
        assert_eq!(flag(Path::new("/a\"\\\n"), "/c"), "\"--remap-path-prefix=/a\\\"\\\\\\u000a=/c\"");
    }

    #[test]
    fn the_folders_of_this_machine_are_renamed() {
        let renamed = renamed();
        for folder in [host::workspace(), host::target_dir(), cargo_home()] {
            assert!(renamed.iter().any(|(from, _)| *from == folder), "{}", folder.display());
        }
        assert!(
            renamed.iter().any(|(_, to)| to == "/cargo/crates"),
            "the crates of this program are somewhere"
        );
    }
}
