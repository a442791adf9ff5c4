//! Asks for variables by name and collects what is wrong with them, so that all of it is reported at once.
//!
//! Never repeats a value in a problem: any of them may be a secret that was pasted into the wrong line.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::values::{self, BOOLEAN, DURATION, MONEY, SIZE};
use crate::domain::money::MicroUsd;

/// One variable that cannot be used, and what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The variable.
    pub name: &'static str,
    /// What is wrong, without the value.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.problem)
    }
}

/// Everything that is wrong with a configuration: at least one problem, in the order of the variables.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    /// One problem a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if at == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

/// The variables, and what was found out about them so far.
pub(super) struct Reader<'a> {
    variables: &'a HashMap<String, String>,
    asked: Vec<&'static str>,
    errors: Vec<ConfigError>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(variables: &'a HashMap<String, String>) -> Self {
        Self { variables, asked: Vec::new(), errors: Vec::new() }
    }

    /// The variables that were asked for, and the problems.
    pub(super) fn finish(self) -> (Vec<&'static str>, Vec<ConfigError>) {
        (self.asked, self.errors)
    }

    /// Notes a problem of `name`.
    pub(super) fn refuse(&mut self, name: &'static str, problem: impl Into<String>) {
        self.errors.push(ConfigError { name, problem: problem.into() });
    }

    /// The value of `name`. One that is empty counts as not set, as an unfilled line of an env file is.
    pub(super) fn text(&mut self, name: &'static str) -> Option<&'a str> {
        if !self.asked.contains(&name) {
            self.asked.push(name);
        }
        self.variables.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// Whether `name` is set at all.
    pub(super) fn is_set(&mut self, name: &'static str) -> bool {
        self.text(name).is_some()
    }

    /// The value of `name` as `parse` reads it; a value that it does not read is refused with `expected`.
    pub(super) fn optional<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let parsed = parse(self.text(name)?);
        if parsed.is_none() {
            self.refuse(name, format!("expected {expected}"));
        }
        parsed
    }

    pub(super) fn flag(&mut self, name: &'static str, default: bool) -> bool {
        self.optional(name, BOOLEAN, values::boolean).unwrap_or(default)
    }

    /// A duration of at least `least`.
    pub(super) fn duration(&mut self, name: &'static str, default: Duration, least: Duration) -> Duration {
        let value = self.optional(name, DURATION, values::duration).unwrap_or(default);
        if value < least {
            self.refuse(name, format!("expected at least {least:?}"));
        }
        value
    }

    /// A size in bytes, at least `least`.
    pub(super) fn size(&mut self, name: &'static str, default: u64, least: u64) -> u64 {
        let value = self.optional(name, SIZE, values::size).unwrap_or(default);
        if value < least {
            self.refuse(name, format!("expected at least {least} bytes"));
        }
        value
    }

    pub(super) fn money(&mut self, name: &'static str) -> Option<MicroUsd> {
        self.optional(name, MONEY, |text| text.parse().ok())
    }

    /// A whole number from `least` to `most`.
    pub(super) fn number<N>(&mut self, name: &'static str, least: N, most: N) -> Option<N>
    where
        N: FromStr + PartialOrd + fmt::Display + Copy,
    {
        let expected = format!("a whole number from {least} to {most}");
        self.optional(name, &expected, |text| text.parse().ok().filter(|value| (least..=most).contains(value)))
    }
}
