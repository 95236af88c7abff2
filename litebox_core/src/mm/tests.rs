//! `Mm` against a model, on the hosted platform.

use super::*;
use crate::errno::Errno;
use crate::platform::hosted::Hosted;
use crate::platform::{Memory as _, PAGE_SIZE, Prot};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

const RW: Prot = Prot::READ.union(Prot::WRITE);
/// Where the model's pages are.
const BASE: usize = 0x4000_0000;

fn memory() -> Arc<Mm<Hosted>> {
    let mm = Mm::new(Hosted::leak(4096)).unwrap();
    mm.activate();
    mm
}

fn anonymous(at: usize, len: usize, prot: Prot, flags: MapFlags) -> MapRequest {
    MapRequest { at, len, prot, flags, object: None, name: None }
}

fn fixed(mm: &Mm<Hosted>, page: usize, pages: usize, prot: Prot) -> crate::Result<usize> {
    mm.mmap(anonymous(BASE + page * PAGE_SIZE, pages * PAGE_SIZE, prot, MapFlags::FIXED))
}

#[test]
fn fresh_memory_is_zero_and_keeps_what_is_written() {
    let mm = memory();
    let at = mm.mmap(anonymous(0, 3 << 20, RW, MapFlags::empty())).unwrap();
    let mut bytes = [1; 100];
    mm.read(at + 5000, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 100]);
    mm.write(at + PAGE_SIZE - 2, b"across").unwrap();
    mm.read(at + PAGE_SIZE - 2, &mut bytes[..6]).unwrap();
    assert_eq!(&bytes[..6], b"across");
    mm.munmap(at, 3 << 20).unwrap();
    assert_eq!(mm.read(at, &mut bytes), Err(Errno::EFAULT));
}

#[test]
fn arguments_are_refused_as_linux_refuses_them() {
    let mm = memory();
    let map = |at, len, flags| mm.mmap(anonymous(at, len, RW, flags));
    assert_eq!(map(0, 0, MapFlags::empty()), Err(Errno::EINVAL));
    assert_eq!(map(0, usize::MAX, MapFlags::empty()), Err(Errno::ENOMEM));
    assert_eq!(map(0, 1 << 46, MapFlags::empty()), Err(Errno::ENOMEM));
    assert_eq!(map(BASE + 1, 4096, MapFlags::FIXED), Err(Errno::EINVAL));
    assert_eq!(map(usize::MAX & !4095, 4096, MapFlags::FIXED), Err(Errno::ENOMEM));
    fixed(&mm, 0, 2, RW).unwrap();
    assert_eq!(map(BASE, 4096, MapFlags::FIXED_NOREPLACE), Err(Errno::EEXIST));
    assert_eq!(mm.munmap(BASE + 1, 4096), Err(Errno::EINVAL));
    assert_eq!(mm.munmap(BASE, 0), Err(Errno::EINVAL));
    assert_eq!(mm.munmap(usize::MAX & !4095, 8192), Err(Errno::EINVAL));
    assert_eq!(mm.mprotect(BASE, 3 * 4096, RW, false), Err(Errno::ENOMEM));
    assert_eq!(mm.mprotect(BASE + 8, 4096, RW, false), Err(Errno::EINVAL));
    assert_eq!(mm.mremap(BASE, 4096, 0, RemapFlags::empty(), 0), Err(Errno::EINVAL));
    assert_eq!(mm.mremap(BASE - 4096, 4096, 8192, RemapFlags::MAYMOVE, 0), Err(Errno::EFAULT));
    assert_eq!(mm.madvise(BASE + 8192, 4096, Advice::DontNeed), Err(Errno::ENOMEM));
    assert_eq!(mm.mincore(BASE, 3 * 4096), Err(Errno::ENOMEM));
}

#[test]
fn populate_fills_the_new_pages_and_not_the_neighbours() {
    let mm = memory();
    fixed(&mm, 1, 3, RW).unwrap();
    mm.mmap(anonymous(BASE, PAGE_SIZE, RW, MapFlags::FIXED | MapFlags::POPULATE)).unwrap();
    assert_eq!(mm.usage().resident, PAGE_SIZE);
}

#[test]
fn protection_is_obeyed() {
    let mm = memory();
    fixed(&mm, 0, 1, Prot::READ).unwrap();
    let mut byte = [9];
    mm.read(BASE, &mut byte).unwrap();
    assert_eq!(mm.write(BASE, &[1]), Err(Errno::EFAULT));
    mm.mprotect(BASE, PAGE_SIZE, RW, false).unwrap();
    mm.write(BASE, &[1]).unwrap();
    mm.mprotect(BASE, PAGE_SIZE, Prot::empty(), false).unwrap();
    assert_eq!(mm.read(BASE, &mut byte), Err(Errno::EFAULT));
    mm.mprotect(BASE, PAGE_SIZE, Prot::READ, false).unwrap();
    mm.read(BASE, &mut byte).unwrap();
    assert_eq!(byte, [1]);
}

#[test]
fn the_stack_grows_within_its_limit() {
    let mm = memory();
    let top = BASE + (64 << 20);
    mm.mmap(anonymous(top - PAGE_SIZE, PAGE_SIZE, RW, MapFlags::FIXED | MapFlags::GROWS_DOWN)).unwrap();
    mm.write(top - (1 << 20), b"x").unwrap();
    assert_eq!(mm.write(top - (9 << 20), b"x"), Err(Errno::EFAULT));
    assert_eq!(mm.areas().len(), 1);
}

#[test]
fn brk_moves_and_keeps_its_data() {
    let mm = memory();
    mm.set_brk_start(BASE);
    assert_eq!(mm.brk(0), BASE);
    assert_eq!(mm.brk(BASE + 10_000), BASE + 10_000);
    mm.write(BASE + 9_000, b"heap").unwrap();
    assert_eq!(mm.brk(usize::MAX), BASE + 10_000);
    assert_eq!(mm.brk(BASE + 20_000), BASE + 20_000);
    let mut bytes = [0; 4];
    mm.read(BASE + 9_000, &mut bytes).unwrap();
    assert_eq!(&bytes, b"heap");
    mm.brk(BASE);
    assert_eq!(mm.read(BASE + 9_000, &mut bytes), Err(Errno::EFAULT));
}

#[test]
fn memory_runs_out_politely_and_comes_back() {
    let host = Hosted::leak(1024);
    let mm = Mm::new(host).unwrap();
    mm.activate();
    let free = host.pages_free();
    fixed(&mm, 0, 900, RW).unwrap();
    let mut written = 0;
    while written < 900 && mm.write(BASE + written * PAGE_SIZE, b"x").is_ok() {
        written += 1;
    }
    fixed(&mm, 1000, 900, RW).unwrap();
    let more = (0..900).take_while(|i| mm.write(BASE + (1000 + i) * PAGE_SIZE, b"x").is_ok()).count();
    assert!(written + more < 1024 && more < 900);
    mm.munmap(BASE, 2000 * PAGE_SIZE).unwrap();
    assert_eq!(host.pages_free(), free);
}

impl Hosted {
    fn pages_free(&self) -> usize {
        crate::platform::Memory::pages(self).free_pages()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Map(usize, usize, bool),
    Unmap(usize, usize),
    Protect(usize, usize, bool),
    Write(usize, u8),
    DontNeed(usize, usize),
    Remap(usize, usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let page = 0usize..24;
    let count = 1usize..8;
    prop_oneof![
        (page.clone(), count.clone(), any::<bool>()).prop_map(|(p, n, w)| Step::Map(p, n, w)),
        (page.clone(), count.clone()).prop_map(|(p, n)| Step::Unmap(p, n)),
        (page.clone(), count.clone(), any::<bool>()).prop_map(|(p, n, w)| Step::Protect(p, n, w)),
        (page.clone(), any::<u8>()).prop_map(|(p, b)| Step::Write(p, b)),
        (page.clone(), count.clone()).prop_map(|(p, n)| Step::DontNeed(p, n)),
        (page, count.clone(), 32usize..56).prop_map(|(p, n, to)| Step::Remap(p, n, to)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 300 }))]

    /// Pages of a model: whether writable, and the byte that fills them.
    #[test]
    fn behaves_as_the_model(steps in proptest::collection::vec(step(), 1..40)) {
        let mm = memory();
        let mut model: BTreeMap<usize, (bool, u8)> = BTreeMap::new();
        let at = |page: usize| BASE + page * PAGE_SIZE;
        for step in steps {
            match step {
                Step::Map(page, n, writable) => {
                    fixed(&mm, page, n, if writable { RW } else { Prot::READ }).unwrap();
                    model.extend((page..page + n).map(|p| (p, (writable, 0))));
                }
                Step::Unmap(page, n) => {
                    mm.munmap(at(page), n * PAGE_SIZE).unwrap();
                    model.retain(|p, _| !(page..page + n).contains(p));
                }
                Step::Protect(page, n, writable) => {
                    let result = mm.mprotect(at(page), n * PAGE_SIZE, if writable { RW } else { Prot::READ }, false);
                    let whole = (page..page + n).all(|p| model.contains_key(&p));
                    prop_assert_eq!(result.is_ok(), whole);
                    if whole {
                        (page..page + n).for_each(|p| model.get_mut(&p).unwrap().0 = writable);
                    }
                }
                Step::Write(page, byte) => {
                    let result = mm.write(at(page), &[byte; PAGE_SIZE]);
                    let writable = model.get(&page).is_some_and(|(w, _)| *w);
                    prop_assert_eq!(result.is_ok(), writable);
                    if writable {
                        model.get_mut(&page).unwrap().1 = byte;
                    }
                }
                Step::DontNeed(page, n) => {
                    let _ = mm.madvise(at(page), n * PAGE_SIZE, Advice::DontNeed);
                    model.range_mut(page..page + n).for_each(|(_, entry)| entry.1 = 0);
                }
                Step::Remap(page, n, to) => {
                    let flags = RemapFlags::MAYMOVE | RemapFlags::FIXED;
                    let result = mm.mremap(at(page), n * PAGE_SIZE, n * PAGE_SIZE, flags, at(to));
                    // One area, that is, pages of one protection that were mapped side by side.
                    let kinds: Vec<_> = (page..page + n).map(|p| model.get(&p).map(|e| e.0)).collect();
                    let one = kinds[0].is_some() && kinds.iter().all(|k| *k == kinds[0]);
                    prop_assert_eq!(result.is_ok(), one, "{:?}", result);
                    if one {
                        for i in 0..n {
                            let entry = model.remove(&(page + i)).unwrap();
                            model.insert(to + i, entry);
                        }
                    }
                }
            }
        }
        let mut byte = [0];
        for page in 0..64 {
            let found = mm.read(at(page) + 17, &mut byte).is_ok().then_some(byte[0]);
            prop_assert_eq!(found, model.get(&page).map(|e| e.1), "page {}", page);
        }
        prop_assert_eq!(mm.usage().size, model.len() * PAGE_SIZE);
    }
}

/// A forked address space shows what the other had, and neither sees what the other writes later, but in shared areas.
#[test]
fn a_fork_copies_what_is_written_and_nothing_else() {
    let host = Hosted::leak(4096);
    let mm = Mm::new(host).unwrap();
    mm.activate();
    fixed(&mm, 0, 4, RW).unwrap();
    let shared = mm.mmap(anonymous(0, PAGE_SIZE, RW, MapFlags::SHARED)).unwrap();
    mm.write(BASE, b"before").unwrap();
    mm.write(BASE + PAGE_SIZE, b"kept").unwrap();
    mm.write(shared, b"common").unwrap();
    let free = host.pages().free_pages();
    let copy = mm.fork().unwrap();
    let read = |mm: &Mm<Hosted>, at: usize| {
        mm.activate();
        let mut bytes = [0; 6];
        mm.read(at, &mut bytes).unwrap();
        bytes
    };
    copy.activate();
    copy.write(BASE, b"child ").unwrap();
    copy.write(shared, b"shared").unwrap();
    mm.activate();
    mm.write(BASE + 8, b"parent").unwrap();
    assert_eq!((read(&mm, BASE), read(&copy, BASE)), (*b"before", *b"child "));
    assert_eq!((read(&mm, BASE + 8), read(&copy, BASE + 8)), (*b"parent", [0; 6]));
    assert_eq!((read(&mm, BASE + PAGE_SIZE), read(&copy, BASE + PAGE_SIZE)), (*b"kept\0\0", *b"kept\0\0"));
    assert_eq!((read(&mm, shared), read(&copy, shared)), (*b"shared", *b"shared"));
    // One page was written by both sides: one copy of it, and no other.
    assert_eq!(host.pages().free_pages(), free - 1);
    mm.activate();
    drop(copy);
    assert_eq!(host.pages().free_pages(), free);
    // The last one left writes where it is.
    mm.write(BASE + PAGE_SIZE, b"alone").unwrap();
    assert_eq!(host.pages().free_pages(), free);
}
