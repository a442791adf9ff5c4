//! The gates on money: as many ledger lines as charges, and one amount wherever it is named.

use std::collections::HashSet;

use super::{Judged, Observed, change};
use crate::cli::loadtest::view::Image;
use crate::domain::ledger::LedgerLine;
use crate::domain::money::MicroUsd;
use crate::domain::state::Billing;

const LEDGER_HINT: &str = "the ledger differs: see ledger-lines";
const MONEY_HINT: &str = "if others spend meanwhile, give --shared";

impl Observed {
    /// The fewest and the most charges that the pictures can have caused: a call that was tried again after its outcome
    /// stayed unknown was charged, one after a plain failure was not.
    fn charges(&self) -> (u64, u64) {
        self.images()
            .filter(|image| is_charged(image))
            .fold((0, 0), |(least, most), image| (least + 1, most + u64::from(image.attempts.max(1))))
    }

    pub(super) fn exported(&self) -> Judged {
        let (least, most) = match self.ledger.as_ref().map(|ledger| &ledger.lines) {
            // The ledger itself says how many there are; another gate judges that.
            Some(Ok(lines)) if self.is_plausible(lines) => (lines.len() as u64, lines.len() as u64),
            _ => self.charges(),
        };
        let moved = self.moved(|metrics| metrics.ledger_lines);
        let holds = moved.is_some_and(|moved| least <= moved && (self.shared || moved <= most));
        let limit = match (self.shared, least == most) {
            (true, _) => format!("{least} or more"),
            (false, true) => format!("{least}, one for each charge"),
            (false, false) => format!("{least} to {most}: some pictures took several calls"),
        };
        let judged = Judged::new(holds, change("ledgerLines", moved), limit);
        match &self.ledger_trouble {
            Some(trouble) => judged.or(trouble),
            None if moved == Some(0) => judged.or("is the ledger switched off? BUDGET_LEDGER_ENABLED=true turns it on"),
            None => judged.or("another instance may write the ledger; --ledger reads the lines themselves"),
        }
    }

    /// Whether the ledger has as many lines of the batch as its pictures can have caused.
    fn is_plausible(&self, lines: &[LedgerLine]) -> bool {
        let (least, most) = self.charges();
        (least..=most).contains(&(lines.len() as u64))
    }

    pub(super) fn ledger_lines(&self) -> Judged {
        let (least, most) = self.charges();
        let limit = if least == most {
            format!("{least} lines, each charge and each call once")
        } else {
            format!("{least} to {most} lines, each charge and each call once")
        };
        let Some(ledger) = &self.ledger else { return Judged::new(false, "not read", limit) };
        let lines = match &ledger.lines {
            Ok(lines) => lines,
            Err(why) => return Judged::new(false, format!("{}: {why}", ledger.place), limit),
        };
        let mut charges: Vec<_> = lines.iter().map(|line| line.id).collect();
        let mut calls: Vec<_> = lines.iter().map(|line| line.attempt_id).collect();
        charges.sort_unstable();
        charges.dedup();
        calls.sort_unstable();
        calls.dedup();
        let doubled = lines.len() - charges.len().min(calls.len());
        let twice = if doubled > 0 { format!(", {doubled} of them again") } else { String::new() };
        let missing = self.without_line(lines);
        let without = match missing.first() {
            Some(first) => format!("; none for {first} and {} other charged pictures", missing.len() - 1),
            None => String::new(),
        };
        let measured = format!("{} lines in {}{twice}{without}", lines.len(), ledger.place);
        let holds = doubled == 0 && missing.is_empty() && self.is_plausible(lines);
        let judged = Judged::new(holds, measured, limit);
        if lines.is_empty() {
            return judged.or("is the ledger switched off (BUDGET_LEDGER_ENABLED), or another place the right one?");
        }
        judged.or("`orchestrator ledger verify` names every line that is missing or doubled")
    }

    /// The charged pictures that no line is for.
    fn without_line(&self, lines: &[LedgerLine]) -> Vec<String> {
        let lines: HashSet<(&str, u32)> = lines.iter().map(|line| (line.scene_id.as_str(), line.variant)).collect();
        let pictures = self.rows.iter().flat_map(|row| row.images.iter().map(move |image| (&*row.scene_id, image)));
        let charged = pictures.filter(|(_, image)| is_charged(image));
        let missing = charged.filter(|(scene, image)| !lines.contains(&(*scene, image.variant)));
        missing.map(|(scene, image)| format!("{scene} v{}", image.variant)).collect()
    }

    pub(super) fn sums(&self) -> Judged {
        let batch = self.batch.actual_cost;
        let mut parts = vec![format!("batch {batch}")];
        let mut holds = true;
        let pictures = sum(self.images().filter_map(|image| image.cost));
        parts.push(format!("pictures {}", shown(pictures)));
        holds &= pictures == Some(batch);
        let (before, after) = (&self.budget.0, &self.budget.1);
        if before.day == after.day {
            let spent = after.everyone.spent.minus(before.everyone.spent).ok();
            parts.push(format!("budget {}", shown(spent)));
            holds &= spent.is_some_and(|spent| spent == batch || self.shared && spent > batch);
        } else {
            parts.push("budget not compared: a new day began".to_owned());
        }
        let mut is_same_in_ledger = true;
        if let Some(Ok(lines)) = self.ledger.as_ref().map(|ledger| &ledger.lines) {
            let ledger = sum(lines.iter().map(|line| line.cost));
            parts.push(format!("ledger {}", shown(ledger)));
            is_same_in_ledger = ledger == Some(batch);
        }
        let (was, is) = (before.everyone.reserved, after.everyone.reserved);
        parts.push(format!("reserved {is}, was {was}"));
        holds &= self.shared || was == is;
        let limit = if self.shared {
            "the same amount; the budget may have spent more"
        } else {
            "the same amount, and no more reserved than before"
        };
        let hint = if holds { LEDGER_HINT } else { MONEY_HINT };
        Judged::new(holds && is_same_in_ledger, parts.join(", "), limit).or(hint)
    }
}

/// Whether a call of the picture was charged, or may have been.
pub(in crate::cli::loadtest) fn is_charged(image: &Image) -> bool {
    !matches!(image.billing, None | Some(Billing::NotCharged))
}

/// The sum; `None` if it is too large for any amount.
fn sum(amounts: impl Iterator<Item = MicroUsd>) -> Option<MicroUsd> {
    amounts.into_iter().try_fold(MicroUsd::ZERO, |sum, amount| sum.plus(amount).ok())
}

fn shown(amount: Option<MicroUsd>) -> String {
    amount.map_or_else(|| "of no known amount".to_owned(), |amount| amount.to_string())
}
