//! A copy of an address space that shares its pages until one side writes (`fork(2)`).

use super::Mapper;
use super::area::{AreaFlags, Backing};
use super::map::{Mm, State};
use crate::errno::Result;
use crate::platform::{OutOfMemory, PageTable as _, Platform, Prot};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

impl<P: Platform> Mm<P> {
    /// The copy. Pages of private areas are mapped in both without write permission; those of shared objects are found again by faults. ENOMEM, with nothing changed that a
    /// fault does not mend.
    ///
    /// Locks: this memory's, then the copy's, which nobody else knows yet.
    pub fn fork(&self) -> Result<Arc<Mm<P>>> {
        let copy = Mm::new(self.platform)?;
        let mapper: Weak<dyn Mapper> = Arc::downgrade(&copy) as Weak<dyn Mapper>;
        // Before the pages are copied, so that a file that is cut meanwhile takes them away again; and after, for what was mapped meanwhile.
        self.attach_objects(&mapper);
        {
            let mut from = self.lock();
            let mut to = copy.lock();
            (to.brk_start, to.brk, to.mmap_top) = (from.brk_start, from.brk, from.mmap_top);
            (to.limits, to.size) = (from.limits, from.size);
            let State { table, areas, .. } = &mut *from;
            for (start, area) in areas.iter() {
                to.areas.insert(start, area.clone());
                if area.flags.contains(AreaFlags::SHARED) {
                    continue;
                }
                let mut result: Result<(), OutOfMemory> = Ok(());
                table.for_each(start..area.end, &mut |at, page, prot| {
                    if result.is_ok() {
                        result = to.table.map(at, page.clone(), prot - Prot::WRITE);
                    }
                });
                result?;
                if area.prot.contains(Prot::WRITE) {
                    table.protect(start..area.end, area.prot, true)?;
                }
            }
        }
        self.attach_objects(&mapper);
        Ok(copy)
    }

    fn attach_objects(&self, mapper: &Weak<dyn Mapper>) {
        let objects: Vec<_> = {
            let state = self.lock();
            let object = |backing: &Backing| match backing {
                Backing::Object { object, .. } => Some(object.clone()),
                Backing::Anonymous => None,
            };
            state.areas.iter().filter_map(|(_, area)| object(&area.backing)).collect()
        };
        objects.iter().for_each(|object| object.attach(mapper));
    }
}
