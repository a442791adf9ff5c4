//! Who may ask for what, before a handler runs: one table of routes, and the checks in their order.
//!
//! A route that the table does not know is for admins alone. Refuses to look a caller up for routes that need none.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::credentials::{self, Credentials};
use super::limits::Allowance;
use super::problem::{Code, Problem};
use super::{AppState, local};
use crate::domain::access::{Caller, Scope};
use crate::service::access::{AccessError, Shown};

/// What a route asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing: it tells no secrets, or looks at a signature of its own.
    Nothing,
    /// The handler looks at what is shown itself.
    OwnCheck,
    /// To be known.
    Anyone,
    /// This scope.
    Scope(Scope),
    /// The scope `read`, or a token for the batch.
    Follow,
}

/// What `route` needs.
#[must_use]
pub fn need(method: &Method, route: &str) -> Need {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    match route {
        "/health" | "/healthz" | "/ready" | "/readyz" | "/metrics-lite" | "/openapi.json" | "/" | "/console/{file}"
        | "/docs" | "/docs/{file}" | "/batch/images" | "/assets/{*path}" | "/assets/{path}" => Need::Nothing,
        "/session" => Need::OwnCheck,
        "/images/{batchId}/events" | "/progress/{batchId}" => Need::Follow,
        "/images/{batchId}/stream-token" => Need::Scope(Scope::Read),
        "/images"
        | "/images/{batchId}"
        | "/images/{batchId}/items/{sceneId}/{variant}"
        | "/images/{batchId}/items/{sceneId}/{variant}/thumbnail"
        | "/images/{batchId}/results"
        | "/images/{batchId}/webhooks"
        | "/budget"
        | "/models"
            if reads =>
        {
            Need::Scope(Scope::Read)
        }
        "/images" | "/references" | "/images/{batchId}/cancel" | "/images/{batchId}/retry"
            if *method == Method::POST =>
        {
            Need::Scope(Scope::Submit)
        }
        "/metrics" | "/overview" if reads => Need::Scope(Scope::Admin),
        // The method does not exist there, which whoever is known is told.
        "/images"
        | "/images/{batchId}"
        | "/images/{batchId}/items/{sceneId}/{variant}"
        | "/images/{batchId}/items/{sceneId}/{variant}/thumbnail"
        | "/images/{batchId}/results"
        | "/images/{batchId}/webhooks"
        | "/budget"
        | "/models"
        | "/metrics"
        | "/overview"
        | "/references"
        | "/images/{batchId}/cancel"
        | "/images/{batchId}/retry" => Need::Anyone,
        _ => Need::Scope(Scope::Admin),
    }
}

/// Where a request came from, by its connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// Marks the answer to a caller who is known and may ask for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct LetIn;

/// Lets a request through to its handler if its sender may ask for that.
pub async fn check(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let Some(route) = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned()) else {
        return next.run(request).await;
    };
    let need = need(request.method(), &route);
    if matches!(need, Need::Nothing | Need::OwnCheck) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let (caller, credentials) = match find_out(&state, &parts, need).await {
        Ok(found) => found,
        Err(problem) => return refusal(problem),
    };
    // A token for a stream is counted like a change, and changes nothing.
    let audited = (changes(&parts.method) && need != Need::Scope(Scope::Read) && !caller.is_local)
        .then(|| Audit::new(&state, &parts, &caller));
    let response = match may(&state, &parts, need, &caller, &credentials) {
        Ok(()) => pass(&state, caller, Request::from_parts(parts, body), next).await,
        Err(problem) => refusal(problem),
    };
    if let Some(audit) = audited {
        audit.log(&response);
    }
    response
}

/// Lets the handler answer, if the caller has not asked for too many changes.
async fn pass(state: &AppState, caller: Caller, mut request: Request, next: Next) -> Response {
    let allowance = match changes(request.method()).then(|| state.callers.change(&caller)).transpose() {
        Ok(allowance) => allowance.flatten(),
        Err(left) => return with_allowance(left.problem().into_response(), Some(left)),
    };
    request.extensions_mut().insert(caller);
    let mut response = next.run(request).await;
    response.extensions_mut().insert(LetIn);
    with_allowance(response, allowance)
}

/// Whether requests of `method` change something.
#[must_use]
pub fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Finds out who sends the request, and by what.
async fn find_out(state: &AppState, request: &Parts, need: Need) -> Result<(Caller, Credentials), Problem> {
    let query = (need == Need::Follow).then(|| request.uri.query()).flatten();
    let credentials = Credentials::of(&request.headers, query, state.access.trusts_platform())?;
    let caller = identify(state, &credentials, request.uri.path(), address(state, request)).await?;
    Ok((caller, credentials))
}

/// Whether the caller may.
fn may(
    state: &AppState,
    request: &Parts,
    need: Need,
    caller: &Caller,
    credentials: &Credentials,
) -> Result<(), Problem> {
    let (method, headers) = (&request.method, &request.headers);
    if caller.is_local {
        local::check(method, headers, &state.origins)?;
    } else if credentials.is_ambient() && changes(method) {
        local::check_same_origin(headers)?;
    }
    let scope = match need {
        Need::Scope(scope) => scope,
        Need::Follow => Scope::Read,
        Need::Nothing | Need::OwnCheck | Need::Anyone => return Ok(()),
    };
    if caller.scopes.has(scope) {
        return Ok(());
    }
    let detail = format!("this key has the scope {}; this needs {}", caller.scopes, scope.as_str());
    Err(Problem::new(Code::Forbidden, detail))
}

/// Finds out who shows `credentials`; what is refused counts against the address.
pub(super) async fn identify(
    state: &AppState,
    credentials: &Credentials,
    path: &str,
    address: IpAddr,
) -> Result<Caller, Problem> {
    let shown = match credentials {
        Credentials::Nothing => Shown::Nothing,
        Credentials::Key(key) => Shown::Key(key),
        Credentials::Session(secret) => Shown::Session(secret),
        Credentials::Platform(user) => Shown::Platform(user),
        Credentials::Token(secret) => match credentials::batch_of(path) {
            Some(batch) => Shown::StreamToken(secret, batch),
            None => return Err(Problem::no_batch()),
        },
    };
    state.access.identify(shown).await.map_err(|error| match error {
        AccessError::Missing(detail) => Problem::new(Code::Unauthorized, detail),
        AccessError::Refused(detail) => {
            tracing::warn!(target: "audit", %address, detail, "a caller was refused");
            match state.callers.failure(address) {
                Ok(()) => Problem::new(Code::Unauthorized, detail),
                Err(problem) => problem,
            }
        }
        AccessError::Service(error) => error.into(),
    })
}

/// An answer to who was not let in; says how one is.
pub(super) fn refusal(problem: Problem) -> Response {
    let unauthorized = problem.code() == Code::Unauthorized;
    let mut response = problem.into_response();
    if unauthorized {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"orchestrator\""));
    }
    response
}

fn with_allowance(mut response: Response, allowance: Option<Allowance>) -> Response {
    if let Some(allowance) = allowance {
        allowance.write(response.headers_mut());
    }
    response
}

/// Where a request came from: by the platform's word where it stands in front, else by the connection.
pub(super) fn address(state: &AppState, request: &Parts) -> IpAddr {
    let peer = request.extensions.get::<Peer>().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0);
    if state.behind_platform { forwarded(&request.headers).unwrap_or(peer) } else { peer }
}

/// The address that the platform added last: those before it are the client's own words.
fn forwarded(headers: &HeaderMap) -> Option<IpAddr> {
    headers.get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?.rsplit(',').next()?.trim().parse().ok()
}

/// One line about a change: who, what, when, from where, and what came of it. Is there too if nobody waits for the
/// answer: what was begun may be done.
pub(super) struct Audit {
    logged: bool,
    user: String,
    key: Option<String>,
    method: Method,
    path: String,
    address: IpAddr,
}

impl Audit {
    pub(super) fn new(state: &AppState, request: &Parts, caller: &Caller) -> Self {
        Self {
            logged: false,
            user: caller.user.as_str().to_owned(),
            key: caller.key.map(|key| key.to_string()),
            method: request.method.clone(),
            path: request.uri.path().to_owned(),
            address: address(state, request),
        }
    }

    pub(super) fn log(mut self, response: &Response) {
        self.logged = true;
        let Self { user, key, method, path, address, .. } = &self;
        let status = response.status().as_u16();
        let outcome = if response.status().is_success() { "done" } else { "refused" };
        tracing::info!(target: "audit", user, key, %method, path, %address, status, outcome, "change");
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        if !self.logged {
            let Self { user, key, method, path, address, .. } = self;
            tracing::info!(target: "audit", user, key, %method, path, %address, outcome = "unknown", "change");
        }
    }
}

/// The state that [`check`] needs beside handlers'.
pub type Callers = Arc<super::limits::RequestLimits>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_that_nobody_thought_of_is_for_admins() {
        assert_eq!(need(&Method::GET, "/new"), Need::Scope(Scope::Admin));
        assert_eq!(need(&Method::POST, "/images"), Need::Scope(Scope::Submit));
        assert_eq!(need(&Method::HEAD, "/images"), Need::Scope(Scope::Read));
        assert_eq!(need(&Method::PUT, "/images"), Need::Anyone);
    }

    #[test]
    fn the_platform_adds_the_address_last() {
        let of = |values: &[&'static str]| {
            let values =
                values.iter().map(|value| ("x-forwarded-for".parse().unwrap(), HeaderValue::from_static(value)));
            forwarded(&values.collect::<HeaderMap>())
        };
        assert_eq!(of(&["1.1.1.1, 2.2.2.2"]), Some("2.2.2.2".parse().unwrap()));
        assert_eq!(of(&["1.1.1.1", "2001:db8::1"]), Some("2001:db8::1".parse().unwrap()));
        assert_eq!(of(&["2.2.2.2, x"]), None);
        assert_eq!(of(&[]), None);
    }
}
