//! The numbers: printed as they come, and kept as JSON and as lines that can be plotted.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::json;

/// One number beside its baseline.
struct Row {
    section: &'static str,
    name: String,
    value: f64,
    unit: &'static str,
    baseline: Option<f64>,
}

/// All numbers of a run.
#[derive(Default)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    /// A number that stands alone.
    pub(crate) fn add(&mut self, section: &'static str, name: impl Into<String>, value: f64, unit: &'static str) {
        self.push(Row { section, name: name.into(), value, unit, baseline: None });
    }

    /// A number, and the same of the baseline.
    pub(crate) fn beside(
        &mut self,
        section: &'static str,
        name: impl Into<String>,
        (value, baseline): (f64, f64),
        unit: &'static str,
    ) {
        self.push(Row { section, name: name.into(), value, unit, baseline: Some(baseline) });
    }

    fn push(&mut self, row: Row) {
        let beside =
            row.baseline.map_or(String::new(), |baseline| format!("{baseline:>12.3} {:>8.3}", row.value / baseline));
        if self.0.is_empty() {
            println!("{:<9} {:<46} {:>12} {:<10} {:>12} {:>8}", "", "", "service", "", "baseline", "ratio");
        }
        println!("{:<9} {:<46} {:>12.3} {:<10} {beside}", row.section, row.name, row.value, row.unit);
        self.0.push(row);
    }

    /// Writes the numbers to the files that were asked for.
    pub(crate) fn keep(&self, json: Option<&Path>, history: Option<&Path>) {
        let (day, commit) =
            (first_line("date", &["-u", "+%FT%TZ"]), first_line("git", &["rev-parse", "--short", "HEAD"]));
        if let Some(path) = json {
            let rows = self.0.iter().map(|row| {
                let ratio = row.baseline.map(|baseline| row.value / baseline);
                json!({"section": row.section, "name": row.name, "value": row.value, "unit": row.unit,
                       "baseline": row.baseline, "ratio": ratio})
            });
            let all = json!({"at": day, "commit": commit, "measurements": rows.collect::<Vec<_>>()});
            std::fs::write(path, format!("{all:#}\n")).unwrap();
        }
        if let Some(path) = history {
            let is_new = !path.exists();
            let mut file = std::fs::File::options().create(true).append(true).open(path).unwrap();
            if is_new {
                writeln!(file, "at,commit,section,name,value,unit,baseline").unwrap();
            }
            for row in &self.0 {
                let baseline = row.baseline.map(|baseline| baseline.to_string()).unwrap_or_default();
                writeln!(file, "{day},{commit},{},\"{}\",{},{},{baseline}", row.section, row.name, row.value, row.unit)
                    .unwrap();
            }
        }
    }
}

/// The middle one of some numbers.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The number below which `share` of the sorted numbers are.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a list")]
    let place = ((sorted.len() as f64 * share) as usize).min(sorted.len() - 1);
    sorted[place]
}

fn first_line(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_owned()
}
