//! The routes and their description, from one list, so that they cannot differ.

mod access;
mod examples;
mod headers;
mod parameters;

use std::sync::Arc;

use axum::http::Method;
use axum::{Extension, Json, Router};
use utoipa::OpenApi as _;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::PROBLEM_JSON;
use super::{
    AppState, console, docs, images, models, operations, pictures, progress, references, results, retry, session,
    status, webhooks,
};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "orchestrator",
        description = "Makes pictures in batches with paid image models. Every error is an \
            `application/problem+json` body (RFC 9457) with a stable `code`. Changes only add: ignore members and \
            event types you do not know.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "batches", description = "Submit, read and cancel batches"),
        (name = "references", description = "Pictures for a model to go by"),
        (name = "pictures", description = "Links to pictures, and the pictures themselves"),
        (name = "progress", description = "Server-sent events"),
        (name = "access", description = "A browser's login"),
        (name = "service", description = "Health, metrics, this description"),
    ),
)]
struct Contract;

/// Every route, and what `/openapi.json` says of them.
pub fn routes() -> (Router<AppState>, OpenApi) {
    let (router, mut description) = OpenApiRouter::with_openapi(Contract::openapi())
        .routes(routes!(images::submit, images::list))
        .routes(routes!(images::moved))
        .routes(routes!(images::get))
        .routes(routes!(images::cancel))
        .routes(routes!(retry::retry))
        .routes(routes!(results::results))
        .routes(routes!(webhooks::deliveries))
        .routes(routes!(references::upload))
        .routes(routes!(images::budget))
        .routes(routes!(models::models))
        .routes(routes!(progress::events, progress::events_head))
        .routes(routes!(progress::progress, progress::progress_head))
        .routes(routes!(session::stream_token))
        .routes(routes!(session::log_in, session::log_out))
        .routes(routes!(pictures::picture))
        .routes(routes!(pictures::thumbnail))
        .routes(routes!(pictures::asset))
        .routes(routes!(status::healthz))
        .routes(routes!(status::health))
        .routes(routes!(status::readyz))
        .routes(routes!(status::ready))
        .routes(routes!(status::metrics_lite))
        .routes(routes!(operations::metrics))
        .routes(routes!(operations::overview))
        .routes(routes!(console::page))
        .routes(routes!(console::part))
        .routes(routes!(docs::page))
        .routes(routes!(docs::part))
        .routes(routes!(openapi))
        .split_for_parts();
    // OpenAPI has no wildcards.
    let paths = std::mem::take(&mut description.paths.paths);
    description.paths.paths = paths.into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    access::describe(&mut description);
    parameters::describe(&mut description);
    share_other_errors(&mut description);
    examples::describe(&mut description);
    headers::describe(&mut description);
    (router, description)
}

/// The operations of a path.
fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    let PathItem { get, head, post, delete, .. } = item;
    let all = [(Method::GET, get), (Method::HEAD, head), (Method::POST, post), (Method::DELETE, delete)];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// Says once what every operation may answer beside what is its own.
fn share_other_errors(description: &mut OpenApi) {
    const NAME: &str = "OtherError";
    for item in description.paths.paths.values_mut() {
        for (_, operation) in operations(item) {
            let other = RefOr::Ref(Ref::from_response_name(NAME));
            operation.responses.responses.insert("default".to_owned(), other);
        }
    }
    let components = description.components.get_or_insert_default();
    components.responses.insert(NAME.to_owned(), problem("Any other error").into());
}

/// An answer that is an error.
fn problem(says: &str) -> Response {
    let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    ResponseBuilder::new().description(says).content(PROBLEM_JSON, body).build()
}

/// Describes every route and body (OpenAPI 3.1).
#[utoipa::path(get, path = "/openapi.json", tag = "service", responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
async fn openapi(Extension(description): Extension<Arc<OpenApi>>) -> Json<Arc<OpenApi>> {
    Json(description)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::domain::spec::{ReferenceMode, RunMode};
    use crate::domain::state::{BatchState, Billing, DeliveryState, ErrorCode, WebhookEvent};
    use crate::http::body;
    use crate::http::problem::Code;

    fn description() -> Value {
        serde_json::to_value(routes().1).unwrap()
    }

    #[test]
    fn no_two_operations_have_one_name() {
        let description = description();
        let items = description["paths"].as_object().unwrap().values();
        let operations = items.flat_map(|item| item.as_object().unwrap().values());
        let mut names: Vec<String> = operations.map(|operation| operation["operationId"].to_string()).collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all, "{names:?}");
    }

    #[test]
    fn every_route_is_described() {
        let description = description();
        let mut described = Vec::new();
        for (path, item) in description["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys() {
                described.push(format!("{method} {path}"));
            }
        }
        described.sort();
        insta::assert_json_snapshot!(described, @r#"
        [
          "delete /session",
          "get /",
          "get /assets/{path}",
          "get /budget",
          "get /console/{file}",
          "get /docs",
          "get /docs/{file}",
          "get /health",
          "get /healthz",
          "get /images",
          "get /images/{batchId}",
          "get /images/{batchId}/events",
          "get /images/{batchId}/items/{sceneId}/{variant}",
          "get /images/{batchId}/items/{sceneId}/{variant}/thumbnail",
          "get /images/{batchId}/results",
          "get /images/{batchId}/webhooks",
          "get /metrics",
          "get /metrics-lite",
          "get /models",
          "get /openapi.json",
          "get /overview",
          "get /progress/{batchId}",
          "get /ready",
          "get /readyz",
          "head /images/{batchId}/events",
          "head /progress/{batchId}",
          "post /batch/images",
          "post /images",
          "post /images/{batchId}/cancel",
          "post /images/{batchId}/retry",
          "post /images/{batchId}/stream-token",
          "post /references",
          "post /session"
        ]
        "#);
        assert!(description["openapi"].as_str().unwrap().starts_with("3.1"));
    }

    #[test]
    fn the_described_body_has_the_members_that_are_read() {
        let description = description();
        for (schema, known) in [
            ("BatchBody", body::BATCH),
            ("ItemBody", body::ITEM),
            ("ReferenceObject", body::REFERENCE),
            ("RetryBody", body::RETRY),
            ("WebhookBody", body::WEBHOOK),
        ] {
            let members = description["components"]["schemas"][schema]["properties"].as_object().unwrap();
            let mut read: Vec<_> = known.iter().map(|spellings| spellings[0]).collect();
            read.sort_unstable();
            let mut described: Vec<_> = members.keys().map(String::as_str).collect();
            described.sort_unstable();
            assert_eq!(described, read, "{schema}");
        }
    }

    /// Every list of values in the description, as a set.
    fn enums(value: &Value, found: &mut BTreeSet<Vec<String>>) {
        match value {
            Value::Object(members) => {
                if let Some(Value::Array(values)) = members.get("enum") {
                    let mut texts: Vec<String> =
                        values.iter().map(|value| value.as_str().unwrap().to_owned()).collect();
                    texts.sort();
                    found.insert(texts);
                }
                members.values().for_each(|value| enums(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| enums(value, found)),
            _ => {}
        }
    }

    /// What is really written.
    fn written<T: serde::Serialize>(values: &[T]) -> Vec<String> {
        let mut texts: Vec<String> =
            values.iter().map(|value| serde_json::to_value(value).unwrap().as_str().unwrap().to_owned()).collect();
        texts.sort();
        texts
    }

    #[test]
    fn the_described_values_are_those_that_are_written_and_read() {
        let mut described = BTreeSet::new();
        enums(&description(), &mut described);
        let expected = BTreeSet::from([
            written(BatchState::ALL),
            written(Billing::ALL),
            written(ErrorCode::ALL),
            written(WebhookEvent::ALL),
            written(DeliveryState::ALL),
            written(Code::ALL),
            written(&[RunMode::DryRun, RunMode::Live]),
            written(&[ReferenceMode::StyleOnly, ReferenceMode::StyleAndComposition]),
        ]);
        assert_eq!(described, expected);
    }

    #[test]
    fn every_reference_in_the_description_leads_somewhere() {
        fn visit<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(members) => {
                    found.extend(members.get("$ref").and_then(Value::as_str));
                    members.values().for_each(|value| visit(value, found));
                }
                Value::Array(values) => values.iter().for_each(|value| visit(value, found)),
                _ => {}
            }
        }
        let description = description();
        let mut found = Vec::new();
        visit(&description, &mut found);
        assert!(found.len() > 20);
        for reference in found {
            assert!(description.pointer(&reference[1..]).is_some(), "{reference}");
        }
    }
}
