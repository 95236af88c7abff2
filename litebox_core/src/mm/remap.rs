//! mremap, madvise, mincore, msync, mlock.

use super::area::{Area, AreaFlags, Backing, MAX_AREAS};
use super::map::Mm;
use crate::errno::{Errno, Result};
use crate::platform::{PAGE_SIZE, PageTable, Platform, Prot};
use alloc::vec::Vec;
use core::ops::Range;

bitflags::bitflags! {
    /// Flags of [`Mm::mremap`], as Linux numbers them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RemapFlags: u32 {
        /// May move.
        const MAYMOVE = 1;
        /// To exactly the given address.
        const FIXED = 2;
        /// Leaves the old range mapped, empty.
        const DONTUNMAP = 4;
    }
}

/// What [`Mm::madvise`] is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Nothing that changes anything here (NORMAL, RANDOM, SEQUENTIAL, WILLNEED, COLD, …).
    Hint,
    /// Throw the pages away (DONTNEED, FREE).
    DontNeed,
    /// Large pages or not.
    Huge(bool),
    /// Touch every page for reading or writing.
    Populate(Prot),
}

impl<P: Platform> Mm<P> {
    /// `mremap(2)`; returns the new address.
    pub fn mremap(
        &self,
        at: usize,
        old_len: usize,
        new_len: usize,
        flags: RemapFlags,
        to: usize,
    ) -> Result<usize> {
        let fixed = flags.contains(RemapFlags::FIXED);
        let keep = flags.contains(RemapFlags::DONTUNMAP);
        let may_move = flags.contains(RemapFlags::MAYMOVE);
        if !at.is_multiple_of(PAGE_SIZE) || new_len == 0 || ((fixed || keep) && !may_move) {
            return Err(Errno::EINVAL);
        }
        let new_len = new_len.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::EINVAL)?;
        let old = self.range(at, old_len).map_err(|_| Errno::EINVAL)?;
        if keep && old.len() != new_len {
            return Err(Errno::EINVAL);
        }
        let mut state = self.lock();
        let state = &mut *state;
        let (start, area) = state.areas.find(at).ok_or(Errno::EFAULT)?;
        if area.end < old.end && !old.is_empty() {
            return Err(Errno::EFAULT);
        }
        let duplicate = old.is_empty();
        if duplicate && !area.flags.contains(AreaFlags::SHARED) {
            return Err(Errno::EINVAL);
        }
        let mut area = area.tail(start, at);
        if fixed {
            let target = self.range(to, new_len).map_err(|_| Errno::EINVAL)?;
            if target.start < self.platform.user_range().start
                || (target.start < old.end && old.start < target.end)
            {
                return Err(Errno::EINVAL);
            }
        } else if new_len <= old.len() && !keep && !duplicate {
            if new_len < old.len() {
                self.unmap_locked(state, at + new_len..old.end)?;
            }
            return Ok(at);
        }
        if state.areas.len() + 3 > MAX_AREAS {
            return Err(Errno::ENOMEM);
        }
        let data = area.prot.contains(Prot::WRITE) && !area.flags.contains(AreaFlags::SHARED);
        let growth = if duplicate || keep { new_len } else { new_len.saturating_sub(old.len()) };
        self.check_limits(state, growth, data)?;
        let total = self.platform.pages().total_pages() * PAGE_SIZE;
        if data && growth > total {
            return Err(Errno::ENOMEM);
        }
        // In place, where nothing is behind.
        if !fixed && !keep && !duplicate {
            let end = at.checked_add(new_len).ok_or(Errno::ENOMEM)?;
            let whole_area = state.areas.find(at).is_some_and(|(_, a)| a.end == old.end);
            if whole_area && end <= self.platform.user_range().end && state.areas.is_free(old.end, end) {
                let mut more = area.tail(at, old.end);
                more.end = end;
                state.areas.insert(old.end, more);
                state.size += end - old.end;
                return Ok(at);
            }
        }
        if !may_move {
            return Err(Errno::ENOMEM);
        }
        let target = if fixed {
            self.unmap_locked(state, to..to + new_len)?;
            to
        } else {
            let anonymous = matches!(area.backing, Backing::Anonymous);
            self.place(state, to, new_len, anonymous, false)?
        };
        let moved = old.len().min(new_len);
        if moved > 0 {
            state.table.relocate(at..at + moved, target)?;
        }
        if !keep && !duplicate {
            self.unmap_locked(state, old)?;
        }
        area.end = target + new_len;
        state.areas.insert(target, area);
        state.size += new_len;
        Ok(target)
    }

    /// The range of a call that wants all of it mapped: EINVAL when not aligned; and whether it is.
    fn advised(&self, at: usize, len: usize) -> Result<Range<usize>> {
        if !at.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::EINVAL);
        }
        let len = len.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::EINVAL)?;
        let end = at.checked_add(len).ok_or(Errno::EINVAL)?;
        if end > self.platform.user_range().end { Err(Errno::ENOMEM) } else { Ok(at..end) }
    }

    /// `madvise(2)`. What is mapped is dealt with even if ENOMEM says that not all is.
    pub fn madvise(&self, at: usize, len: usize, advice: Advice) -> Result<()> {
        let range = self.advised(at, len)?;
        if range.is_empty() {
            return Ok(());
        }
        let mut state = self.lock();
        let covered = state.areas.covers(range.start, range.end);
        let pieces: Vec<Range<usize>> = state
            .areas
            .overlapping(range.start, range.end)
            .map(|(start, area)| start.max(range.start)..area.end.min(range.end))
            .collect();
        match advice {
            Advice::Hint => {}
            Advice::DontNeed => {
                for piece in pieces {
                    state.table.unmap(piece)?;
                }
            }
            Advice::Huge(huge) => {
                if state.areas.len() + 2 * pieces.len() > MAX_AREAS {
                    return Err(Errno::ENOMEM);
                }
                for piece in pieces {
                    state
                        .areas
                        .update(piece.start, piece.end, |area| area.flags.set(AreaFlags::NO_HUGE, !huge));
                }
            }
            Advice::Populate(access) => {
                drop(state);
                if !covered {
                    return Err(Errno::ENOMEM);
                }
                for at in range.step_by(PAGE_SIZE) {
                    self.handle_fault(at, access).map_err(|_| Errno::EFAULT)?;
                }
                return Ok(());
            }
        }
        if covered { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// `mincore(2)`: one byte for each page, 1 when it is mapped.
    pub fn mincore(&self, at: usize, len: usize) -> Result<Vec<u8>> {
        let range = self.advised(at, len)?;
        let state = self.lock();
        if !state.areas.covers(range.start, range.end) {
            return Err(Errno::ENOMEM);
        }
        let mut out = Vec::new();
        out.try_reserve_exact(range.len() / PAGE_SIZE).map_err(|_| Errno::ENOMEM)?;
        out.resize(range.len() / PAGE_SIZE, 0);
        state.table.for_each(range.clone(), &mut |address, _, _| {
            if let Some(byte) = out.get_mut((address - range.start) / PAGE_SIZE) {
                *byte = 1;
            }
        });
        Ok(out)
    }

    /// What `msync(2)` and `mlock(2)` check: ENOMEM unless all is mapped. There is nothing to write back, and nothing is ever swapped out.
    pub fn check_mapped(&self, at: usize, len: usize) -> Result<()> {
        let range = self.advised(at, len)?;
        if self.lock().areas.covers(range.start, range.end) { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// `mlock(2)`: the pages are there afterwards.
    pub fn mlock(&self, at: usize, len: usize) -> Result<()> {
        let first = at & !(PAGE_SIZE - 1);
        let len = len.checked_add(at - first).ok_or(Errno::EINVAL)?;
        self.check_mapped(first, len)?;
        let range = self.advised(first, len)?;
        for at in range.step_by(PAGE_SIZE) {
            let prot =
                self.lock().areas.find(at).map_or(Prot::empty(), |(_, area): (usize, &Area)| area.prot);
            if !prot.is_empty() {
                let access = if prot.contains(Prot::WRITE) { Prot::WRITE } else { prot };
                self.handle_fault(at, access).map_err(|_| Errno::ENOMEM)?;
            }
        }
        Ok(())
    }
}
