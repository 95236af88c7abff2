//! Threads as Rust's standard library has them.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex, RwLock, mpsc};
use std::thread;
use std::time::Duration;

thread_local! {
    static OWN: Cell<u64> = const { Cell::new(1) };
}

fn main() {
    let total = Arc::new(AtomicU64::new(0));
    let table = Arc::new(RwLock::new(vec![0u64; 4]));
    let barrier = Arc::new(Barrier::new(4));
    let threads: Vec<_> = (0..4u64)
        .map(|n| {
            let (total, table, barrier) = (total.clone(), table.clone(), barrier.clone());
            thread::Builder::new()
                .name(format!("worker-{n}"))
                .spawn(move || {
                    OWN.with(|own| own.set(own.get() + n));
                    for i in 0..1000 {
                        total.fetch_add(i, Ordering::Relaxed);
                        table.write().unwrap()[n as usize] += 1;
                    }
                    barrier.wait();
                    let sum: u64 = table.read().unwrap().iter().sum();
                    (thread::current().name().unwrap().to_owned(), OWN.with(Cell::get), sum)
                })
                .unwrap()
        })
        .collect();
    for thread in threads {
        println!("{:?}", thread.join().unwrap());
    }
    println!("total {}", total.load(Ordering::Relaxed));

    let (send, receive) = mpsc::channel();
    thread::scope(|scope| {
        for n in 0..3 {
            let send = send.clone();
            scope.spawn(move || (0..100).for_each(|i| send.send(n * 100 + i).unwrap()));
        }
    });
    drop(send);
    println!("received {}", receive.iter().sum::<i32>());

    let pair = Arc::new((Mutex::new(false), Condvar::new()));
    let other = pair.clone();
    let waker = thread::spawn(move || {
        thread::sleep(Duration::from_millis(10));
        *other.0.lock().unwrap() = true;
        other.1.notify_all();
    });
    let guard = pair.1.wait_while(pair.0.lock().unwrap(), |ready| !*ready).unwrap();
    println!("woken {}", *guard);
    drop(guard);
    let (guard, result) = pair.1.wait_timeout(pair.0.lock().unwrap(), Duration::from_millis(5)).unwrap();
    println!("timed out {} {}", result.timed_out(), *guard);
    drop(guard);
    waker.join().unwrap();

    let parked = thread::spawn(|| {
        thread::park();
        thread::park_timeout(Duration::from_millis(5));
        "unparked"
    });
    parked.thread().unpark();
    println!("{}", parked.join().unwrap());
    // Without a message, which holds the thread's id.
    let panicked = thread::spawn(|| std::panic::resume_unwind(Box::new(5))).join().unwrap_err();
    println!("panicked with {:?}", panicked.downcast_ref::<i32>());
}
