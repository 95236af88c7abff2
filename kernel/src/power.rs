//! TEMP
use litebox_core::platform::Attack;
use x86_64::instructions::port::Port;
pub struct Serial;
impl core::fmt::Write for Serial {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        for b in s.bytes() {
            unsafe { Port::<u8>::new(0x3f8).write(b) }
        }
        Ok(())
    }
}
#[macro_export]
macro_rules! println { ($($a:tt)*) => {{ use core::fmt::Write; let _ = writeln!($crate::power::Serial, $($a)*); }} }
pub fn exit(code: u32) -> ! {
    unsafe { Port::<u32>::new(0xf4).write(code) };
    loop {
        x86_64::instructions::hlt()
    }
}
pub fn attack(a: Attack, why: core::fmt::Arguments<'_>) -> ! {
    println!("attack {a:?} {why}");
    exit(21)
}
pub fn bad_launch(why: core::fmt::Arguments<'_>) -> ! {
    println!("bad launch {why}");
    exit(25)
}
pub fn bug(i: &core::panic::PanicInfo<'_>) -> ! {
    println!("bug {i}");
    exit(22)
}
