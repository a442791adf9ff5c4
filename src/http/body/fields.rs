//! One object of a body: its known members under either spelling, and a fault for every other.

use std::str::FromStr;

use serde_json::{Map, Value};

use super::at::{At, Faults, Noted};

/// The members that an object may have. The first spelling is ours, a second one the original service's.
pub(in crate::http) type Known = &'static [&'static [&'static str]];

/// An object whose unknown and doubled members are already noted as faults.
pub(super) struct Fields<'a> {
    members: &'a Map<String, Value>,
    at: &'a At<'a>,
    known: Known,
}

impl<'a> Fields<'a> {
    /// Takes `value` as an object with the members `known`.
    pub(super) fn of(value: &'a Value, at: &'a At<'a>, known: Known, faults: &mut Faults) -> Result<Self, Noted> {
        let Value::Object(members) = value else {
            return Err(faults.add(at, format!("must be an object, not {}", kind(value))));
        };
        for name in members.keys() {
            if !known.iter().any(|spellings| spellings.contains(&name.as_str())) {
                faults.add_named(at, name, format!("unknown field; known here: {}", names(known).join(", ")));
            }
        }
        for spellings in known {
            let mut given = spellings.iter().filter(|&&name| members.contains_key(name));
            if let (Some(first), Some(second)) = (given.next(), given.next()) {
                faults.add(&at.key(second), format!("the same as {first}; give one of them"));
            }
        }
        Ok(Self { members, at, known })
    }

    /// Where the member `name` is, or would be, as the client spells it.
    #[must_use]
    pub(super) fn at_member(&self, name: &'static str) -> At<'a> {
        At::Key(self.at, self.spelling(name).unwrap_or(name))
    }

    fn spelling(&self, name: &'static str) -> Option<&'static str> {
        let spellings = self.known.iter().find(|spellings| spellings.first() == Some(&name))?;
        spellings.iter().copied().find(|&spelling| self.members.contains_key(spelling))
    }

    /// The member `name`, given by our spelling; `None` if it is absent or null.
    #[must_use]
    pub(super) fn get(&self, name: &'static str) -> Option<(&'a Value, At<'a>)> {
        let spelling = self.spelling(name)?;
        let value = self.members.get(spelling).filter(|value| !value.is_null())?;
        Some((value, At::Key(self.at, spelling)))
    }

    /// The text `name`, if it is there.
    pub(super) fn text(&self, name: &'static str, faults: &mut Faults) -> Result<Option<(&'a str, At<'a>)>, Noted> {
        match self.get(name) {
            None => Ok(None),
            Some((Value::String(text), at)) => Ok(Some((text, at))),
            Some((other, at)) => Err(faults.add(&at, format!("must be a string, not {}", kind(other)))),
        }
    }

    /// The text `name`, which must be there.
    pub(super) fn required_text(&self, name: &'static str, faults: &mut Faults) -> Result<(&'a str, At<'a>), Noted> {
        self.text(name, faults)?.ok_or_else(|| faults.add(&self.at_member(name), "is required"))
    }

    /// A text that is one of `allowed`, if it is there.
    pub(super) fn choice<T: FromStr>(
        &self,
        name: &'static str,
        allowed: &str,
        faults: &mut Faults,
    ) -> Result<Option<T>, Noted> {
        let Some((text, at)) = self.text(name, faults)? else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| faults.add(&at, format!("must be {allowed}")))
    }
}

/// Our spelling of each of these members.
pub(super) fn names(known: Known) -> Vec<&'static str> {
    known.iter().filter_map(|spellings| spellings.first().copied()).collect()
}

/// What a value is, in words.
#[must_use]
pub(super) const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
