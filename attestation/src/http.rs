//! A broker over HTTP/1.1: the endpoints of the key broker protocol, each request judged by itself.
//!
//! Whoever connects may be anybody. A connection has a bounded time for its headers and its body, a body a bounded size, and there is a
//! bounded number of connections at once; what is no request is answered with an error, or closed.
//!
//! Source: the Confidential Containers' key broker protocol: `POST /kbs/v0/auth`, `POST /kbs/v0/attest`, `GET
//! /kbs/v0/resource/{repository}/{type}/{tag}`; the session's name travels in the cookie `kbs-session-id`.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, COOKIE, HeaderValue, SET_COOKIE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::broker::{Broker, Reason, Refusal};

/// The cookie that holds the session's name.
pub const COOKIE_NAME: &str = "kbs-session-id";
/// The longest body of a request: evidence has some 10 KiB.
const BODY_MAX: usize = 1 << 20;
/// Connections at once; more wait to be accepted.
const CONNECTIONS: usize = 4096;
/// The time for a request's headers, and again for its body.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a broker did, for its owner to see.
pub type Log = dyn Fn(&Event) + Send + Sync;

/// One request's outcome.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// `auth`, `attest`, `resource`, or `none` of them.
    pub request: &'static str,
    /// Who connected.
    pub from: String,
    /// What came of it: `ok`, or the name of the reason.
    pub outcome: &'static str,
    /// In words.
    pub detail: String,
}

/// Serves until the process ends.
///
/// # Errors
/// The listener is gone.
pub async fn serve(listener: TcpListener, broker: Arc<Broker>, log: Arc<Log>) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return Ok(()) };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(_) => {
                // Out of descriptors, or the client is gone already: others may have more luck.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let (broker, log) = (broker.clone(), log.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let (broker, log) = (broker.clone(), log.clone());
                async move { Ok::<_, Infallible>(answer(request, from, &broker, &*log).await) }
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(64 << 10);
            // What a connection ends with concerns nobody but who made it.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
            drop(place);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    from: SocketAddr,
    broker: &Arc<Broker>,
    log: &Log,
) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let session = parts.headers.get_all(COOKIE).iter().find_map(session).unwrap_or_default();
    let path = parts.uri.path().to_owned();
    let (name, outcome) = match (&parts.method, path.as_str()) {
        (&Method::POST, "/kbs/v0/auth") => ("auth", read(body).await.and_then(|body| auth(broker, &body))),
        (&Method::POST, "/kbs/v0/attest") => {
            let attested = match read(body).await {
                // Signatures take milliseconds, in which others are served.
                Ok(body) => {
                    let broker = broker.clone();
                    let judged = tokio::task::spawn_blocking(move || attest(&broker, &session, &body)).await;
                    judged
                        .unwrap_or_else(|_| Err(Refusal::new(Reason::Broken, "the judgement was cut short")))
                }
                Err(refusal) => Err(refusal),
            };
            ("attest", attested)
        }
        (&Method::GET, path) => match path.strip_prefix("/kbs/v0/resource/") {
            Some(resource) => ("resource", release(broker, &session, resource)),
            None => ("none", Err(unknown(path))),
        },
        (_, path) => ("none", Err(unknown(path))),
    };
    let (response, event) = match outcome {
        Ok((response, detail)) => {
            (response, Event { request: name, from: from.to_string(), outcome: "ok", detail })
        }
        Err(refusal) => {
            let status = if name == "none" { 404 } else { refusal.reason.http_status() };
            let event = Event {
                request: name,
                from: from.to_string(),
                outcome: refusal.reason.name(),
                detail: refusal.detail.clone(),
            };
            (json_response(status, &refusal.to_message()), event)
        }
    };
    log(&event);
    response
}

type Outcome = Result<(Response<Full<Bytes>>, String), Refusal>;

fn unknown(path: &str) -> Refusal {
    let shown: String = path.chars().take(80).collect();
    Refusal::new(Reason::Malformed, format!("there is nothing at {shown}"))
}

fn session(cookies: &HeaderValue) -> Option<String> {
    let cookies = cookies.to_str().ok()?;
    let pairs = cookies.split(';').filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(name, _)| *name == COOKIE_NAME).map(|(_, value)| value.to_owned()).next()
}

async fn read(body: Incoming) -> Result<Bytes, Refusal> {
    let limited = Limited::new(body, BODY_MAX).collect();
    match tokio::time::timeout(PATIENCE, limited).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => Err(Refusal::new(
            Reason::Malformed,
            format!("the body is cut off, or has more than {BODY_MAX} bytes"),
        )),
        Err(_) => Err(Refusal::new(Reason::Malformed, "the body does not come")),
    }
}

fn auth(broker: &Broker, body: &[u8]) -> Outcome {
    let (session, challenge) = broker.auth(body)?;
    let mut response = json_response(200, &challenge);
    let cookie = HeaderValue::from_str(&format!("{COOKIE_NAME}={session}; Path=/kbs; HttpOnly"));
    let cookie = cookie.map_err(|_| Refusal::new(Reason::Broken, "a session's name is no cookie"))?;
    response.headers_mut().insert(SET_COOKIE, cookie);
    Ok((response, "challenged".into()))
}

fn attest(broker: &Broker, session: &str, body: &[u8]) -> Outcome {
    let admission = broker.attest(session, body)?;
    let detail = format!("{}, measurement {}", admission.image, admission.measurement);
    // The protocol's token is for other services; the session's cookie does here.
    Ok((json_response(200, &json!({"token": "", "litebox": admission})), detail))
}

fn release(broker: &Broker, session: &str, resource: &str) -> Outcome {
    let sealed = broker.resource(session, resource)?;
    Ok((json_response(200, &sealed), format!("released {resource}")))
}

fn json_response(status: u16, body: &impl Serialize) -> Response<Full<Bytes>> {
    let text = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
