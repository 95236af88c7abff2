//! What a Rust program does with its standard library, printing only what is the same everywhere.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("panic") => panic!("as asked"),
        Some("exit") => std::process::exit(args[1].parse()?),
        Some("abort") => std::process::abort(),
        Some("error") => Err("as asked")?,
        Some("index") => println!("{}", args[args.len() * 2]),
        _ => {}
    }
    println!("args {args:?}");
    println!("LC_ALL {:?}, absent {:?}", std::env::var("LC_ALL"), std::env::var("ABSENT").is_err());
    println!("directory {}", std::env::current_dir()?.display());

    collections();
    files(Path::new("/tmp/std"))?;
    time()?;

    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input)?;
    println!("stdin {} bytes, {} lines", input.len(), input.lines().count());
    eprintln!("on stderr");

    // The default hook prints the thread's number.
    std::panic::set_hook(Box::new(|_| eprintln!("panicking")));
    let caught = std::panic::catch_unwind(|| {
        let empty: Vec<u8> = Vec::new();
        empty[std::hint::black_box(3)]
    });
    println!("caught {}", caught.is_err());
    Ok(())
}

fn collections() {
    let mut counts = HashMap::new();
    for n in 0u64..100_000 {
        *counts.entry(n * n % 1009).or_insert(0u64) += n;
    }
    let ordered: BTreeMap<_, _> = counts.iter().collect();
    println!("{} keys, first {:?}, last {:?}", counts.len(), ordered.first_key_value(), ordered.last_key_value());
    let words: HashSet<String> = (0..1000).map(|n| format!("word {}", n % 77)).collect();
    println!("{} words, {:.12}", words.len(), (0..1000).map(|n| f64::from(n).sqrt()).sum::<f64>());
    let mut big: Vec<u64> = (0..1_000_000).map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    big.sort_unstable();
    println!("median {:x}", big[big.len() / 2]);
}

fn files(dir: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(dir.join("a/b"))?;
    fs::write(dir.join("a/one"), "one")?;
    let mut writer = BufWriter::new(File::create(dir.join("a/lines"))?);
    for n in 0..20_000 {
        writeln!(writer, "line {n}")?;
    }
    writer.flush()?;
    let lines = BufReader::new(File::open(dir.join("a/lines"))?).lines();
    println!("{} bytes of lines", lines.map(|line| line.map_or(0, |line| line.len())).sum::<usize>());

    let mut file = OpenOptions::new().read(true).append(true).open(dir.join("a/one"))?;
    file.write_all(b" and two")?;
    file.seek(SeekFrom::Start(4))?;
    let mut rest = String::new();
    file.read_to_string(&mut rest)?;
    println!("rest {rest:?}, length {}", file.metadata()?.len());
    file.set_len(2)?;

    fs::copy(dir.join("a/lines"), dir.join("a/copy"))?;
    println!("copies equal {}", fs::read(dir.join("a/lines"))? == fs::read(dir.join("a/copy"))?);
    symlink("one", dir.join("a/link"))?;
    fs::hard_link(dir.join("a/one"), dir.join("a/hard"))?;
    fs::set_permissions(dir.join("a/copy"), fs::Permissions::from_mode(0o600))?;
    println!("mode {:o}", fs::metadata(dir.join("a/copy"))?.permissions().mode());
    println!("link {}, canonical {}", fs::read_link(dir.join("a/link"))?.display(), fs::canonicalize(dir.join("a/../a/link"))?.display());
    fs::rename(dir.join("a/copy"), dir.join("a/b/moved"))?;

    let mut names = Vec::new();
    for entry in fs::read_dir(dir.join("a"))? {
        let entry = entry?;
        names.push(format!("{}{}", entry.file_name().to_string_lossy(), if entry.file_type()?.is_dir() { "/" } else { "" }));
    }
    names.sort();
    println!("{names:?}");
    for (what, result) in [
        ("missing", fs::read(dir.join("missing"))),
        ("directory", fs::read(dir)),
        ("through a file", fs::read(dir.join("a/one/x"))),
    ] {
        println!("{what}: {}", result.unwrap_err());
    }
    println!("not empty: {}", fs::remove_dir(dir).unwrap_err());
    fs::remove_dir_all(dir)?;
    println!("gone {}", !dir.exists());
    Ok(())
}

fn time() -> Result<(), Box<dyn Error>> {
    let begin = Instant::now();
    std::thread::sleep(Duration::from_millis(15));
    println!("slept {}", begin.elapsed() >= Duration::from_millis(15));
    println!("after 2023 {}", SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs() > 1_700_000_000);
    Ok(())
}
