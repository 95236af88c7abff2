//! `Mm`: a process's memory. mmap, munmap, mprotect, brk.
//!
//! Invariant: a page is mapped only inside an area, and never with more than the area's protection. A page of a private area that somebody
//! else refers to is never mapped writable. The lock is taken before an object is asked for a page, never
//! while one of the object's locks is held, and never over a copy from or to user memory.

use super::area::{Area, AreaFlags, Areas, Backing, MAX_AREAS, MapName, SharedMemory};
use super::{Mappable, Mapper};
use crate::errno::{Errno, Result};
use crate::platform::{LARGE_PAGE_SIZE, PAGE_SIZE, PageTable, Platform, Prot};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::ops::Range;
use spin::{Mutex, MutexGuard};

bitflags::bitflags! {
    /// Flags of [`Mm::mmap`], beside what backs it.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct MapFlags: u32 {
        /// Stores go to the object.
        const SHARED = 1;
        /// At exactly this address, instead of what is there.
        const FIXED = 2;
        /// At exactly this address, or EEXIST.
        const FIXED_NOREPLACE = 4;
        /// Grows downwards.
        const GROWS_DOWN = 8;
        /// Fill it now.
        const POPULATE = 16;
        /// Below 2 GiB.
        const LOW = 32;
        /// May promise more than there is.
        const NO_RESERVE = 64;
        /// The file was opened without write permission.
        const NEVER_WRITE = 128;
        /// No large pages.
        const NO_HUGE = 256;
    }
}

/// What is to be mapped.
pub struct MapRequest {
    /// Where: binding with FIXED, else a hint; 0 for none.
    pub at: usize,
    /// Bytes; rounded up to pages.
    pub len: usize,
    /// What user mode may do.
    pub prot: Prot,
    /// How.
    pub flags: MapFlags,
    /// The object and the offset in it (a multiple of the page size); `None`: zeros.
    pub object: Option<(Arc<dyn Mappable>, u64)>,
    /// Name in /proc/PID/maps.
    pub name: Option<MapName>,
}

/// Resource limits that memory calls obey, in bytes (`getrlimit(2)`).
#[derive(Clone, Copy, Debug)]
pub struct MemoryLimits {
    /// RLIMIT_AS.
    pub address_space: u64,
    /// RLIMIT_DATA.
    pub data: u64,
    /// RLIMIT_STACK.
    pub stack: u64,
}

impl Default for MemoryLimits {
    fn default() -> Self {
        MemoryLimits { address_space: u64::MAX, data: u64::MAX, stack: 8 << 20 }
    }
}

pub(super) struct State<P: Platform> {
    pub(super) table: P::PageTable,
    pub(super) areas: Areas,
    pub(super) brk_start: usize,
    pub(super) brk: usize,
    /// Mappings without an address go below this.
    pub(super) mmap_top: usize,
    pub(super) limits: MemoryLimits,
    /// Bytes in areas.
    pub(super) size: usize,
}

/// Figures of an address space, in bytes.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct MemoryUse {
    pub size: usize,
    pub resident: usize,
    pub data: usize,
    pub stack: usize,
    pub text: usize,
}

/// An area as /proc/PID/maps shows it.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct AreaInfo {
    pub range: Range<usize>,
    pub prot: Prot,
    pub shared: bool,
    pub offset: u64,
    pub name: Option<MapName>,
}

/// A process's memory.
pub struct Mm<P: Platform> {
    pub(super) platform: &'static P,
    me: Weak<Mm<P>>,
    pub(super) state: Mutex<State<P>>,
}

/// Addresses that no mapping is placed at without being asked (`vm.mmap_min_addr`).
const MIN_ADDRESS: usize = 0x1_0000;
/// End of what `MAP_32BIT` means.
const LOW_END: usize = 0x8000_0000;

fn round_up(len: usize) -> Option<usize> {
    len.checked_next_multiple_of(PAGE_SIZE)
}

impl<P: Platform> Mm<P> {
    /// Empty memory, with mappings placed at random.
    pub fn new(platform: &'static P) -> Result<Arc<Mm<P>>> {
        let mut random = [0; 8];
        platform.fill_random(&mut random);
        let user = platform.user_range();
        // 28 bits of randomness, as Linux has by default, below room for the stack.
        let shift = (u64::from_ne_bytes(random) as usize & 0xfff_ffff) * PAGE_SIZE;
        let room = (user.end - user.start) / 8;
        let mmap_top = user.end.saturating_sub(room / 16 + shift % (room / 2).max(1)) & !(PAGE_SIZE - 1);
        let state = State {
            table: platform.new_page_table()?,
            areas: Areas::default(),
            brk_start: 0,
            brk: 0,
            mmap_top,
            limits: MemoryLimits::default(),
            size: 0,
        };
        Ok(Arc::new_cyclic(|me| Mm { platform, me: me.clone(), state: Mutex::new(state) }))
    }

    /// The platform below.
    pub fn platform(&self) -> &'static P {
        self.platform
    }

    /// Makes this the memory of the current thread.
    pub fn activate(&self) {
        self.platform.activate(Some(&self.state.lock().table));
    }

    /// Sets the limits that later calls obey.
    pub fn set_limits(&self, limits: MemoryLimits) {
        self.state.lock().limits = limits;
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State<P>> {
        self.state.lock()
    }

    /// The page-aligned range of `len` bytes at `at`, inside user space. EINVAL, ENOMEM.
    pub(super) fn range(&self, at: usize, len: usize) -> Result<Range<usize>> {
        if !at.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::EINVAL);
        }
        let len = round_up(len).ok_or(Errno::ENOMEM)?;
        let end = at.checked_add(len).ok_or(Errno::ENOMEM)?;
        let user = self.platform.user_range();
        if end > user.end { Err(Errno::ENOMEM) } else { Ok(at..end) }
    }

    /// `mmap(2)`; returns the address.
    pub fn mmap(&self, request: MapRequest) -> Result<usize> {
        let populate = request.flags.contains(MapFlags::POPULATE);
        let (prot, len) = (request.prot, request.len);
        if let Some((object, _)) = &request.object {
            let me: Weak<dyn Mapper> = self.me.clone();
            object.attach(&me);
        }
        let at = {
            let mut state = self.lock();
            self.map_locked(&mut state, request)?
        };
        if populate {
            // The new pages only: the area may have been joined with its neighbours.
            self.populate(at..at + round_up(len).unwrap_or(0), prot);
        }
        Ok(at)
    }

    fn map_locked(&self, state: &mut State<P>, request: MapRequest) -> Result<usize> {
        let MapRequest { at: hint, len, prot, flags, object, name } = request;
        if len == 0 {
            return Err(Errno::EINVAL);
        }
        let len = round_up(len).ok_or(Errno::ENOMEM)?;
        let user = self.platform.user_range();
        if len > user.end - user.start {
            return Err(Errno::ENOMEM);
        }
        let fixed = flags.intersects(MapFlags::FIXED | MapFlags::FIXED_NOREPLACE);
        if let Some((_, offset)) = &object {
            if *offset % PAGE_SIZE as u64 != 0 {
                return Err(Errno::EINVAL);
            }
            // The last page's index must be a file offset.
            if offset.checked_add(len as u64).is_none_or(|end| end > i64::MAX as u64) {
                return Err(Errno::EOVERFLOW);
            }
        }
        if state.areas.len() >= MAX_AREAS {
            return Err(Errno::ENOMEM);
        }
        // Linux's heuristic overcommit: refuse only what cannot be meant.
        let total = self.platform.pages().total_pages() as u64 * PAGE_SIZE as u64;
        let private_writable = prot.contains(Prot::WRITE) && !flags.contains(MapFlags::SHARED);
        if object.is_none() && private_writable && !flags.contains(MapFlags::NO_RESERVE) && len as u64 > total
        {
            return Err(Errno::ENOMEM);
        }
        let at = if fixed {
            if hint % PAGE_SIZE != 0 {
                return Err(Errno::EINVAL);
            }
            let range = self.range(hint, len)?;
            if range.start < user.start {
                return Err(Errno::EPERM);
            }
            if flags.contains(MapFlags::FIXED_NOREPLACE) && !state.areas.is_free(range.start, range.end) {
                return Err(Errno::EEXIST);
            }
            hint
        } else {
            self.place(state, hint, len, object.is_none(), flags.contains(MapFlags::LOW))?
        };
        let replaced: usize = state
            .areas
            .overlapping(at, at + len)
            .map(|(start, area)| area.end.min(at + len) - start.max(at))
            .sum();
        self.check_limits(state, len - replaced, private_writable)?;
        if replaced > 0 {
            self.unmap_locked(state, at..at + len)?;
        }
        let mut area_flags = AreaFlags::empty();
        area_flags.set(AreaFlags::SHARED, flags.contains(MapFlags::SHARED));
        area_flags.set(AreaFlags::GROWS_DOWN, flags.contains(MapFlags::GROWS_DOWN));
        area_flags.set(AreaFlags::NEVER_WRITE, flags.contains(MapFlags::NEVER_WRITE));
        area_flags.set(AreaFlags::NO_HUGE, flags.contains(MapFlags::NO_HUGE));
        let backing = match object {
            Some((object, offset)) => Backing::Object { object, offset },
            None if flags.contains(MapFlags::SHARED) => Backing::Object {
                object: Arc::new(SharedMemory::new(self.platform.pages(), len as u64)),
                offset: 0,
            },
            None => Backing::Anonymous,
        };
        state.areas.insert(at, Area { end: at + len, prot, flags: area_flags, backing, name });
        state.size += len;
        Ok(at)
    }

    /// A free place for `len` bytes.
    pub(super) fn place(
        &self,
        state: &State<P>,
        hint: usize,
        len: usize,
        anonymous: bool,
        low: bool,
    ) -> Result<usize> {
        let user = self.platform.user_range();
        let bottom = user.start.max(MIN_ADDRESS);
        let hint = hint & !(PAGE_SIZE - 1);
        if hint >= bottom && hint.checked_add(len).is_some_and(|end| end <= user.end) && !low {
            // Not into the gap that a stack may grow through.
            if state.areas.is_free(hint, hint + len) {
                return Ok(hint);
            }
        }
        let top = if low { LOW_END.min(user.end) } else { state.mmap_top };
        if anonymous
            && len >= LARGE_PAGE_SIZE
            && let Some(at) = state.areas.find_gap(bottom, top, len, LARGE_PAGE_SIZE)
        {
            return Ok(at);
        }
        state
            .areas
            .find_gap(bottom, top, len, PAGE_SIZE)
            .or_else(|| if low { None } else { state.areas.find_gap(bottom, user.end, len, PAGE_SIZE) })
            .ok_or(Errno::ENOMEM)
    }

    pub(super) fn check_limits(&self, state: &State<P>, more: usize, data: bool) -> Result<()> {
        let over = |limit: u64, now: usize| (now as u64).saturating_add(more as u64) > limit;
        if over(state.limits.address_space, state.size) {
            return Err(Errno::ENOMEM);
        }
        if data && state.limits.data != u64::MAX && over(state.limits.data, data_size(state)) {
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }

    /// Removes areas and pages in a range.
    pub(super) fn unmap_locked(&self, state: &mut State<P>, range: Range<usize>) -> Result<()> {
        state.table.unmap(range.clone())?;
        for (start, area) in state.areas.remove(range.start, range.end) {
            state.size -= area.end - start;
        }
        Ok(())
    }

    /// `munmap(2)`.
    pub fn munmap(&self, at: usize, len: usize) -> Result<()> {
        if len == 0 || !at.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::EINVAL);
        }
        let range = self.range(at, len).map_err(|_| Errno::EINVAL)?;
        let mut state = self.lock();
        // Cutting a hole makes an area more.
        let splits = state
            .areas
            .find(range.start)
            .is_some_and(|(start, area)| start < range.start && area.end > range.end);
        if splits && state.areas.len() >= MAX_AREAS {
            return Err(Errno::ENOMEM);
        }
        self.unmap_locked(&mut state, range)
    }

    /// `mprotect(2)`.
    pub fn mprotect(&self, at: usize, len: usize, prot: Prot, grows_down: bool) -> Result<()> {
        if !at.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::EINVAL);
        }
        if len == 0 {
            return Ok(());
        }
        let mut range = self.range(at, len)?;
        let mut state = self.lock();
        if grows_down {
            let (start, area) = state.areas.find(range.start).ok_or(Errno::ENOMEM)?;
            if !area.flags.contains(AreaFlags::GROWS_DOWN) {
                return Err(Errno::EINVAL);
            }
            range.start = start;
        }
        if !state.areas.covers(range.start, range.end) {
            return Err(Errno::ENOMEM);
        }
        if state.areas.len() + 2 > MAX_AREAS {
            return Err(Errno::ENOMEM);
        }
        let pieces: Vec<(Range<usize>, AreaFlags)> = state
            .areas
            .overlapping(range.start, range.end)
            .map(|(start, area)| (start.max(range.start)..area.end.min(range.end), area.flags))
            .collect();
        if prot.contains(Prot::WRITE)
            && pieces.iter().any(|(_, flags)| flags.contains(AreaFlags::NEVER_WRITE))
        {
            return Err(Errno::EACCES);
        }
        for (piece, flags) in pieces {
            // Stores to a shared object go through a fault first, so that it learns of them.
            let shared = flags.contains(AreaFlags::SHARED);
            let granted = if shared { prot - Prot::WRITE } else { prot };
            state.table.protect(piece, granted, !shared)?;
        }
        state.areas.update(range.start, range.end, |area| area.prot = prot);
        Ok(())
    }

    /// Says where the heap starts (the end of the program's data).
    pub fn set_brk_start(&self, at: usize) {
        let mut state = self.lock();
        state.brk_start = at;
        state.brk = at;
    }

    /// `brk(2)`: moves the end of the heap, or leaves it where it is; returns where it is then.
    pub fn brk(&self, to: usize) -> usize {
        let mut state = self.lock();
        let (start, old) = (state.brk_start, state.brk);
        if to < start || self.set_brk(&mut state, to).is_err() { old } else { to }
    }

    fn set_brk(&self, state: &mut State<P>, to: usize) -> Result<()> {
        let old_end = round_up(state.brk).ok_or(Errno::ENOMEM)?;
        let new_end = round_up(to).ok_or(Errno::ENOMEM)?;
        let heap = (to - state.brk_start) as u64;
        if heap > state.limits.data || new_end > self.platform.user_range().end {
            return Err(Errno::ENOMEM);
        }
        if new_end < old_end {
            self.unmap_locked(state, new_end..old_end)?;
        } else if new_end > old_end {
            let len = new_end - old_end;
            let total = self.platform.pages().total_pages() * PAGE_SIZE;
            // A page stays free between the heap and what is above it.
            if len > total || !state.areas.is_free(old_end, new_end.saturating_add(PAGE_SIZE)) {
                return Err(Errno::ENOMEM);
            }
            self.check_limits(state, len, true)?;
            let area = Area {
                end: new_end,
                prot: Prot::READ | Prot::WRITE,
                flags: AreaFlags::empty(),
                backing: Backing::Anonymous,
                name: Some(MapName::Special("[heap]")),
            };
            state.areas.insert(old_end, area);
            state.size += len;
        }
        state.brk = to;
        Ok(())
    }

    /// A free place for `len` bytes, as `mmap` would choose it.
    pub fn find_place(&self, len: usize) -> Result<usize> {
        let len = round_up(len).ok_or(Errno::ENOMEM)?;
        self.place(&self.lock(), 0, len, false, false)
    }

    /// Calls `each` with every area, in order. Not called with the lock held.
    pub fn areas(&self) -> Vec<AreaInfo> {
        let state = self.lock();
        state
            .areas
            .iter()
            .map(|(start, area)| AreaInfo {
                range: start..area.end,
                prot: area.prot,
                shared: area.flags.contains(AreaFlags::SHARED),
                offset: area.offset(start, start),
                name: area.name.clone(),
            })
            .collect()
    }

    /// Bytes of an area that are mapped, for smaps.
    pub fn resident_in(&self, range: Range<usize>) -> usize {
        let mut count = 0;
        self.lock().table.for_each(range, &mut |_, _, _| count += PAGE_SIZE);
        count
    }

    /// Figures for /proc/PID/stat and statm.
    pub fn usage(&self) -> MemoryUse {
        let state = self.lock();
        let mut usage = MemoryUse {
            size: state.size,
            resident: state.table.resident(),
            data: data_size(&state),
            ..MemoryUse::default()
        };
        for (start, area) in state.areas.iter() {
            if area.flags.contains(AreaFlags::GROWS_DOWN) {
                usage.stack += area.end - start;
            }
            if area.prot.contains(Prot::EXEC) {
                usage.text += area.end - start;
            }
        }
        usage
    }

    /// Start and end of the heap.
    pub fn heap(&self) -> Range<usize> {
        let state = self.lock();
        state.brk_start..state.brk
    }
}

impl<P: Platform> Mapper for Mm<P> {
    fn unmap_pages(&self, object: &dyn Mappable, pages: Range<u64>) {
        let mut state = self.lock();
        let shown: Vec<Range<usize>> = state
            .areas
            .iter()
            .filter_map(|(start, area)| match &area.backing {
                Backing::Object { object: other, offset } if core::ptr::addr_eq(object, &**other) => {
                    // The area's first page, and where in it the pages begin and end.
                    let (first, len) = (offset / PAGE_SIZE as u64, area.end - start);
                    let at = |page: u64| {
                        let distance = page.saturating_sub(first).saturating_mul(PAGE_SIZE as u64);
                        start + usize::try_from(distance).unwrap_or(usize::MAX).min(len)
                    };
                    Some(at(pages.start)..at(pages.end)).filter(|range| !range.is_empty())
                }
                _ => None,
            })
            .collect();
        for range in shown {
            // Where no memory is left to split a large page, the pages stay: objects have small ones only.
            let _ = state.table.unmap(range);
        }
    }
}

/// Bytes in private writable areas that are no stack.
fn data_size<P: Platform>(state: &State<P>) -> usize {
    state
        .areas
        .iter()
        .filter(|(_, area)| {
            area.prot.contains(Prot::WRITE)
                && !area.flags.intersects(AreaFlags::SHARED | AreaFlags::GROWS_DOWN)
        })
        .map(|(start, area)| area.end - start)
        .sum()
}
