//! South: random numbers.

/// A cryptographically secure source, seeded by the CPU; it never fails, since a platform without entropy does not start.
pub trait Entropy {
    /// Fills `out`.
    fn fill_random(&self, out: &mut [u8]);
}
