//! The end of a batch, told to the log and to its trace.
//!
//! The trace has one root, `batch`, from the acceptance to the first end. A retry after that does not write it anew: it
//! adds a span `batch retry` below it.

use std::sync::Arc;
use std::time::Duration;

use super::execute::describe;
use crate::domain::state::BatchState;
use crate::store::{BatchRun, FinishedBatch, Store};
use crate::telemetry::traces::{Moment, Side, Span, SpanId, TraceId, Traces, Value};

/// How long a span may keep what is essential waiting.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tells of batches that ended.
pub(super) struct BatchEnds {
    store: Arc<Store>,
    traces: Traces,
}

impl BatchEnds {
    pub(super) const fn new(store: Arc<Store>, traces: Traces) -> Self {
        Self { store, traces }
    }

    /// Writes the one line that the log has about the end of a batch.
    pub(super) fn log(batch: &FinishedBatch) {
        tracing::info!(
            batch = %batch.id,
            state = batch.counts.state().as_str(),
            completed = batch.counts.completed,
            failed = batch.counts.failed,
            cancelled = batch.counts.cancelled,
            cost = %batch.cost,
            unknown_cost = %batch.unknown_cost,
            "batch finished"
        );
    }

    /// Writes the span of the run that ended.
    pub(super) async fn trace(&self, batch: &FinishedBatch) {
        if !self.traces.is_on() {
            return;
        }
        match tokio::time::timeout(PATIENCE, self.store.load_run(batch.id, batch.done)).await {
            Ok(Ok(Some(run))) => self.traces.send(span(batch, run)),
            Ok(Ok(None)) => {}
            Err(_) => tracing::debug!(batch = %batch.id, "a batch has no span: the database is slow"),
            Ok(Err(error)) => tracing::debug!(batch = %batch.id, error = %describe(&error), "a batch has no span"),
        }
    }
}

fn span(batch: &FinishedBatch, run: BatchRun) -> Span {
    let (root, state) = (SpanId::of_batch(batch.id), batch.counts.state());
    let (id, parent, name, begun) = match run.retry {
        None => (root, None, "batch", run.created_at),
        Some((number, at)) => (SpanId::of_run(batch.id, number), Some((root, false)), "batch retry", at),
    };
    Span {
        trace: TraceId::of_batch(batch.id),
        id,
        parent,
        name: name.into(),
        side: Side::Internal,
        begun: Moment::from(begun),
        ended: Moment::from(batch.at),
        about: vec![
            ("orchestrator.batch", Value::Text(batch.id.to_string())),
            ("orchestrator.model", Value::Text(run.model)),
            ("orchestrator.state", state.as_str().into()),
            ("orchestrator.pictures", batch.counts.total.into()),
            ("orchestrator.completed", batch.counts.completed.into()),
            ("orchestrator.failed", batch.counts.failed.into()),
            ("orchestrator.cancelled", batch.counts.cancelled.into()),
            ("orchestrator.cost_usd", batch.cost.into()),
            ("orchestrator.unknown_cost_usd", batch.unknown_cost.into()),
        ],
        fault: (state == BatchState::Failed).then(|| state.as_str().into()),
        led_to: None,
    }
}
