//! A strict JSON reader: a name given twice is a fault, and the number of values is bounded.
//!
//! `serde_json` alone keeps the last of two equal names, so a body could mean one thing to a proxy
//! and another here; and 16 MiB of `[[],[],…` would become a few hundred megabytes of values.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::at::{At, Faults};

/// Values that a row can need with everything filled in, with room for those that are faulty.
const VALUES_A_ROW: usize = 64;
/// Values beside the rows.
const VALUES_A_BATCH: usize = 1_024;

/// Reads `body`.
///
/// # Errors
/// Why it is not JSON, with the position.
pub(super) fn read(body: &[u8], max_rows: u32, faults: &mut Faults) -> Result<Value, String> {
    if body.is_empty() {
        return Err("the body is empty".to_owned());
    }
    let value = parse(body, &At::Root, &mut most_values(max_rows), faults);
    value.map_err(|error| format!("the body cannot be read as JSON: {error}"))
}

/// Reads a part of a body that is one line. It may have `left` values, which are counted down.
///
/// # Errors
/// Why it is not JSON, with the column.
pub(super) fn read_part(line: &[u8], at: &At<'_>, left: &mut usize, faults: &mut Faults) -> Result<Value, String> {
    parse(line, at, left, faults).map_err(|error| error.to_string().replace(" at line 1 column ", " at column "))
}

/// Values that a body with so many rows may have.
pub(super) const fn most_values(max_rows: u32) -> usize {
    VALUES_A_BATCH + VALUES_A_ROW * max_rows as usize
}

fn parse(text: &[u8], at: &At<'_>, left: &mut usize, faults: &mut Faults) -> serde_json::Result<Value> {
    let mut state = Reading { faults, left };
    let mut json = serde_json::Deserializer::from_slice(text);
    let value = Strict { at, state: &mut state }.deserialize(&mut json)?;
    json.end().map(|()| value)
}

struct Reading<'f> {
    faults: &'f mut Faults,
    left: &'f mut usize,
}

struct Strict<'a, 'f> {
    at: &'a At<'a>,
    state: &'a mut Reading<'f>,
}

impl<'de> DeserializeSeed<'de> for Strict<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        if *self.state.left == 0 {
            return Err(D::Error::custom("more values than the rows of a batch can need"));
        }
        *self.state.left -= 1;
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        loop {
            let at = self.at.index(values.len());
            match from.next_element_seed(Strict { at: &at, state: &mut *self.state })? {
                Some(value) => values.push(value),
                None => return Ok(values.into()),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = from.next_key::<String>()? {
            if members.contains_key(&name) {
                self.state.faults.add_named(self.at, &name, "is given twice");
            }
            let at = self.at.key(&name);
            let value = from.next_value_seed(Strict { at: &at, state: &mut *self.state })?;
            members.insert(name, value);
        }
        Ok(members.into())
    }
}
