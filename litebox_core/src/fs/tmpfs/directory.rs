//! The entries of a directory.

use super::super::{FileType, LowerId};
use super::Node;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// What a name stands for.
#[derive(Clone)]
pub(super) enum Child {
    /// A node in memory.
    Node(Arc<Node>),
    /// A node of the lower that nobody has looked up.
    Lower(LowerId, FileType),
    /// The lower has this name, and it was removed.
    Whiteout,
}

struct Slot {
    child: Child,
    cookie: u64,
}

/// A directory's names. A name keeps its cookie (its position for `readdir`) as long as it exists.
pub(super) struct Directory {
    slots: BTreeMap<Arc<[u8]>, Slot>,
    /// Names by cookie, ascending: new ones come at the end. A name that was removed leaves `None`; not more of these than names.
    order: Vec<(u64, Option<Arc<[u8]>>)>,
    next_cookie: u64,
    /// How many names are visible, of those in `slots`.
    visible: usize,
    pub(super) lower: Option<LowerId>,
    /// All of the lower's names are in `slots`.
    pub(super) listed: bool,
    /// Removed: nothing may be created here any more.
    pub(super) dead: bool,
}

/// Cookies 0 and 1 stand before `.` and `..`.
const FIRST_COOKIE: u64 = 2;

impl Directory {
    pub(super) fn new(lower: Option<LowerId>) -> Directory {
        Directory {
            slots: BTreeMap::new(),
            order: Vec::new(),
            next_cookie: FIRST_COOKIE,
            visible: 0,
            listed: lower.is_none(),
            lower,
            dead: false,
        }
    }

    /// What `name` stands for; `None`: not known here (the lower may have it unless `listed`).
    pub(super) fn get(&self, name: &[u8]) -> Option<&Child> {
        self.slots.get(name).map(|slot| &slot.child)
    }

    /// The visible child `name`.
    pub(super) fn visible(&self, name: &[u8]) -> Option<&Child> {
        self.get(name).filter(|child| !matches!(child, Child::Whiteout))
    }

    /// Whether no name is visible; only to be asked when `listed`.
    pub(super) fn is_empty(&self) -> bool {
        self.visible == 0
    }

    /// Makes `name` stand for `child`.
    pub(super) fn set(&mut self, name: &[u8], child: Child) {
        let shown = !matches!(child, Child::Whiteout);
        if let Some(slot) = self.slots.get_mut(name) {
            let was_shown = !matches!(slot.child, Child::Whiteout);
            slot.child = child;
            match (was_shown, shown) {
                (true, false) => self.visible -= 1,
                (false, true) => self.visible += 1,
                _ => {}
            }
            return;
        }
        let name: Arc<[u8]> = name.into();
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        self.order.push((cookie, Some(name.clone())));
        self.slots.insert(name, Slot { child, cookie });
        self.visible += usize::from(shown);
    }

    /// Removes `name`. A whiteout stays while the lower may be asked for the name again.
    pub(super) fn remove(&mut self, name: &[u8]) {
        if !self.listed {
            return self.set(name, Child::Whiteout);
        }
        if let Some(slot) = self.slots.remove(name) {
            let at = self.order.partition_point(|(cookie, _)| *cookie < slot.cookie);
            if let Some((_, name)) = self.order.get_mut(at) {
                *name = None;
            }
            if self.order.len() > 2 * self.slots.len() {
                self.order.retain(|(_, name)| name.is_some());
            }
            self.visible -= usize::from(!matches!(slot.child, Child::Whiteout));
        }
    }

    /// The visible names from position `from` on, with the position after each.
    pub(super) fn entries(&self, from: u64) -> impl Iterator<Item = (u64, &Arc<[u8]>, &Child)> {
        let first = self.order.partition_point(|(cookie, _)| *cookie < from);
        self.order.iter().skip(first).filter_map(|(cookie, name)| {
            let name = name.as_ref()?;
            let child = &self.slots.get(name)?.child;
            (!matches!(child, Child::Whiteout)).then_some((cookie + 1, name, child))
        })
    }
}
