//! The guest's memory by virtual address, as an instruction of its own would reach it.

use crate::memory::{HostMap, PhysicalMemory};
use crate::vmcb::Vmcb;
use crate::walk::{self, Page};

/// A guest at one of its CPUs.
pub struct View<'a, M> {
    /// System memory.
    pub memory: &'a M,
    /// Where the guest's memory is.
    pub map: &'a HostMap,
    /// The position of the C-bit.
    pub c_bit: u32,
}

impl<M: PhysicalMemory> View<'_, M> {
    /// Translates a virtual address.
    pub fn translate(&self, vmcb: &Vmcb, address: u64) -> Option<Page> {
        walk::translate(self.memory, |gpa| self.map.spa(gpa), vmcb, self.c_bit, address)
    }

    fn each_piece(
        &self,
        vmcb: &Vmcb,
        address: u64,
        len: usize,
        mut with: impl FnMut(u64, core::ops::Range<usize>),
    ) -> Option<()> {
        let mut done = 0;
        while done < len {
            let at = address.wrapping_add(done as u64);
            let piece = (4096 - (at & 0xfff) as usize).min(len - done);
            let page = self.translate(vmcb, at)?;
            with(self.map.spa(page.gpa)?, done..done + piece);
            done += piece;
        }
        Some(())
    }

    /// Reads; `None` if some of it is not mapped.
    pub fn read(&self, vmcb: &Vmcb, address: u64, into: &mut [u8]) -> Option<()> {
        let memory = self.memory;
        self.each_piece(vmcb, address, into.len(), |spa, range| {
            if let Some(into) = into.get_mut(range) {
                memory.read(spa, into);
            }
        })
    }

    /// Writes; `None` if some of it is not mapped (what came before is written).
    pub fn write(&self, vmcb: &Vmcb, address: u64, from: &[u8]) -> Option<()> {
        let memory = self.memory;
        self.each_piece(vmcb, address, from.len(), |spa, range| {
            if let Some(from) = from.get(range) {
                memory.write(spa, from);
            }
        })
    }

    /// Eight bytes.
    pub fn read_u64(&self, vmcb: &Vmcb, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(vmcb, address, &mut bytes)?;
        Some(u64::from_le_bytes(bytes))
    }

    /// The bytes at the instruction pointer, as many of `N` as are mapped; the rest are zero.
    pub fn instruction<const N: usize>(&self, vmcb: &Vmcb) -> [u8; N] {
        let mut bytes = [0; N];
        let base = if vmcb.long_mode() { 0 } else { vmcb.cs.base };
        for (i, byte) in bytes.iter_mut().enumerate() {
            let address = base.wrapping_add(vmcb.rip).wrapping_add(i as u64);
            if self.read(vmcb, address, core::slice::from_mut(byte)).is_none() {
                break;
            }
        }
        bytes
    }
}
