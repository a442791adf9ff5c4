//! Holds values against the schemas of the description. Reads the few words that it is written in, and gives up on any
//! other; what texts look like (`pattern`, `format`) is left to schemathesis.

use serde_json::Value;

/// What says something about a value to people alone, or of a text's look.
const UNCHECKED: [&str; 7] = ["description", "title", "default", "example", "examples", "format", "pattern"];

/// What is wrong with `value` as one of `schema`; nothing if all is right.
pub(crate) fn faults(description: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    check(description, schema, value, "", &mut faults);
    faults
}

fn check(description: &Value, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    let words = schema.as_object().unwrap_or_else(|| panic!("no schema: {schema}"));
    let number = |value: &Value| value.as_f64().unwrap();
    let length = |value: &Value| match value {
        Value::String(text) => text.chars().count() as u64,
        Value::Array(values) => values.len() as u64,
        _ => 0,
    };
    for (word, rule) in words {
        let good = match word.as_str() {
            "$ref" => {
                let schema = description.pointer(&rule.as_str().unwrap()[1..]).unwrap();
                check(description, schema, value, at, faults);
                true
            }
            "allOf" => {
                rule.as_array().unwrap().iter().for_each(|schema| check(description, schema, value, at, faults));
                true
            }
            "oneOf" => {
                let fits = |schema: &&Value| self::faults(description, schema, value).is_empty();
                rule.as_array().unwrap().iter().filter(fits).count() == 1
            }
            "type" => match rule {
                Value::Array(types) => types.iter().any(|kind| is_a(kind.as_str().unwrap(), value)),
                kind => is_a(kind.as_str().unwrap(), value),
            },
            "enum" => rule.as_array().unwrap().contains(value),
            "minimum" => value.as_f64().is_none_or(|value| value >= number(rule)),
            "maximum" => value.as_f64().is_none_or(|value| value <= number(rule)),
            "minLength" => !value.is_string() || length(value) >= rule.as_u64().unwrap(),
            "maxLength" => !value.is_string() || length(value) <= rule.as_u64().unwrap(),
            "minItems" => !value.is_array() || length(value) >= rule.as_u64().unwrap(),
            "maxItems" => !value.is_array() || length(value) <= rule.as_u64().unwrap(),
            "required" => value.as_object().is_none_or(|members| {
                rule.as_array().unwrap().iter().all(|name| members.contains_key(name.as_str().unwrap()))
            }),
            "additionalProperties" => {
                assert_eq!(rule, false);
                let known = words["properties"].as_object().unwrap();
                value.as_object().is_none_or(|members| members.keys().all(|name| known.contains_key(name)))
            }
            "properties" => {
                for (name, schema) in rule.as_object().unwrap() {
                    if let Some(value) = value.get(name) {
                        check(description, schema, value, &format!("{at}/{name}"), faults);
                    }
                }
                true
            }
            "items" => {
                for (index, value) in value.as_array().into_iter().flatten().enumerate() {
                    check(description, rule, value, &format!("{at}/{index}"), faults);
                }
                true
            }
            other => {
                assert!(UNCHECKED.contains(&other), "the description says {other:?}, which nobody checks here");
                true
            }
        };
        if !good {
            faults.push(format!("{at}: {value} is not {word} {rule}"));
        }
    }
}

fn is_a(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no type: {other}"),
    }
}
