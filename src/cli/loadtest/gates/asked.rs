//! The gate on what was asked for: those rows, prompts and pictures with that model, and each picture one of its own.

use std::collections::{HashMap, HashSet};

use super::{Judged, Observed};
use crate::cli::loadtest::faults::told;
use crate::cli::output::pictures;
use crate::domain::state::BatchState;

impl Observed {
    pub(super) fn asked(&self) -> Judged {
        let (asked, rows) = (self.plan.pictures(), self.plan.rows);
        let mut faults = self.other_rows();
        if self.batch.counts.total != asked {
            faults.insert(0, format!("the batch counts {}", pictures(self.batch.counts.total as usize)));
        }
        if self.made_with != self.model {
            faults.insert(0, format!("the model is {}", self.made_with));
        }
        let seen = self.images().count();
        let permalinks = self.images().map(|image| &*image.permalink).collect::<HashSet<_>>().len();
        if permalinks < seen {
            faults.push("pictures share a permalink".to_owned());
        }
        let made = self.images().filter(|image| image.state == BatchState::Completed);
        let hashes: Vec<&str> = made.filter_map(|image| image.sha256.as_deref()).collect();
        let files = hashes.iter().collect::<HashSet<_>>().len();
        // The synthetic provider draws every prompt and variant differently; of another nobody knows.
        if self.is_rehearsal && files < hashes.len() {
            faults.push("pictures are the same file".to_owned());
        }
        let mut measured = format!(
            "{} rows, {}, {permalinks} permalinks, {files} different files of {}",
            self.rows.len(),
            pictures(seen),
            hashes.len()
        );
        if let Some(faults) = told(&faults) {
            measured = format!("{measured}; {faults}");
        }
        let files = if self.is_rehearsal { " and file" } else { "" };
        let limit = format!(
            "{rows} rows with their prompts, {} with {}, each with its own permalink{files}",
            pictures(asked as usize),
            self.model
        );
        Judged::new(faults.is_empty(), measured, limit)
    }

    /// Rows that are missing, were not asked for, or came with another prompt or other variants.
    fn other_rows(&self) -> Vec<String> {
        let mut missing: HashMap<String, String> = self.plan.rows().collect();
        let mut faults = Vec::new();
        for row in &self.rows {
            let scene = &row.scene_id;
            match missing.remove(scene) {
                None => faults.push(format!("{scene} was not asked for, or not twice")),
                Some(prompt) if prompt != row.prompt => faults.push(format!("{scene} has another prompt")),
                Some(_) => {}
            }
            let mut variants: Vec<u32> = row.images.iter().map(|image| image.variant).collect();
            variants.sort_unstable();
            if !variants.into_iter().eq(1..=self.plan.variants) {
                faults.push(format!("{scene} has other variants"));
            }
        }
        let mut missing: Vec<String> = missing.into_keys().map(|scene| format!("{scene} is missing")).collect();
        missing.sort_unstable();
        faults.extend(missing);
        faults
    }
}
