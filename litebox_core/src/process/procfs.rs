//! What /proc shows of processes.

use super::family::Processes;
use super::object::{Process, System};
use super::signal::{DEFAULT, IGNORE};
use super::thread::Thread;
use crate::event::{Driver, TimerQueue};
use crate::fs::procfs::{ProcInfo, ProcMapping, ProcProcess, ProcSource};
use crate::fs::{DeviceId, FsContext, Location, MountTable, OpenFile};
use crate::linux::RELEASE;
use crate::mm::MapName;
use crate::platform::{Platform, Prot};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU32;

impl<P: Platform> ProcSource for Processes<P> {
    fn pids(&self) -> Vec<u32> {
        self.all().iter().map(|process| process.pid()).collect()
    }

    fn current(&self) -> (u32, u32) {
        // Which platform thread runs whom is known to the threads themselves.
        let processes = self.all();
        for process in &processes {
            if let Some(thread) = process.threads().iter().find(|thread| thread.is_current()) {
                return (process.pid(), thread.tid);
            }
        }
        processes.first().map_or((0, 0), |process| (process.pid(), process.pid()))
    }

    fn process(&self, pid: u32) -> Option<Arc<dyn ProcProcess>> {
        self.find(pid).map(|process| Arc::new(Shown(process)) as Arc<dyn ProcProcess>)
    }

    fn hostname(&self) -> Vec<u8> {
        self.hostname.clone()
    }

    fn release(&self) -> &'static str {
        RELEASE
    }
}

struct Shown<P: Platform>(Arc<Process<P>>);

impl<P: Platform> Shown<P> {
    fn comm(thread: &Thread<P>) -> Vec<u8> {
        thread.comm.lock().iter().copied().take_while(|&b| b != 0).collect()
    }
}

impl<P: Platform> ProcProcess for Shown<P> {
    fn tids(&self) -> Vec<u32> {
        self.0.threads().iter().map(|thread| thread.tid).collect()
    }

    fn info(&self, tid: u32) -> Option<ProcInfo> {
        let process = &self.0;
        let thread = process.thread(tid)?;
        let identity = *process.identity.lock();
        let ids = process.fs.lock().credentials.clone();
        let usage = process.mm.read().usage();
        let heap = process.mm.read().heap();
        let (pending, blocked) = {
            let mine = thread.signals.lock();
            (mine.pending.set(), mine.blocked)
        };
        let signals = process.signals.lock();
        let program = process.program.lock();
        let text = program.as_ref().map_or((0, 0, 0), |p| (p.start_code, p.end_code, p.start_stack));
        Some(ProcInfo {
            comm: Self::comm(&thread),
            state: if thread.is_current() { 'R' } else { 'S' },
            pid: identity.pid,
            ppid: identity.ppid,
            pgid: identity.pgid,
            sid: identity.sid,
            uid: ids.uid,
            gid: ids.gid,
            threads: process.threads().len() as u32,
            virtual_bytes: usage.size as u64,
            resident_bytes: usage.resident as u64,
            user_ns: process.cpu_time(),
            system_ns: 0,
            start_ns: process.start_ns,
            signals_pending: pending | signals.pending.set(),
            signals_blocked: blocked,
            signals_ignored: signals.set_where(|action| action.handler == IGNORE),
            signals_caught: signals.set_where(|action| action.handler != IGNORE && action.handler != DEFAULT),
            start_code: text.0,
            end_code: text.1,
            start_stack: text.2,
            start_brk: heap.start as u64,
        })
    }

    fn mappings(&self) -> Vec<ProcMapping> {
        let mm = self.0.mm.read().clone();
        let root = self.0.fs.lock().root.clone();
        let describe = |name: &MapName| match name {
            MapName::Special(name) => (DeviceId::default(), 0, name.as_bytes().to_vec()),
            MapName::File(file) => {
                let open = file.downcast_ref::<OpenFile>();
                let (dev, ino) = open
                    .and_then(|open| open.metadata().ok())
                    .map_or((DeviceId::default(), 0), |metadata| (metadata.dev, metadata.ino));
                let path = open.and_then(OpenFile::location).map_or_else(Vec::new, |place| place.path(&root));
                (dev, ino, path)
            }
        };
        mm.areas()
            .into_iter()
            .map(|area| (area.name.as_ref().map(describe).unwrap_or_default(), area))
            .map(|((dev, ino, name), area)| ProcMapping {
                read: area.prot.contains(Prot::READ),
                write: area.prot.contains(Prot::WRITE),
                exec: area.prot.contains(Prot::EXEC),
                shared: area.shared,
                offset: area.offset,
                dev,
                ino,
                name,
                resident: mm.resident_in(area.range.clone()) as u64,
                range: area.range,
            })
            .collect()
    }

    fn descriptors(&self) -> Vec<(u32, Arc<OpenFile>, bool)> {
        let fds = self.0.fds.lock();
        fds.iter()
            .map(|(fd, file)| (fd.raw(), file.clone(), fds.close_on_exec(fd).unwrap_or(false)))
            .collect()
    }

    fn exe(&self) -> Option<Location> {
        self.0.program.lock().as_ref().map(|program| program.exe.clone())
    }

    fn fs(&self) -> Arc<FsContext> {
        self.0.fs.lock().clone()
    }

    fn mounts(&self) -> Arc<MountTable> {
        self.0.system.mounts.clone()
    }

    fn cmdline(&self) -> Vec<u8> {
        self.0.program.lock().as_ref().map_or_else(Vec::new, |program| program.cmdline.clone())
    }

    fn environ(&self) -> Vec<u8> {
        self.0.program.lock().as_ref().map_or_else(Vec::new, |program| program.environ.clone())
    }

    fn auxv(&self) -> Vec<u8> {
        self.0.program.lock().as_ref().map_or_else(Vec::new, |program| program.auxv.clone())
    }

    fn limits(&self) -> [(u64, u64); 16] {
        self.0.limits.lock().all()
    }

    fn set_comm(&self, tid: u32, name: &[u8]) {
        if let Some(thread) = self.0.thread(tid) {
            thread.set_comm(name);
        }
    }
}

/// The first id after the first process's.
const FIRST_ID: u32 = 2;

/// What the system is called, for those who hold it.
impl System {
    /// A system with these mounts and this name.
    pub fn new(driver: &'static dyn Driver, mounts: Arc<MountTable>, hostname: Vec<u8>) -> Arc<System> {
        Arc::new(System {
            mounts,
            hostname,
            timers: TimerQueue::new(driver),
            next_id: AtomicU32::new(FIRST_ID),
        })
    }
}
