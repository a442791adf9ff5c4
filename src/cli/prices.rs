//! `orchestrator prices`: what pictures cost, and where each price came from.

use serde_json::{Map, Value, json};

use super::output::{say, table};
use crate::domain::prices::{ModelPrice, PriceTable};

/// Prints the table, as text or as JSON.
pub(super) fn show(prices: &PriceTable, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        let models: Vec<Value> = prices.models().map(to_json).collect();
        say(&serde_json::to_string_pretty(&models)?);
    } else {
        say(&as_text(prices));
    }
    Ok(())
}

fn to_json(model: &ModelPrice) -> Value {
    let sizes: Map<String, Value> =
        model.sizes.iter().map(|(size, price)| (size.as_str().to_owned(), json!(price.listed))).collect();
    json!({
        "model": model.id, "sizes": sizes, "source": model.source, "read": model.read,
        "shutdown": model.shutdown, "replacement": model.replacement, "deprecated": model.deprecated,
    })
}

fn as_text(prices: &PriceTable) -> String {
    let heading = ["model", "size", "US dollars", "status", "read", "source"].map(str::to_owned).to_vec();
    let mut rows = vec![heading];
    for model in prices.models() {
        for (size, price) in &model.sizes {
            rows.push(vec![
                model.id.clone(),
                size.as_str().to_owned(),
                price.listed.to_string(),
                status(model),
                model.read.to_string(),
                model.source.clone(),
            ]);
        }
    }
    table(&rows)
}

fn status(model: &ModelPrice) -> String {
    let instead = model.replacement.as_ref().map(|model| format!(", use {model}")).unwrap_or_default();
    match (model.shutdown, &model.deprecated) {
        (Some(day), _) => format!("shut down from {day}{instead}"),
        (None, Some(_)) => format!("deprecated{instead}"),
        (None, None) => "in service".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::prices::EMBEDDED;

    #[test]
    fn each_priced_size_is_a_line_with_its_source_and_day() {
        let prices = PriceTable::parse(EMBEDDED).unwrap();
        let text = as_text(&prices);
        assert_eq!(text.lines().count(), 1 + prices.models().map(|model| model.sizes.len()).sum::<usize>());
        let line = text.lines().find(|line| line.starts_with("gemini-3.1-flash-image") && line.contains("2K")).unwrap();
        for part in ["0.101", "shut down from 2026-10-29, use gemini-nano-banana-2.1", "2026-11-24", "https://"] {
            assert!(line.contains(part), "{line}");
        }
    }

    #[test]
    fn the_json_form_has_prices_as_numbers() {
        let prices = PriceTable::parse(EMBEDDED).unwrap();
        let model = to_json(prices.get("gemini-nano-banana-2.1").unwrap());
        assert_eq!((&model["sizes"]["1K"], &model["sizes"]["4K"]), (&json!(0.0336), &json!(0.1134)));
        assert_eq!((&model["read"], &model["shutdown"]), (&json!("2026-11-24"), &Value::Null));
    }
}
