//! Who acts, and from where.

use super::{FileType, Location, Metadata, Permission};
use crate::errno::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Identity for permission checks: the effective ids (`credentials(7)`). Immutable; a change makes a new one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Credentials {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl Credentials {
    /// Whether all checks but "execute needs an x bit" pass (uid 0 stands for CAP_DAC_OVERRIDE, CAP_FOWNER and CAP_CHOWN).
    pub fn privileged(&self) -> bool {
        self.uid == 0
    }

    /// Whether it is in `gid`.
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    /// EACCES unless `metadata` grants all of `wanted`.
    pub fn check(&self, metadata: &Metadata, wanted: Permission) -> Result<()> {
        if self.privileged() {
            let executable = metadata.mode & 0o111 != 0 || metadata.file_type == FileType::Directory;
            return if wanted.contains(Permission::EXEC) && !executable {
                Err(Errno::EACCES)
            } else {
                Ok(())
            };
        }
        let granted = if metadata.uid == self.uid {
            metadata.mode >> 6
        } else if self.in_group(metadata.gid) {
            metadata.mode >> 3
        } else {
            metadata.mode
        };
        if wanted.bits() & !granted == 0 { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// EPERM unless it owns the file or is privileged.
    pub fn check_owner(&self, metadata: &Metadata) -> Result<()> {
        if self.privileged() || self.uid == metadata.uid { Ok(()) } else { Err(Errno::EPERM) }
    }
}

/// A process's view of the file system (`CLONE_FS`): root, working directory, umask and identity.
#[derive(Clone)]
#[allow(missing_docs)]
pub struct FsContext {
    pub root: Location,
    pub cwd: Location,
    pub umask: u32,
    pub credentials: Arc<Credentials>,
}

impl FsContext {
    /// Root and working directory at `root`, umask 022, uid 0.
    pub fn new(root: Location) -> FsContext {
        FsContext { cwd: root.clone(), root, umask: 0o022, credentials: Arc::default() }
    }
}
