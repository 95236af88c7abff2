//! A console by a hostile host: what is read is no more than there was room for, and a console that broke the rules is dead
//! (`virtio::console`, `virtio::mmio`).
#![no_main]

use litebox_core::platform::{Console as _, Input as Typed, Stream};
use litebox_fuzz::Input;
use litebox_fuzz::device::{BASE, World, until_stalled};
use platform_snp::virtio::console::{Console, DEVICE_ID};
use platform_snp::virtio::mmio::Mmio;

litebox_fuzz::target!(litebox_fuzz::seeds::console, run);

fn run(bytes: &[u8]) {
    let world = World::new(DEVICE_ID, Input::new(bytes));
    until_stalled(|| drive(&world));
    assert!(
        world.attacks().is_empty() || world.lied(),
        "an honest console is accused: {:?}",
        world.attacks()
    );
    assert!(world.attacks().len() <= 1, "a dead console is asked again: {:?}", world.attacks());
}

fn drive(world: &World<'_>) {
    let Ok(transport) = Mmio::probe(world, BASE, DEVICE_ID) else { return };
    let Ok(console) = Console::new(world, world, world, transport) else { return };
    console.set_notifier(Box::new(|| {}));
    let bytes = vec![0x5a; 40 * 4096];
    let mut buffer = vec![0; 5000];
    for _ in 0..200 {
        if world.is_over() {
            break;
        }
        let (action, size) = world.script(|input| (input.u8(), usize::from(input.u16())));
        let dead = !world.attacks().is_empty();
        match action % 6 {
            0 | 1 => {
                let stream = if action % 6 == 0 { Stream::Stdout } else { Stream::Stderr };
                let bytes = &bytes[..(size * 3).min(bytes.len())];
                let taken = console.write(stream, bytes);
                assert!(taken <= bytes.len() && (!dead || taken == 0));
            }
            2 => {
                let room = &mut buffer[..size % 5000];
                let len = room.len();
                match console.read(room) {
                    Typed::Bytes(read) => assert!((1..=len).contains(&read)),
                    Typed::Empty | Typed::Eof => {}
                }
            }
            3 => console.poll(),
            4 => console.flush(),
            _ => {
                let ready = console.input_ready();
                assert!(ready || !dead, "a reader would wait for a dead console");
                console.ack_interrupt();
            }
        }
    }
}
