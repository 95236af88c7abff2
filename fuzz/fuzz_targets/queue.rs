//! A virtqueue whose used ring is the host's to write: no chain comes back that was not posted, none twice, and none with more bytes
//! than it has room for (`virtio::queue`).
#![no_main]

use litebox_fuzz::Input;
use litebox_fuzz::device::World;
use platform_snp::dma::DmaPool;
use platform_snp::virtio::queue::{Queue, Segment};
use std::collections::HashMap;

litebox_fuzz::target!(litebox_fuzz::seeds::queue, run);

fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let size = 1u16 << (input.u8() % 6);
    let world = World::new(2, Input::new(&[]));
    let mut queue = Queue::new(world.allocate(1).expect("a page"), size).expect("a queue of a power of two");
    let used = queue.addresses().used;
    let mut posted: HashMap<u16, (u32, usize)> = HashMap::new();
    let mut broken = false;
    while !input.is_empty() {
        match input.u8() % 4 {
            0 => {
                let count = usize::from(input.u8() % 4);
                let segments: Vec<Segment> = (0..count)
                    .map(|_| {
                        let (len, writable) = (input.u32(), input.u8() & 1 == 1);
                        Segment { bus: 0x1000, len, writable }
                    })
                    .collect();
                let free = usize::from(size) - posted.values().map(|(_, chain)| chain).sum::<usize>();
                // What a broken ring has not given back is lost.
                let room = count > 0 && count <= free;
                match queue.post(&segments) {
                    Some(head) => {
                        assert!(room && head < size);
                        let writable = segments
                            .iter()
                            .filter(|s| s.writable)
                            .fold(0u32, |sum, s| sum.saturating_add(s.len));
                        assert!(
                            posted.insert(head, (writable, count)).is_none(),
                            "a descriptor in two chains"
                        );
                    }
                    None => assert!(!room || broken, "no descriptor where there must be one"),
                }
                queue.publish(&world);
            }
            1 => {
                let at = used + u64::from(input.u8()) % (4 + 8 * u64::from(size));
                let len = usize::from(input.u8() % 12);
                world.poke(at, input.bytes(len));
            }
            2 => {
                let (slot, id, len) = (u64::from(input.u8()) % u64::from(size), input.u8(), input.u16());
                world.poke(used + 4 + 8 * slot, &u32::from(id).to_le_bytes());
                world.poke(used + 8 + 8 * slot, &u32::from(len).to_le_bytes());
                world.poke(used + 2, &u16::from(input.u8()).to_le_bytes());
            }
            _ => match queue.take_used(&world) {
                Ok(Some(done)) => {
                    assert!(!broken, "a broken ring goes on");
                    let (room, _) = posted.remove(&done.head).expect("a chain that was not posted");
                    assert!(done.len <= room);
                }
                Ok(None) => assert!(!broken),
                Err(_) => broken = true,
            },
        }
        assert!(usize::from(queue.outstanding()) <= usize::from(size));
        assert!(broken || usize::from(queue.outstanding()) == posted.len());
    }
}
