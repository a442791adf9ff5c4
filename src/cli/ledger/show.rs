//! Findings and sums as text, JSON and CSV. Amounts are written from whole micro-dollars, never as floats.

use std::path::Path;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::cli::output;
use crate::domain::comparison::DayFindings;
use crate::domain::money::MicroUsd;
use crate::domain::report::{Report, Sums};
use crate::domain::time::Day;
use crate::service::report::Summed;

/// A number and its noun.
pub(super) fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// What a comparison found, a paragraph a day.
pub(super) fn findings(days: &[(&DayFindings, String)]) -> String {
    let mut lines = Vec::new();
    for (of, location) in days {
        let waits = if of.waiting == 1 { "waits" } else { "wait" };
        let waiting = match of.waiting {
            0 => String::new(),
            count => format!(", {} {waits} to be exported", counted(count, "charge")),
        };
        let agreeing = counted(of.agreeing, "line");
        if of.differences.is_empty() {
            let agree = if of.agreeing == 1 { "agrees" } else { "agree" };
            lines.push(format!("{}: {agreeing} {agree}{waiting}", of.day));
            continue;
        }
        let differences = counted(of.differences.len() as u64, "difference");
        lines.push(format!("{}: {differences}, {agreeing} as in the database{waiting}; {location}", of.day));
        lines.extend(of.differences.iter().map(|difference| format!("  {difference}")));
    }
    if lines.is_empty() {
        lines.push("Nothing to compare: neither ledger nor database have a charge.".to_owned());
    }
    lines.join("\n")
}

#[derive(Serialize)]
struct DayJson<'a> {
    location: &'a str,
    #[serde(flatten)]
    findings: &'a DayFindings,
}

#[derive(Serialize)]
struct FindingsJson<'a> {
    agree: bool,
    days: Vec<DayJson<'a>>,
}

/// The same for a program.
pub(super) fn findings_json(days: &[(&DayFindings, String)]) -> serde_json::Result<String> {
    let agree = days.iter().all(|(of, _)| of.differences.is_empty());
    let days = days.iter().map(|(findings, location)| DayJson { location, findings }).collect();
    serde_json::to_string_pretty(&FindingsJson { agree, days })
}

/// What has to be said about sums, and is none.
pub(super) fn about(summed: &Summed, data: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    lines.push(match (summed.days.first(), summed.days.last()) {
        (Some(first), Some(last)) if first == last => format!("The ledger of {first}:"),
        (Some(first), Some(last)) => {
            format!("The ledger of {} from {first} to {last}:", counted(summed.days.len() as u64, "day"))
        }
        _ => format!("The ledger in {} has no line of the days that were asked for.", data.display()),
    });
    if summed.chunked > 0 {
        lines.push(format!("{} of it wait in chunks to be appended.", counted(summed.chunked, "line")));
    }
    let torn = summed.torn.iter().map(|day| format!("The last line of {day} does not end and is left out."));
    lines.extend(torn);
    lines
}

const COLUMNS: [&str; 4] = ["charges", "pictures", "cost", "unknown_cost"];

fn cells(name: &str, sums: &Sums) -> Vec<String> {
    let Sums { charges, pictures, cost, unknown } = sums;
    vec![name.to_owned(), charges.to_string(), pictures.to_string(), cost.to_string(), unknown.to_string()]
}

/// Sums as a table with a total.
pub(super) fn table(report: &Report) -> String {
    let heading = [report.by.as_str(), COLUMNS[0], COLUMNS[1], "cost", "unknown cost"].map(str::to_owned).to_vec();
    let mut rows = vec![heading];
    rows.extend(report.groups.iter().map(|(name, sums)| cells(&name.escape_debug().to_string(), sums)));
    rows.push(cells("total", &report.total));
    output::table(&rows)
}

/// Sums as CSV with a heading and no total.
pub(super) fn csv(report: &Report) -> String {
    let heading = [&[report.by.as_str()][..], &COLUMNS].concat().join(",");
    let groups = report.groups.iter().map(|(name, sums)| {
        let cells: Vec<String> = cells(name, sums).iter().map(|cell| quoted(cell)).collect();
        cells.join(",")
    });
    std::iter::once(heading).chain(groups).collect::<Vec<_>>().join("\n")
}

/// A field as RFC 4180 has it.
fn quoted(field: &str) -> String {
    let plain = !field.contains([',', '"', '\n', '\r']) && field.trim() == field;
    if plain { field.to_owned() } else { format!("\"{}\"", field.replace('"', "\"\"")) }
}

/// An amount as a number of dollars, digit by digit.
fn exact(amount: MicroUsd) -> serde_json::Result<Box<RawValue>> {
    RawValue::from_string(amount.to_string())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SumsJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    charges: u64,
    pictures: u64,
    cost: Box<RawValue>,
    unknown_cost: Box<RawValue>,
}

impl<'a> SumsJson<'a> {
    fn of(name: Option<&'a str>, sums: &Sums) -> serde_json::Result<Self> {
        let Sums { charges, pictures, cost, unknown } = *sums;
        Ok(Self { name, charges, pictures, cost: exact(cost)?, unknown_cost: exact(unknown)? })
    }
}

#[derive(Serialize)]
struct ReportJson<'a> {
    by: &'static str,
    days: &'a [Day],
    groups: Vec<SumsJson<'a>>,
    total: SumsJson<'a>,
}

/// Sums as JSON with a total.
pub(super) fn json(summed: &Summed) -> serde_json::Result<String> {
    let report = &summed.report;
    let groups = report.groups.iter().map(|(name, sums)| SumsJson::of(Some(name), sums)).collect::<Result<_, _>>()?;
    let total = SumsJson::of(None, &report.total)?;
    serde_json::to_string_pretty(&ReportJson { by: report.by.as_str(), days: &summed.days, groups, total })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::report::Grouping;

    fn report(names: &[&str]) -> Summed {
        let mut report = Report::new(Grouping::User);
        let mut total = 0;
        for (name, cost) in names.iter().zip(1_i64..) {
            let (cost, unknown) = (MicroUsd::from_micros(9_007_199_254_740_993 * cost), MicroUsd::from_micros(1));
            report.groups.insert((*name).to_owned(), Sums { charges: 2, pictures: 1, cost, unknown });
            total += cost.micros();
        }
        report.total.cost = MicroUsd::from_micros(total);
        Summed { report, days: vec![Day::from_number(20_000)], torn: Vec::new(), chunked: 0 }
    }

    #[test]
    fn a_table_is_aligned_and_ends_with_the_total() {
        let lines = table(&report(&["ann", "bob\n"]).report);
        let expected = "\
user   charges  pictures  cost                unknown cost
ann    2        1         9007199254.740993   0.000001
bob\\n  2        1         18014398509.481986  0.000001
total  0        0         27021597764.222979  0";
        assert_eq!(lines, expected);
    }

    #[test]
    fn csv_quotes_what_would_be_more_than_one_field() {
        let lines = csv(&report(&["a,b", "c \"d\"", "e\nf", "plain", " g"]).report);
        for start in ["\" g\",2,1,45035996273.704965,", "\"a,b\",2,", "\"c \"\"d\"\"\",2,", "\"e\nf\",2,", "plain,2,"] {
            assert!(lines.contains(&format!("\n{start}")), "{lines}");
        }
        assert!(lines.starts_with("user,charges,pictures,cost,unknown_cost\n"), "{lines}");
    }

    #[test]
    fn json_has_every_digit_of_an_amount() {
        let text = json(&report(&["ann"])).unwrap();
        assert!(
            text.contains(r#""cost": 9007199254.740993,"#) && text.contains(r#""unknownCost": 0.000001"#),
            "{text}"
        );
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["by"], &value["groups"][0]["name"]), (&"user".into(), &"ann".into()));
    }
}
