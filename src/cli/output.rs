//! What the program says to the person or script that started it: lines and tables. A reader that
//! went away is no error.

use std::io::Write as _;

/// Writes a line to standard output.
pub(super) fn say(line: &str) {
    // Whoever closed the pipe does not want the rest.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Writes a line to standard error.
pub(super) fn complain(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
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

/// Lays out rows of cells in columns, the first row being the heading.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
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
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let table = table(&[row(["row", "cost", "file"]), row(["größe-1", "0.05", ""])]);
        assert_eq!(table, "row      cost  file\ngröße-1  0.05");
    }
}
