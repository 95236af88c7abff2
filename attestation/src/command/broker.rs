//! `broker`: serves a policy.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use attestation::broker::Broker;
use attestation::broker::policy::Policy;
use attestation::http;
use clap::Args;
use tokio::net::TcpListener;

/// What `broker` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
It answers the key broker protocol of the Confidential Containers (/kbs/v0/…) in plain HTTP: secrets leave it encrypted to the guest, and whoever carries the
messages is trusted with nothing. What each request came to is said on standard output, a line each. The policy's schema: docs/attestation.md.")]
pub struct Serve {
    /// Which images get which secrets
    #[arg(value_name = "POLICY.toml")]
    pub policy: PathBuf,
    /// Where to listen; port 0 takes a free one, and the first line says which
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Lines of JSON
    #[arg(long)]
    pub json: bool,
    /// Read the policy and all that it names, say what is in it, and serve nothing
    #[arg(long)]
    pub check: bool,
}

/// Serves until the process ends; the exit status.
pub fn run(args: &Serve) -> Result<i32> {
    let policy = Policy::open(&args.policy)?;
    if policy.demands.allow_emulated {
        let _ = writeln!(
            io::stderr(),
            "xtask: WARNING: this policy accepts the SNP emulator's root, which proves nothing: for trying things out only"
        );
    }
    for admitted in &policy.images {
        let secrets: Vec<_> = admitted.secrets.iter().map(String::as_str).collect();
        say(args, "image", &format!("{} gets {}", admitted.image.name, secrets.join(", ")));
    }
    if args.check {
        return Ok(0);
    }
    let json = args.json;
    let log = move |event: &http::Event| {
        let line = match json {
            true => serde_json::to_string(event).unwrap_or_default(),
            false => format!("{}: {}: {}", event.request, event.outcome, event.detail),
        };
        // Nobody may be reading; the log is not worth ending for.
        let _ = writeln!(io::stdout(), "{line}");
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    runtime.block_on(async {
        let listener = TcpListener::bind(args.listen)
            .await
            .with_context(|| format!("cannot listen on {}", args.listen))?;
        say(args, "listening", &format!("http://{}", listener.local_addr()?));
        http::serve(listener, Arc::new(Broker::new(policy)), Arc::new(log)).await?;
        Ok(0)
    })
}

fn say(args: &Serve, what: &str, detail: &str) {
    let line = match args.json {
        true => serde_json::json!({"event": what, "detail": detail}).to_string(),
        false => format!("{what}: {detail}"),
    };
    let _ = writeln!(io::stdout(), "{line}");
}
