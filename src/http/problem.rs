//! The one error body of the service: RFC 9457 problems, and every mapping into them.
//!
//! Refuses to show the cause of a 5xx: that goes to the log, once, here.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::money::MicroUsd;
use crate::domain::prices::PriceError;
use crate::domain::time::Timestamp;
use crate::service::batches::{BudgetShortfall, ServiceError};

/// The media type of every answer that is an error.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// How long a client should stay away when a part of the service is down.
const UNAVAILABLE_RETRY_SECONDS: u32 = 5;
/// How long a client should wait while its first request is still being taken in. Named by the contract.
const IN_PROGRESS_RETRY_SECONDS: u32 = 1;

macro_rules! codes {
    ($($(#[doc = $doc:tt])+ $name:ident = $text:literal, $status:ident, $title:literal;)+) => {
        /// The stable name of a kind of error.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum Code { $($(#[doc = $doc])+ $name,)+ }

        impl Code {
            /// The name in the body.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// The name as a URI.
            #[must_use]
            pub const fn uri(self) -> &'static str {
                match self { $(Self::$name => concat!("urn:orchestrator:error:", $text),)+ }
            }

            /// The status that goes with it.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)+ }
            }

            /// A few words that never change.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)+ }
            }

            /// When it is answered, in a sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];
        }
    };
}

codes! {
    /// The body, a header or the query breaks a rule.
    InvalidRequest = "invalid_request", BAD_REQUEST, "The request breaks a rule";
    /// Nobody was let in: no key was sent, or it is refused.
    Unauthorized = "unauthorized", UNAUTHORIZED, "Not let in";
    /// The caller may not do this, or the request comes from where this service takes none.
    Forbidden = "forbidden", FORBIDDEN, "Forbidden";
    /// A live batch while the service spends nothing.
    LiveDisabled = "live_disabled", FORBIDDEN, "Live batches are disabled";
    /// Nothing is there, it is another user's, or the picture will never be made.
    NotFound = "not_found", NOT_FOUND, "Not found";
    /// The picture is not made yet.
    NotReady = "not_ready", NOT_FOUND, "Not made yet";
    /// The feature is switched off.
    FeatureDisabled = "feature_disabled", NOT_FOUND, "This feature is switched off";
    /// The path exists, the method does not.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "Method not allowed";
    /// The batch does not fit what is left of a budget.
    BudgetExceeded = "budget_exceeded", PAYMENT_REQUIRED, "The batch does not fit the budget";
    /// The first request with this key is still being taken in.
    IdempotencyInProgress = "idempotency_in_progress", CONFLICT, "The first request is still being taken in";
    /// No picture of the batch can be tried again.
    NotRetryable = "not_retryable", CONFLICT, "Nothing to try again";
    /// The key was used with another body.
    IdempotencyKeyReused = "idempotency_key_reused", UNPROCESSABLE_ENTITY, "The key was used with another request";
    /// The body is too large.
    PayloadTooLarge = "payload_too_large", PAYLOAD_TOO_LARGE, "The body is too large";
    /// The headers are too large.
    HeadersTooLarge = "headers_too_large", REQUEST_HEADER_FIELDS_TOO_LARGE, "The headers are too large";
    /// The body did not arrive in time.
    RequestTimeout = "request_timeout", REQUEST_TIMEOUT, "The request did not arrive in time";
    /// The user changes things too often, or the address sent too many wrong keys.
    RateLimited = "rate_limited", TOO_MANY_REQUESTS, "Too many requests";
    /// Too many streams, of progress or of results, are open.
    TooManyStreams = "too_many_streams", TOO_MANY_REQUESTS, "Too many streams";
    /// The body is of a type that this route does not take.
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "Unsupported media type";
    /// The model has no price here.
    ModelUnknown = "model_unknown", UNPROCESSABLE_ENTITY, "Unknown model";
    /// The model was shut down.
    ModelRetired = "model_retired", UNPROCESSABLE_ENTITY, "The model was shut down";
    /// The model has no price for this size.
    SizeUnpriced = "size_unpriced", UNPROCESSABLE_ENTITY, "No price for this size";
    /// The model does not make pictures of this shape.
    AspectRatioUnsupported = "aspect_ratio_unsupported", UNPROCESSABLE_ENTITY, "No pictures of this shape";
    /// A fault of the service.
    Internal = "internal", INTERNAL_SERVER_ERROR, "Internal error";
    /// A part of the service is away.
    Unavailable = "unavailable", SERVICE_UNAVAILABLE, "Unavailable for now";
}

/// One thing that is wrong with a request, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Fault {
    /// Where in the body: a JSON pointer (RFC 6901); empty for the whole body.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "/items/0/sceneId")]
    pub pointer: Option<String>,
    /// Which query parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub parameter: Option<&'static str>,
    /// Which header.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub header: Option<&'static str>,
    /// On which line of a CSV or JSONL body it starts, counting from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>, minimum = 1)]
    pub line: Option<u32>,
    /// What is wrong, and what would be right.
    #[schema(value_type = String)]
    pub detail: Cow<'static, str>,
}

impl Fault {
    /// A fault in the body.
    #[must_use]
    pub fn in_body(pointer: String, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { pointer: Some(pointer), parameter: None, header: None, line: None, detail: detail.into() }
    }

    /// The same, on a line of the body.
    #[must_use]
    pub fn on_line(self, line: Option<u32>) -> Self {
        Self { line, ..self }
    }

    /// A fault in the query.
    #[must_use]
    pub fn in_query(parameter: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { pointer: None, parameter: Some(parameter), header: None, line: None, detail: detail.into() }
    }

    /// A fault in a header.
    #[must_use]
    pub fn in_header(header: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { pointer: None, parameter: None, header: Some(header), line: None, detail: detail.into() }
    }
}

impl Fault {
    fn place(&self) -> &str {
        match self.pointer.as_deref().or(self.parameter).or(self.header) {
            None | Some("") => "body",
            Some(place) => place,
        }
    }
}

/// The body of every answer that is an error (RFC 9457).
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// `urn:orchestrator:error:` and the code.
    #[schema(value_type = String, example = "urn:orchestrator:error:not_found")]
    r#type: &'static str,
    /// A few words that are the same for every error of this code.
    #[schema(value_type = String)]
    title: &'static str,
    /// The status of the answer.
    #[schema(value_type = u16, example = 404)]
    status: u16,
    /// What happened this time.
    #[schema(value_type = String)]
    detail: Cow<'static, str>,
    /// The path that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    instance: Option<Box<str>>,
    /// The stable name to decide by.
    code: Code,
    /// Everything that is wrong with the request, with `invalid_request` and with files that are refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<Fault>,
    #[serde(flatten)]
    #[schema(value_type = Members)]
    members: Option<Box<Members>>,
    #[serde(skip)]
    retry_after: Option<u32>,
}

/// What only some kinds of error say.
#[derive(Debug, Clone, PartialEq, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProblemMembers)]
struct Members {
    /// With `budget_exceeded`: what the batch would reserve. US dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    estimated_cost: Option<MicroUsd>,
    /// With `budget_exceeded`: what is left today. US dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    remaining: Option<MicroUsd>,
    /// With `budget_exceeded`: the limit. US dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    daily_limit: Option<MicroUsd>,
    /// With `budget_exceeded`: when spent money starts at zero again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    resets_at: Option<Timestamp>,
    /// With `model_retired`: the model to use instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    replacement: Option<String>,
    /// From the readiness check: always false.
    #[serde(skip_serializing_if = "Option::is_none")]
    ready: Option<bool>,
    /// From the readiness check: what does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasons: Option<Vec<String>>,
}

impl Problem {
    /// A problem of this kind, and what happened this time.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            r#type: code.uri(),
            title: code.title(),
            status: code.status().as_u16(),
            detail: detail.into(),
            instance: None,
            code,
            errors: Vec::new(),
            members: None,
            retry_after: (code.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(UNAVAILABLE_RETRY_SECONDS),
        }
    }

    /// The request breaks these rules; all of them are told at once.
    #[must_use]
    pub fn invalid(faults: Vec<Fault>) -> Self {
        Self::with_faults(Code::InvalidRequest, faults)
    }

    /// The request breaks rules of several kinds, all told at once; the first in the order of refusals has the say.
    #[must_use]
    pub fn of_faults(faults: Vec<(Code, Fault)>) -> Self {
        let has = |code: &Code| faults.iter().any(|(of, _)| of == code);
        let order = [Code::PayloadTooLarge, Code::UnsupportedMediaType];
        let code = order.into_iter().find(has).unwrap_or(Code::InvalidRequest);
        Self::with_faults(code, faults.into_iter().map(|(_, fault)| fault).collect())
    }

    fn with_faults(code: Code, faults: Vec<Fault>) -> Self {
        let detail = match faults.as_slice() {
            [only @ Fault { line: Some(line), .. }] => {
                Cow::Owned(format!("{} on line {line}: {}", only.place(), only.detail))
            }
            [only] => Cow::Owned(format!("{}: {}", only.place(), only.detail)),
            several => Cow::Owned(format!("{} things are wrong with the request; see errors", several.len())),
        };
        Self { errors: faults, ..Self::new(code, detail) }
    }

    /// The service cannot work now, for these reasons.
    #[must_use]
    pub fn unready(reasons: Vec<String>) -> Self {
        let detail = format!("not ready: {}", reasons.join("; "));
        let members = Members { ready: Some(false), reasons: Some(reasons), ..Members::default() };
        Self::new(Code::Unavailable, detail).with(members)
    }

    /// The stable name of its kind.
    #[must_use]
    pub const fn code(&self) -> Code {
        self.code
    }

    /// The same, with the seconds after which it may be tried again.
    #[must_use]
    pub fn retry_after(self, seconds: u32) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// No route leads here.
    #[must_use]
    pub fn no_route() -> Self {
        Self::new(Code::NotFound, "there is no such route; /openapi.json lists all there are")
    }

    /// The batch is not there.
    #[must_use]
    pub fn no_batch() -> Self {
        Self::new(Code::NotFound, "there is no such batch, or it is another user's; GET /images lists yours")
    }

    /// The batch is there, and has no such picture.
    #[must_use]
    pub fn no_picture() -> Self {
        Self::new(Code::NotFound, "the batch has no such picture: no row of this sceneId, or no variant of this number")
    }

    /// A fault of ours; the caller logs its cause.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(Code::Internal, "the service failed; its log has the reason")
    }

    /// What an error status that came without a body of ours says.
    #[must_use]
    pub fn of_status(status: StatusCode) -> Self {
        let bare = match status {
            StatusCode::NOT_FOUND => Self::no_route(),
            StatusCode::METHOD_NOT_ALLOWED => {
                Self::new(Code::MethodNotAllowed, "this address does not take this method; Allow lists those it takes")
            }
            StatusCode::PAYLOAD_TOO_LARGE => Self::new(Code::PayloadTooLarge, "the body is too large"),
            StatusCode::REQUEST_TIMEOUT => Self::new(Code::RequestTimeout, "the request did not arrive in time"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                Self::new(Code::UnsupportedMediaType, "this address does not take this media type")
            }
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
                Self::new(Code::HeadersTooLarge, "the headers are too large")
            }
            StatusCode::SERVICE_UNAVAILABLE => Self::new(Code::Unavailable, "try again in a while"),
            other if other.is_server_error() => Self::internal(),
            _ => Self::new(Code::InvalidRequest, "the request cannot be read"),
        };
        Self { status: status.as_u16(), ..bare }
    }

    fn with(self, members: Members) -> Self {
        Self { members: Some(Box::new(members)), ..self }
    }

    /// The same problem, told about `path`.
    #[must_use]
    pub fn at(self, path: &str) -> Self {
        Self { instance: Some(path.into()), ..self }
    }

    /// Puts this problem in the place of whatever `headers` came with, and keeps those that still hold.
    #[must_use]
    pub fn into_response_with(self, mut headers: HeaderMap) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        headers.remove(CONTENT_LENGTH);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response.extensions_mut().insert(self);
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.into_response_with(HeaderMap::new())
    }
}

impl From<ServiceError> for Problem {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::NotFound => Self::no_batch(),
            ServiceError::NoPicture => Self::no_picture(),
            ServiceError::NoThumbnail => Self::new(Code::NotFound, "this picture has no thumbnail"),
            ServiceError::NotMade(Some(error)) => {
                let detail = format!("this picture was not made: {}: {}", error.code.as_str(), error.detail);
                Self::new(Code::NotFound, detail)
            }
            ServiceError::NotMade(None) => {
                Self::new(Code::NotFound, "this picture was not made: it was cancelled before")
            }
            ServiceError::NotReady => {
                Self::new(Code::NotReady, "this picture is not made yet; the batch says how far it has come")
            }
            ServiceError::LiveDisabled => Self::new(
                Code::LiveDisabled,
                "this service runs with RUN_MODE=dry_run and spends nothing; send runMode dry_run, or have it started with RUN_MODE=live",
            ),
            ServiceError::BudgetExceeded(shortfall) => shortfall.into(),
            ServiceError::NotRetryable(detail) => Self::new(Code::NotRetryable, detail),
            ServiceError::KeyReused => {
                Self::new(Code::IdempotencyKeyReused, "this Idempotency-Key came with another request before")
            }
            ServiceError::KeyInProgress => Self {
                retry_after: Some(IN_PROGRESS_RETRY_SECONDS),
                ..Self::new(
                    Code::IdempotencyInProgress,
                    "the first request with this Idempotency-Key is still being taken in",
                )
            },
            ServiceError::Price(error) => error.into(),
            ServiceError::BadCursor => {
                Self::invalid(vec![Fault::in_query("cursor", "not a cursor that this service gave for this list")])
            }
            ServiceError::Unavailable(cause) => {
                tracing::error!(error = cause.as_ref() as &(dyn std::error::Error + 'static), "unavailable");
                Self::new(Code::Unavailable, "a part of the service does not answer; try again in a while")
            }
            ServiceError::Internal(cause) => {
                tracing::error!(error = cause.as_ref() as &(dyn std::error::Error + 'static), "internal error");
                Self::internal()
            }
        }
    }
}

impl From<BudgetShortfall> for Problem {
    fn from(shortfall: BudgetShortfall) -> Self {
        let whose = if shortfall.user_limit { "your" } else { "the service's" };
        let detail = format!(
            "the batch would reserve ${}; ${} is left of {whose} daily limit of ${} until {}",
            shortfall.estimated_cost, shortfall.remaining, shortfall.daily_limit, shortfall.resets_at
        );
        Self::new(Code::BudgetExceeded, detail).with(Members {
            estimated_cost: Some(shortfall.estimated_cost),
            remaining: Some(shortfall.remaining),
            daily_limit: Some(shortfall.daily_limit),
            resets_at: Some(shortfall.resets_at),
            ..Members::default()
        })
    }
}

impl From<PriceError> for Problem {
    fn from(error: PriceError) -> Self {
        let detail = error.to_string();
        match error {
            PriceError::Unknown { .. } => Self::new(Code::ModelUnknown, detail),
            PriceError::Retired { replacement, .. } => {
                Self::new(Code::ModelRetired, detail).with(Members { replacement, ..Members::default() })
            }
            PriceError::SizeUnpriced { .. } => Self::new(Code::SizeUnpriced, detail),
            PriceError::AspectRatioUnsupported { .. } => Self::new(Code::AspectRatioUnsupported, detail),
            PriceError::Money(cause) => {
                tracing::error!(error = &cause as &(dyn std::error::Error + 'static), "the batch cannot be priced");
                Self::internal()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Day;

    fn json(problem: &Problem) -> serde_json::Value {
        serde_json::to_value(problem).unwrap()
    }

    fn shortfall() -> BudgetShortfall {
        BudgetShortfall {
            estimated_cost: MicroUsd::from_micros(2_500_000),
            remaining: MicroUsd::from_micros(1_200_001),
            daily_limit: MicroUsd::from_micros(100_000_000),
            resets_at: Timestamp::from_millis(1_764_028_800_000),
            user_limit: false,
        }
    }

    #[test]
    fn a_refused_batch_is_told_what_it_would_cost_and_what_is_left() {
        insta::assert_json_snapshot!(json(&ServiceError::BudgetExceeded(shortfall()).into()), @r#"
        {
          "code": "budget_exceeded",
          "dailyLimit": 100.0,
          "detail": "the batch would reserve $2.5; $1.200001 is left of the service's daily limit of $100 until 2025-11-25T00:00:00Z",
          "estimatedCost": 2.5,
          "remaining": 1.200001,
          "resetsAt": "2025-11-25T00:00:00Z",
          "status": 402,
          "title": "The batch does not fit the budget",
          "type": "urn:orchestrator:error:budget_exceeded"
        }
        "#);
    }

    #[test]
    fn a_retired_model_names_its_replacement() {
        let error =
            PriceError::Retired { model: "old".into(), day: Day::from_number(20_755), replacement: Some("new".into()) };
        insta::assert_json_snapshot!(json(&ServiceError::Price(error).into()), @r#"
        {
          "code": "model_retired",
          "detail": "model \"old\" was shut down on 2026-10-29",
          "replacement": "new",
          "status": 422,
          "title": "The model was shut down",
          "type": "urn:orchestrator:error:model_retired"
        }
        "#);
    }

    #[test]
    fn every_fault_names_its_place_in_its_own_member() {
        let problem = Problem::invalid(vec![
            Fault::in_body("/items".into(), "is required"),
            Fault::in_query("limit", "must be 1-200"),
            Fault::in_header("Idempotency-Key", "must not be empty"),
        ])
        .at("/images");
        insta::assert_json_snapshot!(json(&problem), @r#"
        {
          "code": "invalid_request",
          "detail": "3 things are wrong with the request; see errors",
          "errors": [
            {
              "detail": "is required",
              "pointer": "/items"
            },
            {
              "detail": "must be 1-200",
              "parameter": "limit"
            },
            {
              "detail": "must not be empty",
              "header": "Idempotency-Key"
            }
          ],
          "instance": "/images",
          "status": 400,
          "title": "The request breaks a rule",
          "type": "urn:orchestrator:error:invalid_request"
        }
        "#);
    }

    #[test]
    fn a_fault_of_ours_shows_nothing_of_its_cause() {
        let problem = Problem::from(ServiceError::Internal("password=hunter2".into()));
        assert!(!json(&problem).to_string().contains("hunter2"));
        let problem = Problem::from(ServiceError::Unavailable("10.0.0.3 refused".into()));
        assert!(!json(&problem).to_string().contains("10.0.0.3"));
        let response = problem.into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[RETRY_AFTER], "5");
    }

    #[test]
    fn a_key_in_progress_says_when_to_come_back() {
        let response = Problem::from(ServiceError::KeyInProgress).into_response();
        assert_eq!(response.status(), 409);
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        assert_eq!(response.headers()[CONTENT_TYPE], PROBLEM_JSON);
    }

    #[test]
    fn the_name_of_a_code_is_the_same_in_the_body_and_in_its_type() {
        for &code in Code::ALL {
            let body = json(&Problem::new(code, ""));
            assert_eq!(body["code"], code.as_str());
            assert_eq!(body["status"], code.status().as_u16());
        }
    }

    #[test]
    fn a_bare_error_status_is_kept() {
        for status in [404, 405, 408, 413, 414, 415, 431, 500, 501, 503] {
            let problem = Problem::of_status(StatusCode::from_u16(status).unwrap());
            assert_eq!(problem.into_response().status(), status);
        }
    }
}
