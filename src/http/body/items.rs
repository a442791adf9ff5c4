//! The rows of a batch.

use std::collections::HashMap;

use serde_json::Value;

use super::Rules;
use super::at::{At, Faults, Noted};
use super::fields::{Fields, Known, kind};
use super::references::{self, Draft};
use crate::domain::spec::{AspectRatio, ImageSize, ItemSpec, MAX_PROMPT_CHARS, ReferenceMode, SceneId, SceneIdError};

pub(in crate::http) const ITEM: Known = &[
    &["sceneId", "scene_id"],
    &["prompt"],
    &["variants"],
    &["references"],
    &["referenceMode", "reference_mode"],
    &["aspectRatio", "aspect_ratio"],
    &["imageSize", "image_size"],
];

/// The rows of a batch, as values.
pub(super) struct Rows<'a> {
    /// Where they are.
    pub(super) at: &'a At<'a>,
    /// Each with the line on which it starts, where there are lines; at most as many as a batch may have.
    pub(super) values: Vec<(Option<u32>, Result<&'a Value, Noted>)>,
    /// How many there are.
    pub(super) count: usize,
}

/// Every row of a JSON body.
pub(super) fn read(
    batch: &Fields<'_>,
    pack: &[Draft],
    rules: Rules<'_>,
    faults: &mut Faults,
) -> Result<Vec<ItemSpec>, Noted> {
    let (value, at) = batch.get("items").ok_or_else(|| faults.add(&batch.at_member("items"), "is required"))?;
    let Value::Array(values) = value else {
        return Err(faults.add(&at, format!("must be an array, not {}", kind(value))));
    };
    let rows = values.iter().take(rules.max_rows as usize).map(|value| (None, Ok(value))).collect();
    read_rows(&Rows { at: &at, values: rows, count: values.len() }, pack, rules, faults)
}

/// Every row.
pub(super) fn read_rows(
    rows: &Rows<'_>,
    pack: &[Draft],
    rules: Rules<'_>,
    faults: &mut Faults,
) -> Result<Vec<ItemSpec>, Noted> {
    let most = rules.max_rows as usize;
    if rows.count == 0 || rows.count > most {
        faults.add(rows.at, format!("must hold 1-{most} items, not {}", rows.count));
    }
    let mut names = HashMap::new();
    let items = rows.values.iter().enumerate().map(|(index, &(line, row))| {
        let row = row?;
        let place = rows.at.index(index);
        let at = line.map_or(place, |line| At::Line(&place, line));
        let item = read_item(row, &at, pack, rules, faults);
        note_name(row, &at, (index, line), &mut names, faults);
        item
    });
    // Every row is read before the first fault counts.
    items.collect::<Vec<_>>().into_iter().collect()
}

/// Notes a scene id that an earlier row has, also where the row has other faults.
fn note_name(
    row: &Value,
    at: &At<'_>,
    place: (usize, Option<u32>),
    names: &mut HashMap<String, (usize, Option<u32>)>,
    faults: &mut Faults,
) {
    let spelled = ["sceneId", "scene_id"].into_iter().find_map(|name| Some((name, row.get(name)?.as_str()?)));
    let Some((name, text)) = spelled else { return };
    let Ok(scene) = text.parse::<SceneId>() else { return };
    let Some((index, line)) = names.get(&scene.key()) else {
        names.insert(scene.key(), place);
        return;
    };
    let earlier = line.map_or_else(|| format!("item {index}"), |line| format!("the row on line {line}"));
    faults.add(&at.key(name), format!("{earlier} has this scene id already; they must differ in more than case"));
}

fn read_item(
    row: &Value,
    at: &At<'_>,
    pack: &[Draft],
    rules: Rules<'_>,
    faults: &mut Faults,
) -> Result<ItemSpec, Noted> {
    let fields = Fields::of(row, at, ITEM, faults)?;
    let scene_id = read_scene_id(&fields, faults);
    let prompt = read_prompt(&fields, faults);
    let variants = read_variants(&fields, rules.max_variants, faults);
    let own = fields.get("references").map(|(value, at)| references::read_list(value, &at, rules.here, faults));
    let mode = fields.choice::<ReferenceMode>("referenceMode", references::MODES, faults);
    let merged = references::merge(own.unwrap_or_default(), pack, mode.ok().flatten().unwrap_or_default());
    references::bound(&merged, &fields.at_member("references"), faults);
    let aspect_ratio = fields.choice::<AspectRatio>("aspectRatio", &ratios(), faults);
    let image_size = fields.choice::<ImageSize>("imageSize", &sizes(), faults);
    Ok(ItemSpec {
        scene_id: scene_id?,
        prompt: prompt?,
        variants: variants?,
        references: merged,
        aspect_ratio: aspect_ratio?.unwrap_or_default(),
        image_size: image_size?.unwrap_or_default(),
    })
}

fn read_scene_id(fields: &Fields<'_>, faults: &mut Faults) -> Result<SceneId, Noted> {
    let (text, at) = fields.required_text("sceneId", faults)?;
    text.parse().map_err(|error: SceneIdError| faults.add(&at, error.to_string()))
}

fn read_prompt(fields: &Fields<'_>, faults: &mut Faults) -> Result<String, Noted> {
    let (text, at) = fields.required_text("prompt", faults)?;
    let chars = text.chars().count();
    if text.trim().is_empty() {
        Err(faults.add(&at, "must not be empty"))
    } else if chars > MAX_PROMPT_CHARS {
        Err(faults.add(&at, format!("must have at most {MAX_PROMPT_CHARS} characters, not {chars}")))
    } else if text.contains('\0') {
        // PostgreSQL cannot store it.
        Err(faults.add(&at, "must not contain the character U+0000"))
    } else {
        Ok(text.to_owned())
    }
}

fn read_variants(fields: &Fields<'_>, most: u32, faults: &mut Faults) -> Result<u32, Noted> {
    let Some((value, at)) = fields.get("variants") else {
        return Ok(1);
    };
    let count = value.as_u64().and_then(|count| u32::try_from(count).ok());
    let fits = count.filter(|count| (1..=most).contains(count));
    fits.ok_or_else(|| faults.add(&at, format!("must be a whole number from 1 to {most}")))
}

fn ratios() -> String {
    let all = AspectRatio::ALL.map(|(width, height)| AspectRatio { width, height }.to_string());
    format!("one of {}", all.join(", "))
}

fn sizes() -> String {
    format!("one of {}", ImageSize::ALL.map(ImageSize::as_str).join(", "))
}
