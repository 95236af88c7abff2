//! The serial port's lines (`xtask/src/protocol.rs`): the same bytes say the same however they are cut, and only a line that the
//! kernel marked is a verdict.
#![no_main]

use litebox_fuzz::protocol::{Line, Parser, Verdict};

litebox_fuzz::target!(litebox_fuzz::seeds::protocol, run);

/// No line is longer, however a byte of it is shown.
const LONGEST: usize = 16 * 1024 * 8 + 100;

fn run(bytes: &[u8]) {
    let Some((&cut, bytes)) = bytes.split_first() else { return };
    let whole = lines(std::iter::once(bytes));
    assert_eq!(lines(bytes.chunks(usize::from(cut) + 1)), whole);
    let marked = bytes.split(|&b| b == b'\n').filter(|line| line.contains(&0x1e)).count();
    let mut spoken = 0;
    for line in &whole {
        match line {
            Line::Log(text) => assert!(text.len() <= LONGEST && !text.contains('\n')),
            Line::Booted => spoken += 1,
            Line::Verdict(verdict) => {
                spoken += 1;
                check(verdict);
            }
        }
    }
    assert!(spoken <= marked, "a verdict that the kernel did not mark");
}

fn lines<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Vec<Line> {
    let (mut parser, mut lines) = (Parser::default(), Vec::new());
    for chunk in chunks {
        parser.feed(chunk, &mut |line| lines.push(line));
    }
    parser.finish(&mut |line| lines.push(line));
    lines
}

fn check(verdict: &Verdict) {
    let status = verdict.status();
    assert!((0..=192).contains(&status) || matches!(verdict, Verdict::Exited(_)));
    assert!((0..=255).contains(&status));
    assert_eq!(verdict.explanation().is_none(), matches!(verdict, Verdict::Exited(_) | Verdict::Signaled(_)));
}
