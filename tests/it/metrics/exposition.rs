//! Prometheus' text form as strictly as its own tools read it: the format's page of prometheus.io, version 0.0.4.

use std::collections::{BTreeMap, BTreeSet};

/// Samples by name and labels, as they are written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Exposition {
    /// The type of each family.
    pub(crate) types: BTreeMap<String, String>,
    /// The value of each series: `name{label="value"}`.
    pub(crate) samples: BTreeMap<String, f64>,
}

impl Exposition {
    /// Reads an answer.
    ///
    /// # Panics
    /// If it is not what Prometheus would take, or a linter would find fault with it.
    pub(crate) fn parse(text: &str) -> Self {
        let mut all = Self::default();
        let (mut helped, mut family) = (BTreeSet::new(), String::new());
        assert!(text.ends_with('\n'), "the last line has no end");
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap_or_else(|| panic!("no help: {line}"));
                assert!(helped.insert(name.to_owned()), "two families of one name: {line}");
                assert!(!help.trim().is_empty(), "{line}");
                name.clone_into(&mut family);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(name, family, "the type follows the help of the same family");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
                all.types.insert(name.to_owned(), kind.to_owned());
            } else {
                assert!(!line.starts_with('#'), "a comment nobody needs: {line}");
                all.sample(line, &family);
            }
        }
        all.check_histograms();
        all
    }

    fn sample(&mut self, line: &str, family: &str) {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
        let name = series.split('{').next().unwrap();
        let first = name.chars().next().unwrap();
        assert!(first.is_ascii_lowercase() && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric()));
        let kind = &self.types[family];
        let parts: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        assert!(parts.iter().any(|part| name == format!("{family}{part}")), "{line} is not of {family}");
        if let Some(labels) = series.strip_prefix(name).filter(|labels| !labels.is_empty()) {
            let labels = labels.strip_prefix('{').and_then(|labels| labels.strip_suffix('}')).unwrap();
            let mut seen = BTreeSet::new();
            for label in labels.split("\",") {
                let (label, value) = label.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
                assert!(seen.insert(label) && !label.is_empty(), "{line}");
                assert!(!value.trim_end_matches('"').contains(['"', '\n']), "{line}");
            }
        }
        let number: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        assert!(number.is_finite() && (kind == "gauge" || number >= 0.0), "{line}");
        assert!(self.samples.insert(series.to_owned(), number).is_none(), "twice: {line}");
    }

    /// Each histogram's buckets grow, and the last one is the count.
    fn check_histograms(&self) {
        for (family, _) in self.types.iter().filter(|(_, kind)| *kind == "histogram") {
            let prefix = format!("{family}_bucket{{");
            let mut series: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
            for (name, value) in self.samples.iter().filter(|(name, _)| name.starts_with(&prefix)) {
                let (labels, bound) = name.split_once("le=\"").unwrap();
                let bound = bound.split('"').next().unwrap().replace('+', "");
                series.entry(labels.to_owned()).or_default().push((bound.to_lowercase().parse().unwrap(), *value));
            }
            for (labels, mut buckets) in series {
                buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
                assert!(buckets.is_sorted_by(|one, other| one.1 <= other.1), "{family} {labels} {buckets:?}");
                assert!(buckets.last().unwrap().0.is_infinite(), "{family} has no last bucket");
            }
        }
    }

    /// The sum over all series of a family; a histogram's is how often it was observed.
    pub(crate) fn sum(&self, family: &str) -> f64 {
        let name = if self.types.get(family).is_some_and(|kind| kind == "histogram") {
            format!("{family}_count")
        } else {
            family.to_owned()
        };
        let is_of = |series: &str| series == name || series.starts_with(&format!("{name}{{"));
        self.samples.iter().filter(|(series, _)| is_of(series)).map(|(_, value)| value).sum()
    }

    /// One series; nothing was counted where there is none.
    pub(crate) fn get(&self, series: &str) -> f64 {
        self.samples.get(series).copied().unwrap_or_default()
    }
}
