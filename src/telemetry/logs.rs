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

use crate::clock::Clock;

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogForm {
    /// For people; in colour where the log goes to a terminal.
    Pretty {
        /// Whether to colour.
        colour: bool,
    },
    /// One JSON object a line: `severity`, `message`, `timestamp`, `target`, the event's fields, and
    /// those of its spans.
    Json,
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
        LogForm::Json => {
            Box::new(lines.with_ansi(false).fmt_fields(JsonFields::new()).event_format(CloudLines { clock }).finish())
        }
    })
}

/// Cloud Logging's structured form (its documentation, "Structured logging", read 2026-11-24).
struct CloudLines {
    clock: Arc<dyn Clock>,
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
        event.record(&mut Fields(&mut line));
        let metadata = event.metadata();
        line.insert("severity".to_owned(), severity(*metadata.level()).into());
        line.insert("timestamp".to_owned(), self.clock.now().to_string().into());
        line.insert("target".to_owned(), metadata.target().into());
        writeln!(writer, "{}", Value::Object(line))
    }
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
        let log = log_of(LogForm::Json, "info", || {
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
        let log = log_of(LogForm::Json, "warn,orchestrator=debug", || {
            tracing::debug!("ours");
            tracing::trace!("too fine");
            tracing::info!(target: "sqlx", "theirs");
        });
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(log.contains("ours") && log.contains("\"severity\":\"DEBUG\""), "{log}");
    }

    #[test]
    fn a_line_for_people_is_plain_unless_it_is_to_be_coloured() {
        let write = |colour| log_of(LogForm::Pretty { colour }, "info", || tracing::info!(port = 9090, "listening"));
        assert!(write(false).trim_end().ends_with("INFO listening port=9090"), "{}", write(false));
        assert!(write(true).contains('\u{1b}'));
    }
}
