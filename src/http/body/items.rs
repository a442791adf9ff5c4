//! The rows of a batch.

use std::collections::HashMap;

use serde_json::Value;

use super::Rules;
use super::at::{At, Faults};
use super::fields::{Fields, Known, kind};
use super::references::{self, Draft};
use crate::domain::spec::{AspectRatio, ImageSize, ItemSpec, MAX_PROMPT_CHARS, SceneId, SceneIdError};

pub(in crate::http) const ITEM: Known = &[
    &["sceneId", "scene_id"],
    &["prompt"],
    &["variants"],
    &["references"],
    &["referenceMode", "reference_mode"],
    &["aspectRatio", "aspect_ratio"],
    &["imageSize", "image_size"],
];

/// Every row, or `None` after a fault.
pub(super) fn read(batch: &Fields<'_>, pack: &[Draft], rules: Rules<'_>, faults: &mut Faults) -> Option<Vec<ItemSpec>> {
    let Some((value, at)) = batch.get("items") else {
        faults.add(&batch.at_member("items"), "is required");
        return None;
    };
    let Value::Array(rows) = value else {
        faults.add(&at, format!("must be an array, not {}", kind(value)));
        return None;
    };
    let most = rules.max_rows as usize;
    if rows.is_empty() || rows.len() > most {
        faults.add(&at, format!("must hold 1-{most} items, not {}", rows.len()));
    }
    let mut names = HashMap::new();
    let items = rows.iter().take(most).enumerate().map(|(index, row)| {
        let at = at.index(index);
        let item = read_item(row, &at, pack, rules, faults);
        note_name(row, &at, index, &mut names, faults);
        item
    });
    // Every row is read before the first fault counts.
    items.collect::<Vec<_>>().into_iter().collect()
}

/// Notes a scene id that an earlier row has, also where the row has other faults.
fn note_name(row: &Value, at: &At<'_>, index: usize, names: &mut HashMap<String, usize>, faults: &mut Faults) {
    let spelled = ["sceneId", "scene_id"].into_iter().find_map(|name| Some((name, row.get(name)?.as_str()?)));
    let Some((name, text)) = spelled else { return };
    let Ok(scene) = text.parse::<SceneId>() else { return };
    if let Some(first) = names.get(&scene.key()) {
        faults
            .add(&at.key(name), format!("item {first} has this scene id already; they must differ in more than case"));
    } else {
        names.insert(scene.key(), index);
    }
}

fn read_item(row: &Value, at: &At<'_>, pack: &[Draft], rules: Rules<'_>, faults: &mut Faults) -> Option<ItemSpec> {
    let fields = Fields::of(row, at, ITEM, faults)?;
    let scene_id = read_scene_id(&fields, faults);
    let prompt = read_prompt(&fields, faults);
    let variants = read_variants(&fields, rules.max_variants, faults);
    let own = fields.get("references").map(|(value, at)| references::read_list(value, &at, faults));
    let mode = fields.choice("referenceMode", references::MODES, faults);
    let references = references::merge(own.unwrap_or_default(), pack, mode.flatten().unwrap_or_default());
    references::bound(&references, &fields.at_member("references"), faults);
    let aspect_ratio = fields.choice::<AspectRatio>("aspectRatio", &ratios(), faults);
    let image_size = fields.choice::<ImageSize>("imageSize", &sizes(), faults);
    Some(ItemSpec {
        scene_id: scene_id?,
        prompt: prompt?,
        variants: variants?,
        references,
        aspect_ratio: aspect_ratio?.unwrap_or_default(),
        image_size: image_size?.unwrap_or_default(),
    })
}

fn read_scene_id(fields: &Fields<'_>, faults: &mut Faults) -> Option<SceneId> {
    let (text, at) = fields.required_text("sceneId", faults)?;
    text.parse().map_err(|error: SceneIdError| faults.add(&at, error.to_string())).ok()
}

fn read_prompt(fields: &Fields<'_>, faults: &mut Faults) -> Option<String> {
    let (text, at) = fields.required_text("prompt", faults)?;
    let chars = text.chars().count();
    if text.trim().is_empty() {
        faults.add(&at, "must not be empty");
    } else if chars > MAX_PROMPT_CHARS {
        faults.add(&at, format!("must have at most {MAX_PROMPT_CHARS} characters, not {chars}"));
    } else if text.contains('\0') {
        // PostgreSQL cannot store it.
        faults.add(&at, "must not contain the character U+0000");
    } else {
        return Some(text.to_owned());
    }
    None
}

fn read_variants(fields: &Fields<'_>, most: u32, faults: &mut Faults) -> Option<u32> {
    let Some((value, at)) = fields.get("variants") else {
        return Some(1);
    };
    let variants =
        value.as_u64().and_then(|count| u32::try_from(count).ok()).filter(|count| (1..=most).contains(count));
    if variants.is_none() {
        faults.add(&at, format!("must be a whole number from 1 to {most}"));
    }
    variants
}

fn ratios() -> String {
    let all = AspectRatio::ALL.map(|(width, height)| AspectRatio { width, height }.to_string());
    format!("one of {}", all.join(", "))
}

fn sizes() -> String {
    format!("one of {}", ImageSize::ALL.map(ImageSize::as_str).join(", "))
}
