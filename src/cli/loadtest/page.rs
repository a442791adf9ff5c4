//! A report as one page that asks nobody for anything: style and charts are in it, and there is no script.

use std::fmt::Write as _;

use super::chart;
use super::gates::{Gate, Verdict};
use super::quantiles::Histogram;
use super::report::{Report, readable};
use crate::cli::output::{one_line, pictures};

const STYLE: &str = "
:root{color-scheme:light dark;--back:#fff;--text:#1c1e21;--quiet:#5d646d;--rule:#dde1e6;--mark:#2563c9;--good:#12733c;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--back:#15181c;--text:#e6e9ed;--quiet:#9aa3ad;--rule:#323941;--mark:#7aa7f7;--good:#5fcf8e;--bad:#ff8a80}}
*{box-sizing:border-box}
body{margin:0 auto;padding:2rem 1.25rem 4rem;max-width:60rem;background:var(--back);color:var(--text);font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.6rem;margin:0 0 .25rem}
h2{font-size:1.1rem;margin:2.25rem 0 .5rem}
p{margin:.25rem 0}
.quiet,dt,th{color:var(--quiet)}
.passed{color:var(--good)}
.failed{color:var(--bad)}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:left;vertical-align:top;padding:.4rem .75rem .4rem 0;border-bottom:1px solid var(--rule)}
th{font-weight:500}
td{overflow-wrap:anywhere}
td.name{white-space:nowrap}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;margin:1rem 0 0}
dd{margin:0;overflow-wrap:anywhere}
svg{width:100%;height:auto;display:block}
svg text{fill:var(--quiet);font-size:11px}
.grid{stroke:var(--rule)}
.line{fill:none;stroke:var(--mark);stroke-width:2}
.bar{fill:var(--mark)}
.mark{fill:transparent}
.mark:hover{fill:var(--mark)}
";

/// The report as HTML.
pub(super) fn of(report: &Report) -> String {
    let (verdict, class) = if report.passed { ("passed", "passed") } else { ("failed", "failed") };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>Load test {verdict}: {} pictures</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1 class=\"{class}\">Load test {verdict}</h1>\n<p>{}</p>\n",
        report.counts.total,
        escaped(&report.summary())
    );
    let facts = [
        ("service", report.url.clone()),
        ("ended", report.ended_at.to_string()),
        ("sent", format!("{} rows of {} each", report.rows, pictures(report.variants as usize))),
        ("reserved", format!("{} US dollars at most", report.estimated_cost)),
        ("of unknown outcome", format!("{} US dollars", report.unknown_cost)),
        ("others on the service", if report.shared { "possible" } else { "not expected" }.to_owned()),
        ("program", format!("orchestrator {}", report.version)),
    ];
    page += "<dl>";
    for (name, value) in &facts {
        // Writing to a String does not fail.
        let _ = write!(page, "<dt>{name}</dt><dd>{}</dd>", escaped(value));
    }
    page += "</dl>\n<h2>Gates</h2>\n<div class=\"wide\"><table><thead><tr><th>gate</th><th>verdict</th><th>measured</th>\
             <th>limit</th></tr></thead><tbody>\n";
    for gate in &report.gates {
        page += &row(gate);
    }
    page += "</tbody></table></div>\n<h2>Pictures made over time</h2>\n";
    page += &chart::completions(&report.pictures.all);
    page += "\n<h2>Times</h2>\n<div class=\"wide\"><table><thead><tr><th>what</th>";
    for name in ["measured", "p50", "p95", "p99", "longest"] {
        let _ = write!(page, "<th class=\"number\">{name}</th>");
    }
    page += "</tr></thead><tbody>\n";
    for (name, times) in report.all_times() {
        let of = times.quantiles;
        let _ = write!(page, "<tr><td>{name}</td><td class=\"number\">{}</td>", of.count);
        for time in [of.p50, of.p95, of.p99, of.max] {
            let _ = write!(page, "<td class=\"number\">{}</td>", readable(time));
        }
        page += "</tr>\n";
    }
    page += "</tbody></table></div>\n<h2>Pictures by time from the batch's start</h2>\n";
    page += &chart::histogram(&Histogram::even(&report.pictures.all), "times from the batch's start to a picture");
    page += "\n<h2>Requests by time to the answer's headers</h2>\n";
    page += &chart::histogram(&Histogram::growing(&report.requests.all), "times from a request to its answer");
    page += "\n</body>\n</html>\n";
    page
}

fn row(gate: &Gate) -> String {
    let class = match gate.verdict {
        Verdict::Passed => "passed",
        Verdict::Failed | Verdict::NotJudged => "failed",
        Verdict::Skipped => "quiet",
    };
    let hint = gate.hint.as_ref().map(|hint| format!("<br><span class=\"quiet\">{}</span>", escaped(hint)));
    format!(
        "<tr><td class=\"name\">{}</td><td class=\"name {class}\">{}</td><td>{}{}</td><td>{}</td></tr>\n",
        gate.name.text(),
        gate.verdict.text(),
        escaped(&gate.measured),
        hint.unwrap_or_default(),
        escaped(&gate.limit)
    )
}

/// The text as HTML has it; what steers a terminal, and is no HTML either, is spelled out.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in one_line(text).chars() {
        match c {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\'' => safe += "&#39;",
            c => safe.push(c),
        }
    }
    safe
}
