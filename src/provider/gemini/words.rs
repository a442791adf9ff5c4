//! What strangers wrote, made fit for an error: one short line, without the key and without pieces of a picture.

/// Most characters of a provider's text that an error repeats.
pub(super) const MOST_CHARS: usize = 200;
/// A run of base64 characters as long as this is data, not a word. Google's message about bad base64 repeats it.
const DATA_CHARS: usize = 32;
/// What stands for a run of data.
const LEFT_OUT: &str = "[data]";

/// `text` as part of an error: at most [`MOST_CHARS`] characters and an ellipsis.
pub(super) fn quote(text: &str, key: &str) -> String {
    let without_key = if key.is_empty() { text.to_owned() } else { text.replace(key, "[key]") };
    let spaced = without_key.replace(|c: char| c.is_control() || c.is_whitespace(), " ");
    let words = spaced.split(' ').filter(|word| !word.is_empty()).map(without_data).collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(MOST_CHARS) {
        None => words,
        Some((end, _)) => format!("{}…", &words[..end]),
    }
}

/// `word` with every run of data left out.
fn without_data(word: &str) -> String {
    let is_data = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
    let mut kept = String::with_capacity(word.len());
    let mut rest = word;
    while !rest.is_empty() {
        let run = rest.find(|c| !is_data(c)).unwrap_or(rest.len());
        kept.push_str(if run < DATA_CHARS { &rest[..run] } else { LEFT_OUT });
        rest = &rest[run..];
        let between = rest.find(is_data).unwrap_or(rest.len());
        kept.push_str(&rest[..between]);
        rest = &rest[between..];
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_is_one_short_line() {
        assert_eq!(quote(" a\r\n\tcup\u{0} on\u{85}a table ", ""), "a cup on a table");
        let long = quote(&"ü ".repeat(300), "");
        assert_eq!((long.chars().count(), long.ends_with('…')), (MOST_CHARS + 1, true));
        assert_eq!(quote(&"ü".repeat(MOST_CHARS), ""), "ü".repeat(MOST_CHARS));
    }

    #[test]
    fn a_quote_holds_neither_the_key_nor_a_piece_of_a_picture() {
        assert_eq!(quote("key AIza-x_1 is bad: AIza-x_1", "AIza-x_1"), "key [key] is bad: [key]");
        let data = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAAD8GO2jAAAA";
        assert_eq!(quote(&format!("failed for \"{data}==\" at 3"), ""), "failed for \"[data]\" at 3");
        assert_eq!(quote(&"a".repeat(DATA_CHARS - 1), ""), "a".repeat(DATA_CHARS - 1));
    }
}
