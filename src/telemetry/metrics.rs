//! The metrics of this process, in Prometheus' text form, and the counters behind `/metrics-lite`.
//!
//! Owns their names and labels. No label has a value that a caller could make up: routes are templates, methods and
//! codes are lists, models are those of the price table.

mod labels;
mod readings;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::prometheus_text;
pub use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use self::labels::{Call, Closed, Error, Info, Method, Model, PictureLabels, Reference, Request, Route, Source};
pub use self::labels::{CallOutcome, PictureOutcome, ReferenceOutcome, StreamEnd};
pub use self::readings::{Readings, Work};
use super::history::History;
use crate::clock::{Clock, SystemClock};
use crate::domain::money::MicroUsd;
use crate::domain::time::Timestamp;

/// What every name starts with.
const PREFIX: &str = "orchestrator";

/// Upper bounds of request times, in seconds. An answer is to be there in 0.4 s, which must be a bound.
const REQUEST_BOUNDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 1.0, 2.5, 5.0, 10.0, 60.0];

/// Upper bounds of the times of calls and pictures, in seconds: models take from one second to `PROVIDER_TIMEOUT`.
const CALL_BOUNDS: [f64; 14] = [0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 20.0, 30.0, 60.0, 120.0, 600.0];

/// Histograms with the same bounds.
type Histograms<S> = Family<S, Histogram, fn() -> Histogram>;

/// Dollars, counted.
type Dollars = Counter<f64, AtomicU64>;

/// An answer, as far as it is counted.
#[derive(Debug)]
pub struct Answered<'a> {
    /// The template of its route; `unknown` for none.
    pub route: &'a str,
    /// The method of its request.
    pub method: &'a str,
    /// Its status.
    pub status: u16,
    /// The code of its problem, if it is one.
    pub code: Option<&'static str>,
    /// From the request to the head of the answer; `None` if the client asked to be kept waiting.
    pub time: Option<Duration>,
}

/// The end of an attempt, as it was written.
#[derive(Debug, Clone, Copy)]
pub struct Settled<'a> {
    /// The model that was called.
    pub model: &'a str,
    /// What was charged.
    pub cost: MicroUsd,
    /// Whether that is more than was reserved.
    pub overrun: bool,
    /// Whether nobody can know what the call cost.
    pub unknown: bool,
}

/// All metrics of this process. What others count by a method is counted here in one place; plain counters are
/// fields.
pub struct Metrics {
    registry: Registry,
    clock: Arc<dyn Clock>,
    started: Timestamp,
    history: History,

    /// Requests taken, whatever became of them.
    pub requests: Counter,
    /// Answers with a status of 500 or more.
    pub errors: Counter,
    /// Pictures stored.
    pub images_generated: Counter,
    /// Pictures that failed.
    pub images_failed: Counter,
    /// Paid calls whose start was written.
    pub calls_started: Counter,
    /// Calls that the provider put off with a 429.
    pub calls_throttled: Counter,
    /// Calls whose cost is not known.
    pub calls_unknown: Counter,
    /// Progress streams closed.
    pub streams_closed: Counter,

    /// Links minted again because an earlier one was near its end.
    pub url_refreshes: Counter,
    /// Charges above what was reserved.
    pub overruns: Counter,
    /// Ledger lines exported.
    pub ledger_lines: Counter,
    /// Events read from the store for streams.
    pub events_read: Counter,
    /// Events rendered for streams.
    pub events_rendered: Counter,
    /// Progress streams opened.
    pub streams_opened: Counter,
    /// Workers that were taken over.
    pub takeovers: Counter,

    answers: Family<Request, Counter>,
    answer_times: Histograms<Route>,
    error_codes: Family<Error, Counter>,
    pictures: Family<PictureLabels, Counter>,
    picture_times: Histograms<Model>,
    calls: Family<Call, Counter>,
    call_times: Histograms<Model>,
    calls_in_flight: Gauge,
    cost: Family<Model, Dollars>,
    references: Family<Reference, Counter>,
    streams_open: Gauge,
    stream_ends: Family<Closed, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(Arc::new(SystemClock::new()))
    }
}

impl Metrics {
    /// Metrics that stand at nothing.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let metrics = Self {
            registry: Registry::with_prefix(PREFIX),
            started: clock.now(),
            clock,
            history: History::default(),
            requests: Counter::default(),
            errors: Counter::default(),
            images_generated: Counter::default(),
            images_failed: Counter::default(),
            calls_started: Counter::default(),
            calls_throttled: Counter::default(),
            calls_unknown: Counter::default(),
            streams_closed: Counter::default(),
            url_refreshes: Counter::default(),
            overruns: Counter::default(),
            ledger_lines: Counter::default(),
            events_read: Counter::default(),
            events_rendered: Counter::default(),
            streams_opened: Counter::default(),
            takeovers: Counter::default(),
            answers: Family::default(),
            answer_times: Family::new_with_constructor(|| Histogram::new(REQUEST_BOUNDS)),
            error_codes: Family::default(),
            pictures: Family::default(),
            picture_times: Family::new_with_constructor(|| Histogram::new(CALL_BOUNDS)),
            calls: Family::default(),
            call_times: Family::new_with_constructor(|| Histogram::new(CALL_BOUNDS)),
            calls_in_flight: Gauge::default(),
            cost: Family::default(),
            references: Family::default(),
            streams_open: Gauge::default(),
            stream_ends: Family::default(),
        };
        metrics.registered()
    }

    /// Gives each metric its name.
    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register("requests", "Requests answered", self.answers.clone());
        registry.register_with_unit(
            "request",
            "Time from a request to the head of its answer",
            Unit::Seconds,
            self.answer_times.clone(),
        );
        registry.register("errors", "Error codes of answers and of failed pictures", self.error_codes.clone());
        registry.register("pictures", "Pictures that ended", self.pictures.clone());
        registry.register_with_unit(
            "picture",
            "Time from the claim of a picture to its written end, of those that were made",
            Unit::Seconds,
            self.picture_times.clone(),
        );
        registry.register("calls", "Calls of the provider that ended", self.calls.clone());
        registry.register_with_unit("call", "Time of one call of the provider", Unit::Seconds, self.call_times.clone());
        registry.register("calls_in_flight", "Calls of the provider under way", self.calls_in_flight.clone());
        registry.register("cost_usd", "Charges, in US dollars", self.cost.clone());
        registry.register("overruns", "Charges above what was reserved for them", self.overruns.clone());
        registry.register("reference_fetches", "References that were asked for", self.references.clone());
        registry.register("streams_open", "Progress streams that are open", self.streams_open.clone());
        registry.register("streams_opened", "Progress streams opened", self.streams_opened.clone());
        registry.register("streams_closed", "Progress streams closed", self.stream_ends.clone());
        registry.register("events_read", "Events read from the database for streams", self.events_read.clone());
        registry.register("events_rendered", "Events rendered for streams", self.events_rendered.clone());
        registry.register("link_refreshes", "Links minted anew near their end", self.url_refreshes.clone());
        registry.register("ledger_lines", "Ledger lines exported", self.ledger_lines.clone());
        registry.register("takeovers", "Dead workers whose work was taken over", self.takeovers.clone());
        let info = Family::<Info, Gauge>::default();
        info.get_or_create(&Info { version: env!("CARGO_PKG_VERSION") }).set(1);
        registry.register("info", "The version of this process", info);
        self
    }

    /// An answer was begun.
    pub fn answered(&self, answer: &Answered<'_>) {
        let is_server_error = answer.status >= 500;
        if is_server_error {
            self.errors.inc();
        }
        let labels =
            Request { route: answer.route.to_owned(), method: Method::of(answer.method), status: answer.status };
        self.answers.get_or_create(&labels).inc();
        if let Some(time) = answer.time {
            self.answer_times.get_or_create(&Route { route: labels.route }).observe(time.as_secs_f64());
        }
        if let Some(code) = answer.code {
            self.error_codes.get_or_create(&Error { source: Source::Http, code }).inc();
        }
        self.history.change(self.clock.now(), |minute| {
            minute.answered(answer.time, is_server_error);
            if let Some(code) = answer.code {
                minute.code(code);
            }
        });
    }

    /// `count` pictures ended.
    pub fn pictures_ended(&self, model: &str, outcome: PictureOutcome, count: u64) {
        self.pictures.get_or_create(&PictureLabels { model: model.to_owned(), outcome }).inc_by(count);
        match outcome {
            PictureOutcome::Completed => self.images_generated.inc_by(count),
            PictureOutcome::Failed => self.images_failed.inc_by(count),
            PictureOutcome::Cancelled => return,
        };
        self.history.change(self.clock.now(), |minute| match outcome {
            PictureOutcome::Completed => minute.completed += count,
            PictureOutcome::Failed => minute.failed += count,
            PictureOutcome::Cancelled => {}
        });
    }

    /// A picture failed for good, for this reason.
    pub fn picture_error(&self, code: &'static str) {
        self.error_codes.get_or_create(&Error { source: Source::Picture, code }).inc();
        self.history.change(self.clock.now(), |minute| minute.code(code));
    }

    /// A picture was made, so long after it was claimed.
    pub fn picture_took(&self, model: &str, time: Duration) {
        self.picture_times.get_or_create(&Model { model: model.to_owned() }).observe(time.as_secs_f64());
    }

    /// An attempt's end was written.
    pub fn settled(&self, end: Settled<'_>) {
        if end.overrun {
            self.overruns.inc();
        }
        if end.unknown {
            self.calls_unknown.inc();
        }
        if end.cost > MicroUsd::ZERO {
            self.cost.get_or_create(&Model { model: end.model.to_owned() }).inc_by(dollars(end.cost));
            self.history
                .change(self.clock.now(), |minute| minute.cost = minute.cost.plus(end.cost).unwrap_or(minute.cost));
        }
    }

    /// A call is sent; what is returned counts it as under way until it is dropped.
    #[must_use]
    pub fn call(&self) -> Flight<'_> {
        self.calls_in_flight.inc();
        Flight { metrics: self, begun: self.clock.monotonic() }
    }

    /// A call ended like this.
    pub fn call_ended(&self, model: &str, outcome: CallOutcome) {
        if outcome == CallOutcome::Throttled {
            self.calls_throttled.inc();
        }
        self.calls.get_or_create(&Call { model: model.to_owned(), outcome }).inc();
    }

    /// A reference was asked for.
    pub fn reference(&self, outcome: ReferenceOutcome) {
        self.references.get_or_create(&Reference { outcome }).inc();
    }

    /// A progress stream is open.
    pub fn stream_opened(&self) {
        self.streams_opened.inc();
        self.streams_open.inc();
    }

    /// A progress stream is closed.
    pub fn stream_closed(&self, end: StreamEnd) {
        self.streams_closed.inc();
        self.streams_open.dec();
        self.stream_ends.get_or_create(&Closed { reason: end }).inc();
    }

    /// The last hour.
    #[must_use]
    pub const fn history(&self) -> &History {
        &self.history
    }

    /// When this process began to count.
    #[must_use]
    pub const fn started(&self) -> Timestamp {
        self.started
    }

    /// Calls of the provider that are under way.
    #[must_use]
    pub fn calls_in_flight(&self) -> u64 {
        u64::try_from(self.calls_in_flight.get()).unwrap_or_default()
    }

    /// Progress streams that are open.
    #[must_use]
    pub fn streams_open(&self) -> u64 {
        u64::try_from(self.streams_open.get()).unwrap_or_default()
    }

    /// Everything in Prometheus' text form, with what was read just now.
    ///
    /// # Errors
    /// Never, as it is written to memory.
    pub fn text(&self, readings: &Readings) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_text::encode(&mut text, &self.registry)?;
        prometheus_text::encode(&mut text, &readings.registry())?;
        prometheus_text::encode(&mut text, &readings::of_process(self.started))?;
        Ok(text)
    }
}

/// A call under way.
pub struct Flight<'a> {
    metrics: &'a Metrics,
    begun: Duration,
}

impl Flight<'_> {
    /// The provider of `model` answered, or not, so long after the call was sent.
    pub fn ended(self, model: &str) {
        let time = self.metrics.clock.monotonic().saturating_sub(self.begun);
        self.metrics.call_times.get_or_create(&Model { model: model.to_owned() }).observe(time.as_secs_f64());
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.metrics.calls_in_flight.dec();
    }
}

/// Money as Prometheus has it: dollars in floating point, for pictures of it and never for sums that count.
#[expect(clippy::cast_precision_loss, reason = "a picture of money, exact up to nine billion dollars")]
fn dollars(money: MicroUsd) -> f64 {
    money.micros() as f64 / 1e6
}
