//! Reads what the benchmark program printed (`examples/bench`).
//!
//! The same parser serves both guests. Invariant: a line that is not of the program's form is ignored, since a console may carry
//! other voices; a row that does not parse is missing in the table, never a number made up.

use std::time::Duration;

use serde::Serialize;

/// A row of the table, from one guest.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// Whether it enters the kernel.
    pub kernel: bool,
    /// Nanoseconds per operation in the best batch.
    pub best_ns: f64,
    /// Nanoseconds per operation in the median batch.
    pub median_ns: f64,
}

/// Everything that one run of the program said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// The guest kernel's clock source, where it has a name.
    pub clock_source: Option<String>,
    /// The rows, in the program's order.
    pub rows: Vec<Row>,
    /// How long the rows took by the guest's clock. The program's last line: without it the run did not come to its end.
    pub elapsed: Option<Duration>,
    /// Why the program gave up.
    pub error: Option<String>,
}

/// The program's first line.
pub const FIRST_LINE: &str = "first line";

/// Reads the program's output.
pub fn parse(output: &str) -> Sample {
    let mut sample = Sample::default();
    for line in output.lines() {
        let fields: Vec<&str> = line.trim_end_matches('\r').split('\t').collect();
        match fields[..] {
            ["clocksource", name] => sample.clock_source = Some(name.to_owned()),
            ["error", why] => sample.error = Some(why.to_owned()),
            ["elapsed", ns] => sample.elapsed = ns.parse().ok().map(Duration::from_nanos),
            ["row", name, place @ ("kernel" | "user"), best, median] => {
                let number = |text: &str| text.parse().ok().filter(|ns: &f64| ns.is_finite() && *ns > 0.0);
                if let (Some(best_ns), Some(median_ns)) = (number(best), number(median)) {
                    let kernel = place == "kernel";
                    sample.rows.push(Row { name: name.to_owned(), kernel, best_ns, median_ns });
                }
            }
            _ => {}
        }
    }
    sample
}

/// Merges the rows of another run: of each row the better.
pub fn merge(rows: &mut Vec<Row>, other: Vec<Row>) {
    for row in other {
        match rows.iter_mut().find(|known| known.name == row.name) {
            Some(known) => {
                known.best_ns = known.best_ns.min(row.best_ns);
                known.median_ns = known.median_ns.min(row.median_ns);
            }
            None => rows.push(row),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_read_with_either_line_ending() {
        let text = "first line\r\nclocksource\ttsc\r\nrow\tstat\tkernel\t12.50\t13.00\r\n[ 1.0] noise\r\nelapsed\t1500\r\n";
        for text in [text.to_owned(), text.replace('\r', "")] {
            let sample = parse(&text);
            assert_eq!(sample.clock_source.as_deref(), Some("tsc"));
            assert_eq!(sample.elapsed, Some(Duration::from_nanos(1500)));
            let row = Row { name: "stat".into(), kernel: true, best_ns: 12.5, median_ns: 13.0 };
            assert_eq!(sample.rows, [row]);
        }
    }

    #[test]
    fn nonsense_is_not_a_row() {
        let text = "row\tx\tkernel\tNaN\t1\nrow\tx\tkernel\t0\t1\nrow\tx\tmoon\t1\t1\nrow\tx\tkernel\t1\nelapsed\t-1\n\
                    row\tx\tuser\t-3\t1\nrow\tx\tuser\tinf\t1";
        assert_eq!(parse(text), Sample::default());
    }

    #[test]
    fn of_two_runs_the_better_counts() {
        let row = |name: &str, ns| Row { name: name.into(), kernel: true, best_ns: ns, median_ns: ns };
        let mut rows = vec![row("a", 5.0), row("b", 1.0)];
        merge(&mut rows, vec![row("b", 2.0), row("a", 3.0), row("c", 9.0)]);
        assert_eq!(rows, [row("a", 3.0), row("b", 1.0), row("c", 9.0)]);
    }
}
