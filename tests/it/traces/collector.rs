//! A trace collector that speaks OTLP over a real socket, keeps what it is sent, and fails on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as SpanStatus;
use prost::Message as _;

/// How a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaction {
    /// It takes the spans.
    Take,
    /// It takes the request and refuses one of the spans.
    RefuseOne,
    /// It fails.
    Fail,
    /// It never answers.
    Hang,
}

/// A span, as the collector was told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    pub(crate) trace: String,
    pub(crate) id: String,
    /// Empty for a root.
    pub(crate) parent: String,
    pub(crate) name: String,
    pub(crate) begun_nanos: u64,
    pub(crate) ended_nanos: u64,
    pub(crate) about: BTreeMap<String, String>,
    pub(crate) failed: bool,
    /// Trace and id of the spans that it led to.
    pub(crate) links: Vec<(String, String)>,
    /// The process that sent it.
    pub(crate) instance: String,
    pub(crate) service: String,
}

impl Seen {
    /// What it says of itself under `name`; empty if nothing.
    pub(crate) fn says(&self, name: &str) -> &str {
        self.about.get(name).map_or("", String::as_str)
    }
}

struct Shared {
    reaction: Reaction,
    spans: Mutex<Vec<Seen>>,
    requests: Mutex<Vec<(HeaderMap, Bytes)>>,
}

/// The collector. Ends with the runtime.
pub(crate) struct Collector {
    pub(crate) url: String,
    shared: Arc<Shared>,
}

impl Collector {
    /// Listens on a port of its own.
    pub(crate) async fn start(reaction: Reaction) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared { reaction, spans: Mutex::default(), requests: Mutex::default() });
        let router = Router::new().route("/v1/traces", post(take)).with_state(shared.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, shared }
    }

    /// Every span so far.
    pub(crate) fn spans(&self) -> Vec<Seen> {
        self.shared.spans.lock().unwrap().clone()
    }

    /// The spans of this name.
    pub(crate) fn named(&self, name: &str) -> Vec<Seen> {
        self.spans().into_iter().filter(|span| span.name == name).collect()
    }

    /// The traces that spans belong to.
    pub(crate) fn traces(&self) -> BTreeSet<String> {
        self.spans().into_iter().map(|span| span.trace).collect()
    }

    /// Every request so far: its headers and its body.
    pub(crate) fn requests(&self) -> Vec<(HeaderMap, Bytes)> {
        self.shared.requests.lock().unwrap().clone()
    }
}

async fn take(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> (StatusCode, Vec<u8>) {
    shared.requests.lock().unwrap().push((headers, body.clone()));
    let spans = decode(&body);
    let taken = match shared.reaction {
        Reaction::Take => ExportTraceServiceResponse::default(),
        Reaction::RefuseOne => {
            let refused = ExportTracePartialSuccess { rejected_spans: 1, error_message: "too old".to_owned() };
            ExportTraceServiceResponse { partial_success: Some(refused) }
        }
        Reaction::Fail => return (StatusCode::INTERNAL_SERVER_ERROR, Vec::new()),
        Reaction::Hang => std::future::pending().await,
    };
    shared.spans.lock().unwrap().extend(spans);
    (StatusCode::OK, taken.encode_to_vec())
}

fn decode(body: &[u8]) -> Vec<Seen> {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let mut seen = Vec::new();
    for resource in request.resource_spans {
        let sender = about(&resource.resource.unwrap().attributes);
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            assert_eq!((span.trace_id.len(), span.span_id.len()), (16, 8));
            assert_eq!(span.flags & 1, 1, "a span that is sent is sampled");
            seen.push(Seen {
                trace: hexadecimal(&span.trace_id),
                id: hexadecimal(&span.span_id),
                parent: hexadecimal(&span.parent_span_id),
                name: span.name,
                begun_nanos: span.start_time_unix_nano,
                ended_nanos: span.end_time_unix_nano,
                about: about(&span.attributes),
                failed: span.status.is_some_and(|status| status.code() == SpanStatus::Error),
                links: span
                    .links
                    .iter()
                    .map(|link| (hexadecimal(&link.trace_id), hexadecimal(&link.span_id)))
                    .collect(),
                instance: sender["service.instance.id"].clone(),
                service: sender["service.name"].clone(),
            });
        }
    }
    seen
}

fn about(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.clone().unwrap().value.unwrap() {
        Value::StringValue(text) => text,
        Value::IntValue(count) => count.to_string(),
        Value::DoubleValue(amount) => amount.to_string(),
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}
