//! The page that shows the description and sends requests by it. Everything of it is in the program.

use axum::extract::Path;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

use super::problem::Problem;

/// What the page may do: show itself, and ask this service.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Shows every route, and sends requests to try it. Works offline.
#[utoipa::path(
    get, path = "/docs", tag = "service",
    responses((status = 200, description = "A page", body = String, content_type = "text/html")),
)]
pub async fn page() -> Response {
    file("text/html; charset=utf-8", include_str!("../../web/docs.html"))
}

/// A part of the page at `/docs`.
#[utoipa::path(
    get, path = "/docs/{file}", tag = "service",
    params(("file" = String, Path, description = "`docs.js` or `docs.css`")),
    responses(
        (status = 200, description = "The file", content((String = "text/javascript"), (String = "text/css"))),
        (status = 404, description = "`not_found`", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn part(Path(name): Path<String>) -> Result<Response, Problem> {
    match name.as_str() {
        "docs.js" => Ok(file("text/javascript; charset=utf-8", include_str!("../../web/docs.js"))),
        "docs.css" => Ok(file("text/css; charset=utf-8", include_str!("../../web/docs.css"))),
        _ => Err(Problem::no_route()),
    }
}

fn file(content_type: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, content_type), (CONTENT_SECURITY_POLICY, POLICY)], text).into_response()
}
