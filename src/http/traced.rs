//! A request's place in its caller's trace: named on its lines, and a span of its own if it may change something.
//!
//! Reads are many and short, and streams last for hours, so neither has a span; nor has a caller who was not let in.

use std::time::Duration;

use axum::http::header::LOCATION;
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use tracing::field::{DisplayValue, display};

use super::AppState;
use crate::domain::ids::BatchId;
use crate::telemetry::traces::context::TraceContext;
use crate::telemetry::traces::{Moment, Side, Span, SpanId, TraceId, Traces, Value};

/// What is known of a request's trace.
pub(super) struct Traced {
    context: Option<TraceContext>,
    /// The id of the request's own span, and when it began, if it gets one.
    own: Option<(SpanId, Moment)>,
}

impl Traced {
    pub(super) fn begin(state: &AppState, method: &Method, headers: &HeaderMap) -> Self {
        let context = context(headers);
        let wanted = state.traces.is_on()
            && matches!(*method, Method::POST | Method::DELETE)
            && context.is_some_and(|context| context.sampled);
        Self { context, own: wanted.then(|| (SpanId::random(), state.clock.now().into())) }
    }

    /// The caller's trace.
    pub(super) fn trace(&self) -> Option<DisplayValue<TraceId>> {
        self.context.map(|context| display(context.trace))
    }

    /// The request's own span, or else the caller's.
    pub(super) fn span(&self) -> Option<DisplayValue<SpanId>> {
        self.own.map(|(own, _)| own).or(self.context?.parent).map(display)
    }

    /// Whether the caller's trace is collected.
    pub(super) fn sampled(&self) -> Option<bool> {
        self.context.map(|context| context.sampled)
    }

    /// Writes the request's span, if its caller was let in: strangers write none.
    pub(super) fn end(
        self,
        traces: &Traces,
        (method, route, path): (&Method, &str, &str),
        response: &Response,
        latency: Duration,
    ) {
        let (Some(context), Some((id, begun)), status) = (self.context, self.own, response.status()) else { return };
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let batch = location.and_then(batch_of).or_else(|| batch_of(path));
        let mut about = vec![
            ("http.request.method", Value::from(method.as_str())),
            ("http.route", Value::from(route)),
            ("http.response.status_code", u32::from(status.as_u16()).into()),
        ];
        about.extend(batch.map(|batch| ("orchestrator.batch", Value::Text(batch.to_string()))));
        traces.send(Span {
            trace: context.trace,
            id,
            parent: context.parent.map(|parent| (parent, true)),
            name: format!("{method} {route}").into(),
            side: Side::Server,
            begun,
            ended: begun.after(latency),
            about,
            fault: status.is_server_error().then(|| status.as_str().to_owned().into()),
            led_to: batch.map(|batch| (TraceId::of_batch(batch), SpanId::of_batch(batch))),
        });
    }
}

/// What the caller says of its trace. A header that is there twice says nothing.
fn context(headers: &HeaderMap) -> Option<TraceContext> {
    let only = |name: &str| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none())?.to_str().ok()
    };
    let w3c = only("traceparent").and_then(TraceContext::of_w3c);
    w3c.or_else(|| only("x-cloud-trace-context").and_then(TraceContext::of_google))
}

/// The batch that a path is about.
fn batch_of(path: &str) -> Option<BatchId> {
    path.strip_prefix("/images/")?.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn of(headers: &[(&'static str, &'static str)]) -> Option<String> {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers.iter().map(pair) {
            map.append(name, value);
        }
        context(&map).map(|context| format!("{} {:?} {}", context.trace, context.parent, context.sampled))
    }

    #[test]
    fn the_standards_header_comes_before_googles_and_one_that_is_there_twice_says_nothing() {
        const W3C: (&str, &str) = ("traceparent", "00-00000000000000000000000000000abc-00000000000000ff-00");
        const GOOGLE: (&str, &str) = ("x-cloud-trace-context", "4bf92f3577b34da6a3ce929d0e0e4736/1;o=1");
        let google = Some(format!("{TRACE} Some(SpanId(1)) true"));
        let w3c = Some("00000000000000000000000000000abc Some(SpanId(255)) false".to_owned());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[GOOGLE, W3C]), w3c);
        assert_eq!(of(&[W3C, W3C]), None);
        assert_eq!(of(&[W3C, W3C, GOOGLE]), google);
        assert_eq!(of(&[("traceparent", "nonsense"), GOOGLE]), google);
    }

    #[test]
    fn a_path_below_a_batch_is_about_it() {
        let batch = "bat_01KB2S7Z5XEXAMPE0000000000";
        for path in [format!("/images/{batch}"), format!("/images/{batch}/retry")] {
            assert_eq!(batch_of(&path), Some(batch.parse().unwrap()));
        }
        for path in ["/images", "/images/", "/images/bat_x", "/references/1"] {
            assert_eq!(batch_of(path), None);
        }
    }
}
