//! The picture that `inspect --svg` draws: memory from low to high, a bar for each region, as wide as the logarithm of its size.

use std::fmt::Write;

use super::facts::Facts;
use super::region::{Region, Treatment};

const WIDTH: u32 = 900;
const ROW: u32 = 22;
const BARS_AT: u32 = 180;
const BAR_MAX: u32 = 260;
/// Regions that are drawn; the others are counted.
const REGIONS_MAX: usize = 300;

const fn colour(treatment: Treatment) -> &'static str {
    match treatment {
        Treatment::Measured => "#2f6f4f",
        Treatment::Zero => "#8fbfa3",
        Treatment::Unmeasured => "#d08a2e",
        Treatment::Secrets => "#6a4c93",
        Treatment::Cpuid => "#4a6fa5",
        Treatment::Shared => "#b23a48",
        Treatment::NotLaunched => "#c9c9c9",
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A picture, complete in itself.
pub fn picture(name: &str, facts: &Facts) -> String {
    let mut out = String::new();
    // Writing into a string does not fail.
    let _ = write(&mut out, name, facts);
    out
}

fn write(out: &mut String, name: &str, facts: &Facts) -> std::fmt::Result {
    let drawn = &facts.regions[..facts.regions.len().min(REGIONS_MAX)];
    let height = 150 + ROW * (drawn.len() as u32 + gaps(drawn) + 1);
    writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="monospace" font-size="12">"#
    )?;
    writeln!(out, r#"<rect width="{WIDTH}" height="{height}" fill="white"/>"#)?;
    writeln!(out, r#"<text x="16" y="28" font-size="16">{}</text>"#, escaped(name))?;
    let policy = facts.policy.as_ref();
    let words = policy.map_or_else(|| "no policy".into(), |policy| format!("policy {}", policy.value));
    writeln!(out, r#"<text x="16" y="48">{}, {}</text>"#, escaped(&facts.platform), escaped(&words))?;
    if policy.is_some_and(|policy| policy.debug) {
        writeln!(
            out,
            r##"<text x="16" y="68" fill="#b00020" font-weight="bold">DEBUG POLICY: the host may read and change this guest</text>"##
        )?;
    }
    for (number, treatment) in (0u32..).zip(Treatment::ALL) {
        let (x, y) = (16 + number % 4 * 215, 84 + number / 4 * 20);
        writeln!(out, r#"<rect x="{x}" y="{y}" width="12" height="12" fill="{}"/>"#, colour(treatment))?;
        let count = facts.pages.get(treatment.words()).copied().unwrap_or_default();
        writeln!(out, r#"<text x="{}" y="{}">{}: {count}</text>"#, x + 18, y + 11, treatment.words())?;
    }
    let mut y = 140;
    let mut end_before = None;
    for region in drawn {
        if end_before.is_some_and(|end| end != region.start) {
            writeln!(out, r##"<text x="{BARS_AT}" y="{}" fill="#888">···</text>"##, y + 15)?;
            y += ROW;
        }
        bar(out, region, y)?;
        end_before = Some(region.end());
        y += ROW;
    }
    if facts.regions.len() > drawn.len() {
        let more = facts.regions.len() - drawn.len();
        writeln!(out, r#"<text x="{BARS_AT}" y="{}">and {more} more</text>"#, y + 15)?;
    }
    writeln!(out, "</svg>")
}

fn gaps(regions: &[Region]) -> u32 {
    regions.windows(2).filter(|pair| pair[0].end() != pair[1].start).count() as u32
}

fn bar(out: &mut String, region: &Region, y: u32) -> std::fmt::Result {
    let width = (10 + 20 * region.pages.max(1).ilog2()).min(BAR_MAX);
    writeln!(out, r#"<text x="16" y="{}">{:#x}</text>"#, y + 15, region.start)?;
    let fill = colour(region.treatment);
    writeln!(
        out,
        r##"<rect x="{BARS_AT}" y="{y}" width="{width}" height="{}" fill="{fill}" stroke="#333" stroke-width="0.5"/>"##,
        ROW - 4
    )?;
    let unit = if region.pages == 1 { "page" } else { "pages" };
    let words = escaped(&region.what);
    let x = BARS_AT + BAR_MAX + 12;
    writeln!(out, r#"<text x="{x}" y="{}">{} {unit}  {words}</text>"#, y + 15, region.pages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::igvm::image::tests::{image, kernel};

    #[test]
    fn every_region_is_drawn_and_names_are_escaped() {
        let kernel = kernel();
        let facts = Facts::of(&image(&kernel, b"m").build().unwrap()).unwrap();
        let picture = picture("<b>&.igvm", &facts);
        assert!(picture.contains("&lt;b&gt;&amp;.igvm") && !picture.contains("<b>"));
        for region in &facts.regions {
            assert!(picture.contains(&escaped(&region.what)), "{}", region.what);
        }
        assert_eq!(picture.matches("stroke-width").count(), facts.regions.len());
        assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"));
    }
}
