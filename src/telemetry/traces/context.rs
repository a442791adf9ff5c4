//! What a caller says of its own trace: the headers `traceparent` and `X-Cloud-Trace-Context`, read strictly.
//!
//! Anyone may write them. What is not of the form is nothing, and what is of the form is an id to group lines by, no more.

use super::{SpanId, TraceId, hexadecimal};

/// The caller's place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The caller's span, if it named one.
    pub parent: Option<SpanId>,
    /// Whether the caller's own part of the trace is collected.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads a `traceparent` (W3C Trace Context, read 2026-11-28): `00-TRACE-SPAN-FLAGS`. A later version may have more
    /// behind a further dash.
    #[must_use]
    pub fn of_w3c(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_known = version == "00";
        if !hexadecimal(version, 2) || version == "ff" || !hexadecimal(flags, 2) || (is_known && parts.next().is_some())
        {
            return None;
        }
        let flags = u8::from_str_radix(flags, 16).ok()?;
        Some(Self { trace: TraceId::parse(trace)?, parent: Some(SpanId::parse(parent)?), sampled: flags & 1 == 1 })
    }

    /// Reads an `X-Cloud-Trace-Context` (Google Cloud, "Trace context", read 2026-11-28): `TRACE[/SPAN][;o=FLAG]`, the
    /// span as a decimal number, of which 0 is none.
    #[must_use]
    pub fn of_google(text: &str) -> Option<Self> {
        let (ids, options) = text.split_once(';').map_or((text, None), |(ids, options)| (ids, Some(options)));
        let (trace, parent) = ids.split_once('/').map_or((ids, None), |(trace, parent)| (trace, Some(parent)));
        let sampled = match options {
            None | Some("o=0") => false,
            Some("o=1") => true,
            Some(_) => return None,
        };
        let parent = match parent {
            None => None,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse::<u64>().ok()?).filter(|bits| *bits != 0).map(SpanId)
            }
            Some(_) => return None,
        };
        Some(Self { trace: TraceId::parse(trace)?, parent, sampled })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn context(parent: Option<&str>, sampled: bool) -> TraceContext {
        let parent = parent.map(|parent| SpanId::parse(parent).unwrap());
        TraceContext { trace: TraceId::parse(TRACE).unwrap(), parent, sampled }
    }

    #[test]
    fn a_traceparent_is_read_to_the_letter() {
        let of = |rest: &str| TraceContext::of_w3c(&rest.replace('T', TRACE));
        let parent = Some("00f067aa0b1902b7");
        assert_eq!(of("00-T-00f067aa0b1902b7-01"), Some(context(parent, true)));
        assert_eq!(of("00-T-00f067aa0b1902b7-02"), Some(context(parent, false)));
        assert_eq!(of("01-T-00f067aa0b1902b7-03-more"), Some(context(parent, true)));
        for wrong in [
            "",
            "00",
            "00-T-00f067aa0b1902b7",
            "00-T-00f067aa0b1902b7-01-more",
            "00-T-00f067aa0b1902b7-01-",
            "ff-T-00f067aa0b1902b7-01",
            "0-T-00f067aa0b1902b7-01",
            "00-T-0000000000000000-01",
            "00-T-00F067AA0B1902B7-01",
            "00-T-00f067aa0b1902b7-1",
            "00-T-00f067aa0b1902b7-0g",
            " 00-T-00f067aa0b1902b7-01",
            "00-00000000000000000000000000000000-0102030405060708-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-0102030405060708-01",
        ] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn googles_own_header_is_read_to_the_letter() {
        let of = |rest: &str| TraceContext::of_google(&rest.replace('T', TRACE));
        assert_eq!(of("T/255;o=1"), Some(context(Some("00000000000000ff"), true)));
        assert_eq!(of("T/0;o=1"), Some(context(None, true)));
        assert_eq!(of("T;o=0"), Some(context(None, false)));
        assert_eq!(of("T/18446744073709551615"), Some(context(Some("ffffffffffffffff"), false)));
        for wrong in [
            "",
            "T/",
            "T/x",
            "T/-1",
            "T/+1",
            "T/1;",
            "T/1;o=2",
            "T/1;o=1;p=1",
            "T/18446744073709551616",
            "T/1/2",
            "t/1",
        ] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
