//! The broker as a service: what strangers send, and how many of them, leaves it serving.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use attestation::broker::policy::{Admitted, Policy};
use attestation::broker::{Broker, Evidence};
use attestation::certificates::Bundle;
use attestation::expect::Image;
use attestation::http::{Event, serve};
use attestation::runtime_data::{KeyRelease, canonical, report_data};
use attestation::verify::{Asker, Demands};
use attestation::{jose, keys};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use test_psp::certificates::table;
use test_psp::chip::Chip;
use test_psp::hierarchy::{Certificates, vcek};
use test_psp::report::{Report, ReportVersion};
use zerocopy::IntoBytes;

const MEASUREMENT: [u8; 48] = [0x5a; 48];
const MANIFEST: [u8; 32] = [3; 32];
const SECRET: &[u8] = b"rows of a table";

fn policy() -> Policy {
    let image = Image {
        name: "join".into(),
        digests: [("qemu".to_owned(), MEASUREMENT)].into(),
        policy: 0x3_0000,
        id_key: None,
        author_key: None,
        manifest: Some(MANIFEST),
        workload: None,
    };
    Policy {
        images: vec![Admitted { image, secrets: ["acme/table/a".to_owned()].into() }],
        secrets: [("acme/table/a".to_owned(), SECRET.to_vec().into())].into(),
        certificates: Bundle::default(),
        lifetime: std::time::Duration::from_secs(600),
        demands: Demands { allow_emulated: true, asker: Asker::Kernel, ..Demands::default() },
    }
}

/// A broker on a free port, for as long as the test's process lives; and what it says.
fn start() -> (SocketAddr, Arc<Mutex<Vec<Event>>>) {
    let said = Arc::new(Mutex::new(Vec::new()));
    let (address, found) = mpsc::channel();
    let events = said.clone();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            address.send(listener.local_addr().unwrap()).unwrap();
            let log = move |event: &Event| events.lock().unwrap().push(event.clone());
            serve(listener, Arc::new(Broker::new(policy())), Arc::new(log)).await.unwrap();
        });
    });
    (found.recv().unwrap(), said)
}

/// Sends one request on a connection of its own: status, cookie, and body.
fn ask(to: SocketAddr, line: &str, cookie: &str, body: &str) -> (u16, String, Value) {
    let mut stream = TcpStream::connect(to).expect("the broker listens");
    let request = format!(
        "{line} HTTP/1.1\r\nhost: broker\r\nconnection: close\r\ncookie: other=1; {cookie}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").expect("a response");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")?.split(';').next());
    (status, cookie.unwrap_or_default().to_owned(), serde_json::from_str(body).expect("JSON"))
}

fn auth_body(key: &p256::SecretKey) -> String {
    serde_json::to_string(&attestation::broker::request(&key.public_key())).unwrap()
}

/// A guest that is what it should be: from request to secret.
fn attest(to: SocketAddr) {
    let key = keys::generate().unwrap();
    let (status, cookie, challenge) = ask(to, "POST /kbs/v0/auth", "", &auth_body(&key));
    assert_eq!(status, 200);
    let nonce = challenge["nonce"].as_str().unwrap().to_owned();
    let release = KeyRelease { nonce, key: key.public_key(), manifest: MANIFEST };
    let chip = Chip::test(ReportVersion::V3);
    let mut report = Report {
        policy: 0x3_0000.into(),
        measurement: MEASUREMENT,
        report_data: report_data(canonical(&release.to_json()).as_bytes()),
        report_id_ma: [0xff; 32],
        platform_info: chip.platform_info.bits().into(),
        family: chip.family,
        model: chip.model,
        stepping: chip.stepping,
        chip_id: chip.id,
        reported_tcb: chip.reported_tcb.to_bytes(),
        ..Report::new(ReportVersion::V3)
    };
    report.sign(&vcek(&chip)).unwrap();
    let evidence = Evidence {
        report: BASE64_STANDARD.encode(report.as_bytes()),
        certificates: BASE64_STANDARD.encode(table(&Certificates::of(&chip).unwrap())),
    };
    let body = json!({
        "init-data": null,
        "runtime-data": release.to_json(),
        "tee-evidence": {"primary_evidence": evidence, "additional_evidence": ""},
    });
    let (status, _, admission) = ask(to, "POST /kbs/v0/attest", &cookie, &body.to_string());
    assert_eq!((status, admission["litebox"]["image"].as_str()), (200, Some("join")), "{admission}");
    let (status, _, sealed) = ask(to, "GET /kbs/v0/resource/acme/table/a", &cookie, "");
    assert_eq!(status, 200);
    let sealed: kbs_types::Response = serde_json::from_value(sealed).unwrap();
    assert_eq!(*jose::open(&sealed, &key).unwrap(), SECRET);
    // Replayed, and for another session's cookie.
    let (status, _, refusal) = ask(to, "POST /kbs/v0/attest", &cookie, &body.to_string());
    assert_eq!((status, refusal["type"].as_str()), (401, Some("urn:litebox:refused:replayed-nonce")));
    let (status, _, refusal) = ask(to, "GET /kbs/v0/resource/acme/table/a", "kbs-session-id=00", "");
    assert_eq!((status, refusal["type"].as_str()), (401, Some("urn:litebox:refused:session")));
}

#[test]
fn a_guest_gets_its_secret_over_http() {
    let (broker, said) = start();
    attest(broker);
    let said: Vec<_> = said.lock().unwrap().iter().map(|event| (event.request, event.outcome)).collect();
    let expected = [
        ("auth", "ok"),
        ("attest", "ok"),
        ("resource", "ok"),
        ("attest", "replayed-nonce"),
        ("resource", "session"),
    ];
    assert_eq!(said, expected);
}

/// A thousand connections, all open before the first is answered to its end.
#[test]
fn a_thousand_requests_at_once_are_all_answered() {
    // Both ends of each are in this process.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(8192), hard).unwrap();
    let (broker, said) = start();
    let key = keys::generate().unwrap();
    let body = auth_body(&key);
    let (head, last) = body.split_at(body.len() - 1);
    let open: Vec<_> = (0..1000)
        .map(|_| {
            let mut stream = TcpStream::connect(broker).expect("room for a thousand");
            let length = body.len();
            write!(stream, "POST /kbs/v0/auth HTTP/1.1\r\nhost: broker\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{head}")
                .unwrap();
            stream
        })
        .collect();
    // Another guest is served while they all hang.
    attest(broker);
    let mut sessions = std::collections::BTreeSet::new();
    for mut stream in open {
        stream.write_all(last.as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        sessions.insert(response.split("kbs-session-id=").nth(1).unwrap()[..32].to_owned());
    }
    assert_eq!(sessions.len(), 1000);
    assert_eq!(
        said.lock().unwrap().iter().filter(|event| (event.request, event.outcome) == ("auth", "ok")).count(),
        1001
    );
}

#[test]
fn garbage_leaves_it_serving() {
    let (broker, _) = start();
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(1 << 20));
    let huge = format!(
        "POST /kbs/v0/auth HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{}",
        2 << 20,
        "x".repeat(2 << 20)
    );
    let garbage: [&[u8]; 9] = [
        b"",
        b"\0\xff\xfe\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /kbs/v0/auth HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /kbs/v0/auth HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /kbs/v0/attest HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        long.as_bytes(),
        huge.as_bytes(),
    ];
    for bytes in garbage {
        let mut stream = TcpStream::connect(broker).unwrap();
        // It may hang up in the middle, and need not answer.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    for (line, status) in [
        ("GET /", 404),
        ("DELETE /kbs/v0/auth", 404),
        ("GET /kbs/v0/auth", 404),
        ("POST /kbs/v0/auth", 400),
        ("POST /kbs/v0/attest", 401),
        ("GET /kbs/v0/resource/../../etc", 401),
    ] {
        assert_eq!(ask(broker, line, "", "garbage").0, status, "{line}");
    }
    attest(broker);
}
