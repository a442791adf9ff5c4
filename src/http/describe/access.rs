//! What the description says of access, from the table that decides over it: so that the two cannot differ.

use axum::http::Method;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{OpenApi, Ref, RefOr};

use super::super::access::{Need, changes, need};
use super::super::credentials::SESSION_COOKIE;
use super::{operations, problem};

const KEY: &str = "key";
const KEY_HEADER: &str = "keyHeader";
const SESSION: &str = "session";
const STREAM_TOKEN: &str = "streamToken";
const UNAUTHORIZED: &str = "Unauthorized";

/// Adds what each operation needs, and how it refuses who has not got it.
pub(super) fn describe(description: &mut OpenApi) {
    let components = description.components.get_or_insert_default();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("aip_…");
    let bearer = bearer.description(Some("An API key. On Cloud Run's word also its ID token.")).build();
    let header =
        ApiKeyValue::with_description("X-API-Key", "The same, for clients that use `Authorization` otherwise.");
    let cookie = ApiKeyValue::with_description(
        SESSION_COOKIE,
        "A browser's login, from `POST /session`; over TLS its name begins with `__Host-`.",
    );
    let token = ApiKeyValue::with_description("token", "For one batch, from `POST /images/{batchId}/stream-token`.");
    components.security_schemes.extend([
        (KEY.to_owned(), SecurityScheme::Http(bearer).into()),
        (KEY_HEADER.to_owned(), SecurityScheme::ApiKey(ApiKey::Header(header)).into()),
        (SESSION.to_owned(), SecurityScheme::ApiKey(ApiKey::Cookie(cookie)).into()),
        (STREAM_TOKEN.to_owned(), SecurityScheme::ApiKey(ApiKey::Query(token)).into()),
    ]);
    let unauthorized = problem("`unauthorized`: no key, or one that is refused");
    components.responses.insert(UNAUTHORIZED.to_owned(), unauthorized.into());
    for (path, item) in &mut description.paths.paths {
        for (method, operation) in operations(item) {
            restrict(operation, &method, need(&method, path));
        }
    }
}

fn restrict(operation: &mut Operation, method: &Method, need: Need) {
    let none: [&str; 0] = [];
    let schemes: &[&str] = match need {
        Need::Nothing => &[],
        // Whoever logs out is not asked who it is.
        Need::OwnCheck if *method == Method::DELETE => &[SESSION],
        Need::OwnCheck => &[KEY, KEY_HEADER],
        Need::Anyone | Need::Scope(_) => &[KEY, KEY_HEADER, SESSION],
        Need::Follow => &[KEY, KEY_HEADER, SESSION, STREAM_TOKEN],
    };
    // An open service asks for nothing.
    let open = std::iter::once(SecurityRequirement::default());
    let named = schemes.iter().map(|scheme| SecurityRequirement::new(*scheme, none));
    operation.security = Some(open.chain(named).collect());
    if need == Need::Nothing || schemes == [SESSION] {
        return;
    }
    let scope = match need {
        Need::Scope(scope) => format!("the scope `{}` is missing, or ", scope.as_str()),
        Need::Follow => "the scope `read` is missing, or ".to_owned(),
        Need::Nothing | Need::OwnCheck | Need::Anyone => String::new(),
    };
    let limited =
        if changes(method) { "too many changes in a minute, or refused keys" } else { "too many refused keys" };
    let responses = &mut operation.responses.responses;
    let refused = || RefOr::Ref(Ref::from_response_name(UNAUTHORIZED));
    responses.entry("401".to_owned()).or_insert_with(refused);
    for (status, says) in [
        ("403", format!("`forbidden`: {scope}the request comes from where none is taken")),
        ("429", format!("`rate_limited`: {limited}; `Retry-After` says when to come back")),
    ] {
        match responses.get_mut(status) {
            Some(RefOr::T(own)) => own.description = format!("{}; or {says}", own.description),
            _ => {
                responses.insert(status.to_owned(), problem(&says).into());
            }
        }
    }
}
