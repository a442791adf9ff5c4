//! What the demo says at its end.

use std::path::Path;

use super::check::Books;
use crate::cli::output::{program, table};
use crate::cli::view::{Batch, Budget, Image};

/// A line for each picture, and the total.
pub(super) fn pictures(batch: &Batch, data_dir: &Path) -> String {
    let mut rows = vec![["row", "variant", "state", "cost", "file"].map(str::to_owned).to_vec()];
    for item in &batch.items {
        for image in &item.images {
            rows.push(vec![
                item.scene_id.clone(),
                image.variant.to_string(),
                image.state.as_str().to_owned(),
                image.cost.unwrap_or_default().to_string(),
                outcome(image, data_dir),
            ]);
        }
    }
    let made = format!("{} made", batch.counts.completed);
    rows.push(vec!["total".to_owned(), batch.counts.total.to_string(), made, batch.actual_cost.to_string()]);
    table(&rows)
}

/// Where a picture is, or why there is none.
fn outcome(image: &Image, data_dir: &Path) -> String {
    match (&image.uri, &image.error) {
        (Some(uri), _) => match uri.strip_prefix("local:") {
            Some(path) => data_dir.join(path).display().to_string(),
            None => uri.clone(),
        },
        (None, Some(error)) => format!("{}: {}", error.code, error.detail),
        (None, None) => String::new(),
    }
}

/// The amounts that agree, and where each can be read.
pub(super) fn money(batch: &Batch, books: &Books, budget: &Budget) -> String {
    let limit = budget.everyone.daily_limit.map(|limit| format!(" of {limit}")).unwrap_or_default();
    format!(
        "
Money, in US dollars; each pair agrees to the micro-dollar:
  this batch     {cost} by its answer, {lines_sum} by its {lines} lines in the ledger
  today          {spent}{limit} by GET /budget, {day_sum} by the ledger; {reserved} still reserved
  ledger         {file}",
        cost = batch.actual_cost,
        lines_sum = books.batch_sum,
        lines = books.batch_lines,
        spent = budget.everyone.spent,
        day_sum = books.day_sum,
        reserved = budget.everyone.reserved,
        file = books.file.display(),
    )
}

/// Commands that work as they are, with this service's address.
pub(super) fn what_next(base: &str, batch: &Batch, exit: bool) -> String {
    let (id, program) = (&batch.id, program());
    if exit {
        return format!("\nTry next: {program} demo, which keeps serving.");
    }
    format!(
        r#"
Try next, from another terminal:
  curl -s {base}/images/{id}                  the batch, every link fresh
  curl -N {base}/images/{id}/events           its progress, from the first event
  curl -sLo bottle.png {base}/images/{id}/items/hero-bottle/1
  curl -s {base}/budget                       what was spent today
  curl -s -X POST {base}/images -H 'Content-Type: application/json' -d \
    '{{"runMode":"live","items":[{{"sceneId":"mine","prompt":"a red bicycle","variants":2}}]}}'
Put [refuse] into a prompt to see a picture that the provider turns down; `{program} --help` lists more.

Serving on {base}; Ctrl-C stops it."#
    )
}
