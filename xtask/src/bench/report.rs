//! What a whole run of `bench` found: compared, judged, and written as text and JSON.
//!
//! A ratio says how many times less time our column takes: above one we are faster. Invariant: a verdict is only given on what was
//! measured on both sides; what is missing is said to be missing.

use std::fmt::Write;

use serde::Serialize;

use super::sample::Row;
use super::statistics::{best, geometric_mean, median};

/// Rows that enter the kernel have to be this many times faster, by their geometric mean.
const MEAN_GOAL: f64 = 2.0;

/// One kernel's results with one CPU model.
#[derive(Debug, Default, Serialize)]
pub struct Column {
    /// Milliseconds from QEMU's start to the first line, run by run.
    pub first_line_ms: Vec<f64>,
    /// Of SNP guests: requests to the host in a run whose program prints its first line and ends, run by run.
    pub exits: Vec<u64>,
    /// The table.
    pub rows: Vec<Row>,
    /// The guest's clock source, where it has a name.
    pub clock_source: Option<String>,
    /// Runs that failed or were invalid.
    pub failures: u32,
    /// And why, each reason once.
    pub problems: Vec<String>,
}

/// Both kernels with one CPU model.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// As QEMU names it.
    pub cpu: String,
    /// Our kernel.
    pub litebox: Column,
    /// Linux.
    pub linux: Option<Column>,
    /// How many times sooner our first line is to arrive.
    pub first_line_goal: f64,
    /// What the numbers come to.
    pub verdicts: Vec<Verdict>,
}

/// A goal, and whether it was met.
#[derive(Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// Whether it was; nothing where it could not be measured.
    pub met: Option<bool>,
    /// In words.
    pub text: String,
}

/// Everything.
#[derive(Debug, Serialize)]
pub struct Report {
    /// QEMU's version.
    pub qemu: String,
    /// What executed the guests.
    pub accelerator: String,
    /// The guests' memory.
    pub memory_bytes: u64,
    /// The TSC's frequency.
    pub tsc_khz: Option<u64>,
    /// The Linux kernel's package.
    pub linux_package: Option<String>,
    /// Linux's command line, without what is the program's.
    pub linux_command_line: Option<String>,
    /// Starts per column.
    pub runs: u32,
    /// One for each CPU model.
    pub comparisons: Vec<Comparison>,
}

/// A row of both columns.
pub struct Pair<'a> {
    /// What was measured.
    pub name: &'a str,
    /// Whether it enters the kernel.
    pub kernel: bool,
    /// Our nanoseconds.
    pub litebox: Option<f64>,
    /// Linux's nanoseconds.
    pub linux: Option<f64>,
}

impl Pair<'_> {
    /// How many times faster we are.
    pub fn ratio(&self) -> Option<f64> {
        Some(self.linux? / self.litebox?)
    }
}

impl Comparison {
    /// Compares two columns.
    pub fn new(cpu: &str, litebox: Column, linux: Option<Column>, first_line_goal: f64) -> Self {
        let mut comparison =
            Self { cpu: cpu.to_owned(), litebox, linux, first_line_goal, verdicts: Vec::new() };
        if comparison.linux.is_some() {
            comparison.verdicts = comparison.judge();
        }
        comparison
    }

    /// The rows of both, in the program's order.
    pub fn pairs(&self) -> Vec<Pair<'_>> {
        let linux = self.linux.as_ref().map(|linux| linux.rows.as_slice()).unwrap_or_default();
        let ours = &self.litebox.rows;
        let all = if ours.is_empty() { linux } else { ours };
        let find = |rows: &[Row], name: &str| rows.iter().find(|row| row.name == name).map(|row| row.best_ns);
        all.iter()
            .map(|row| Pair {
                name: &row.name,
                kernel: row.kernel,
                litebox: find(ours, &row.name),
                linux: find(linux, &row.name),
            })
            .collect()
    }

    /// How many times sooner our first line arrives, by the best of each.
    pub fn first_line_ratio(&self) -> Option<f64> {
        Some(best(&self.linux.as_ref()?.first_line_ms)? / best(&self.litebox.first_line_ms)?)
    }

    /// Requests to the host until the end of a program that prints one line, least of all runs: ours, Linux's. `None` where no guest is an SNP guest.
    pub fn exits(&self) -> Option<[Option<u64>; 2]> {
        let least = |column: &Column| column.exits.iter().min().copied();
        let both = [least(&self.litebox), self.linux.as_ref().and_then(least)];
        both.iter().any(Option::is_some).then_some(both)
    }

    fn judge(&self) -> Vec<Verdict> {
        let missing = |what: &str| Verdict { met: None, text: format!("{what}: not measured on both sides") };
        let first = match self.first_line_ratio() {
            None => missing("first line"),
            Some(ratio) => Verdict {
                met: Some(ratio >= self.first_line_goal),
                text: format!("first line {ratio:.1}x sooner than Linux's (goal: {}x)", self.first_line_goal),
            },
        };
        let pairs = self.pairs();
        let entering: Vec<(&str, Option<f64>)> =
            pairs.iter().filter(|pair| pair.kernel).map(|pair| (pair.name, pair.ratio())).collect();
        let ratios: Option<Vec<f64>> = entering.iter().map(|(_, ratio)| *ratio).collect();
        let (Some(ratios), false) = (ratios, entering.is_empty()) else {
            return vec![first, missing("rows that enter the kernel")];
        };
        let slower: Vec<String> = entering
            .iter()
            .filter_map(|(name, ratio)| {
                ratio.filter(|ratio| *ratio < 1.0).map(|ratio| format!("{name} ({ratio:.2}x)"))
            })
            .collect();
        let rows = Verdict {
            met: Some(slower.is_empty()),
            text: if slower.is_empty() {
                "no row that enters the kernel is slower than Linux's".into()
            } else {
                format!("slower than Linux's: {}", slower.join(", "))
            },
        };
        let mean = match geometric_mean(&ratios) {
            None => missing("geometric mean"),
            Some(mean) => Verdict {
                met: Some(mean >= MEAN_GOAL),
                text: format!(
                    "rows that enter the kernel {mean:.2}x faster by geometric mean (goal: {MEAN_GOAL}x)"
                ),
            },
        };
        vec![first, rows, mean]
    }

    fn text(&self, out: &mut String) {
        let _ = writeln!(out, "\n-cpu {}", self.cpu);
        let _ =
            writeln!(out, "  {:<42} {:>10} {:>10} {:>9}", "best of all runs", "LiteBox", "Linux", "ratio");
        let linux_first = self.linux.as_ref().map(|linux| linux.first_line_ms.as_slice()).unwrap_or_default();
        let ours_first = self.litebox.first_line_ms.as_slice();
        for (name, of) in
            [("first line, best", best as fn(&[f64]) -> Option<f64>), ("first line, median", median)]
        {
            let (ours, linux) = (of(ours_first).map(|ms| ms * 1e6), of(linux_first).map(|ms| ms * 1e6));
            line(out, name, ours, linux);
        }
        if let Some(both) = self.exits() {
            let [ours, linux] = both.map(|exits| exits.map_or_else(|| "-".to_owned(), |n| n.to_string()));
            let _ = writeln!(out, "  {:<42} {ours:>10} {linux:>10}", "exits of a run with one line");
        }
        for pair in self.pairs() {
            let name = format!("{}{}", pair.name, if pair.kernel { "" } else { " (user space)" });
            line(out, &name, pair.litebox, pair.linux);
        }
        for (name, column) in [("LiteBox", Some(&self.litebox)), ("Linux", self.linux.as_ref())] {
            for problem in column.iter().flat_map(|column| &column.problems) {
                let _ = writeln!(out, "  problem: {name}: {}", problem.replace('\n', "\n           "));
            }
        }
        for verdict in &self.verdicts {
            let word = match verdict.met {
                Some(true) => "yes",
                Some(false) => "NO ",
                None => "?  ",
            };
            let _ = writeln!(out, "  {word} {}", verdict.text);
        }
    }
}

fn line(out: &mut String, name: &str, ours: Option<f64>, linux: Option<f64>) {
    let time = |ns: Option<f64>| ns.map_or_else(|| "-".to_owned(), duration);
    let ratio = ours.zip(linux).map_or_else(|| "-".to_owned(), |(ours, linux)| times(linux / ours));
    let _ = writeln!(out, "  {name:<42} {:>10} {:>10} {ratio:>9}", time(ours), time(linux));
}

/// Nanoseconds with three or four digits and a unit.
pub fn duration(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns < 1e4 => (ns, "ns"),
        ns if ns < 1e7 => (ns / 1e3, "µs"),
        ns if ns < 1e10 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 1000.0) };
    format!("{value:.digits$} {unit}")
}

/// A ratio.
pub fn times(ratio: f64) -> String {
    let digits = if ratio < 10.0 { 2 } else { 1 };
    format!("{ratio:.digits$}x")
}

impl Report {
    /// The tables and the verdicts, for a terminal.
    pub fn text(&self) -> String {
        let mut out = format!(
            "QEMU {}, {}, {} MiB, 1 CPU; ratio: Linux's time divided by LiteBox's",
            self.qemu,
            self.accelerator,
            self.memory_bytes >> 20
        );
        if let Some(package) = &self.linux_package {
            let _ = write!(out, "; Linux: {package}");
        }
        out.push('\n');
        for comparison in &self.comparisons {
            comparison.text(&mut out);
        }
        out
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    fn column(first: f64, rows: &[(&str, bool, f64)]) -> Column {
        let rows = rows.iter().map(|(name, kernel, ns)| Row {
            name: (*name).into(),
            kernel: *kernel,
            best_ns: *ns,
            median_ns: *ns,
        });
        Column { first_line_ms: vec![first, first + 1.0], rows: rows.collect(), ..Column::default() }
    }

    /// A report with all that one can hold.
    pub fn report() -> Report {
        let ours = column(20.0, &[("stat", true, 100.0), ("a < b", true, 50.0), ("hash", false, 1e6)]);
        let exits = |n| vec![n + 1, n];
        let ours = Column { exits: exits(150), ..ours };
        let mut linux = column(600.0, &[("stat", true, 400.0), ("a < b", true, 40.0), ("hash", false, 1e6)]);
        linux.exits = exits(20_000);
        linux.problems.push("one\ntwo".into());
        Report {
            qemu: "7.2".into(),
            accelerator: "tcg".into(),
            memory_bytes: 256 << 20,
            tsc_khz: Some(1),
            linux_package: Some("linux".into()),
            linux_command_line: None,
            runs: 2,
            comparisons: vec![Comparison::new("Westmere", ours, Some(linux), 25.0)],
        }
    }

    #[test]
    fn goals_are_judged_by_the_rows_that_enter_the_kernel() {
        let report = report();
        let met: Vec<_> = report.comparisons[0].verdicts.iter().map(|verdict| verdict.met).collect();
        // 600/20 = 30; `a < b` is slower; the mean of 4 and 0.8 is 1.79.
        assert_eq!(met, [Some(true), Some(false), Some(false)]);
        assert!(report.comparisons[0].verdicts[1].text.contains("a < b (0.80x)"));
    }

    #[test]
    fn what_is_missing_is_not_judged() {
        let ours = column(20.0, &[("stat", true, 100.0)]);
        let comparison = Comparison::new("max", ours, Some(Column::default()), 25.0);
        assert!(comparison.verdicts.iter().all(|verdict| verdict.met.is_none()));
        let alone = Comparison::new("max", column(1.0, &[]), None, 25.0);
        assert_eq!(alone.verdicts, []);
    }

    #[test]
    fn text_has_every_row() {
        let text = report().text();
        for want in [
            "stat",
            "a < b",
            "exits of a run with one line                      150      20000",
            "hash (user space)",
            "4.00x",
            "first line, median",
            "problem: Linux: one",
        ] {
            assert!(text.contains(want), "{want} is not in:\n{text}");
        }
    }

    #[test]
    fn durations_have_units() {
        for (ns, want) in [(7.0, "7.00 ns"), (1234.0, "1234 ns"), (25_000.0, "25.0 µs"), (2.5e10, "25.0 s")]
        {
            assert_eq!(duration(ns), want);
        }
    }
}
