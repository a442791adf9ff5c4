//! Why a client command did not do all that was asked of it, in words that say what to do next, and the exit code that
//! tells a script.

use std::fmt;
use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::output::one_line;
use crate::domain::ids::BatchId;

/// Some pictures were not made or not saved, or something else failed.
const EXIT_FAILED: u8 = 1;
/// What was given cannot be used (`EX_USAGE` of sysexits.h).
const EXIT_USAGE: u8 = 64;
/// The service cannot be reached, or does not answer (`EX_UNAVAILABLE`).
const EXIT_UNAVAILABLE: u8 = 69;
/// The budget does not allow it now (`EX_TEMPFAIL`).
const EXIT_BUDGET: u8 = 75;
/// The key is refused, or may not do this (`EX_NOPERM`).
const EXIT_NOT_LET_IN: u8 = 77;
/// Ctrl-C, as shells have it.
const EXIT_INTERRUPTED: u8 = 130;

/// Why a command did not do all that was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// An option, a variable or a file cannot be used.
    #[error("{0}")]
    Usage(String),
    /// Nobody answers at the service's address.
    #[error("cannot reach {base}: {reason}")]
    Unreachable { base: String, reason: String },
    /// The service answered with an error.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// Not every picture was made and saved; what came of them was said already.
    #[error("{batch} is not complete: {missing} not made, {unsaved} made and not saved")]
    Incomplete { batch: BatchId, missing: u32, unsaved: usize },
    /// A load test went through to its end, and these gates do not hold.
    #[error("the load test failed: {}", .0.join(", "))]
    Gates(Vec<String>),
    /// A file or a folder cannot be read or written.
    #[error("{0}")]
    File(String),
    /// Somebody else sent something that nobody can work with.
    #[error("{0}")]
    Unexpected(String),
    /// Ctrl-C.
    #[error("{0}")]
    Interrupted(String),
}

impl Failure {
    /// The exit code that tells it.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => EXIT_USAGE,
            Self::Unreachable { .. } => EXIT_UNAVAILABLE,
            Self::Refused(refusal) => refusal.exit_code(),
            Self::Incomplete { .. } | Self::Gates(_) | Self::File(_) | Self::Unexpected(_) => EXIT_FAILED,
            Self::Interrupted(_) => EXIT_INTERRUPTED,
        }
    }

    /// Whether the same request may work in a while.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused(refusal) => refusal.is_passing(),
            _ => false,
        }
    }

    /// Whether a submission was not accepted for certain, neither now nor by an earlier try whose answer was lost: what
    /// was sent once and refused for itself. A key that is in use proves the contrary: a batch has that name.
    pub(super) fn is_for_certain(&self) -> bool {
        let Self::Refused(refusal) = self else { return false };
        let is_of_itself = [400, 402, 413, 415, 422].contains(&refusal.status.as_u16())
            && refusal.problem.code != "idempotency_key_reused";
        !refusal.is_repeated && (is_of_itself || refusal.problem.code == "live_disabled")
    }

    /// Whether it is about the one picture that was asked for, and says nothing of others.
    pub(super) fn is_for_this_alone(&self) -> bool {
        let gone = [StatusCode::NOT_FOUND, StatusCode::GONE];
        match self {
            Self::Refused(refusal) => gone.contains(&refusal.status),
            Self::Unexpected(_) => true,
            _ => false,
        }
    }

    /// How long the service asks to wait, if it does.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            _ => None,
        }
    }

    /// Whether the service refused with this code.
    pub(super) fn has_code(&self, code: &str) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.problem.code == code)
    }
}

/// A file could not be used: names it, and what the system said.
pub(super) fn of_file(doing: &str, path: &std::path::Path) -> impl Fn(std::io::Error) -> Failure {
    move |error| Failure::File(format!("cannot {doing} {}: {error}", path.display()))
}

/// An answer that is an error.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) problem: Problem,
    pub(super) retry_after: Option<Duration>,
    /// The request was sent before this answer came, and whether it did something then is not known.
    pub(super) is_repeated: bool,
    /// The body as it came.
    pub(super) body: Value,
    /// The faults with their places in the file that was sent, where it was one.
    pub(super) places: Vec<String>,
}

/// The parts of a problem body (RFC 9457) that the command line looks at; all are empty if it is none.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Problem {
    pub(super) code: String,
    pub(super) detail: String,
    pub(super) errors: Vec<Fault>,
}

/// One thing that is wrong with a request.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Fault {
    /// Where in the body; empty for the whole body.
    pub(super) pointer: Option<String>,
    /// The line of the body, if the service says it.
    pub(super) line: Option<u64>,
    pub(super) parameter: Option<String>,
    pub(super) header: Option<String>,
    pub(super) detail: String,
}

impl Refusal {
    /// Reads the body of an answer with `status`.
    pub(super) fn new(status: StatusCode, retry_after: Option<Duration>, body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let problem = Problem::deserialize(&body).unwrap_or_default();
        Self { status, problem, retry_after, is_repeated: false, body, places: Vec::new() }
    }

    fn exit_code(&self) -> u8 {
        match self.status {
            StatusCode::PAYMENT_REQUIRED => EXIT_BUDGET,
            StatusCode::UNAUTHORIZED => EXIT_NOT_LET_IN,
            StatusCode::FORBIDDEN if self.problem.code != "live_disabled" => EXIT_NOT_LET_IN,
            StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
            | StatusCode::UNPROCESSABLE_ENTITY => EXIT_USAGE,
            _ if self.is_passing() => EXIT_UNAVAILABLE,
            _ => EXIT_FAILED,
        }
    }

    fn is_passing(&self) -> bool {
        let by_status = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&self.status);
        by_status || self.status.is_server_error() || self.problem.code == "idempotency_in_progress"
    }

    /// What to do about it, where the service's own words do not say.
    fn advice(&self) -> &'static str {
        let is_barred = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&self.status);
        match self.problem.code.as_str() {
            // What stands in front of the service has no such codes.
            "" if is_barred => "; on Cloud Run set ORCHESTRATOR_TOKEN to an identity token of who may call the service",
            "unauthorized" => "; set ORCHESTRATOR_KEY or --key to a key that is good",
            "live_disabled" => "; the service has to be started with RUN_MODE=live",
            "budget_exceeded" => "; send fewer rows, or wait: `budget` says what is left and until when",
            _ => "",
        }
    }
}

impl fmt::Display for Refusal {
    /// One line, and one for each fault.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let detail = if self.problem.detail.is_empty() { "no detail" } else { &self.problem.detail };
        write!(f, "the service answered {}: {}{}", self.status, one_line(detail), self.advice())?;
        if !self.places.is_empty() {
            return self.places.iter().try_for_each(|place| write!(f, "\n{place}"));
        }
        self.problem.errors.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = [&self.pointer, &self.parameter, &self.header];
        match places.into_iter().flatten().find(|place| !place.is_empty()) {
            Some(place) => write!(f, "{}: {}", one_line(place), one_line(&self.detail)),
            None => f.write_str(&one_line(&self.detail)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, code: &str) -> Failure {
        let body = serde_json::json!({"code": code, "detail": "why"}).to_string();
        Failure::Refused(Box::new(Refusal::new(StatusCode::from_u16(status).unwrap(), None, body.as_bytes())))
    }

    #[test]
    fn a_script_learns_from_the_exit_code_what_to_do_next() {
        for (status, code, expected) in [
            (400, "invalid_request", 64),
            (422, "model_unknown", 64),
            (402, "budget_exceeded", 75),
            (401, "unauthorized", 77),
            (403, "forbidden", 77),
            (403, "live_disabled", 1),
            (404, "not_found", 1),
            (409, "not_retryable", 1),
            (409, "idempotency_in_progress", 69),
            (429, "rate_limited", 69),
            (503, "unavailable", 69),
        ] {
            assert_eq!(refused(status, code).exit_code(), expected, "{code}");
        }
        assert_eq!(Failure::Unreachable { base: String::new(), reason: String::new() }.exit_code(), 69);
    }

    #[test]
    fn only_a_refusal_of_the_first_try_proves_that_there_is_no_batch() {
        for (status, code) in [(400, "invalid_request"), (402, "budget_exceeded"), (403, "live_disabled")] {
            let mut failure = refused(status, code);
            assert!(failure.is_for_certain(), "{code}");
            let Failure::Refused(refusal) = &mut failure else { panic!("{failure}") };
            refusal.is_repeated = true;
            assert!(!failure.is_for_certain(), "{code}");
        }
        for (status, code) in [(422, "idempotency_key_reused"), (401, "unauthorized"), (503, "unavailable")] {
            assert!(!refused(status, code).is_for_certain(), "{code}");
        }
    }

    #[test]
    fn every_fault_is_a_line_that_says_where() {
        let body = br#"{"code":"invalid_request","detail":"2 faults",
            "errors":[{"pointer":"/items/0/prompt","detail":"is required"},{"parameter":"model","detail":"is given twice"}]}"#;
        let refusal = Refusal::new(StatusCode::BAD_REQUEST, None, body);
        let lines: Vec<String> = refusal.to_string().lines().map(str::to_owned).collect();
        assert_eq!(lines[1..], ["  /items/0/prompt: is required", "  model: is given twice"]);
        assert_eq!(Refusal::new(StatusCode::BAD_GATEWAY, None, b"<html>").problem.code, "");
    }

    #[test]
    fn words_of_the_service_make_no_lines_of_their_own() {
        let body = br#"{"code":"x","detail":"no\nall is well","errors":[{"pointer":"/a\u001b","detail":"b\nc"}]}"#;
        let said = Refusal::new(StatusCode::BAD_REQUEST, None, body).to_string();
        assert_eq!(said.lines().count(), 2, "{said}");
        assert!(!said.contains('\u{1b}'), "{said}");
    }

    #[test]
    fn who_is_refused_in_front_of_the_service_is_told_of_the_token() {
        let refusal = |status, body: &str| Refusal::new(status, None, body.as_bytes()).to_string();
        assert!(refusal(StatusCode::FORBIDDEN, "<html>").contains("ORCHESTRATOR_TOKEN"));
        let own = refusal(StatusCode::FORBIDDEN, r#"{"code":"forbidden","detail":"no"}"#);
        assert!(!own.contains("ORCHESTRATOR_TOKEN"), "{own}");
    }
}
