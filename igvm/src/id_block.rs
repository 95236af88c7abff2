//! ID block and ID authentication: by which the owner of a guest says what may be launched in his name, and how the PSP checks it.
//!
//! Source: SEV-SNP firmware ABI (56860), SNP_LAUNCH_FINISH, tables "ID Block Structure" and "ID Authentication Information
//! Structure"; keys and signatures: chapter "Digital Signatures". Numbers are little-endian in 72 bytes, P-384 needs 48 of them.

use core::fmt;

use p384::ecdsa::signature::{Signer, Verifier};
use p384::ecdsa::{Signature, SigningKey, VerifyingKey};
use sha2::{Digest, Sha384};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::digest::Sha384Digest;
use crate::format::layout;

/// Algorithm of a key: ECDSA over P-384 with SHA-384.
pub const ECDSA_P384_SHA384: u32 = 1;
/// Curve of a key: P-384.
pub const CURVE_P384: u32 = 2;
/// Version of an ID block.
pub const ID_BLOCK_VERSION: u32 = 1;

/// ID block: what is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdBlock {
    /// Launch digest that the guest must have.
    pub launch_digest: Sha384Digest,
    /// Family; the PSP hands it through to reports.
    pub family_id: [u8; 16],
    /// Image; likewise.
    pub image_id: [u8; 16],
    /// [`ID_BLOCK_VERSION`].
    pub version: U32,
    /// Security version number; likewise handed through.
    pub guest_svn: U32,
    /// Policy that the guest must have.
    pub policy: U64,
}

/// A signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EcdsaSignature {
    /// r and s.
    pub components: layout::IdSignature,
    /// Zero.
    pub reserved: [u8; 368],
}

/// A public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EcdsaPublicKey {
    /// [`CURVE_P384`].
    pub curve: U32,
    /// x.
    pub qx: [u8; 72],
    /// y.
    pub qy: [u8; 72],
    /// Zero.
    pub reserved: [u8; 880],
}

/// ID authentication: keys and signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdAuthentication {
    /// Algorithm of the ID key.
    pub id_key_algorithm: U32,
    /// Algorithm of the author key.
    pub author_key_algorithm: U32,
    /// Zero.
    pub reserved_008: [u8; 56],
    /// Signature of the ID block by the ID key.
    pub id_block_signature: EcdsaSignature,
    /// ID key.
    pub id_key: EcdsaPublicKey,
    /// Zero.
    pub reserved_644: [u8; 60],
    /// Signature of the ID key by the author key.
    pub id_key_signature: EcdsaSignature,
    /// Author key.
    pub author_key: EcdsaPublicKey,
    /// Zero.
    pub reserved_c84: [u8; 892],
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<IdBlock>() == 96);
    assert!(offset_of!(IdBlock, version) == 0x50);
    assert!(offset_of!(IdBlock, policy) == 0x58);
    assert!(size_of::<EcdsaSignature>() == 512);
    assert!(size_of::<EcdsaPublicKey>() == 0x404);
    assert!(size_of::<IdAuthentication>() == 4096);
    assert!(offset_of!(IdAuthentication, id_block_signature) == 0x40);
    assert!(offset_of!(IdAuthentication, id_key) == 0x240);
    assert!(offset_of!(IdAuthentication, id_key_signature) == 0x680);
    assert!(offset_of!(IdAuthentication, author_key) == 0x880);
};

/// Why the PSP does not finish a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdentityError {
    /// An algorithm, a curve or a version that the PSP does not know.
    Unsupported(&'static str),
    /// A signature that does not hold, or a key or signature that is none.
    BadSignature(&'static str),
    /// The guest has another launch digest.
    BadMeasurement,
    /// The guest has another policy.
    PolicyFailure,
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported(what) => {
                write!(f, "ID block: {what} is not supported: use ECDSA P-384 with SHA-384")
            }
            Self::BadSignature(what) => {
                write!(f, "ID block: the signature of {what} does not hold: sign it again")
            }
            Self::BadMeasurement => {
                f.write_str("ID block: made for another launch digest: measure and sign again")
            }
            Self::PolicyFailure => f.write_str("ID block: made for another guest policy: sign again"),
        }
    }
}

impl core::error::Error for IdentityError {}

/// What reports say of the keys (ID_KEY_DIGEST, AUTHOR_KEY_DIGEST); zero for a key that was not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyDigests {
    /// Of the ID key.
    pub id_key: Sha384Digest,
    /// Of the author key.
    pub author_key: Sha384Digest,
}

fn to_wide(number: &[u8]) -> [u8; 72] {
    let mut wide = [0; 72];
    for (wide, byte) in wide.iter_mut().zip(number.iter().rev()) {
        *wide = *byte;
    }
    wide
}

/// The number in big-endian, if it has no more than 48 bytes.
fn from_wide(wide: &[u8; 72]) -> Option<[u8; 48]> {
    let (number, rest) = wide.split_first_chunk::<48>()?;
    let mut number = *number;
    number.reverse();
    rest.iter().all(|&byte| byte == 0).then_some(number)
}

impl EcdsaPublicKey {
    /// Of a P-384 key.
    pub fn from_key(key: &VerifyingKey) -> Self {
        let point = key.to_sec1_point(false);
        let mut public = Self::new_zeroed();
        public.curve = CURVE_P384.into();
        public.qx = to_wide(point.x().map(|x| x.as_slice()).unwrap_or_default());
        public.qy = to_wide(point.y().map(|y| y.as_slice()).unwrap_or_default());
        public
    }

    fn from_layout(key: &layout::IdPublicKey) -> Self {
        let mut public = Self::new_zeroed();
        (public.curve, public.qx, public.qy) = (key.curve, key.qx, key.qy);
        public
    }

    fn to_layout(self) -> layout::IdPublicKey {
        layout::IdPublicKey { curve: self.curve, reserved: 0.into(), qx: self.qx, qy: self.qy }
    }

    /// SHA-384 of the structure: how the PSP names a key.
    pub fn digest(&self) -> Sha384Digest {
        Sha384::digest(self.as_bytes()).into()
    }

    fn verify(
        &self,
        what: &'static str,
        message: &[u8],
        signature: &EcdsaSignature,
    ) -> Result<(), IdentityError> {
        if self.curve.get() != CURVE_P384 {
            return Err(IdentityError::Unsupported("the curve of a key"));
        }
        let check = || {
            let mut point = [4; 97];
            let (_, coordinates) = point.split_first_mut()?;
            let (x, y) = coordinates.split_at_mut_checked(48)?;
            x.copy_from_slice(&from_wide(&self.qx)?);
            y.copy_from_slice(&from_wide(&self.qy)?);
            let key = VerifyingKey::from_sec1_bytes(&point).ok()?;
            let r = from_wide(&signature.components.r)?;
            let s = from_wide(&signature.components.s)?;
            key.verify(message, &Signature::from_scalars(r, s).ok()?).ok()
        };
        check().ok_or(IdentityError::BadSignature(what))
    }
}

impl EcdsaSignature {
    fn sign(key: &SigningKey, message: &[u8]) -> Self {
        let signature: Signature = key.sign(message);
        let (r, s) = signature.split_bytes();
        let components = layout::IdSignature { r: to_wide(r.as_slice()), s: to_wide(s.as_slice()) };
        Self { components, reserved: [0; 368] }
    }

    const fn from_layout(components: &layout::IdSignature) -> Self {
        Self { components: *components, reserved: [0; 368] }
    }
}

/// Both, and whether the author key counts (AUTH_KEY_EN): what SNP_LAUNCH_FINISH is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What is signed.
    pub block: IdBlock,
    /// Keys and signatures.
    pub authentication: IdAuthentication,
    /// The ID key must be signed by the author key.
    pub author_key_enabled: bool,
}

impl Identity {
    /// Signs a block. The same block and keys give the same bytes (RFC 6979).
    pub fn sign(block: IdBlock, id_key: &SigningKey, author_key: Option<&SigningKey>) -> Self {
        let mut authentication = IdAuthentication::new_zeroed();
        authentication.id_key_algorithm = ECDSA_P384_SHA384.into();
        authentication.id_block_signature = EcdsaSignature::sign(id_key, block.as_bytes());
        authentication.id_key = EcdsaPublicKey::from_key(id_key.verifying_key());
        if let Some(author_key) = author_key {
            authentication.author_key_algorithm = ECDSA_P384_SHA384.into();
            authentication.id_key_signature =
                EcdsaSignature::sign(author_key, authentication.id_key.as_bytes());
            authentication.author_key = EcdsaPublicKey::from_key(author_key.verifying_key());
        }
        Self { block, authentication, author_key_enabled: author_key.is_some() }
    }

    /// As a loader makes it from the header of a file, which lacks the policy.
    pub fn from_header(header: &layout::SnpIdBlock, policy: u64) -> Self {
        let block = IdBlock {
            launch_digest: header.ld,
            family_id: header.family_id,
            image_id: header.image_id,
            version: header.version,
            guest_svn: header.guest_svn,
            policy: policy.into(),
        };
        let mut authentication = IdAuthentication::new_zeroed();
        authentication.id_key_algorithm = header.id_key_algorithm;
        authentication.author_key_algorithm = header.author_key_algorithm;
        authentication.id_block_signature = EcdsaSignature::from_layout(&header.id_key_signature);
        authentication.id_key = EcdsaPublicKey::from_layout(&header.id_public_key);
        authentication.id_key_signature = EcdsaSignature::from_layout(&header.author_key_signature);
        authentication.author_key = EcdsaPublicKey::from_layout(&header.author_public_key);
        Self { block, authentication, author_key_enabled: header.author_key_enabled != 0 }
    }

    /// The header of a file.
    pub fn to_header(&self, compatibility_mask: u32) -> layout::SnpIdBlock {
        layout::SnpIdBlock {
            compatibility_mask: compatibility_mask.into(),
            author_key_enabled: self.author_key_enabled.into(),
            reserved: [0; 3],
            ld: self.block.launch_digest,
            family_id: self.block.family_id,
            image_id: self.block.image_id,
            version: self.block.version,
            guest_svn: self.block.guest_svn,
            id_key_algorithm: self.authentication.id_key_algorithm,
            author_key_algorithm: self.authentication.author_key_algorithm,
            id_key_signature: self.authentication.id_block_signature.components,
            id_public_key: self.authentication.id_key.to_layout(),
            author_key_signature: self.authentication.id_key_signature.components,
            author_public_key: self.authentication.author_key.to_layout(),
        }
    }

    /// What the PSP does at SNP_LAUNCH_FINISH: signatures, then digest, then policy.
    pub fn check(&self, launch_digest: &Sha384Digest, policy: u64) -> Result<KeyDigests, IdentityError> {
        let Self { block, authentication, author_key_enabled } = self;
        if block.version.get() != ID_BLOCK_VERSION {
            return Err(IdentityError::Unsupported("the version of the ID block"));
        }
        if authentication.id_key_algorithm.get() != ECDSA_P384_SHA384 {
            return Err(IdentityError::Unsupported("the algorithm of the ID key"));
        }
        let id_key = &authentication.id_key;
        id_key.verify("the ID block", block.as_bytes(), &authentication.id_block_signature)?;
        let mut digests = KeyDigests { id_key: id_key.digest(), author_key: [0; 48] };
        if *author_key_enabled {
            if authentication.author_key_algorithm.get() != ECDSA_P384_SHA384 {
                return Err(IdentityError::Unsupported("the algorithm of the author key"));
            }
            let author_key = &authentication.author_key;
            author_key.verify("the ID key", id_key.as_bytes(), &authentication.id_key_signature)?;
            digests.author_key = author_key.digest();
        }
        if block.launch_digest != *launch_digest {
            return Err(IdentityError::BadMeasurement);
        }
        if block.policy.get() != policy {
            return Err(IdentityError::PolicyFailure);
        }
        Ok(digests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: u64 = 0x30000;
    const DIGEST: Sha384Digest = [0x5a; 48];

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_slice(&[seed; 48]).unwrap()
    }

    fn block() -> IdBlock {
        IdBlock {
            launch_digest: DIGEST,
            family_id: [1; 16],
            image_id: [2; 16],
            version: 1.into(),
            guest_svn: 7.into(),
            policy: POLICY.into(),
        }
    }

    #[test]
    fn a_signed_block_is_accepted() {
        let identity = Identity::sign(block(), &key(1), Some(&key(2)));
        let digests = identity.check(&DIGEST, POLICY).unwrap();
        assert_eq!(digests.id_key, EcdsaPublicKey::from_key(key(1).verifying_key()).digest());
        assert_eq!(digests.author_key, EcdsaPublicKey::from_key(key(2).verifying_key()).digest());
        let without_author = Identity::sign(block(), &key(1), None);
        assert_eq!(without_author.check(&DIGEST, POLICY).unwrap().author_key, [0; 48]);
        assert_eq!(identity, Identity::sign(block(), &key(1), Some(&key(2))), "signing is deterministic");
    }

    #[test]
    fn digest_and_policy_must_be_the_guests() {
        let identity = Identity::sign(block(), &key(1), None);
        assert_eq!(identity.check(&[0; 48], POLICY), Err(IdentityError::BadMeasurement));
        assert_eq!(identity.check(&DIGEST, POLICY | 1 << 19), Err(IdentityError::PolicyFailure));
    }

    #[test]
    fn the_header_of_a_file_loses_nothing() {
        let identity = Identity::sign(block(), &key(3), Some(&key(4)));
        assert_eq!(Identity::from_header(&identity.to_header(1), POLICY), identity);
    }

    /// Every byte that the PSP looks at counts, in the block, the keys and the signatures.
    #[test]
    fn no_byte_can_be_changed() {
        let identity = Identity::sign(block(), &key(5), Some(&key(6)));
        for offset in 0..size_of::<IdBlock>() {
            let mut changed = identity;
            changed.block.as_mut_bytes()[offset] ^= 0x10;
            assert!(changed.check(&DIGEST, POLICY).is_err(), "block byte {offset:#x}");
        }
        // Reserved bytes after signatures and in the structure are not looked at; those of the ID key are signed.
        let looked_at = [0..8, 0x40..0xd0, 0x240..0x644, 0x680..0x710, 0x880..0x914];
        for offset in looked_at.into_iter().flatten().step_by(29) {
            let mut changed = identity;
            changed.authentication.as_mut_bytes()[offset] ^= 0x10;
            assert!(changed.check(&DIGEST, POLICY).is_err(), "authentication byte {offset:#x}");
        }
    }

    #[test]
    fn keys_that_are_none_are_refused() {
        let mut identity = Identity::sign(block(), &key(1), None);
        identity.authentication.id_key.qx = [0xff; 72];
        assert_eq!(identity.check(&DIGEST, POLICY), Err(IdentityError::BadSignature("the ID block")));
        identity.authentication.id_key = EcdsaPublicKey::new_zeroed();
        assert_eq!(identity.check(&DIGEST, POLICY), Err(IdentityError::Unsupported("the curve of a key")));
        let mut identity = Identity::sign(block(), &key(1), None);
        identity.authentication.id_block_signature = EcdsaSignature::new_zeroed();
        assert_eq!(identity.check(&DIGEST, POLICY), Err(IdentityError::BadSignature("the ID block")));
        let mut identity = Identity::sign(block(), &key(1), None);
        identity.author_key_enabled = true;
        assert_eq!(
            identity.check(&DIGEST, POLICY),
            Err(IdentityError::Unsupported("the algorithm of the author key"))
        );
    }
}
