//! A JSON file as its author wrote it: a member changed in place, and the line in which a part of it is. Nothing else of
//! the text changes, so that what the service says of it holds for the file.

use std::collections::HashMap;

use serde_json::value::RawValue;

use crate::domain::spec::RunMode;

type Members<'a> = HashMap<String, &'a RawValue>;

/// The batch `bytes` with this mode, and this model if there is one.
pub(super) fn batch(bytes: &[u8], mode: RunMode, model: Option<&str>) -> Vec<u8> {
    // What is no text is no JSON, which the service says better.
    let Ok(text) = std::str::from_utf8(bytes) else { return bytes.to_owned() };
    let text = with_member(text, &["runMode", "run_mode"], mode.as_str());
    model.map_or(text.clone(), |model| with_member(&text, &["model"], model)).into_bytes()
}

/// The object `text` with the member that has one of these `names` set to `value`; added under the first, if there is
/// none. What is no object stays as it is: the service says what is wrong with it.
fn with_member(text: &str, names: &[&str], value: &str) -> String {
    let Ok(members) = serde_json::from_str::<Members<'_>>(text) else { return text.to_owned() };
    let value = serde_json::Value::from(value);
    if let Some(old) = names.iter().find_map(|name| members.get(*name)) {
        let at = offset(text, old.get());
        return format!("{}{value}{}", &text[..at], &text[at + old.get().len()..]);
    }
    let (before, after) = text.split_once('{').unwrap_or((text, ""));
    let comma = if members.is_empty() { "" } else { "," };
    format!("{before}{{\"{}\":{value}{comma}{after}", names[0])
}

/// The line in which the part of `text` at `pointer` (RFC 6901) begins; if it is not there, what it is missing in.
pub(super) fn line_of(text: &str, pointer: &str) -> Option<u64> {
    let mut part = text.trim_start();
    for token in pointer.split('/').skip(1) {
        let name = token.replace("~1", "/").replace("~0", "~");
        let inner = match serde_json::from_str::<Members<'_>>(part) {
            Ok(members) => members.get(&name).map(|value| value.get()),
            Err(_) => serde_json::from_str::<Vec<&RawValue>>(part)
                .ok()?
                .get(name.parse::<usize>().ok()?)
                .map(|value| value.get()),
        };
        let Some(inner) = inner else { break };
        part = inner;
    }
    let before = &text[..offset(text, part)];
    Some(before.bytes().filter(|byte| *byte == b'\n').count() as u64 + 1)
}

/// Where `part` begins in `text`, of which it is a part.
fn offset(text: &str, part: &str) -> usize {
    part.as_ptr().addr() - text.as_ptr().addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODE: &[&str] = &["runMode", "run_mode"];

    #[test]
    fn one_member_changes_and_no_line_moves() {
        for (text, expected) in [
            (r#"{"runMode": "dry_run", "items":[]}"#, r#"{"runMode": "live", "items":[]}"#),
            ("{\n \"items\": [1.50] }", "{\"runMode\":\"live\",\n \"items\": [1.50] }"),
            (r#"{"run_mode":null}"#, r#"{"run_mode":"live"}"#),
            (r#"{"a":{"runMode":"x"},"runMode":"y"}"#, r#"{"a":{"runMode":"x"},"runMode":"live"}"#),
            ("{}", r#"{"runMode":"live"}"#),
            ("[1]", "[1]"),
            ("{broken", "{broken"),
        ] {
            assert_eq!(with_member(text, MODE, "live"), expected);
        }
    }

    #[test]
    fn a_pointer_names_a_line() {
        let text = "\n{\n \"items\": [\n  {\"a/b\": 1},\n  {\n   \"prompt\": \"\"\n  }]}";
        for (pointer, line) in [
            ("", 2),
            ("/items", 3),
            ("/items/0/a~1b", 4),
            ("/items/1", 5),
            ("/items/1/prompt", 6),
            ("/items/1/sceneId", 5),
            ("/model", 2),
        ] {
            assert_eq!(line_of(text, pointer), Some(line), "{pointer}");
        }
        assert_eq!(line_of("[broken", "/0"), None);
    }
}
