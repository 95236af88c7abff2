//! The vDSO as a process maps it: the platform's pages, made when a program first looks.

use crate::errno::{Errno, Result};
use crate::mm::{MapFlags, MapName, MapRequest, Mappable, Mm, Page};
use crate::platform::{PAGE_SIZE, Platform, Prot};
use alloc::sync::Arc;

struct Vdso<P: Platform>(&'static P);

impl<P: Platform> Mappable for Vdso<P> {
    fn page(&self, index: u64, write: bool) -> Result<Page> {
        // Shared by all processes: a private mapping copies what it writes.
        if write {
            return Err(Errno::EACCES);
        }
        usize::try_from(index).ok().and_then(|index| self.0.vdso_page(index)).ok_or(Errno::ENXIO)
    }
}

/// Maps the vDSO with its data page in front, and says where its ELF header is. Without room for it, a program does without.
pub fn map<P: Platform>(mm: &Mm<P>) -> Option<usize> {
    let pages = mm.platform().vdso_pages();
    if pages < 2 {
        return None;
    }
    let data = mm.find_place(pages * PAGE_SIZE).ok()?;
    let image = data + PAGE_SIZE;
    let object: Arc<dyn Mappable> = Arc::new(Vdso(mm.platform()));
    for (at, pages, prot, name) in
        [(data, 1, Prot::READ, "[vvar]"), (image, pages - 1, Prot::READ | Prot::EXEC, "[vdso]")]
    {
        mm.mmap(MapRequest {
            at,
            len: pages * PAGE_SIZE,
            prot,
            flags: MapFlags::FIXED_NOREPLACE,
            object: Some((object.clone(), (at - data) as u64)),
            name: Some(MapName::Special(name)),
        })
        .ok()?;
    }
    Some(image)
}
