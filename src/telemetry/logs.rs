//! The log: to standard error, for people or as JSON lines with Cloud Logging's field names.
//!
//! Owns the form of a line. Refuses to decide which form: the caller knows the configuration. May
//! call `clock`.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use super::traces::{SpanId, TraceId};
use crate::clock::Clock;
use crate::domain::ids::BatchId;

/// The form of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogForm {
    /// For people; in colour where the log goes to a terminal.
    Pretty {
        /// Whether to colour.
        colour: bool,
    },
    /// One JSON object a line: `severity`, `message`, `timestamp`, `target`, the event's fields, those of its spans,
    /// and the trace that it belongs to.
    Json(Traced),
}

/// How a line names its trace. A line that names a batch or a picture belongs to the batch's, unless it says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traced {
    /// The project of Google Cloud that has the traces.
    pub project: Option<String>,
    /// Whether the traces of batches are collected.
    pub collected: bool,
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Not a filter.
    #[error("cannot read the log filter")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The process has a log already.
    #[error("the log was set up before")]
    Twice(#[from] tracing::subscriber::SetGlobalDefaultError),
}

/// Sends the process's log to standard error.
///
/// # Errors
/// [`LogError`]; there is no log then.
pub fn install(form: LogForm, filter: &str, clock: Arc<dyn Clock>) -> Result<(), LogError> {
    let subscriber = subscriber(form, filter, clock, std::io::stderr)?;
    Ok(tracing::subscriber::set_global_default(subscriber)?)
}

/// A subscriber that writes lines of `form` to `writer`.
fn subscriber<W>(
    form: LogForm,
    filter: &str,
    clock: Arc<dyn Clock>,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, LogError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt().with_env_filter(EnvFilter::try_new(filter)?).with_writer(writer);
    Ok(match form {
        LogForm::Pretty { colour } => Box::new(lines.with_ansi(colour).with_target(false).finish()),
        LogForm::Json(traced) => {
            let form = CloudLines { clock, traced };
            Box::new(lines.with_ansi(false).fmt_fields(JsonFields::new()).event_format(form).finish())
        }
    })
}

/// Cloud Logging's structured form (its documentation, "Structured logging", read 2026-11-24).
struct CloudLines {
    clock: Arc<dyn Clock>,
    traced: Traced,
}

impl<S, N> FormatEvent<S, N> for CloudLines
where
    S: Subscriber + for<'l> LookupSpan<'l>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = Map::new();
        for span in context.event_scope().into_iter().flat_map(tracing_subscriber::registry::Scope::from_root) {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<N>>().map(|fields| fields.fields.as_str());
            if let Some(Ok(fields)) = fields.map(serde_json::from_str::<Map<String, Value>>) {
                line.extend(fields);
            }
        }
        let mut own = Map::new();
        event.record(&mut Fields(&mut own));
        self.traced.join(&mut line, own);
        let metadata = event.metadata();
        line.insert("severity".to_owned(), severity(*metadata.level()).into());
        line.insert("timestamp".to_owned(), self.clock.now().to_string().into());
        line.insert("target".to_owned(), metadata.target().into());
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// The fields by which an event or a span names its trace, and Cloud Logging's names of them.
const TRACE: (&str, &str) = ("trace_id", "logging.googleapis.com/trace");
const SPAN: (&str, &str) = ("span_id", "logging.googleapis.com/spanId");
const SAMPLED: (&str, &str) = ("trace_sampled", "logging.googleapis.com/trace_sampled");

impl Traced {
    /// Adds an event's `own` fields to those of its spans, and names one trace for all of them.
    fn join(&self, line: &mut Map<String, Value>, mut own: Map<String, Value>) {
        if !own.contains_key(TRACE.0)
            && let Some(batch) = batch_of(&own)
        {
            own.insert(TRACE.0.to_owned(), TraceId::of_batch(batch).to_string().into());
            own.insert(SAMPLED.0.to_owned(), self.collected.into());
        }
        if own.contains_key(TRACE.0) {
            // What the spans say is about another trace.
            line.remove(SPAN.0);
            line.remove(SAMPLED.0);
        }
        line.extend(own);
        if let Some(trace) = line.remove(TRACE.0).and_then(|trace| TraceId::parse(trace.as_str()?)) {
            let name = self
                .project
                .as_ref()
                .map_or_else(|| trace.to_string(), |project| format!("projects/{project}/traces/{trace}"));
            line.insert(TRACE.1.to_owned(), name.into());
        }
        if let Some(span) = line.remove(SPAN.0).and_then(|span| SpanId::parse(span.as_str()?)) {
            line.insert(SPAN.1.to_owned(), span.to_string().into());
        }
        if let Some(sampled) = line.remove(SAMPLED.0) {
            line.insert(SAMPLED.1.to_owned(), sampled);
        }
    }
}

/// The batch that a line is about, by itself or by one of its pictures.
fn batch_of(fields: &Map<String, Value>) -> Option<BatchId> {
    let named = |name: &str| fields.get(name)?.as_str()?.split('/').next()?.parse().ok();
    named("batch").or_else(|| named("image"))
}

/// Cloud Logging's name of a level; it has none below `DEBUG`.
fn severity(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        _ => "DEBUG",
    }
}

/// Collects an event's fields; the message is one of them.
struct Fields<'a>(&'a mut Map<String, Value>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    /// The error and its sources, as a person reads them.
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let chain = std::iter::successors(Some(value), |error| error.source());
        let text: Vec<String> = chain.map(ToString::to_string).collect();
        self.0.insert(field.name().to_owned(), text.join(": ").into());
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use super::*;
    use crate::clock::FixedClock;
    use crate::domain::time::Timestamp;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written while `work` runs.
    fn log_of(form: LogForm, filter: &str, work: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let clock = Arc::new(FixedClock::at(Timestamp::from_millis(1_704_758_400_000)));
        let subscriber = subscriber(form, filter, clock, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, work);
        String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_json_line_has_the_field_names_of_cloud_logging() {
        let log = log_of(LogForm::Json(Traced::default()), "info", || {
            let _request = tracing::info_span!("request", batch = "bat_1").entered();
            let broken = io::Error::other("disk full");
            tracing::warn!(pictures = 3, error = &broken as &dyn std::error::Error, "not \"stored\"\n");
        });
        let expected = serde_json::json!({
            "severity": "WARNING", "message": "not \"stored\"\n", "timestamp": "2024-01-09T00:00:00Z",
            "target": "orchestrator::telemetry::logs::tests", "batch": "bat_1", "pictures": 3, "error": "disk full",
        });
        assert_eq!(log.lines().count(), 1);
        assert_eq!(serde_json::from_str::<Value>(&log).unwrap(), expected);
    }

    #[test]
    fn the_filter_decides_by_level_and_target() {
        let log = log_of(LogForm::Json(Traced::default()), "warn,orchestrator=debug", || {
            tracing::debug!("ours");
            tracing::trace!("too fine");
            tracing::info!(target: "sqlx", "theirs");
        });
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(log.contains("ours") && log.contains("\"severity\":\"DEBUG\""), "{log}");
    }

    #[test]
    fn a_line_that_names_a_batch_or_a_picture_belongs_to_the_batches_trace() {
        let (batch, request) = ("bat_01KB2S7Z5XEXAMPE0000000000", "4bf92f3577b34da6a3ce929d0e0e4736");
        let trace = TraceId::of_batch(batch.parse().unwrap()).to_string();
        let lines = |traced: Traced| {
            let log = log_of(LogForm::Json(traced), "info", || {
                let sampled = tracing::info_span!(
                    "request",
                    trace_id = request,
                    span_id = "00f067aa0b1902b7",
                    trace_sampled = true
                );
                let _request = sampled.entered();
                tracing::info!("of the request");
                tracing::info!(batch, "of a batch");
                tracing::info!(image = format!("{batch}/3-1"), "of a picture");
                tracing::info!(batch = "bat_", "of nothing");
                tracing::info!(trace_id = "x", span_id = "y", "of a wrong one");
            });
            let named = log.lines().map(|line| {
                let line: Map<String, Value> = serde_json::from_str(line).unwrap();
                assert!(!line.keys().any(|name| name.contains('_') && !name.contains('/')), "{line:?}");
                let field = |name: &str| {
                    line.get(&format!("logging.googleapis.com/{name}")).map(ToString::to_string).unwrap_or_default()
                };
                [field("trace"), field("spanId"), field("trace_sampled")].join(" ")
            });
            named.collect::<Vec<_>>()
        };
        let of_request = format!("\"{request}\" \"00f067aa0b1902b7\" true");
        let of_batch = |sampled| format!("\"{trace}\"  {sampled}");
        let expected = [&of_request, &of_batch(false), &of_batch(false), &of_request, "  "];
        assert_eq!(lines(Traced::default()), expected);
        let project = |trace: &str| trace.replacen('"', "\"projects/p/traces/", 1);
        let expected =
            [&project(&of_request), &project(&of_batch(true)), &project(&of_batch(true)), &project(&of_request), "  "];
        assert_eq!(lines(Traced { project: Some("p".to_owned()), collected: true }), expected);
    }

    #[test]
    fn a_line_for_people_is_plain_unless_it_is_to_be_coloured() {
        let write = |colour| log_of(LogForm::Pretty { colour }, "info", || tracing::info!(port = 9090, "listening"));
        assert!(write(false).trim_end().ends_with("INFO listening port=9090"), "{}", write(false));
        assert!(write(true).contains('\u{1b}'));
    }
}
