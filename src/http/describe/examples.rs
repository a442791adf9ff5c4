//! Examples of every body and parameter. Those of problems are made of the code that makes problems; the others are in
//! `examples.json` by the name of their schema, and a test holds them against it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use utoipa::openapi::content::Content;
use utoipa::openapi::example::{Example, ExampleBuilder};
use utoipa::openapi::path::{Operation, ParameterBuilder};
use utoipa::openapi::{OpenApi, Ref, RefOr, Schema};

use super::operations;
use crate::domain::money::MicroUsd;
use crate::domain::prices::PriceError;
use crate::domain::time::Timestamp;
use crate::http::problem::{Code, Fault, PROBLEM_JSON, Problem};
use crate::service::batches::BudgetShortfall;

const BODIES: &str = include_str!("examples.json");

/// The codes of an answer whose description names none.
const ANYWHERE: [Code; 4] = [Code::MethodNotAllowed, Code::HeadersTooLarge, Code::Internal, Code::Unavailable];

/// The examples by the name of their schema, each with a name of its own.
type Bodies = BTreeMap<String, Map<String, Value>>;

/// Adds the examples as components, and refers to them wherever a body or a parameter is described.
pub(super) fn describe(description: &mut OpenApi) {
    let bodies: Bodies = serde_json::from_str(BODIES).unwrap_or_default();
    let components = description.components.get_or_insert_default();
    let schemas = components.schemas.clone();
    for (schema, examples) in &bodies {
        for (name, value) in examples {
            components.examples.insert(format!("{schema}.{name}"), example(value.clone()).into());
        }
    }
    for code in Code::ALL {
        let value = serde_json::to_value(problem(*code)).unwrap_or_default();
        components.examples.insert(format!("Problem.{}", code.as_str()), example(value).into());
    }
    for response in components.responses.values_mut() {
        if let RefOr::T(response) = response {
            add_to(&response.description, &mut response.content, &schemas, &bodies);
        }
    }
    for (path, item) in &mut description.paths.paths {
        for (_, operation) in operations(item) {
            describe_operation(path, operation, &schemas, &bodies);
        }
    }
}

type Schemas = BTreeMap<String, RefOr<Schema>>;

fn describe_operation(path: &str, operation: &mut Operation, schemas: &Schemas, bodies: &Bodies) {
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(parameter) = parameter {
            let example = of_parameter(path, &parameter.name);
            *parameter = ParameterBuilder::from(parameter.clone()).example(example).build();
        }
    }
    if let Some(body) = &mut operation.request_body
        && let RefOr::T(body) = body
    {
        add_to("", &mut body.content, schemas, bodies);
    }
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            add_to(&response.description, &mut response.content, schemas, bodies);
        }
    }
}

fn example(value: Value) -> Example {
    ExampleBuilder::new().value(Some(value)).build()
}

/// Adds examples to what a body may be, by its description if it is a problem, else by its schema.
fn add_to<'a>(
    says: &str,
    content: impl IntoIterator<Item = (&'a String, &'a mut RefOr<Content>)>,
    schemas: &Schemas,
    bodies: &Bodies,
) {
    for (media_type, content) in content {
        let RefOr::T(content) = content else { continue };
        let names = if media_type == PROBLEM_JSON {
            codes(says).into_iter().map(|code| ("Problem".to_owned(), code.as_str().to_owned())).collect()
        } else {
            let named = content.schema.as_ref().map(|schema| names(schema, schemas)).unwrap_or_default();
            let of = |schema: String| {
                let examples = bodies.get(&schema).into_iter().flat_map(Map::keys);
                examples.map(|name| (schema.clone(), name.clone())).collect::<Vec<_>>()
            };
            named.into_iter().flat_map(of).collect::<Vec<_>>()
        };
        for (schema, name) in names {
            let at = Ref::new(format!("#/components/examples/{schema}.{name}"));
            content.examples.insert(name, RefOr::Ref(at));
        }
    }
}

/// The codes that a description names.
fn codes(says: &str) -> Vec<Code> {
    let named = Code::ALL.iter().copied().filter(|code| says.contains(&format!("`{}`", code.as_str())));
    let named: Vec<Code> = named.collect();
    if named.is_empty() { ANYWHERE.to_vec() } else { named }
}

/// The names of the schemas that a schema is, or is one of.
fn names(schema: &RefOr<Schema>, schemas: &Schemas) -> Vec<String> {
    match schema {
        RefOr::Ref(at) => {
            let name = at.ref_location.rsplit('/').next().unwrap_or_default();
            match schemas.get(name) {
                Some(RefOr::T(Schema::OneOf(of))) => of.items.iter().flat_map(|one| names(one, schemas)).collect(),
                _ => vec![name.to_owned()],
            }
        }
        RefOr::T(Schema::OneOf(of)) => of.items.iter().flat_map(|one| names(one, schemas)).collect(),
        RefOr::T(_) => Vec::new(),
    }
}

/// A problem of this kind, as it is answered.
fn problem(code: Code) -> Problem {
    let dollars = MicroUsd::from_micros;
    let problem = match code {
        Code::InvalidRequest => Problem::invalid(vec![
            Fault::in_body("/items/0/sceneId".to_owned(), "is missing"),
            Fault::in_header("Idempotency-Key", "is given twice"),
        ]),
        Code::BudgetExceeded => BudgetShortfall {
            user_limit: false,
            estimated_cost: dollars(120_300),
            remaining: dollars(50_000),
            daily_limit: dollars(100_000_000),
            resets_at: Timestamp::from_millis(1_795_564_800_000),
        }
        .into(),
        Code::ModelUnknown => PriceError::Unknown { model: "gemini-0".to_owned(), known: Vec::new() }.into(),
        Code::IdempotencyInProgress => Problem::new(code, code.meaning()).retry_after(1),
        _ => Problem::new(code, code.meaning()),
    };
    problem.at("/images")
}

/// A value that the parameter may have.
fn of_parameter(path: &str, name: &str) -> Option<Value> {
    Some(match name {
        "batchId" => json!("bat_01M86E11HKQZXP1XWZ7ZK3AB14"),
        "sceneId" => json!("s-001"),
        "variant" => json!(1),
        "limit" => json!(50),
        "cursor" if path == "/images" => json!("bat_01M86E11HKQZXP1XWZ7ZK3AB14"),
        "cursor" => json!("50"),
        "state" => json!("running"),
        "runMode" => json!("live"),
        "model" => json!("gemini-nano-banana-2.1"),
        "format" => json!("csv"),
        "bom" => json!(true),
        "lastEventId" | "Last-Event-ID" => json!(3),
        "token" => json!("01M86E11HKQZXP1XWZ7ZK3AB14.q83v"),
        "Idempotency-Key" => json!("order-7"),
        "Prefer" => json!("wait=30"),
        "If-None-Match" => json!("W/\"5f2c9d0e8a7b4c1d6e3f2a1b0c9d8e7f-1795555800000\""),
        "path" => json!("images/bat_01M86E11HKQZXP1XWZ7ZK3AB14/1-1-1.png"),
        "expires" => json!(1_795_555_800_000_i64),
        "name" => json!("s-001_v1.png"),
        "signature" => json!("q83v"),
        "file" if path.starts_with("/console") => json!("app.js"),
        "file" => json!("docs.js"),
        _ => return None,
    })
}
