//! Kernel modules out of a package that nothing installs, in the order in which they must be loaded.
//!
//! `modules.dep` is made by an install script, so it is not there; every module names what it depends on in its `.modinfo` section
//! (`depends=a,b`, Linux's `include/linux/module.h`). What is built into the kernel is in no file and needs none.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Puts the modules `wanted`, and those they need, into the directory `into`, with a file `order` that names them, a line each. A
/// module that the kernel does not have, or has built in, is left out.
///
/// # Errors
/// A module needs one that is not there, or cannot be read.
pub fn copy(tree: &Path, wanted: &[&str], into: &Path) -> Result<()> {
    let mut files = BTreeMap::new();
    collect(tree, &mut files)?;
    let mut plan = Plan { files: &files, order: Vec::new() };
    for name in wanted {
        if files.contains_key(&canonical(name)) {
            plan.add(&canonical(name), 0)?;
        }
    }
    fs::create_dir_all(into).with_context(|| format!("cannot make {}", into.display()))?;
    let mut order = String::new();
    for (name, bytes) in plan.order {
        let name = format!("{name}.ko");
        fs::write(into.join(&name), bytes).with_context(|| format!("cannot write {name}"))?;
        order += &name;
        order.push('\n');
    }
    fs::write(into.join("order"), order).context("cannot write the order of modules")
}

/// Modules that have been read, in loading order.
struct Plan<'a> {
    files: &'a BTreeMap<String, PathBuf>,
    order: Vec<(String, Vec<u8>)>,
}

impl Plan<'_> {
    fn add(&mut self, name: &str, depth: u32) -> Result<()> {
        if self.order.iter().any(|(known, _)| known == name) {
            return Ok(());
        }
        ensure!(depth < 16, "modules depend on each other in a circle: {name}");
        let file = self.files.get(name).with_context(|| format!("there is no module {name}"))?;
        let bytes = read(file).with_context(|| format!("cannot read {}", file.display()))?;
        for needed in depends(&bytes) {
            self.add(&canonical(&needed), depth + 1)?;
        }
        self.order.push((name.to_owned(), bytes));
        Ok(())
    }
}

/// The kernel takes `-` and `_` for the same.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// All modules below a directory.
fn collect(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?.flatten() {
        let kind = entry.file_type().with_context(|| format!("cannot look at {}", entry.path().display()))?;
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if let Some((name, "" | ".xz" | ".zst" | ".gz")) =
            entry.file_name().to_str().and_then(|name| name.split_once(".ko"))
        {
            files.insert(canonical(name), entry.path());
        }
    }
    Ok(())
}

/// A module's ELF file, unpacked where Debian compresses it.
fn read(file: &Path) -> Result<Vec<u8>> {
    let tool = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return Ok(fs::read(file)?),
    };
    let output = Command::new(tool).args(["-dc", "--"]).arg(file).output();
    let output = output.with_context(|| format!("cannot run {tool}"))?;
    if !output.status.success() {
        bail!("{tool} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

/// What a module says it depends on.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = module.get(at + KEY.len()..).unwrap_or_default();
    let value = value.split(|&byte| byte == 0).next().unwrap_or_default();
    let names = value.split(|&byte| byte == b',').filter(|name| !name.is_empty());
    names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_names_what_it_needs() {
        assert_eq!(
            depends(b"\x7fELF\0license=GPL\0depends=virtio,virtio_ring\0name=x\0"),
            ["virtio", "virtio_ring"]
        );
        assert!(depends(b"\x7fELF\0depends=\0").is_empty());
        assert!(depends(b"").is_empty());
        assert_eq!(depends(b"\0depends=a"), ["a"]);
    }

    #[test]
    fn modules_come_after_what_they_need() {
        let place = std::env::temp_dir().join(format!("litebox-modules-{}", std::process::id()));
        let tree = place.join("tree/kernel");
        fs::create_dir_all(&tree).unwrap();
        for (name, needs) in [("top-most", "low,middle"), ("middle", "low"), ("low", ""), ("other", "")] {
            fs::write(tree.join(format!("{name}.ko")), format!("\0depends={needs}\0")).unwrap();
        }
        let into = place.join("out");
        let copied = copy(&place.join("tree"), &["top-most", "built-in"], &into);
        let order = fs::read_to_string(into.join("order"));
        fs::remove_dir_all(&place).unwrap();
        copied.unwrap();
        assert_eq!(order.unwrap(), "low.ko\nmiddle.ko\ntop_most.ko\n");
    }

    #[test]
    fn a_circle_is_an_error() {
        let place = std::env::temp_dir().join(format!("litebox-modules-circle-{}", std::process::id()));
        fs::create_dir_all(&place).unwrap();
        for (name, needs) in [("a", "b"), ("b", "a")] {
            fs::write(place.join(format!("{name}.ko")), format!("\0depends={needs}\0")).unwrap();
        }
        let copied = copy(&place, &["a"], &place.join("out"));
        fs::remove_dir_all(&place).unwrap();
        assert!(copied.is_err());
    }
}
