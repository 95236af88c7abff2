//! Bytes from and to QEMU, on descriptors that may be anything: sockets, pipes, terminals in whatever mode.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

/// Where the guest's standard input comes from.
#[derive(Clone, Debug)]
pub enum Input {
    /// This process's own, until its end.
    Inherit,
    /// These bytes, then the end of file.
    Bytes(Vec<u8>),
}

impl Input {
    /// Copies all of it into the socket, which stays open.
    pub fn copy_to(self, mut to: &UnixStream) {
        match self {
            Self::Bytes(bytes) => drop(to.write_all(&bytes)),
            Self::Inherit => {
                let Ok(from) = nix::unistd::dup(io::stdin()) else { return };
                let (mut from, mut buffer) = (File::from(from), vec![0; 64 * 1024]);
                while let Some(bytes) = read_some(&mut from, &mut buffer) {
                    if to.write_all(bytes).is_err() {
                        break;
                    }
                }
            }
        }
    }
}

/// The next bytes, or nothing at the end of the stream. A terminal or pipe may be in non-blocking mode, set by whoever shares
/// it with us.
pub fn read_some<'a>(from: &mut impl Read, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    loop {
        match from.read(buffer) {
            Ok(0) => return None,
            Ok(n) => return buffer.get(..n),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(2))
            }
            Err(_) => return None,
        }
    }
}

/// Writes all of it, into a descriptor that may be in non-blocking mode too.
///
/// # Errors
/// Nobody reads any more.
pub fn write_all(mut to: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(2))
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
