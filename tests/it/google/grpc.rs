//! The gRPC side: one message in, one out, data by hand.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use prost::Message;

use super::messages::{
    Checksums, ComposeObjectRequest, DeleteObjectRequest, GetObjectRequest, ListObjectsRequest, ListObjectsResponse,
    ObjectMessage,
};
use super::objects::{About, Object};
use super::{Refusal, State};

/// Objects a page where none is asked for.
const PAGE: usize = 1_000;

/// Answers one call, or says that it was `refused`.
pub(super) fn answer(state: &State, path: &str, body: &[u8], refused: Result<(), Refusal>) -> Response<Body> {
    let message = &body[5..];
    let done = refused.and_then(|()| match path.rsplit('/').next().unwrap() {
        "GetObject" => get(state, &read(message)),
        "ListObjects" => list(state, &read(message)),
        "ComposeObject" => compose(state, &read(message)),
        "DeleteObject" => delete(state, &read(message)),
        _ => Err(Refusal::Invalid),
    });
    match done {
        Ok(message) => success(&message),
        Err(refusal) => failure(refusal),
    }
}

fn read<M: Message + Default>(bytes: &[u8]) -> M {
    M::decode(bytes).unwrap()
}

fn bucket_id(path: &str) -> &str {
    path.strip_prefix("projects/_/buckets/").unwrap()
}

fn describe(bucket: &str, name: &str, object: &Object) -> ObjectMessage {
    ObjectMessage {
        name: name.to_owned(),
        bucket: format!("projects/_/buckets/{bucket}"),
        generation: object.generation,
        metageneration: 1,
        size: i64::try_from(object.size).unwrap(),
        cache_control: object.cache_control.clone(),
        content_type: object.content_type.clone(),
        checksums: Some(Checksums { crc32c: Some(object.crc32c) }),
        metadata: object.metadata.clone(),
    }
}

fn get(state: &State, request: &GetObjectRequest) -> Result<Vec<u8>, Refusal> {
    let objects = state.objects.lock().unwrap();
    let bucket = bucket_id(&request.bucket);
    let object = objects.get(bucket, &request.object).ok_or(Refusal::NotFound)?;
    Ok(describe(bucket, &request.object, object).encode_to_vec())
}

fn list(state: &State, request: &ListObjectsRequest) -> Result<Vec<u8>, Refusal> {
    let objects = state.objects.lock().unwrap();
    let bucket = bucket_id(&request.parent);
    if objects.missing_buckets.iter().any(|missing| missing == bucket) {
        return Err(Refusal::NotFound);
    }
    let page = usize::try_from(request.page_size).ok().filter(|size| *size > 0).unwrap_or(PAGE);
    let mut names = objects.names(bucket, &request.prefix);
    names.retain(|name| *name > request.page_token);
    let more = names.len() > page;
    names.truncate(page);
    let next_page_token = if more { names.last().unwrap().clone() } else { String::new() };
    let found = names.iter().map(|name| describe(bucket, name, objects.get(bucket, name).unwrap())).collect();
    Ok(ListObjectsResponse { objects: found, next_page_token }.encode_to_vec())
}

fn compose(state: &State, request: &ComposeObjectRequest) -> Result<Vec<u8>, Refusal> {
    let destination = request.destination.clone().unwrap();
    let bucket = bucket_id(&destination.bucket);
    let named = |generation: i64| (generation > 0).then_some(generation);
    let sources: Vec<_> =
        request.source_objects.iter().map(|source| (source.name.clone(), named(source.generation))).collect();
    let about = About {
        content_type: destination.content_type.clone(),
        cache_control: destination.cache_control.clone(),
        metadata: destination.metadata.clone(),
    };
    let mut objects = state.objects.lock().unwrap();
    let object = objects.compose(bucket, &destination.name, &sources, about, request.if_generation_match)?;
    Ok(describe(bucket, &destination.name, object).encode_to_vec())
}

fn delete(state: &State, request: &DeleteObjectRequest) -> Result<Vec<u8>, Refusal> {
    let mut objects = state.objects.lock().unwrap();
    objects.delete(bucket_id(&request.bucket), &request.object, request.if_generation_match)?;
    Ok(Vec::new())
}

fn success(message: &[u8]) -> Response<Body> {
    let mut data = BytesMut::with_capacity(5 + message.len());
    data.put_u8(0);
    data.put_u32(u32::try_from(message.len()).unwrap());
    data.extend_from_slice(message);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames: [Result<Frame<Bytes>, std::convert::Infallible>; 2] =
        [Ok(Frame::data(data.freeze())), Ok(Frame::trailers(trailers))];
    let body = Body::new(StreamBody::new(stream::iter(frames)));
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

fn failure(refusal: Refusal) -> Response<Body> {
    let (code, message) = match refusal {
        Refusal::Invalid => ("3", "invalid"),
        Refusal::NotFound => ("5", "no such object or bucket"),
        Refusal::TooFast => ("8", "the object exceeded the rate limit for object mutation operations"),
        Refusal::Precondition => ("9", "at least one of the pre-conditions you specified did not hold"),
        Refusal::Unavailable => ("14", "service unavailable"),
    };
    let response = Response::builder().header("content-type", "application/grpc");
    response.header("grpc-status", code).header("grpc-message", message).body(Body::empty()).unwrap()
}
