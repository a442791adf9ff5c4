//! What the program says to the person or script that started it: lines and tables. A reader that
//! went away is no error. Nothing that a service sends steers the terminal.

use std::borrow::Cow;
use std::io::Write as _;

/// Writes a line to standard output.
pub(super) fn say(line: &str) {
    // Whoever closed the pipe does not want the rest.
    let _ = writeln!(std::io::stdout().lock(), "{}", harmless(line));
}

/// Writes a line to standard error.
pub(super) fn complain(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", harmless(line));
}

/// Whether a terminal does something for `c`, or shows what follows in another order.
fn steers(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with what steers a terminal spelled out; lines and tabs stay. In JSON it means the same as before: there such
/// characters are within strings alone.
pub(super) fn harmless(text: &str) -> Cow<'_, str> {
    spelled_out(text, |c| steers(c) && !matches!(c, '\n' | '\t'))
}

/// The same for what has to stay on one line.
pub(super) fn one_line(text: &str) -> Cow<'_, str> {
    spelled_out(text, steers)
}

fn spelled_out(text: &str, bad: impl Fn(char) -> bool + Copy) -> Cow<'_, str> {
    if !text.contains(bad) {
        return Cow::Borrowed(text);
    }
    let spelled = |c: char| if bad(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    Cow::Owned(text.chars().map(spelled).collect())
}

/// How this program was called, so that a command with it works where it is read.
pub(super) fn program() -> String {
    let called = std::env::args_os().next().map(|name| name.to_string_lossy().into_owned());
    quoted(&called.filter(|name| !name.is_empty()).unwrap_or_else(|| "orchestrator".to_owned()))
}

/// A word as a shell reads it.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// A count of pictures, as one says it.
pub(super) fn pictures(count: usize) -> String {
    format!("{count} picture{}", if count == 1 { "" } else { "s" })
}

/// Lays out rows of cells in columns, the first row being the heading. A cell stays on its line.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<Cow<'_, str>>> = rows.iter().map(|row| row.iter().map(|cell| one_line(cell)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<Cow<'_, str>>| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_path_can_be_copied_into_a_shell() {
        assert_eq!(quoted("target/release/orchestrator"), "target/release/orchestrator");
        assert_eq!(quoted("/my work's/orchestrator"), r"'/my work'\''s/orchestrator'");
    }

    #[test]
    fn nothing_that_is_said_steers_a_terminal_and_json_means_what_it_meant() {
        let hostile = "a\u{1b}]0;title\u{7}\u{9b}31mb\r\u{7f}\u{202e}c\n\td ü";
        let expected = "a\\u001b]0;title\\u0007\\u009b31mb\\u000d\\u007f\\u202ec\n\td ü";
        assert_eq!(harmless(hostile), expected);
        assert_eq!(one_line("a\nb"), "a\\u000ab");
        let value = serde_json::json!({ "detail": hostile });
        let shown: serde_json::Value = serde_json::from_str(&harmless(&value.to_string())).unwrap();
        assert_eq!(shown, value);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let table = table(&[row(["row", "cost", "file"]), row(["größe-1", "0.05", ""])]);
        assert_eq!(table, "row      cost  file\ngröße-1  0.05");
        assert_eq!(super::table(&[row(["a\nb", "1", "x"])]), "a\\u000ab  1  x");
    }
}
