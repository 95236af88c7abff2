//! `inspect`: what an IGVM file launches, what lies where, and which host would refuse it.

mod facts;
mod memory;
mod region;
mod svg;
mod table;

use std::io::{self, Write};

use anyhow::{Context, Result};

pub use facts::{Facts, IdFacts, PolicyFacts};

use super::arguments::Inspect;
use super::read_file;

/// Prints the report; 0, or 125 for what is no IGVM file.
pub fn inspect(args: &Inspect) -> i32 {
    super::status(attempt(args).map(|()| 0))
}

fn attempt(args: &Inspect) -> Result<()> {
    let bytes = read_file(&args.file)?;
    let name = args.file.display().to_string();
    let facts = Facts::of(&bytes).with_context(|| name.clone())?;
    if let Some(svg) = &args.svg {
        std::fs::write(svg, svg::picture(&name, &facts))
            .with_context(|| format!("cannot write {}", svg.display()))?;
    }
    let text = if args.json {
        serde_json::to_string_pretty(&facts).context("cannot encode the report")? + "\n"
    } else {
        table::table(&name, &facts)
    };
    // A closed pipe is the reader's choice.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(())
}
