//! The report's JSON, as far as it is more than numbers and names of ours.

use alloc::string::String;

/// Appends a string of JSON: what it must not hold as it is, is escaped or a space.
pub fn json_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
}
