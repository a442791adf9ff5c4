//! What a repeated request is recognised by.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use crate::domain::spec::{BatchSpec, ItemSpec, Reference, RunMode};
use crate::domain::webhook::{WebhookSecret, WebhookSpec};

/// Written first, so that a later change of the form cannot be taken for another request.
const FORM: &[u8] = b"orchestrator batch 1\n";

/// The SHA-256 of a canonical form of the request, as lowercase hex.
///
/// The form is of what was understood, not of what was written: defaults are filled in, the pack is
/// merged, names have one spelling, so that white space, key order and spelling make no difference.
/// Only the model is taken as it was asked for (`requested`), because a client that names none asks
/// for the same after an operator changed the default. Every text is preceded by its length.
#[must_use]
pub(super) fn of(spec: &BatchSpec, requested: Option<&str>) -> String {
    let mut form = Form(Sha256::new());
    form.0.update(FORM);
    form.text(match spec.run_mode {
        RunMode::DryRun => "dry_run",
        RunMode::Live => "live",
    });
    form.optional(requested);
    form.number(spec.items.len());
    for item in &spec.items {
        form.item(item);
    }
    // A batch without one has the form that it had before there were any.
    if let Some(webhook) = &spec.webhook {
        form.webhook(webhook);
    }
    let mut hex = String::with_capacity(64);
    for byte in form.0.finalize() {
        // Writing to a String does not fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

struct Form(Sha256);

impl Form {
    fn number(&mut self, number: usize) {
        self.0.update((number as u64).to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len());
        self.0.update(text);
    }

    fn optional(&mut self, text: Option<&str>) {
        self.number(usize::from(text.is_some()));
        self.text(text.unwrap_or_default());
    }

    fn item(&mut self, item: &ItemSpec) {
        self.text(item.scene_id.as_str());
        self.text(&item.prompt);
        self.number(item.variants as usize);
        self.text(&item.aspect_ratio.to_string());
        self.text(item.image_size.as_str());
        self.number(item.references.len());
        for reference in &item.references {
            self.reference(reference);
        }
    }

    fn webhook(&mut self, webhook: &WebhookSpec) {
        self.text("webhook");
        self.text(&webhook.url);
        self.number(webhook.events.len());
        for event in &webhook.events {
            self.text(event.as_str());
        }
        self.optional(webhook.secret.as_ref().map(WebhookSecret::expose).as_deref());
    }

    fn reference(&mut self, reference: &Reference) {
        use crate::domain::spec::ReferenceMode::{StyleAndComposition, StyleOnly};
        self.text(reference.url.as_str());
        self.text(match reference.mode {
            StyleOnly => "style_only",
            StyleAndComposition => "style_and_composition",
        });
        self.optional(reference.sha256.as_deref());
    }
}
