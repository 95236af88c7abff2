//! Carries out a load plan: the VMM's part and the PSP's part of launching an IGVM file.
//!
//! The plan (`litebox_igvm::load`) says what a host does, in its order; here it is done to the machine's memory, and the launch digest is
//! computed from what is really put there, page by page, as the PSP does ([`Launch`]).

use crate::ending::Ending;
use crate::hardware::Hardware;
use crate::load::launch::{Launch, Platform};
use crate::memory::{Attribute, PhysicalMemory, Ram};
use crate::vm::{Machine, State};
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use litebox_igvm::PAGE_SIZE;
use litebox_igvm::digest::PageType;
use litebox_igvm::format::{IgvmFile, Parameter, ParameterKind};
use litebox_igvm::load::{LoadOp, LoadPlan};
use litebox_igvm::parameter::ParameterAreas;
use litebox_igvm::profile::HostProfile;

/// What the launch needs besides the file.
pub struct Environment<'a> {
    /// Whose rules.
    pub profile: HostProfile,
    /// The guest's memory map: start, size, in bytes; all usable.
    pub memory: &'a [(u64, u64)],
    /// What it is launched on.
    pub platform: Platform,
    /// Zeroed memory of the emulator's for guest addresses without RAM; returns its system-physical address.
    pub more_memory: &'a mut dyn FnMut(u64) -> Option<u64>,
}

fn failed(why: impl ToString) -> Ending {
    Ending::Launch(why.to_string())
}

/// Loads a file into the machine, whose RAM is in place and none of it assigned. The digest and the PSP are in the machine afterwards.
///
/// # Errors
/// The host would refuse the file, or it does not fit.
pub fn load<H: Hardware, M: PhysicalMemory>(
    machine: &mut Machine<H, M>,
    file: &[u8],
    environment: &mut Environment<'_>,
) -> Result<(), Ending> {
    let file = IgvmFile::parse(file).map_err(failed)?;
    let plan = LoadPlan::new(&file, environment.profile).map_err(failed)?;
    let launch = Launch::start(&environment.platform, plan.policy)?;
    let mut loader = Loader { machine, launch, areas: ParameterAreas::new(), environment };
    for op in &plan.ops {
        loader.step(op)?;
    }
    let Loader { machine, launch, .. } = loader;
    launch.finish(machine, plan.id_block)?;
    if machine.cpus.iter().all(|cpu| cpu.state == State::Absent) {
        return Err(failed("the file has no state for the first CPU (VP_CONTEXT)"));
    }
    Ok(())
}

struct Loader<'l, 'e, H, M> {
    machine: &'l mut Machine<H, M>,
    launch: Launch,
    areas: ParameterAreas,
    environment: &'l mut Environment<'e>,
}

impl<H: Hardware, M: PhysicalMemory> Loader<'_, '_, H, M> {
    fn step(&mut self, op: &LoadOp<'_>) -> Result<(), Ending> {
        match op {
            LoadOp::Page { gpa, page_type, large, data } => {
                let pages: u64 = if *large { 512 } else { 1 };
                let (parts, _) = data.unwrap_or_default().as_chunks::<PAGE_SIZE>();
                for index in 0..pages {
                    self.page(gpa + index * PAGE_SIZE as u64, *page_type, parts.get(index as usize))?;
                }
            }
            LoadOp::Vmsa { gpa, vp_index, vmsa } => {
                if *vp_index != 0 {
                    return Err(failed(
                        "only the first CPU's state can be in the file: start others by AP creation",
                    ));
                }
                self.launch.vmsa(self.machine, *gpa, vmsa);
            }
            LoadOp::Shared { gpa, size, data } => {
                self.ensure(*gpa, *size)?;
                for (index, at) in (*gpa..gpa + size).step_by(PAGE_SIZE).enumerate() {
                    self.machine.map.set_attribute(at, Attribute::Shared);
                    let part = data.and_then(|data| data.get(index * PAGE_SIZE..)?.get(..PAGE_SIZE));
                    if let (Some(spa), Some(part)) = (self.machine.map.spa(at), part) {
                        self.machine.memory.write(spa, part);
                    }
                }
            }
            LoadOp::ParameterArea(area) => self.areas.declare(area).map_err(|e| failed(format!("{e:?}")))?,
            LoadOp::Parameter(parameter) => self.parameter(parameter)?,
            LoadOp::ParameterInsert { gpa, index, .. } => {
                let bytes = self.areas.take(*index).map_err(|e| failed(format!("{e:?}")))?;
                let (parts, _) = bytes.as_chunks::<PAGE_SIZE>();
                for (i, part) in parts.iter().enumerate() {
                    self.page(gpa + (i * PAGE_SIZE) as u64, PageType::Unmeasured, Some(part))?;
                }
            }
            LoadOp::RequiredMemory { gpa, size } => self.ensure(*gpa, *size)?,
            _ => return Err(failed("the plan has a step that this emulator does not know")),
        }
        Ok(())
    }

    fn page(&mut self, gpa: u64, kind: PageType, data: Option<&[u8; PAGE_SIZE]>) -> Result<(), Ending> {
        self.ensure(gpa, PAGE_SIZE as u64)?;
        self.launch.page(self.machine, kind, gpa, data)
    }

    /// Sees that there is memory, as hosts do for pages outside of RAM.
    fn ensure(&mut self, gpa: u64, size: u64) -> Result<(), Ending> {
        for at in (gpa..gpa.saturating_add(size)).step_by(PAGE_SIZE) {
            if self.machine.map.is_ram(at) {
                continue;
            }
            let none = || failed(format!("there is no memory at {at:#x}: give more --memory"));
            // In pieces of 2 MiB, so that a large region does not make a list of pages.
            let piece = if at % (2 << 20) == 0 && size >= 2 << 20 { 2 << 20 } else { PAGE_SIZE as u64 };
            let spa = (self.environment.more_memory)(piece).ok_or_else(none)?;
            self.machine.add_ram(Ram { gpa: at, size: piece, spa });
        }
        Ok(())
    }

    fn parameter(&mut self, parameter: &Parameter) -> Result<(), Ending> {
        let value: Vec<u8> = match parameter.kind {
            ParameterKind::VpCount => {
                let mut value = (self.machine.cpus.len() as u32).to_le_bytes().into();
                self.machine.deposit("vp-count", &mut value);
                value
            }
            ParameterKind::EnvironmentInfo => 0u32.to_le_bytes().into(),
            ParameterKind::CommandLine => Vec::from([0]),
            ParameterKind::MemoryMap => {
                let mut value = self.memory_map();
                self.machine.deposit("memory-map", &mut value);
                value
            }
            // Tables that this machine has not: left as the area has them, which for an honest guest means "none".
            _ => return Ok(()),
        };
        self.areas.write(parameter, &value).map_err(|e| failed(format!("{e:?}")))
    }

    /// IGVM_VHS_MEMORY_MAP_ENTRY for each stretch.
    fn memory_map(&self) -> Vec<u8> {
        let mut map = Vec::new();
        for &(start, size) in self.environment.memory {
            map.extend_from_slice(&(start >> 12).to_le_bytes());
            map.extend_from_slice(&(size >> 12).to_le_bytes());
            map.extend_from_slice(&[0; 8]);
        }
        map
    }
}
