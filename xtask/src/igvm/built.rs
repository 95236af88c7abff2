//! The files that `build-igvm` writes, and `run-snp` finds again: one for the host to launch, one for the guest to check, one for verifiers.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::read_file;
use crate::workload::arguments::Program;

/// Where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The launch image.
    pub igvm: PathBuf,
    /// The workload image.
    pub image: PathBuf,
    /// Reference values.
    pub reference: PathBuf,
}

impl Files {
    /// Beside a launch image, whose ending may be left out.
    pub fn at(output: &Path) -> Self {
        let mut igvm = output.to_owned();
        if igvm.extension() != Some(OsStr::new("igvm")) {
            igvm.as_mut_os_string().push(".igvm");
        }
        Self { image: igvm.with_extension("img"), reference: igvm.with_extension("json"), igvm }
    }

    /// Writes all three; each appears when it is whole.
    ///
    /// # Errors
    /// One cannot be written.
    pub fn write(&self, igvm: &[u8], image: &Path, reference: &str) -> Result<()> {
        place(&self.image, |to| fs::copy(image, to).map(drop))?;
        place(&self.reference, |to| fs::write(to, reference))?;
        place(&self.igvm, |to| fs::write(to, igvm))
    }
}

fn place(path: &Path, write: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<()> {
    let mut aside = path.to_owned();
    aside.as_mut_os_string().push(format!(".{}.tmp", std::process::id()));
    let written = write(&aside).and_then(|()| fs::rename(&aside, path));
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// A launch image with its workload image.
#[derive(Debug)]
pub struct Built {
    /// The bytes of the launch image.
    pub igvm: Vec<u8>,
    /// The workload image.
    pub image: PathBuf,
}

impl Built {
    /// Opens what the command line names, if it is a launch image and not a program.
    ///
    /// # Errors
    /// It is one, and something is missing or contradicts what was measured.
    pub fn open(program: &Program) -> Result<Option<Self>> {
        let path = Path::new(program.app());
        let mut magic = [0; 4];
        let is_igvm =
            File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"IGVM";
        if !is_igvm || program.rootfs.is_some() {
            return Ok(None);
        }
        ensure!(
            program.args().is_empty() && program.env.is_empty() && program.workdir == "/",
            "{}: arguments, variables and directory are in the launch image and measured; build another with build-igvm",
            path.display()
        );
        let image = Files::at(path).image;
        ensure!(image.is_file(), "{}: the workload image is not beside {}", image.display(), path.display());
        Ok(Some(Self { igvm: read_file(path)?, image }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(words: &[&str], env: &[&str]) -> Program {
        Program {
            rootfs: None,
            env: env.iter().map(Into::into).collect(),
            workdir: "/".into(),
            command: words.iter().map(Into::into).collect(),
        }
    }

    #[test]
    fn the_three_have_one_name() {
        let files = Files::at(Path::new("/x/a.b"));
        assert_eq!(files, Files::at(Path::new("/x/a.b.igvm")));
        assert_eq!(files.igvm, Path::new("/x/a.b.igvm"));
        assert_eq!((files.image, files.reference), ("/x/a.b.img".into(), "/x/a.b.json".into()));
    }

    #[test]
    fn a_launch_image_is_told_from_a_program_and_takes_no_words() {
        let directory = std::env::temp_dir().join(format!("litebox-built-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let files = Files::at(&directory.join("x"));
        let path = files.igvm.display().to_string();
        fs::write(&files.igvm, b"IGVM and so on").unwrap();
        let open = |words: &[&str], env: &[&str]| Built::open(&program(words, env));
        assert!(open(&[&path], &[]).unwrap_err().to_string().contains("x.img"));
        fs::write(directory.join("source"), b"image").unwrap();
        files.write(b"IGVM and so on", &directory.join("source"), "{}").unwrap();
        assert_eq!(open(&[&path], &[]).unwrap().unwrap().image, files.image);
        assert!(open(&[&path, "word"], &[]).is_err() && open(&[&path], &["A=b"]).is_err());
        assert!(open(&["/bin/sh", "word"], &[]).unwrap().is_none());
        fs::remove_dir_all(&directory).unwrap();
    }
}
