//! What a guest got from the emulator's PSP, judged on the host: by the `sev` crate, by this project's verifier, and by asking the same of a
//! PSP on the host.

use sev::certs::snp::{Certificate, Verifiable};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser;
use snp_emulator::load::launch::Platform;
use test_psp::certificates;
use test_psp::guest::{Finish, Guest};
use test_psp::hierarchy::Certificates;
use test_psp::message::{Message, Vmpck, kind, seal, unseal};
use test_psp::report::ReportVersion;
use test_psp::verify::{verify_report, verify_test_chain};

/// The policy that `--linux` launches with.
const POLICY: u64 = 0x3_0000;

/// A launch, repeated on the host.
pub struct Twin {
    guest: Guest,
    key: Vmpck,
    sequence: u64,
    version: ReportVersion,
    measurement: [u8; 48],
}

impl Twin {
    /// Of the guest with this launch digest, launched with `--report-version` and `--seed`.
    ///
    /// # Errors
    /// The PSP refuses.
    pub fn new(version: ReportVersion, seed: u64, measurement: [u8; 48]) -> Result<Self, String> {
        let platform = Platform::new(version, seed);
        let mut guest =
            Guest::start(platform.chip, POLICY, &platform.seed, None).map_err(|e| e.to_string())?;
        guest
            .finish(Finish { measurement, host_data: [0; 32], identity: None })
            .map_err(|e| e.to_string())?;
        let mut key = [0; 32];
        key.copy_from_slice(&guest.secrets_page()[0x20..0x40]);
        Ok(Self { guest, key, sequence: 1, version, measurement })
    }

    /// The answer to a message of VMPL0's, without the 32 bytes in front of what was asked for.
    fn ask(&mut self, kind: u8, payload: Vec<u8>) -> Result<Vec<u8>, String> {
        let (mut request, mut response) = ([0; 4096], [0; 4096]);
        let message = Message { kind, version: 1, vmpck: 0, payload };
        seal(&self.key, self.sequence, &message, &mut request).map_err(|e| e.to_string())?;
        let status = self.guest.request(&request, &mut response);
        let answer = unseal(&self.key, self.sequence + 1, &response);
        self.sequence += 2;
        let payload = answer.map_err(|e| format!("{status}; {e}"))?.payload;
        payload.get(32..).map(<[u8]>::to_vec).ok_or_else(|| "a short answer".into())
    }

    /// The derived key of VMPL0 from the VCEK, with these fields mixed in.
    ///
    /// # Errors
    /// The PSP refuses.
    pub fn derived_key(&mut self, fields: u64) -> Result<Vec<u8>, String> {
        self.ask(kind::KEY_REQUEST, [&[0; 8][..], &fields.to_le_bytes(), &[0; 16]].concat())
    }

    /// Checks a report that the guest got for `data`: signed by the chip, of this launch, and to the byte what the PSP says here.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn check_report(
        &mut self,
        report: &[u8],
        data: &[u8; 64],
        chain: &Certificates,
    ) -> Result<(), String> {
        verify_test_chain(chain).map_err(|e| e.to_string())?;
        verify_report(report, &chain.vcek).map_err(|e| e.to_string())?;
        let theirs = AttestationReport::from_bytes(report).map_err(|e| e.to_string())?;
        let vcek = Certificate::from_der(&chain.vcek).map_err(|e| e.to_string())?;
        (&vcek, &theirs).verify().map_err(|e| format!("the sev crate: {e}"))?;
        let mut tampered = theirs;
        tampered.measurement[47] ^= 1;
        if (&vcek, &tampered).verify().is_ok() {
            return Err("the sev crate would believe another measurement too".into());
        }
        if theirs.measurement != self.measurement {
            return Err(format!("the report's measurement is {:02x?}", theirs.measurement));
        }
        if theirs.report_data != *data || theirs.version != self.version as u32 || theirs.vmpl != 0 {
            return Err(format!("the report is for something else: {theirs}"));
        }
        // Signatures are deterministic (RFC 6979), so that nothing in a report can be chance.
        let ours = self.ask(kind::REPORT_REQUEST, [&data[..], &[0; 32]].concat())?;
        if ours == report { Ok(()) } else { Err("the report is not what the PSP says on the host".into()) }
    }
}

/// The chain in the pages that the host filled.
///
/// # Errors
/// It is none.
pub fn chain(mut table: Vec<u8>) -> Result<Certificates, String> {
    // The guest leaves out zeros at the end.
    table.resize(table.len().next_multiple_of(4096), 0);
    certificates::chain(&table).ok_or_else(|| "the certificate table is malformed".into())
}
