//! What the emulator needs of the machine that it runs on, behind a trait, so that everything else runs in `cargo test`.

/// The machine underneath.
pub trait Hardware {
    /// Reads a port of QEMU's; `size` is 1, 2 or 4.
    fn port_in(&mut self, port: u16, size: u8) -> u32;
    /// Writes a port of QEMU's.
    fn port_out(&mut self, port: u16, size: u8, value: u32);
    /// Reads device memory of QEMU's; `size` is 1, 2, 4 or 8.
    fn mmio_read(&mut self, address: u64, size: u8) -> u64;
    /// Writes device memory of QEMU's.
    fn mmio_write(&mut self, address: u64, size: u8, value: u64);
    /// The time-stamp counter.
    fn tsc(&self) -> u64;
    /// CPUID of the CPU underneath: EAX, EBX, ECX, EDX.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4];
    /// Makes another CPU leave the guest, or its sleep, soon.
    fn kick(&mut self, cpu: usize);
    /// Gives the real APIC of the CPU that calls this logical id and format (LDR and DFR): a device's message is addressed with what the
    /// guest chose, and no one but the real APICs can tell whom it means.
    fn logical_id(&mut self, ldr: u32, dfr: u32);
    /// Lets the 8259's interrupts in, or holds them back: one that is taken while the guest programs the 8259 has a vector that is not
    /// the guest's.
    fn pass_external(&mut self, pass: bool);
    /// Returns when no other CPU uses a nested translation from before the call.
    fn shoot_down(&mut self, cpu: usize);
    /// Writes bytes on the channel to the launcher.
    fn report(&mut self, bytes: &[u8]);
    /// Random bits.
    fn random(&mut self) -> u64;
}

#[cfg(any(test, feature = "testing"))]
#[allow(missing_docs)]
pub mod testing {
    use super::*;

    /// A machine underneath without devices, on which time stands still.
    #[derive(Default)]
    pub struct NoDevices;

    impl Hardware for NoDevices {
        fn port_in(&mut self, _: u16, _: u8) -> u32 {
            !0
        }
        fn port_out(&mut self, _: u16, _: u8, _: u32) {}
        fn mmio_read(&mut self, _: u64, _: u8) -> u64 {
            !0
        }
        fn mmio_write(&mut self, _: u64, _: u8, _: u64) {}
        fn tsc(&self) -> u64 {
            0
        }
        fn cpuid(&self, leaf: u32, _: u32) -> [u32; 4] {
            // As many leaves as the machine asks for first.
            [if leaf == 0x8000_0000 { 0x8000_001f } else { 0x1f }, 0, 0, 0]
        }
        fn kick(&mut self, _: usize) {}
        fn logical_id(&mut self, _: u32, _: u32) {}
        fn pass_external(&mut self, _: bool) {}
        fn shoot_down(&mut self, _: usize) {}
        fn report(&mut self, _: &[u8]) {}
        fn random(&mut self) -> u64 {
            4
        }
    }
}
