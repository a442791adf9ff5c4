//! The batch that is sent: rows that nobody sent before, with prompts from a small list.

use serde_json::{Value, json};

use crate::domain::spec::RunMode;

/// What is drawn, one after the other, again and again.
const PROMPTS: [&str; 12] = [
    "a red bicycle leaning on a white wall, product photograph, soft light",
    "a ceramic mug with a blue glaze on an oak table, morning light",
    "a pair of leather boots on wet cobblestones, evening",
    "a glass bottle of olive oil with a sprig of rosemary, clean background",
    "a wooden chair in an empty room, light from a large window",
    "a yellow raincoat on a hook, close view, grey background",
    "a stack of linen towels beside a brass tap",
    "a desk lamp with a green shade, lit, at night",
    "a rucksack on a rock above a valley, clear sky",
    "a silver watch on dark slate, seen from above",
    "a loaf of rye bread on a floured board, side light",
    "a potted fern on a windowsill, rain outside",
];

/// What is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// Rows.
    pub(super) rows: u32,
    /// Pictures of each.
    pub(super) variants: u32,
    /// The model, if it is not to be the service's own.
    pub(super) model: Option<String>,
}

impl Plan {
    /// The pictures of all rows.
    pub(super) fn pictures(&self) -> u32 {
        self.rows.saturating_mul(self.variants)
    }

    /// Name and prompt of each row.
    pub(super) fn rows(&self) -> impl Iterator<Item = (String, String)> {
        let rows = (1..=self.rows).zip(PROMPTS.iter().cycle());
        rows.map(|(row, prompt)| (format!("load-{row:04}"), format!("{prompt}; no. {row}")))
    }

    /// The body for `mode`.
    pub(super) fn body(&self, mode: RunMode) -> String {
        let items: Vec<Value> = self
            .rows()
            .map(|(scene, prompt)| json!({"sceneId": scene, "prompt": prompt, "variants": self.variants}))
            .collect();
        let mut batch = json!({"runMode": mode.as_str(), "items": items});
        if let Some(model) = &self.model {
            batch["model"] = model.as_str().into();
        }
        batch.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_rows_are_alike_and_the_model_is_said_only_if_it_was_chosen() {
        let plan = Plan { rows: 1_000, variants: 3, model: None };
        let batch: Value = serde_json::from_str(&plan.body(RunMode::Live)).unwrap();
        let items = batch["items"].as_array().unwrap();
        for member in ["sceneId", "prompt"] {
            let values: BTreeSet<&str> = items.iter().map(|item| item[member].as_str().unwrap()).collect();
            assert_eq!(values.len(), 1_000, "{member}");
        }
        assert_eq!((&batch["runMode"], &items[999]["variants"], batch.get("model")), (&json!("live"), &json!(3), None));
        let plan = Plan { model: Some("m".into()), ..plan };
        let batch: Value = serde_json::from_str(&plan.body(RunMode::DryRun)).unwrap();
        assert_eq!((&batch["runMode"], &batch["model"]), (&json!("dry_run"), &json!("m")));
    }
}
