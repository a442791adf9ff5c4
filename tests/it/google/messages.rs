//! The messages of `google.storage.v2` that are used, with the fields that are used.

use std::collections::HashMap;

use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetObjectRequest {
    #[prost(string, tag = "1")]
    pub(super) bucket: String,
    #[prost(string, tag = "2")]
    pub(super) object: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DeleteObjectRequest {
    #[prost(string, tag = "1")]
    pub(super) bucket: String,
    #[prost(string, tag = "2")]
    pub(super) object: String,
    #[prost(int64, optional, tag = "5")]
    pub(super) if_generation_match: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ListObjectsRequest {
    #[prost(string, tag = "1")]
    pub(super) parent: String,
    #[prost(int32, tag = "2")]
    pub(super) page_size: i32,
    #[prost(string, tag = "3")]
    pub(super) page_token: String,
    #[prost(string, tag = "6")]
    pub(super) prefix: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ListObjectsResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) objects: Vec<ObjectMessage>,
    #[prost(string, tag = "3")]
    pub(super) next_page_token: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ComposeObjectRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) destination: Option<ObjectMessage>,
    #[prost(message, repeated, tag = "2")]
    pub(super) source_objects: Vec<SourceObject>,
    #[prost(int64, optional, tag = "4")]
    pub(super) if_generation_match: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SourceObject {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(int64, tag = "2")]
    pub(super) generation: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ObjectMessage {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) bucket: String,
    #[prost(int64, tag = "3")]
    pub(super) generation: i64,
    #[prost(int64, tag = "4")]
    pub(super) metageneration: i64,
    #[prost(int64, tag = "6")]
    pub(super) size: i64,
    #[prost(string, tag = "9")]
    pub(super) cache_control: String,
    #[prost(string, tag = "13")]
    pub(super) content_type: String,
    #[prost(message, optional, tag = "16")]
    pub(super) checksums: Option<Checksums>,
    #[prost(map = "string, string", tag = "22")]
    pub(super) metadata: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Checksums {
    #[prost(fixed32, optional, tag = "1")]
    pub(super) crc32c: Option<u32>,
}
