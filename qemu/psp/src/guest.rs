//! A guest, as the PSP knows it: from SNP_LAUNCH_START through SNP_LAUNCH_FINISH to the messages that it sends.
//!
//! Until the launch is finished there is a secrets page and nothing else. From then on the measurement and what goes with it
//! cannot change, and are what every report says.
//!
//! Source: SEV-SNP firmware ABI (56860), SNP_LAUNCH_START, SNP_LAUNCH_UPDATE (table "Secrets Page Format"), SNP_LAUNCH_FINISH,
//! SNP_GUEST_REQUEST.

use alloc::vec::Vec;
use core::cell::OnceCell;

use p384::ecdsa::SigningKey;
use zerocopy::little_endian::U32;
use zerocopy::{FromZeros, Immutable, IntoBytes};

use crate::PAGE_SIZE;
use crate::certificates;
use crate::chip::{Chip, FirmwareVersion, TcbVersion};
use crate::derived_key::Subject;
use crate::hierarchy::{self, Certificates, secret};
use crate::message::{Channels, Message, VMPCKS, Vmpck, kind};
use crate::policy::Policy;
use crate::report::{Report, ReportVersion, VersionBytes};
use crate::report_request::{self, ReportRequest};
use crate::status::Status;
use crate::tsc_info::{self, TscInfo};

/// Version of the secrets page.
const SECRETS_VERSION: u32 = 3;

/// The secrets page, as far as the PSP fills it; the rest is the guest's or an SVSM's.
#[derive(IntoBytes, Immutable, FromZeros)]
#[repr(C)]
struct SecretsPage {
    version: U32,
    /// Bit 0: IMI_EN.
    flags: U32,
    cpuid_signature: U32,
    reserved_00c: U32,
    gosvw: [u8; 16],
    vmpcks: [Vmpck; VMPCKS],
    guest_area: [u8; 96],
    vmsa_tweak_bitmap: [u8; 64],
    svsm_area: [u8; 32],
    tsc_factor: U32,
    reserved_164: [u8; 0xe9c],
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<SecretsPage>() == PAGE_SIZE);
    assert!(offset_of!(SecretsPage, vmpcks) == 0x20);
    assert!(offset_of!(SecretsPage, guest_area) == 0xa0);
    assert!(offset_of!(SecretsPage, vmsa_tweak_bitmap) == 0x100);
    assert!(offset_of!(SecretsPage, svsm_area) == 0x140);
    assert!(offset_of!(SecretsPage, tsc_factor) == 0x160);
};

/// What an ID block that was checked leaves behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Family.
    pub family_id: [u8; 16],
    /// Image.
    pub image_id: [u8; 16],
    /// Security version.
    pub guest_svn: u32,
    /// SHA-384 of the ID key.
    pub id_key_digest: KeyDigest,
    /// SHA-384 of the author key, if there was one.
    pub author_key_digest: Option<KeyDigest>,
}

/// SHA-384 of a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyDigest(pub [u8; 48]);

impl Default for KeyDigest {
    fn default() -> Self {
        Self([0; 48])
    }
}

/// What a launch is finished with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finish {
    /// Launch digest.
    pub measurement: [u8; 48],
    /// What the host adds, for reports to say.
    pub host_data: [u8; 32],
    /// Of the ID block, if there was one.
    pub identity: Option<Identity>,
}

/// A guest.
pub struct Guest {
    chip: Chip,
    policy: Policy,
    report_id: [u8; 32],
    vmrk: [u8; 48],
    tsc: Option<TscInfo>,
    launch_tcb: TcbVersion,
    launch_mitigations: u64,
    channels: Channels,
    finished: Option<Finish>,
    /// Made when first needed: both take a while.
    vcek: OnceCell<SigningKey>,
    table: OnceCell<Vec<u8>>,
}

fn first_32(bytes: [u8; 48]) -> [u8; 32] {
    let mut first = [0; 32];
    for (to, from) in first.iter_mut().zip(bytes) {
        *to = from;
    }
    first
}

impl From<FirmwareVersion> for VersionBytes {
    fn from(version: FirmwareVersion) -> Self {
        let FirmwareVersion { major, minor, build } = version;
        Self { build, minor, major, reserved: 0 }
    }
}

impl Guest {
    /// SNP_LAUNCH_START, on a platform that the policy must allow. Keys and the report's identity come from `seed`: random bytes,
    /// or, for a launch that can be repeated, given ones. `tsc` is for guests with Secure TSC.
    pub fn start(chip: Chip, policy: u64, seed: &[u8; 32], tsc: Option<TscInfo>) -> Result<Self, Status> {
        let policy = Policy::check(policy, &chip)?;
        let keys = [0_u8, 1, 2, 3].map(|vmpl| first_32(secret("VMPCK", &[seed, &[vmpl]])));
        Ok(Self {
            policy,
            report_id: first_32(secret("report ID", &[seed])),
            vmrk: secret("VMRK", &[seed]),
            tsc,
            launch_tcb: chip.current_tcb,
            launch_mitigations: chip.mitigations,
            channels: Channels::new(keys),
            finished: None,
            vcek: OnceCell::new(),
            table: OnceCell::new(),
            chip,
        })
    }

    /// The secrets page, as the PSP loads it (PAGE_TYPE_SECRETS).
    pub fn secrets_page(&self) -> [u8; PAGE_SIZE] {
        let mut page = SecretsPage::new_zeroed();
        page.version = SECRETS_VERSION.into();
        page.cpuid_signature = self.chip.cpuid_signature().into();
        for (to, key) in page.vmpcks.iter_mut().zip(self.channels.keys()) {
            *to = *key;
        }
        page.tsc_factor = self.tsc.map_or(0, |tsc| tsc.factor).into();
        zerocopy::transmute!(page)
    }

    /// SNP_LAUNCH_FINISH. An ID block has been checked by then (`litebox_igvm::id_block`). A launch is finished once.
    pub fn finish(&mut self, finish: Finish) -> Result<(), Status> {
        if self.finished.is_some() {
            return Err(Status::InvalidGuestState);
        }
        self.finished = Some(finish);
        Ok(())
    }

    /// The chip that the guest runs on.
    pub fn chip(&self) -> &Chip {
        &self.chip
    }

    /// The table of certificates that the host hands out with reports; see [`certificates::supply`].
    pub fn certificate_table(&self) -> &[u8] {
        self.table.get_or_init(|| {
            Certificates::of(&self.chip).map(|chain| certificates::table(&chain)).unwrap_or_default()
        })
    }

    /// SNP_GUEST_REQUEST: answers the message in one page in another. The result is the firmware's, for SW_EXITINFO2\[31:0\].
    ///
    /// A message that is not what a guest sealed, or not the next one, is refused: the sequence stays, and nothing is written. One
    /// that is well sealed and asks for what cannot be had is answered: with a status in the response, and the sequence moves on.
    pub fn request(&mut self, request: &[u8; PAGE_SIZE], response: &mut [u8; PAGE_SIZE]) -> Status {
        match self.answer(request, response) {
            Ok(()) => Status::Success,
            Err(status) => status,
        }
    }

    fn answer(&mut self, request: &[u8; PAGE_SIZE], response: &mut [u8; PAGE_SIZE]) -> Result<(), Status> {
        let finish = self.finished.ok_or(Status::InvalidGuestState)?;
        let message = self.channels.open(request)?;
        let payload = match message.kind {
            kind::KEY_REQUEST => self.key(&finish, &message),
            kind::REPORT_REQUEST => report_request::response(self.report(&finish, &message)),
            kind::TSC_INFO_REQUEST => tsc_info::answer(&message, self.tsc),
            _ => return Err(Status::InvalidParam),
        };
        self.channels.answer(&message, payload, response)
    }

    fn key(&self, finish: &Finish, message: &Message) -> Vec<u8> {
        let identity = finish.identity.unwrap_or_default();
        let subject = Subject {
            chip_id: &self.chip.id,
            vmrk: &self.vmrk,
            policy: self.policy.bits(),
            image_id: &identity.image_id,
            family_id: &identity.family_id,
            measurement: &finish.measurement,
            guest_svn: identity.guest_svn,
            committed_tcb: self.chip.committed_tcb.to_bytes(),
            mitigations: match self.chip.report_version() {
                ReportVersion::V3 => None,
                ReportVersion::V5 => Some(self.launch_mitigations),
            },
        };
        subject.answer(message)
    }

    fn report(&self, finish: &Finish, message: &Message) -> Result<Report, Status> {
        let request = ReportRequest::parse(message)?;
        let Finish { measurement, host_data, identity } = *finish;
        let identity = identity.unwrap_or_default();
        let chip = &self.chip;
        let version = chip.report_version();
        let mitigations = |vector: u64| if version == ReportVersion::V5 { vector.into() } else { 0.into() };
        let mut report = Report {
            guest_svn: identity.guest_svn.into(),
            policy: self.policy.bits().into(),
            family_id: identity.family_id,
            image_id: identity.image_id,
            vmpl: request.vmpl,
            current_tcb: chip.current_tcb.to_bytes(),
            platform_info: chip.platform_info.bits().into(),
            // Signed by the VCEK, which is not masked.
            key_info: u32::from(identity.author_key_digest.is_some()).into(),
            report_data: request.report_data,
            measurement,
            host_data,
            id_key_digest: identity.id_key_digest.0,
            author_key_digest: identity.author_key_digest.unwrap_or_default().0,
            report_id: self.report_id,
            report_id_ma: [0xff; 32],
            reported_tcb: chip.reported_tcb.to_bytes(),
            family: chip.family,
            model: chip.model,
            stepping: chip.stepping,
            chip_id: chip.id,
            committed_tcb: chip.committed_tcb.to_bytes(),
            current_version: chip.current_version.into(),
            committed_version: chip.committed_version.into(),
            launch_tcb: self.launch_tcb.to_bytes(),
            launch_mitigations: mitigations(self.launch_mitigations),
            current_mitigations: mitigations(chip.mitigations),
            ..Report::new(version)
        };
        let vcek = self.vcek.get_or_init(|| hierarchy::vcek(chip));
        report.sign(vcek).map_err(|_| Status::InvalidKey)?;
        Ok(report)
    }
}
