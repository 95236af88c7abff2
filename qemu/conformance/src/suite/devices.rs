//! Ports and device memory through the GHCB, and devices that reach memory by themselves.

use super::Guest;
use super::requests::{BAD_INPUT, BAD_SCRATCH};
use crate::machine::ghcb::{
    self, BUFFER, Field, IN, REPEAT, Request, STRING, code, port_info, read_port, read_shared, write_port,
    write_shared,
};
use crate::machine::instructions::pvalidate;
use crate::machine::{arena, paging, probe};
use crate::report::Report;

const PORTS: &str = "GHCB 4.1.2";
const MMIO: &str = "GHCB 4.1.1";
const FW_CFG: &str = "QEMU, fw_cfg";
/// A register of the serial port that only keeps what is written.
pub const SCRATCH_REGISTER: u16 = 0x3ff;
const PCI_ADDRESS: u16 = 0xcf8;
const PCI_DATA: u16 = 0xcfc;
const FW_CFG_DMA: u16 = 0x514;

pub fn run(_: &Guest, report: &mut Report) {
    ports(report);
    strings(report);
    memory(report);
    dma(report);
}

fn ports(report: &mut Report) {
    for value in [0x00, 0x5a, 0xff, 0x01] {
        write_port(SCRATCH_REGISTER, 1, value);
        report.equal(format_args!("OUT and IN of {value:#x}"), PORTS, read_port(SCRATCH_REGISTER, 1), value);
    }
    write_port(SCRATCH_REGISTER, 1, 0xffff_ffff_ffff_ff21);
    report.equal("OUT of one byte: others do not count", PORTS, read_port(SCRATCH_REGISTER, 1), 0x21);
    write_port(PCI_ADDRESS, 4, 0x8000_0000);
    report.equal("PCI configuration address, 4 bytes", PORTS, read_port(PCI_ADDRESS, 4), 0x8000_0000);
    let whole = read_port(PCI_DATA, 4);
    report.holds("PCI: the host bridge", PORTS, whole != 0xffff_ffff && whole != 0, whole);
    report.equal("PCI: 2 bytes", PORTS, read_port(PCI_DATA, 2), whole & 0xffff);
    report.equal("PCI: 2 bytes, high", PORTS, read_port(PCI_DATA + 2, 2), whole >> 16);
    for byte in 0..4 {
        report.equal(
            format_args!("PCI: byte {byte}"),
            PORTS,
            read_port(PCI_DATA + byte, 1),
            whole >> (8 * byte) & 0xff,
        );
    }
    for size in [0, 3, 5, 6, 7] {
        let reply =
            Request::new(code::IOIO, port_info(SCRATCH_REGISTER, size, IN), 0).with(Field::Rax, 0).send();
        report.equal(format_args!("IN of {size} bytes"), PORTS, reply.info(), (2, BAD_INPUT));
    }
    report.equal("a port that nobody has", PORTS, read_port(0x2f0, 1), 0xff);
}

fn string(flags: u64, size: u64, count: u64, at: u64) -> (u64, u64) {
    Request::new(code::IOIO, port_info(SCRATCH_REGISTER, size, flags | STRING), count)
        .with(Field::Scratch, at)
        .send()
        .info()
}

fn strings(report: &mut Report) {
    let buffer = ghcb::page() + BUFFER;
    ghcb::write_bytes(buffer, &[1, 2, 3, 4, 0x77]);
    report.equal("REP OUTSB", PORTS, string(REPEAT, 1, 5, buffer), (0, 0));
    report.equal("REP OUTSB: the last byte came last", PORTS, read_port(SCRATCH_REGISTER, 1), 0x77);
    write_shared(buffer, 0);
    report.equal("REP INSB", PORTS, string(REPEAT | IN, 1, 3, buffer), (0, 0));
    report.equal("REP INSB: as many as asked for", PORTS, read_shared(buffer), 0x77_7777);
    report.equal("REP of nothing", PORTS, string(REPEAT, 1, 0, buffer), (0, 0));
    ghcb::write_bytes(buffer, &[0x11, 0x22]);
    report.equal("OUTSB without REP", PORTS, string(0, 1, 1, buffer), (0, 0));
    report.equal("OUTSB without REP: one byte", PORTS, read_port(SCRATCH_REGISTER, 1), 0x11);
    let own = probe::shared_page();
    ghcb::write_bytes(own, &[0x33]);
    report.equal("OUTSB out of other shared memory", PORTS, string(0, 1, 1, own), (0, 0));
    report.equal("OUTSB out of other shared memory: the byte", PORTS, read_port(SCRATCH_REGISTER, 1), 0x33);
    let private = probe::validated_page();
    for (name, size, count, at) in [
        ("more than the buffer holds", 1, 0x7f1, buffer),
        ("more words than the buffer holds", 4, 0x1fd, buffer),
        ("a count without end", 1, u64::from(u32::MAX), buffer),
        ("a buffer that ends too early", 1, 0x7f0, buffer + 1),
        ("the GHCB's registers as a buffer", 1, 8, ghcb::page() + 0x390),
        ("private memory", 1, 8, private),
        ("no memory", 1, 8, 1 << 45),
    ] {
        let got = string(REPEAT, size, count, at);
        report.equal(format_args!("REP OUTS: {name}"), PORTS, got, (2, BAD_SCRATCH));
    }
}

fn memory(report: &mut Report) {
    let version = ghcb::read_mmio(0xfee0_0030, 4);
    report.holds("MMIO read: the local APIC's version", MMIO, version & 0xf0 == 0x10, version);
    ghcb::write_mmio(0xfee0_0080, 4, 0x20);
    report.equal("MMIO write and read: the task priority", MMIO, ghcb::read_mmio(0xfee0_0080, 4), 0x20);
    ghcb::write_mmio(0xfee0_0080, 4, 0);
    ghcb::write_mmio(0xfec0_0000, 4, 1);
    report.holds(
        "MMIO: the I/O APIC's version",
        MMIO,
        ghcb::read_mmio(0xfec0_0010, 4) >> 16 & 0xff >= 23,
        (),
    );
    // HPET capabilities: period in the upper half, vendor in the lower.
    let low = ghcb::read_mmio(0xfed0_0000, 4);
    let high = ghcb::read_mmio(0xfed0_0004, 4);
    report.equal("MMIO read of 8 bytes", MMIO, ghcb::read_mmio(0xfed0_0000, 8), high << 32 | low);
    report.equal("MMIO read of 4 bytes: the buffer's others stay", MMIO, low >> 32, 0);
    let buffer = ghcb::page() + BUFFER;
    let private = probe::validated_page();
    for (direction, number) in [("read", code::MMIO_READ), ("write", code::MMIO_WRITE)] {
        let send = |gpa, size, at| Request::new(number, gpa, size).with(Field::Scratch, at).send().info();
        for size in [0, 3, 5, 9, 16, 1 << 32 | 4] {
            report.equal(
                format_args!("MMIO {direction} of {size:#x} bytes"),
                MMIO,
                send(0xfee0_0030, size, buffer),
                (2, BAD_INPUT),
            );
        }
        report.equal(
            format_args!("MMIO {direction} of private memory"),
            MMIO,
            send(private, 4, buffer),
            (2, BAD_INPUT),
        );
        for (name, at) in [
            ("private memory", private),
            ("the GHCB's registers", ghcb::page() + 0x390),
            ("the end of the GHCB", ghcb::page() + 0xff0),
            ("no memory", 1 << 45),
        ] {
            report.equal(
                format_args!("MMIO {direction} with {name} as buffer"),
                MMIO,
                send(0xfee0_0030, 4, at),
                (2, BAD_SCRATCH),
            );
        }
    }
    report.equal("private memory is as it was", MMIO, probe::read(paging::private(private)).frame.rax(), 0);
}

/// fw_cfg's DMA of its signature (item 0) into a page; what the control word says afterwards.
pub fn fw_cfg_signature(control: u64, to: u64) -> u64 {
    const READ_AND_SELECT: u32 = 2 | 8;
    write_shared(control, u64::from(READ_AND_SELECT.to_be()) | u64::from(4u32.to_be()) << 32);
    write_shared(control + 8, to.to_be());
    write_port(FW_CFG_DMA, 4, u64::from(((control >> 32) as u32).to_be()));
    write_port(FW_CFG_DMA + 4, 4, u64::from((control as u32).to_be()));
    read_shared(control) & 0xffff_ffff
}

fn dma(report: &mut Report) {
    let signature = |at| read_shared(at) as u32;
    let qemu = u64::from(u32::from_be_bytes(*b"QEMU").to_be());
    if read_port(FW_CFG_DMA, 4) != qemu {
        report.skip("a device reads and writes shared memory", FW_CFG, "this host has no fw_cfg with DMA");
        return;
    }
    let (control, to) = (probe::shared_page(), probe::shared_page());
    let left = fw_cfg_signature(control, to);
    report.equal("a device reads shared memory", FW_CFG, left, 0);
    report.equal("a device writes shared memory", FW_CFG, signature(to), u32::from_le_bytes(*b"QEMU"));
    // Memory that was private and is shared now is a device's to write.
    let page = arena::page();
    pvalidate(paging::private(page), 0, true);
    pvalidate(paging::private(page), 0, false);
    ghcb::share(page);
    report.equal("a device writes memory that was private", FW_CFG, fw_cfg_signature(control, page), 0);
    report.equal(
        "a device wrote memory that was private",
        FW_CFG,
        signature(page),
        u32::from_le_bytes(*b"QEMU"),
    );
}
