//! Results as CSV (RFC 4180): for a spreadsheet, in which no text may become a formula.

use std::fmt::Write as _;

use crate::domain::state::Billing;
use crate::service::results::ResultRow;

/// The names of the columns.
const COLUMNS: &str = "sceneId,variant,state,prompt,file,permalink,uri,mimeType,width,height,bytes,sha256,cost,billing,\
    attempts,errorCode,errorDetail";

/// With these a spreadsheet takes a cell for a formula, or for the start of one after its own cleaning:
/// <https://owasp.org/www-community/attacks/CSV_Injection>.
const FORMULA: &[char] = &['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];

/// What parts cells and lines, here or for a spreadsheet whose list separator is another; and the quote.
const PARTING: [char; 6] = [',', ';', '\t', '\r', '\n', '"'];

/// The text with `'` before whatever a spreadsheet would take for the start of a formula: at its start, and behind what
/// may part a cell in two where the list separator is not a comma.
fn harmless(text: &str) -> String {
    let mut harmless = String::with_capacity(text.len() + 1);
    let mut starts = true;
    for c in text.chars() {
        if starts && FORMULA.contains(&c) {
            harmless.push('\'');
        }
        harmless.push(c);
        starts = PARTING.contains(&c) && c != ',';
    }
    harmless
}

/// What comes before the rows; with a byte order mark if one is asked for.
pub(super) fn head(mark: bool) -> String {
    format!("{}{COLUMNS}\r\n", if mark { "\u{feff}" } else { "" })
}

/// A row each, in the order of the columns. Permalinks are absolute: `site` and the path.
pub(super) fn rows(rows: &[ResultRow], site: &str) -> String {
    let mut table = String::new();
    for row in rows {
        let permalink = format!("{site}{}", row.permalink);
        let error = row.error.as_ref();
        let mut line = Line { table: &mut table, first: true };
        line.text(row.scene_id.as_str());
        line.number(Some(row.variant));
        line.text(row.state.as_str());
        line.text(&row.prompt);
        line.text(row.file.as_deref().unwrap_or_default());
        line.text(&permalink);
        line.text(row.uri.as_deref().unwrap_or_default());
        line.text(row.mime_type.as_deref().unwrap_or_default());
        line.number(row.width);
        line.number(row.height);
        line.number(row.bytes);
        line.text(row.sha256.as_deref().unwrap_or_default());
        line.number(row.cost);
        line.text(row.billing.map(Billing::as_str).unwrap_or_default());
        line.number(Some(row.attempts));
        line.text(error.map(|error| error.code.as_str()).unwrap_or_default());
        line.text(error.map(|error| error.detail.as_str()).unwrap_or_default());
        table.push_str("\r\n");
    }
    table
}

struct Line<'a> {
    table: &'a mut String,
    first: bool,
}

impl Line<'_> {
    fn next(&mut self) -> &mut String {
        if !std::mem::replace(&mut self.first, false) {
            self.table.push(',');
        }
        self.table
    }

    fn number(&mut self, number: Option<impl std::fmt::Display>) {
        let cell = self.next();
        if let Some(number) = number {
            // Writing to a String does not fail.
            let _ = write!(cell, "{number}");
        }
    }

    fn text(&mut self, text: &str) {
        let cell = self.next();
        let text = harmless(text);
        if text.contains(PARTING) {
            let _ = write!(cell, "\"{}\"", text.replace('"', "\"\""));
        } else {
            cell.push_str(&text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(text: &str) -> String {
        let mut table = String::new();
        Line { table: &mut table, first: true }.text(text);
        table
    }

    #[test]
    fn a_text_is_quoted_where_it_must_be() {
        for (text, expected) in [
            ("a cup", "a cup"),
            ("", ""),
            ("a, b", "\"a, b\""),
            ("a; b", "\"a; b\""),
            ("a \"red\" cup", "\"a \"\"red\"\" cup\""),
            ("two\nlines", "\"two\nlines\""),
            ("茶碗 🍵", "茶碗 🍵"),
            (" kept ", " kept "),
        ] {
            assert_eq!(cell(text), expected);
        }
    }

    #[test]
    fn no_text_becomes_a_formula() {
        for start in FORMULA {
            let written = cell(&format!("{start}HYPERLINK(\"http://x.test\")"));
            let value = written.trim_start_matches('"');
            assert!(value.starts_with('\''), "{written}");
        }
        assert_eq!(cell("=cmd|' /C calc'!A0"), "'=cmd|' /C calc'!A0");
        assert_eq!(cell("a=b"), "a=b");
        // Where the list separator is a semicolon, the quote that is not at a cell's start keeps nothing together.
        assert_eq!(cell("a;=1+1;b"), "\"a;'=1+1;b\"");
        assert_eq!(cell("a\n=1+1"), "\"a\n'=1+1\"");
        assert_eq!(cell("a\"=1+1"), "\"a\"\"'=1+1\"");
    }
}
