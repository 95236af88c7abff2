//! The secrets page: the keys for messages to the PSP (SNP firmware ABI 56860, table 71).
//!
//! What is needed is copied out, then the page is wiped: whoever reads guest memory later finds no key there.

use super::Violation;

/// Bytes of a message key.
pub const KEY: usize = 32;
const VMPCK: usize = 0x20;
/// Bytes of the SVSM that holds VMPL0; 0 where there is none.
const SVSM_SIZE: usize = 0x148;
const TSC_FACTOR: usize = 0x160;

/// What is kept.
pub struct Secrets {
    /// The message key of VMPL0.
    pub vmpck0: [u8; KEY],
    /// Parts in 100,000 by which the TSC is slower than it says.
    pub tsc_factor: u32,
    /// An SVSM says that it is there.
    pub svsm: bool,
}

impl Secrets {
    /// Takes what is needed out of the page, and wipes it.
    ///
    /// # Errors
    /// A version that is not known, or no key.
    pub fn take(page: &mut [u8; 4096]) -> Result<Secrets, Violation> {
        let version = u32::from_le_bytes([page[0], page[1], page[2], page[3]]);
        let mut vmpck0 = [0; KEY];
        vmpck0.copy_from_slice(&page[VMPCK..VMPCK + KEY]);
        let mut factor = [0; 4];
        factor.copy_from_slice(&page[TSC_FACTOR..TSC_FACTOR + 4]);
        let svsm = page[SVSM_SIZE..SVSM_SIZE + 8] != [0; 8];
        for byte in page.iter_mut() {
            // SAFETY: a reference is valid to write through; volatile, so that wiping is not optimised away.
            unsafe { core::ptr::from_mut(byte).write_volatile(0) };
        }
        // A firmware that gives keys gives random ones.
        if !(2..=16).contains(&version) || vmpck0 == [0; KEY] {
            return Err(Violation::SecretsPage);
        }
        Ok(Secrets { vmpck0, tsc_factor: u32::from_le_bytes(factor), svsm })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_taken_and_the_page_is_wiped() {
        let mut page = [0x5a; 4096];
        page[..4].copy_from_slice(&3u32.to_le_bytes());
        let secrets = Secrets::take(&mut page).unwrap();
        assert_eq!(secrets.vmpck0, [0x5a; 32]);
        assert!(secrets.svsm);
        assert_eq!(page, [0; 4096]);
        assert_eq!(Secrets::take(&mut page).err(), Some(Violation::SecretsPage));
    }
}
