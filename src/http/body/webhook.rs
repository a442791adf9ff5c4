//! What the client wants to be told, and where.

use serde_json::Value;

use super::address;
use super::at::{At, Faults, Noted};
use super::fields::{Fields, Known, kind};
use crate::domain::state::WebhookEvent;
use crate::domain::webhook::{WebhookSecret, WebhookSpec};

pub(in crate::http) const WEBHOOK: Known = &[&["url"], &["events"], &["secret"]];

/// What is told where nothing is asked for.
const DEFAULT_EVENTS: [WebhookEvent; 1] = [WebhookEvent::BatchCompleted];

/// Reads a webhook. `refusal` says of an address whether messages may not go there, and why.
pub(super) fn read(
    value: &Value,
    at: &At<'_>,
    refusal: &dyn Fn(&str) -> Option<String>,
    faults: &mut Faults,
) -> Result<WebhookSpec, Noted> {
    let fields = Fields::of(value, at, WEBHOOK, faults)?;
    let url = fields.required_text("url", faults).and_then(|(text, at)| read_url(text, &at, refusal, faults));
    let events = match fields.get("events") {
        None => Ok(DEFAULT_EVENTS.to_vec()),
        Some((value, at)) => read_events(value, &at, faults),
    };
    let secret = read_secret(&fields, faults);
    Ok(WebhookSpec { url: url?, events: events?, secret: secret? })
}

fn read_url(
    text: &str,
    at: &At<'_>,
    refusal: &dyn Fn(&str) -> Option<String>,
    faults: &mut Faults,
) -> Result<String, Noted> {
    address::read_web(text).map_err(|fault| faults.add(at, fault))?;
    match refusal(text) {
        Some(reason) => Err(faults.add(at, format!("messages do not go there: {reason}"))),
        None => Ok(text.to_owned()),
    }
}

/// The events, each once and in one order.
fn read_events(value: &Value, at: &At<'_>, faults: &mut Faults) -> Result<Vec<WebhookEvent>, Noted> {
    let known: Vec<&str> = WebhookEvent::ALL.iter().map(|event| event.as_str()).collect();
    let Value::Array(values) = value else {
        return Err(faults.add(at, format!("must be an array, not {}", kind(value))));
    };
    if values.is_empty() {
        return Err(
            faults.add(at, format!("must name at least one of {}; leave it out for the first", known.join(", ")))
        );
    }
    let mut asked = Vec::new();
    let mut fault = None;
    for (index, value) in values.iter().enumerate() {
        match value.as_str().map(str::parse) {
            Some(Ok(event)) => asked.push(event),
            _ => fault = Some(faults.add(&at.index(index), format!("must be one of {}", known.join(", ")))),
        }
    }
    let events = WebhookEvent::ALL.iter().copied().filter(|event| asked.contains(event)).collect();
    fault.map_or(Ok(events), Err)
}

fn read_secret(fields: &Fields<'_>, faults: &mut Faults) -> Result<Option<WebhookSecret>, Noted> {
    let Some((text, at)) = fields.text("secret", faults)? else { return Ok(None) };
    text.parse().map(Some).map_err(|error| faults.add(&at, format!("{error}")))
}
