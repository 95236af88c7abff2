//! The results as one HTML file: no scripts, nothing fetched, light and dark as the reader's system has it.
//!
//! Charts are inline SVG whose colours come from the page's style sheet. The time to the first line is drawn to scale; ratios are
//! drawn on a logarithmic axis around one, so that twice as fast and half as fast are equally long. Invariant: every text
//! that comes from elsewhere passes [`escape`].

use std::fmt::Write;

use super::report::{Column, Comparison, Pair, Report, duration, times};
use super::statistics::{best, geometric_mean, median};

const STYLE: &str = "
:root{color-scheme:light dark;--page:#f9f9f7;--card:#fcfcfb;--ink:#0b0b0b;--soft:#52514e;--faint:#898781;--grid:#e1e0d9;
--edge:#c3c2b7;--ours:#2a78d6;--other:#a9a79f;--bad:#d03b3b;--good:#006300}
@media(prefers-color-scheme:dark){:root{--page:#0d0d0d;--card:#1a1a19;--ink:#fff;--soft:#c3c2b7;--faint:#898781;
--grid:#2c2c2a;--edge:#383835;--ours:#3987e5;--other:#6b6963;--bad:#e66767;--good:#0ca30c}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:860px;margin:0 auto;padding:32px 16px 64px}
h1{font-size:24px;line-height:1.25;margin:0 0 8px}h2{font-size:18px;margin:40px 0 12px}h3{font-size:15px;margin:0 0 8px}
p{margin:0 0 12px}.soft{color:var(--soft)}
section{background:var(--card);border:1px solid var(--grid);border-radius:8px;padding:16px;margin:12px 0;overflow-x:auto}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(180px,1fr));gap:12px}
.tile{background:var(--card);border:1px solid var(--grid);border-radius:8px;padding:16px}
.tile b{display:block;font-size:32px;line-height:1.1;font-weight:600;margin:4px 0}
ul{margin:0;padding:0;list-style:none}li{padding:2px 0}
.yes{color:var(--good)}.no{color:var(--bad)}
svg{display:block;width:100%;min-width:560px;height:auto;font:12px system-ui,sans-serif}
svg text{fill:var(--soft)}svg .value{fill:var(--ink)}svg .tick{fill:var(--faint)}
.grid{stroke:var(--grid)}.one{stroke:var(--edge);stroke-width:1.5}
.ours{fill:var(--ours)}.other{fill:var(--other)}.bad{fill:var(--bad)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:4px 8px;border-bottom:1px solid var(--grid);white-space:nowrap}
th{color:var(--soft);font-weight:500}th:first-child,td:first-child{text-align:left;white-space:normal}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:12px;margin:0;color:var(--soft)}";

/// Width of the charts, of their labels on the left and of what the values on the right need.
const WIDTH: f64 = 760.0;
const LABELS: f64 = 210.0;
const VALUES: f64 = 70.0;
/// A row's height, and its bar's.
const PITCH: f64 = 22.0;
const BAR: f64 = 14.0;

/// The page.
pub fn page(report: &Report) -> String {
    let mut out = String::from(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>LiteBox and Linux</title>",
    );
    let _ = write!(out, "<style>{STYLE}</style></head><body><main>");
    out.push_str("<h1>The same program in a virtual machine of LiteBox and of Linux</h1>");
    let _ = write!(
        out,
        "<p class=\"soft\">QEMU {}, {}, {} MiB, one CPU; {} starts per column in turns, the best of all runs is compared.{}</p>",
        escape(&report.qemu),
        escape(&report.accelerator),
        report.memory_bytes >> 20,
        report.runs,
        report
            .linux_package
            .as_ref()
            .map_or_else(String::new, |package| format!(" Linux: {}, tuned.", escape(package)))
    );
    for comparison in &report.comparisons {
        section(&mut out, comparison);
    }
    if let Some(line) = &report.linux_command_line {
        let _ = write!(out, "<section><h3>Linux's command line</h3><pre>{}</pre></section>", escape(line));
    }
    out.push_str("</main></body></html>\n");
    out
}

fn section(out: &mut String, comparison: &Comparison) {
    let _ = write!(out, "<h2>-cpu {}</h2>", escape(&comparison.cpu));
    let pairs = comparison.pairs();
    tiles(out, comparison, &pairs);
    if !comparison.verdicts.is_empty() {
        out.push_str("<section><h3>Goals</h3><ul>");
        for verdict in &comparison.verdicts {
            let (class, word) = match verdict.met {
                Some(true) => ("yes", "✓ met:"),
                Some(false) => ("no", "✗ missed:"),
                None => ("soft", "? unknown:"),
            };
            let _ = write!(out, "<li><span class=\"{class}\">{word}</span> {}</li>", escape(&verdict.text));
        }
        out.push_str("</ul></section>");
    }
    first_line_chart(out, comparison);
    ratio_chart(out, &pairs);
    table(out, comparison, &pairs);
    for (name, column) in [("LiteBox", Some(&comparison.litebox)), ("Linux", comparison.linux.as_ref())] {
        for problem in column.iter().flat_map(|column| &column.problems) {
            let _ = write!(out, "<section><h3>Problem: {name}</h3><pre>{}</pre></section>", escape(problem));
        }
    }
}

/// The headline numbers.
fn tiles(out: &mut String, comparison: &Comparison, pairs: &[Pair<'_>]) {
    let ratios: Vec<f64> = pairs.iter().filter(|pair| pair.kernel).filter_map(Pair::ratio).collect();
    let slower = ratios.iter().filter(|ratio| **ratio < 1.0).count();
    let values = [
        ("First line", comparison.first_line_ratio().map(times), "sooner than Linux's"),
        ("Calls and memory", geometric_mean(&ratios).map(times), "faster, geometric mean"),
        (
            "Rows slower than Linux's",
            (!ratios.is_empty()).then(|| slower.to_string()),
            "of those in the kernel",
        ),
        (
            "First line after",
            best(&comparison.litebox.first_line_ms).map(|ms| duration(ms * 1e6)),
            "of QEMU's start",
        ),
    ];
    out.push_str("<div class=\"tiles\">");
    for (label, value, note) in values {
        if let Some(value) = value {
            let _ = write!(
                out,
                "<div class=\"tile\"><span class=\"soft\">{label}</span><b>{value}</b><span class=\"soft\">{note}</span></div>"
            );
        }
    }
    out.push_str("</div>");
}

/// One bar per column, to scale, with a tick at every run.
fn first_line_chart(out: &mut String, comparison: &Comparison) {
    let linux = comparison.linux.as_ref().map(|linux| linux.first_line_ms.as_slice()).unwrap_or_default();
    let bars = [("LiteBox", "ours", comparison.litebox.first_line_ms.as_slice()), ("Linux", "other", linux)];
    let longest = bars.iter().flat_map(|(.., runs)| *runs).copied().fold(0.0, f64::max);
    if longest <= 0.0 {
        return;
    }
    let (left, height) = (80.0, 2.0 * PITCH + 4.0);
    let scale = (WIDTH - left - 2.0 * VALUES) / longest;
    open_chart(
        out,
        "From QEMU's start to the program's first line: best run as the bar, every run as a tick",
        height,
    );
    for (row, (name, class, runs)) in bars.into_iter().enumerate() {
        let (Some(shortest), Some(middle)) = (best(runs), median(runs)) else { continue };
        let (top, bar) = (row as f64 * PITCH + 4.0, (shortest * scale).max(2.0));
        let text = top + BAR - 3.0;
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{text:.1}\" text-anchor=\"end\">{name}</text><rect class=\"{class}\" x=\"{left}\" \
             y=\"{top:.1}\" width=\"{bar:.1}\" height=\"{BAR}\" rx=\"3\"><title>{name}: best {}, median {}</title></rect>",
            left - 8.0,
            duration(shortest * 1e6),
            duration(middle * 1e6)
        );
        for run in runs {
            let at = left + run * scale;
            let _ = write!(
                out,
                "<line class=\"one\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{top:.1}\" y2=\"{:.1}\"><title>{}</title></line>",
                top + BAR,
                duration(run * 1e6)
            );
        }
        let end = left + runs.iter().copied().fold(0.0, f64::max) * scale + 8.0;
        let _ = write!(
            out,
            "<text class=\"value\" x=\"{end:.1}\" y=\"{text:.1}\">{}</text>",
            duration(shortest * 1e6)
        );
    }
    out.push_str("</svg></section>");
}

/// Linux's time divided by ours, row by row.
fn ratio_chart(out: &mut String, pairs: &[Pair<'_>]) {
    let rows: Vec<(&Pair<'_>, f64)> = pairs
        .iter()
        .filter_map(|pair| Some((pair, pair.ratio().filter(|ratio| ratio.is_normal())?)))
        .collect();
    if rows.is_empty() {
        return;
    }
    let least = rows.iter().map(|(_, ratio)| *ratio).fold(0.5, f64::min).max(0.01);
    let most = rows.iter().map(|(_, ratio)| *ratio).fold(4.0, f64::max).min(10_000.0);
    let scale = (WIDTH - LABELS - VALUES) / (most / least).ln();
    let x = |ratio: f64| LABELS + (ratio.clamp(least, most) / least).ln() * scale;
    let body = rows.len() as f64 * PITCH + 4.0;
    open_chart(
        out,
        "How many times faster LiteBox is: Linux's time divided by LiteBox's, logarithmic; rows marked * stay in user space",
        body + 18.0,
    );
    for tick in
        [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0]
    {
        if tick < least || tick > most {
            continue;
        }
        let _ = write!(
            out,
            "<line class=\"{}\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"0\" y2=\"{body}\"/>\
             <text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick}x</text>",
            if tick == 1.0 { "one" } else { "grid" },
            body + 14.0,
            at = x(tick)
        );
    }
    for (row, (pair, ratio)) in rows.into_iter().enumerate() {
        let top = row as f64 * PITCH + 4.0;
        let (from, to) = (x(1.0).min(x(ratio)), x(1.0).max(x(ratio)));
        let class = match (pair.kernel, ratio < 1.0) {
            (false, _) => "other",
            (true, true) => "bad",
            (true, false) => "ours",
        };
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{text:.1}\" text-anchor=\"end\">{}{}</text><rect class=\"{class}\" x=\"{from:.1}\" \
             y=\"{top:.1}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"3\"><title>{} against {}</title></rect>\
             <text class=\"value\" x=\"{:.1}\" y=\"{text:.1}\">{}</text>",
            LABELS - 8.0,
            escape(pair.name),
            if pair.kernel { "" } else { " *" },
            (to - from).max(1.0),
            pair.litebox.map(duration).unwrap_or_default(),
            pair.linux.map(duration).unwrap_or_default(),
            to + 6.0,
            times(ratio),
            text = top + BAR - 3.0
        );
    }
    out.push_str("</svg></section>");
}

fn open_chart(out: &mut String, title: &str, height: f64) {
    let _ = write!(
        out,
        "<section><h3>{title}</h3><svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{title}\">"
    );
}

/// All numbers.
fn table(out: &mut String, comparison: &Comparison, pairs: &[Pair<'_>]) {
    out.push_str(
        "<section><table><thead><tr><th>Time per operation</th><th>LiteBox</th><th>Linux</th><th>ratio</th>\
         </tr></thead><tbody>",
    );
    let mut row = |name: &str, ours: Option<f64>, linux: Option<f64>| {
        let time = |ns: Option<f64>| ns.map_or_else(|| "–".to_owned(), duration);
        let ratio = ours.zip(linux).map(|(ours, linux)| linux / ours);
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(name),
            time(ours),
            time(linux),
            ratio.map_or_else(|| "–".to_owned(), times)
        );
    };
    for (name, of) in
        [("first line, best", best as fn(&[f64]) -> Option<f64>), ("first line, median", median)]
    {
        let ns = |column: &Column| of(&column.first_line_ms).map(|ms| ms * 1e6);
        row(name, ns(&comparison.litebox), comparison.linux.as_ref().and_then(ns));
    }
    for pair in pairs {
        row(&format!("{}{}", pair.name, if pair.kernel { "" } else { " *" }), pair.litebox, pair.linux);
    }
    if let Some(both) = comparison.exits() {
        let [ours, linux] = both.map(|exits| exits.map_or_else(|| "–".to_owned(), |n| n.to_string()));
        let _ = write!(
            out,
            "<tr><td>exits of a run with one line</td><td>{ours}</td><td>{linux}</td><td></td></tr>"
        );
    }
    out.push_str("</tbody></table></section>");
}

/// Text as HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn the_page_holds_everything_and_fetches_nothing() {
        let page = page(&report());
        for want in ["prefers-color-scheme:dark", "<svg", "4.00x", "30.0x", "✗ missed:", "Problem: Linux"] {
            assert!(page.contains(want), "{want} is missing");
        }
        assert!(!page.contains("http") && !page.contains("<script"));
    }

    #[test]
    fn what_others_said_is_text() {
        let page = page(&report());
        assert!(page.contains("a &lt; b") && !page.contains("a < b"));
        assert_eq!(escape("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
    }

    #[test]
    fn a_page_without_numbers_has_no_charts() {
        let mut empty = report();
        for comparison in &mut empty.comparisons {
            comparison.litebox = Column::default();
            comparison.linux = None;
        }
        assert!(!page(&empty).contains("<svg"));
    }
}
