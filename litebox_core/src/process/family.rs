//! Parents and children: who there is, what is left of those who have ended, waiting for them (`wait(2)`), process groups.
//!
//! A process is kept alive by its threads; what is left of it, by the list of the ended until its parent has taken notice. Orphans go to the first
//! process, whose end is the machine's: nobody else has to wait for them.
//!
//! Locks: the table before a process's identity, and nothing else under it. Processes are told without it.

use super::object::Process;
use super::signal::info::Info;
use super::signal::{IGNORE, sa, sig};
use crate::errno::{Errno, Result};
use crate::mm::Mm;
use crate::platform::{ExitStatus, Platform};
use crate::process::Thread;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use spin::Mutex;

/// The first process.
const INIT: u32 = 1;

struct Table<P: Platform> {
    /// All, by pid.
    all: Vec<(u32, Weak<Process<P>>)>,
    /// Those that have ended, and whose parents have not asked for them.
    ended: Vec<Arc<Process<P>>>,
}

/// All processes of the machine.
pub struct Processes<P: Platform> {
    table: Mutex<Table<P>>,
    pub(super) hostname: Vec<u8>,
}

/// Whose end is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Any child.
    Any,
    /// The child with this pid.
    Pid(u32),
    /// A child of this group.
    Group(u32),
}

/// A child that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Ended {
    pub pid: u32,
    pub uid: u32,
    pub status: ExitStatus,
    pub cpu_time: u64,
}

impl<P: Platform> Processes<P> {
    /// None yet.
    pub fn new(hostname: Vec<u8>) -> Arc<Processes<P>> {
        Arc::new(Processes { table: Mutex::new(Table { all: Vec::new(), ended: Vec::new() }), hostname })
    }

    /// Takes one in.
    pub fn add(&self, process: &Arc<Process<P>>) {
        let pid = process.pid();
        self.table.lock().all.push((pid, Arc::downgrade(process)));
    }

    /// Forgets one.
    pub(super) fn remove(&self, process: &Process<P>) {
        let pid = process.pid();
        let mut table = self.table.lock();
        table.all.retain(|(other, _)| *other != pid);
        let at = table.ended.iter().position(|other| core::ptr::eq(&raw const **other, process));
        let gone = at.map(|at| table.ended.swap_remove(at));
        drop(table);
        drop(gone);
    }

    /// The process with this pid, be it that it has ended and its parent does not know yet.
    pub fn find(&self, pid: u32) -> Option<Arc<Process<P>>> {
        let table = self.table.lock();
        table.all.iter().find(|(other, _)| *other == pid).and_then(|(_, process)| process.upgrade())
    }

    /// All, in order of their birth.
    pub fn all(&self) -> Vec<Arc<Process<P>>> {
        self.table.lock().all.iter().filter_map(|(_, process)| process.upgrade()).collect()
    }
}

impl<P: Platform> Process<P> {
    /// Its children, ended ones included.
    fn children(&self) -> Vec<Arc<Process<P>>> {
        let pid = self.pid();
        let mut all = self.processes.all();
        all.retain(|other| other.identity.lock().ppid == pid);
        all
    }

    fn parent(&self) -> Option<Arc<Process<P>>> {
        let ppid = self.identity.lock().ppid;
        self.processes.find(ppid)
    }

    /// Its memory is its own, or it needs none any more: who lent it goes on (`vfork(2)`).
    pub(super) fn give_memory_back(&self) {
        if !self.memory_returned.swap(true, Ordering::AcqRel)
            && let Some(parent) = self.parent()
        {
            parent.child_changed.wake_all();
        }
    }

    /// Its last thread has left: files are closed, children go to the first process, and the parent is told.
    pub(super) fn end(self: &Arc<Self>) {
        let files = core::mem::take(&mut *self.fds.lock());
        drop(files);
        self.timers.clear();
        // What is left of it needs no memory. Without a page for an empty one it keeps what it has until it is gone.
        if let Ok(empty) = Mm::new(self.platform()) {
            let memory = core::mem::replace(&mut *self.mm.write(), empty);
            drop(memory);
        }
        self.give_memory_back();
        let (parent, uid) = (self.parent(), self.fs.lock().credentials.uid);
        let mut orphans = false;
        for child in self.children() {
            child.identity.lock().ppid = INIT;
            orphans = true;
        }
        if orphans && let Some(init) = self.processes.find(INIT) {
            init.child_changed.wake_all();
        }
        let Some(parent) = parent else { return self.processes.remove(self) };
        let signal = self.exit_signal.load(Ordering::Relaxed);
        let action = parent.signals.lock().action(sig::CHLD);
        let unwanted = action.handler == IGNORE || action.flags & sa::NOCLDWAIT != 0;
        if signal == sig::CHLD && unwanted {
            self.processes.remove(self);
        } else {
            self.processes.table.lock().ended.push(self.clone());
        }
        if signal != 0 {
            let status = self.exit_status().unwrap_or(ExitStatus::Exited(0));
            // A real-time signal beyond the limit is lost, as on Linux.
            let _ = parent.send(Info::child(signal, self.pid(), uid, status));
        }
        parent.child_changed.wake_all();
    }

    /// Looks for an ended child, and takes it out unless it is to be `kept`. ECHILD: there is no such child, ended or not.
    fn take_ended(&self, which: Which, kept: bool) -> Result<Option<Ended>> {
        let mut children = self.children();
        children.retain(|child| match which {
            Which::Any => true,
            Which::Pid(pid) => child.pid() == pid,
            Which::Group(pgid) => child.identity.lock().pgid == pgid,
        });
        if children.is_empty() {
            return Err(Errno::ECHILD);
        }
        let found = {
            let mut table = self.processes.table.lock();
            let is_child = |ended: &Arc<Process<P>>| children.iter().any(|child| Arc::ptr_eq(child, ended));
            // Whoever takes it out has it: another thread may be waiting too.
            let at = table.ended.iter().position(is_child);
            at.map(|at| if kept { table.ended[at].clone() } else { table.ended.remove(at) })
        };
        let Some(child) = found else { return Ok(None) };
        let ended = Ended {
            pid: child.pid(),
            uid: child.fs.lock().credentials.uid,
            status: child.exit_status().unwrap_or(ExitStatus::Exited(0)),
            cpu_time: child.cpu_time() + child.children_cpu_time.load(Ordering::Relaxed),
        };
        if !kept {
            self.children_cpu_time.fetch_add(ended.cpu_time, Ordering::Relaxed);
            self.processes.remove(&child);
        }
        Ok(Some(ended))
    }
}

impl<P: Platform> Thread<P> {
    /// Waits for a child's end; `None` only with `at_once`, when there is none. With `kept` it can be waited for again. ECHILD; ERESTARTSYS.
    pub fn wait_child(&self, which: Which, at_once: bool, kept: bool) -> Result<Option<Ended>> {
        let mut result = self.process.take_ended(which, kept);
        if at_once || !matches!(result, Ok(None)) {
            return result;
        }
        self.wait_for(
            &[&self.process.child_changed],
            &mut || {
                result = self.process.take_ended(which, kept);
                !matches!(result, Ok(None))
            },
            None,
        )?;
        result
    }
}
