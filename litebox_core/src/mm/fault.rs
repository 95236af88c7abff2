//! Page faults: demand paging, large pages, copy on write, stacks that grow.

use super::Mappable;
use super::area::{Area, AreaFlags, Backing};
use super::map::{Mm, State};
use crate::errno::Errno;
use crate::platform::{Access, LARGE_PAGE_SIZE, OutOfMemory, PAGE_SIZE, PageTable, Platform, Prot};
use core::ops::Range;

/// A fault that cannot be resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultError {
    /// Nothing is mapped there: SIGSEGV, SEGV_MAPERR.
    NoMapping,
    /// The area does not permit it: SIGSEGV, SEGV_ACCERR.
    AccessDenied,
    /// Beyond the end of the file, or it cannot be read: SIGBUS, BUS_ADRERR.
    BusError,
    /// No memory is left: the process has to go.
    OutOfMemory,
}

impl From<OutOfMemory> for FaultError {
    fn from(_: OutOfMemory) -> FaultError {
        FaultError::OutOfMemory
    }
}

fn object_error(error: Errno) -> FaultError {
    if error == Errno::ENOMEM { FaultError::OutOfMemory } else { FaultError::BusError }
}

/// How far below an area that grows down a touch still makes it grow: any distance, within the stack limit.
const GUARD_GAP: usize = 256 * PAGE_SIZE;
/// Large pages are given while more than this many times their size is free.
const LARGE_HEADROOM: usize = 8;
/// Pages of an object that are mapped around the one that faulted, when they are at hand.
const FAULT_AROUND: usize = 16;

impl<P: Platform> Mm<P> {
    /// Makes `address` accessible, if the areas allow it.
    pub fn handle_fault(&self, address: usize, access: Access) -> Result<(), FaultError> {
        let mut state = self.lock();
        self.fault_locked(&mut state, address, access)
    }

    pub(super) fn fault_locked(
        &self,
        state: &mut State<P>,
        address: usize,
        access: Access,
    ) -> Result<(), FaultError> {
        let at = address & !(PAGE_SIZE - 1);
        let (start, area) = match state.areas.find(at) {
            Some(found) => found,
            None => {
                self.grow_stack(state, at)?;
                state.areas.find(at).ok_or(FaultError::NoMapping)?
            }
        };
        // On x86 what can be written or executed can be read.
        let allowed = if area.prot.is_empty() { Prot::empty() } else { area.prot | Prot::READ };
        if !allowed.contains(access) {
            return Err(FaultError::AccessDenied);
        }
        if let Some(mapping) = state.table.query(at) {
            if mapping.prot.contains(access) {
                // Resolved meanwhile, or a stale translation that the fault itself has removed.
                return Ok(());
            }
            let (prot, shared) = (area.prot, area.flags.contains(AreaFlags::SHARED));
            if shared {
                if let Backing::Object { object, .. } = &area.backing {
                    let index = area.offset(start, at) / PAGE_SIZE as u64;
                    let page =
                        object.clone().page(index, access.contains(Prot::WRITE)).map_err(object_error)?;
                    state.table.replace(at, page, prot)?;
                }
                return Ok(());
            }
            if !access.contains(Prot::WRITE) {
                state.table.protect(at..at + PAGE_SIZE, prot - Prot::WRITE, false)?;
                return Ok(());
            }
            // Copy on write: the entry and `mapping` hold one reference each; any other is somebody else's.
            if mapping.page.references() <= 2 {
                state.table.protect(at..at + PAGE_SIZE, prot, false)?;
            } else {
                let copy = self.platform.pages().alloc(false)?;
                copy.copy_from(&mapping.page);
                state.table.replace(at, copy, prot)?;
            }
            return Ok(());
        }
        match &area.backing {
            Backing::Anonymous => {
                let (prot, range, huge) =
                    (area.prot, start..area.end, !area.flags.contains(AreaFlags::NO_HUGE));
                self.fault_anonymous(&mut state.table, at, prot, range, huge)
            }
            Backing::Object { object, .. } => {
                self.fault_object(&mut state.table, at, access, start, area, &**object)
            }
        }
    }

    fn fault_anonymous(
        &self,
        table: &mut P::PageTable,
        at: usize,
        prot: Prot,
        range: Range<usize>,
        huge: bool,
    ) -> Result<(), FaultError> {
        let pool = self.platform.pages();
        let large = at & !(LARGE_PAGE_SIZE - 1);
        let roomy = || pool.free_pages() > LARGE_HEADROOM * (LARGE_PAGE_SIZE / PAGE_SIZE);
        if huge
            && large >= range.start
            && range.end.saturating_sub(large) >= LARGE_PAGE_SIZE
            && roomy()
            && table.large_slot_is_empty(at)
            && let Some(page) = pool.alloc_large(true)
        {
            table.map_large(large, page, prot)?;
            return Ok(());
        }
        table.map(at, pool.alloc(true)?, prot)?;
        Ok(())
    }

    fn fault_object(
        &self,
        table: &mut P::PageTable,
        at: usize,
        access: Access,
        start: usize,
        area: &Area,
        object: &dyn Mappable,
    ) -> Result<(), FaultError> {
        let index = area.offset(start, at) / PAGE_SIZE as u64;
        let write = access.contains(Prot::WRITE);
        let shared = area.flags.contains(AreaFlags::SHARED);
        let page = object.page(index, write && shared).map_err(object_error)?;
        if write && !shared {
            let copy = self.platform.pages().alloc(false)?;
            copy.copy_from(&page);
            table.map(at, copy, area.prot)?;
            return Ok(());
        }
        // A store to a clean page faults once more: a private one is copied then, a shared object learns of it.
        let prot = if write { area.prot } else { area.prot - Prot::WRITE };
        table.map(at, page, prot)?;
        if !write {
            Self::map_around(table, at, start, area, object);
        }
        Ok(())
    }

    /// Maps neighbours that the object has at hand. Best effort.
    fn map_around(table: &mut P::PageTable, at: usize, start: usize, area: &Area, object: &dyn Mappable) {
        let window = at & !(FAULT_AROUND * PAGE_SIZE - 1);
        let from = window.max(start);
        let to = window.saturating_add(FAULT_AROUND * PAGE_SIZE).min(area.end);
        let first = area.offset(start, from) / PAGE_SIZE as u64;
        let count = ((to - from) / PAGE_SIZE) as u64;
        let prot = area.prot - Prot::WRITE;
        object.cached(first, count, &mut |index, page| {
            // What the object says is checked: a page elsewhere would be outside of the area.
            let Some(delta) = index.checked_sub(first).filter(|&delta| delta < count) else { return };
            let address = from + delta as usize * PAGE_SIZE;
            if address != at && table.query(address).is_none() {
                // Without memory for a table it is mapped when it is touched.
                let _ = table.map(address, page, prot);
            }
        });
    }

    /// Extends the stack above `at` down to it.
    fn grow_stack(&self, state: &mut State<P>, at: usize) -> Result<(), FaultError> {
        let (start, area) = state.areas.at_or_after(at).ok_or(FaultError::NoMapping)?;
        if !area.flags.contains(AreaFlags::GROWS_DOWN) || at < self.platform.user_range().start {
            return Err(FaultError::NoMapping);
        }
        let (more, whole) = (start - at, area.end - at);
        if whole as u64 > state.limits.stack || self.check_limits(state, more, false).is_err() {
            return Err(FaultError::NoMapping);
        }
        // A gap stays between the stack and what is below, so that neither runs into the other.
        if !state.areas.is_free(at.saturating_sub(GUARD_GAP), start) {
            return Err(FaultError::NoMapping);
        }
        state.areas.extend_down(start, at);
        state.size += more;
        Ok(())
    }

    /// Touches every page of a range, as far as that goes (`MAP_POPULATE`, `MADV_POPULATE_*`, `mlock`).
    pub fn populate(&self, range: Range<usize>, prot: Prot) {
        let access = if prot.contains(Prot::WRITE) { Prot::WRITE } else { Prot::READ };
        for at in range.step_by(PAGE_SIZE) {
            if self.handle_fault(at, access).is_err() {
                return;
            }
        }
    }
}
