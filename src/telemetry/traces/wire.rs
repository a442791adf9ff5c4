//! Spans in the collector's language: the messages of OTLP.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValue;
use opentelemetry_proto::tonic::common::v1::{self as common, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{self as otlp, ResourceSpans, ScopeSpans, SpanFlags, Status};

use super::{Side, Span, Value};

/// The trace flag of a trace that is collected.
const SAMPLED: u32 = 1;

fn attribute(key: &str, value: Value) -> KeyValue {
    let value = match value {
        Value::Text(text) => AnyValue::StringValue(text),
        Value::Whole(count) => AnyValue::IntValue(count),
        Value::Number(amount) => AnyValue::DoubleValue(amount),
    };
    KeyValue { key: key.to_owned(), value: Some(common::AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// Who sends spans.
pub(super) fn resource(service: &str, instance: &str) -> Resource {
    let attributes =
        [("service.name", service), ("service.version", env!("CARGO_PKG_VERSION")), ("service.instance.id", instance)];
    let attributes = attributes.map(|(key, value)| attribute(key, value.into()));
    Resource { attributes: attributes.to_vec(), ..Resource::default() }
}

/// One request with these spans.
pub(super) fn request(resource: Resource, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let scope = InstrumentationScope {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let spans = spans.into_iter().map(message).collect();
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
    let resource_spans = ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
}

fn message(span: Span) -> otlp::Span {
    let remote = span.parent.is_some_and(|(_, remote)| remote);
    let known = SpanFlags::ContextHasIsRemoteMask as u32;
    let kind = match span.side {
        Side::Internal => SpanKind::Internal,
        Side::Server => SpanKind::Server,
        Side::Client => SpanKind::Client,
    };
    let mut attributes: Vec<KeyValue> = span.about.into_iter().map(|(key, value)| attribute(key, value)).collect();
    let code = if span.fault.is_some() { StatusCode::Error } else { StatusCode::Unset };
    attributes.extend(span.fault.map(|fault| attribute("error.type", Value::Text(fault.into_owned()))));
    let link = |(trace, id): (super::TraceId, super::SpanId)| Link {
        trace_id: trace.0.to_be_bytes().to_vec(),
        span_id: id.0.to_be_bytes().to_vec(),
        flags: SAMPLED | known,
        ..Link::default()
    };
    otlp::Span {
        trace_id: span.trace.0.to_be_bytes().to_vec(),
        span_id: span.id.0.to_be_bytes().to_vec(),
        parent_span_id: span.parent.map_or_else(Vec::new, |(parent, _)| parent.0.to_be_bytes().to_vec()),
        flags: SAMPLED | known | if remote { SpanFlags::ContextIsRemoteMask as u32 } else { 0 },
        name: span.name.into_owned(),
        kind: kind.into(),
        start_time_unix_nano: span.begun.0,
        end_time_unix_nano: span.ended.max(span.begun).0,
        attributes,
        links: span.led_to.map(link).into_iter().collect(),
        status: Some(Status { code: code.into(), message: String::new() }),
        ..otlp::Span::default()
    }
}
