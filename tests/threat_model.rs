//! `docs/threat-model.md` is true: every row names files, tests and attack scripts that exist.

use std::fs;
use std::path::Path;

use e2e::tools::repository;

/// The rows of the tables: their cells, without the heads.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let cells = |line: &'static str| line.trim_matches('|').split(" | ").map(str::trim).collect::<Vec<_>>();
    let text: &'static str = text.to_owned().leak();
    let lines: Vec<&'static str> = text.lines().filter(|line| line.starts_with('|')).collect();
    lines.into_iter().map(cells).filter(|row| row[0] != "Attack" && !row[0].starts_with("---")).collect()
}

/// What is between backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// All Rust sources of ours, as one text.
fn sources(dir: &Path, into: &mut String) {
    for entry in fs::read_dir(dir).expect("a folder of the repository") {
        let path = entry.expect("a file").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, into);
        } else if name.ends_with(".rs") {
            into.push_str(&fs::read_to_string(&path).unwrap_or_default());
        }
    }
}

#[test]
fn every_row_names_what_exists() {
    let root = repository();
    let text = fs::read_to_string(root.join("docs/threat-model.md")).expect("the threat model");
    let mut code = String::new();
    sources(root, &mut code);
    let (mut rows_seen, mut wrong) = (0, Vec::new());
    for row in rows(&text) {
        rows_seen += 1;
        let [attack, defence, test] = row.as_slice() else {
            wrong.push(format!("a row of {} cells: {row:?}", row.len()));
            continue;
        };
        if !quoted(defence).iter().any(|name| name.contains('/')) {
            wrong.push(format!("{attack}: no file in its defence"));
        }
        let tests = quoted(test);
        if tests.is_empty() {
            wrong.push(format!("{attack}: no test"));
        }
        for name in quoted(defence).into_iter().filter(|name| name.contains('/')).chain(tests) {
            let there = match name {
                // A file, a folder of scripts or one of them.
                path if path.contains('/') => {
                    root.join(path).exists()
                        || root.join("tests/attacks").join(format!("{path}.toml")).exists()
                }
                test => code.contains(&format!("fn {test}(")),
            };
            if !there {
                wrong.push(format!("{attack}: there is no `{name}`"));
            }
        }
    }
    assert!(rows_seen > 20, "{rows_seen} rows: the tables are not where they were");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A folder of scripts that no row names is an attack that the model has forgotten.
#[test]
fn every_kind_of_script_is_in_the_model() {
    let root = repository();
    let text = fs::read_to_string(root.join("docs/threat-model.md")).expect("the threat model");
    for entry in fs::read_dir(root.join("tests/attacks")).expect("the scripts") {
        let kind = entry.expect("a folder").file_name();
        let name = format!("`tests/attacks/{}/`", kind.to_string_lossy());
        assert!(text.contains(&name), "{name} is in no row");
    }
}
