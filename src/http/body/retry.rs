//! The body of a retry: nothing, or the codes that it is narrowed to.

use serde_json::Value;

use super::at::{At, Faults};
use super::fields::{Fields, Known, kind};
use super::{Fault, json};
use crate::domain::state::ErrorCode;

/// Most codes that can be named; there are fewer.
const MAX_CODES: usize = 100;

pub(in crate::http) const RETRY: Known = &[&["codes"]];

/// Reads and checks the body of a retry. `None` is no narrowing.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check_retry(body: &[u8]) -> Result<Option<Vec<ErrorCode>>, Vec<Fault>> {
    if body.is_empty() {
        return Ok(None);
    }
    let mut faults = Faults::default();
    let value = json::read(body, 1, &mut faults).map_err(|reason| vec![Fault::in_body(String::new(), reason)])?;
    if value.is_null() {
        faults.finish()?;
        return Ok(None);
    }
    let root = At::Root;
    let codes = match Fields::of(&value, &root, RETRY, &mut faults) {
        Ok(fields) => fields.get("codes").map(|(value, at)| codes(value, &at, &mut faults)),
        Err(_) => None,
    };
    faults.finish()?;
    Ok(codes)
}

fn codes(value: &Value, at: &At<'_>, faults: &mut Faults) -> Vec<ErrorCode> {
    let Value::Array(values) = value else {
        faults.add(at, format!("must be an array, not {}", kind(value)));
        return Vec::new();
    };
    if values.is_empty() || values.len() > MAX_CODES {
        faults.add(at, format!("must name 1-{MAX_CODES} codes; leave it out to retry all that may pass"));
    }
    let mut codes = Vec::new();
    for (index, value) in values.iter().enumerate().take(MAX_CODES) {
        if let Some(Ok(code)) = value.as_str().map(str::parse) {
            codes.push(code);
        } else {
            let known: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
            faults.add(&at.index(index), format!("must be one of {}", known.join(", ")));
        }
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_names_codes_or_nothing() {
        assert_eq!(check_retry(b""), Ok(None));
        assert_eq!(check_retry(b"{}"), Ok(None));
        let codes = vec![ErrorCode::NoImage, ErrorCode::SafetyBlocked];
        assert_eq!(check_retry(br#"{"codes":["no_image","safety_blocked"]}"#), Ok(Some(codes)));
        for (body, pointer) in [
            (&br#"{"codes":["no_image","what"]}"#[..], "/codes/1"),
            (br#"{"codes":[]}"#, "/codes"),
            (br#"{"codes":"no_image"}"#, "/codes"),
            (br#"{"code":["no_image"]}"#, "/code"),
            (b"[]", ""),
        ] {
            let faults = check_retry(body).unwrap_err();
            assert_eq!(faults[0].pointer.as_deref(), Some(pointer));
        }
    }
}
