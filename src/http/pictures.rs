//! Lasting addresses that redirect to fresh links, and the local pictures behind such links.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue,
    LOCATION,
};
use axum::response::{IntoResponse, Response};

use super::extract::{self, Identity, batch_id};
use super::images::header;
use super::problem::{Code, Problem};
use super::schema::PictureBytes;
use crate::assets::object::disposition;
use crate::assets::{AssetError, AssetStore, SignedQuery};
use crate::clock::Clock;
use crate::domain::access::Caller;
use crate::domain::time::Timestamp;
use crate::service::batches::Batches;

/// Redirects to a fresh link to a picture. This address lasts as long as the picture.
#[utoipa::path(
    get, path = "/images/{batchId}/items/{sceneId}/{variant}", tag = "pictures",
    params(
        ("batchId" = String, Path, description = "`bat_` and a ULID"),
        ("sceneId" = String, Path, description = "The row"),
        ("variant" = u32, Path, description = "The picture in the row, from 1", minimum = 1),
    ),
    responses(
        (status = 302, description = "To a fresh link; may be cached as long as the link lives on for a while", headers(("Location" = String))),
        (status = 404, description = "`not_ready` before the picture is made; `not_found` if it never will be, with the reason, or if there is none", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn picture(
    State(batches): State<Arc<Batches>>,
    Identity(caller): Identity,
    Path((batch, scene, variant)): Path<(String, String, String)>,
) -> Result<Response, Problem> {
    redirect(&batches, caller, [&batch, &scene, &variant], false).await
}

/// Redirects to a fresh link to a picture's thumbnail.
#[utoipa::path(
    get, path = "/images/{batchId}/items/{sceneId}/{variant}/thumbnail", tag = "pictures",
    params(
        ("batchId" = String, Path, description = "`bat_` and a ULID"),
        ("sceneId" = String, Path, description = "The row"),
        ("variant" = u32, Path, description = "The picture in the row, from 1", minimum = 1),
    ),
    responses(
        (status = 302, description = "To a fresh link; may be cached as long as the link lives on for a while", headers(("Location" = String))),
        (status = 404, description = "`not_ready` before the picture is made; `not_found` if it never will be, with the reason, or if there is none", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn thumbnail(
    State(batches): State<Arc<Batches>>,
    Identity(caller): Identity,
    Path((batch, scene, variant)): Path<(String, String, String)>,
) -> Result<Response, Problem> {
    redirect(&batches, caller, [&batch, &scene, &variant], true).await
}

async fn redirect(
    batches: &Batches,
    caller: Caller,
    [batch, scene, variant]: [&str; 3],
    thumbnail: bool,
) -> Result<Response, Problem> {
    let batch = batch_id(batch)?;
    let (scene, variant) = extract::picture(scene, variant)?;
    let caller = batches.acting_for(caller, batch).await?;
    let link = batches.picture_link(&caller.user, batch, &scene, variant, thumbnail).await?;
    let cache = format!("private, max-age={}", link.max_age.as_secs());
    Ok((StatusCode::FOUND, [(LOCATION, header(link.url)?), (CACHE_CONTROL, header(cache)?)]).into_response())
}

/// Serves a local picture to whoever has a signed link to it.
#[utoipa::path(
    get, path = "/assets/{*path}", tag = "pictures",
    params(
        ("path" = String, Path, description = "The object"),
        ("expires" = i64, Query, description = "When the link stops working, in Unix milliseconds"),
        ("name" = String, Query, description = "The file name to save it under"),
        ("signature" = String, Query, description = "Proves the other two and the object"),
    ),
    responses(
        (status = 200, description = "The picture", content((PictureBytes = "image/png"), (PictureBytes = "image/jpeg"), (PictureBytes = "image/webp"))),
        (status = 404, description = "`not_found`, also if the link has expired", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn asset(
    State(assets): State<Arc<dyn AssetStore>>,
    State(clock): State<Arc<dyn Clock>>,
    Path(object): Path<String>,
    query: Result<Query<SignedQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Problem> {
    let gone = || {
        Problem::new(
            Code::NotFound,
            "this link does not work, or has expired; its batch has a fresh one, as has the same upload sent again",
        )
    };
    let Ok(Query(query)) = query else {
        return Err(gone());
    };
    let opened = assets.open_signed(&object, &query).await.map_err(unavailable)?;
    let opened = opened.ok_or_else(gone)?;
    let left = Timestamp::from_millis(query.expires).since(clock.now());
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(opened.content_type)),
        (CONTENT_LENGTH, HeaderValue::from(opened.length)),
        (CONTENT_DISPOSITION, header(disposition(&query.name))?),
        (CACHE_CONTROL, header(format!("private, max-age={}", left.as_secs()))?),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox")),
        // Whoever has the link may show the picture, on any page.
        (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("cross-origin")),
    ];
    Ok((headers, Body::from_stream(opened.body)).into_response())
}

#[expect(clippy::needless_pass_by_value, reason = "used as the argument of map_err")]
fn unavailable(error: AssetError) -> Problem {
    tracing::error!(error = &error as &(dyn std::error::Error + 'static), "cannot open a picture");
    match error {
        AssetError::Unavailable(_) => {
            Problem::new(Code::Unavailable, "the pictures cannot be read; try again in a while")
        }
        AssetError::Conflict(_) | AssetError::Damaged(_) => Problem::internal(),
    }
}
