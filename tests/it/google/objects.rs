//! What is stored: the newest generation of every object, with its conditions.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Refusal, joined};

/// One object.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    /// Grows with every write, over all objects.
    pub(crate) generation: i64,
    /// What it holds, in the pieces it was composed of. Empty where bytes are thrown away.
    pub(crate) pieces: Vec<Bytes>,
    /// Its length in bytes.
    pub(crate) size: u64,
    /// Of all its bytes.
    pub(crate) crc32c: u32,
    pub(crate) content_type: String,
    pub(crate) cache_control: String,
    pub(crate) metadata: HashMap<String, String>,
}

impl Object {
    /// What it holds, in one piece.
    pub(crate) fn bytes(&self) -> Bytes {
        joined(&self.pieces)
    }
}

/// What an object is made of, beside its bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct About {
    pub(crate) content_type: String,
    pub(crate) cache_control: String,
    pub(crate) metadata: HashMap<String, String>,
}

/// Every object, by bucket and name.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    stored: BTreeMap<(String, String), Object>,
    changed: HashMap<(String, String), Instant>,
    last_generation: i64,
    /// Least time between two changes of one name; what comes sooner is refused.
    pub(crate) one_change_per: Option<Duration>,
    /// Changes that were refused because they came too soon.
    pub(crate) too_fast: u64,
    /// Whether only length and checksum of uploads are kept.
    pub(crate) discard_bytes: bool,
    /// The buckets that are not there.
    pub(crate) missing_buckets: Vec<String>,
}

impl Objects {
    pub(crate) fn get(&self, bucket: &str, name: &str) -> Option<&Object> {
        self.stored.get(&key(bucket, name))
    }

    /// The names of the objects in `bucket` that begin with `prefix`, in order.
    pub(crate) fn names(&self, bucket: &str, prefix: &str) -> Vec<String> {
        let of_bucket = self.stored.keys().filter(|(of, name)| of == bucket && name.starts_with(prefix));
        of_bucket.map(|(_, name)| name.clone()).collect()
    }

    /// Stores an object past all conditions.
    pub(crate) fn put(&mut self, bucket: &str, name: &str, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        let (size, crc32c) = (bytes.len() as u64, crc32c::crc32c(&bytes));
        self.store(bucket, name, vec![bytes], size, crc32c, About::default());
    }

    /// Stores an object of many pieces past all conditions.
    pub(crate) fn put_pieces(
        &mut self,
        bucket: &str,
        name: &str,
        pieces: Vec<Bytes>,
        metadata: HashMap<String, String>,
    ) {
        let size = pieces.iter().map(|piece| piece.len() as u64).sum();
        let crc32c = pieces.iter().fold(0, |sum, piece| crc32c::crc32c_append(sum, piece));
        self.store(bucket, name, pieces, size, crc32c, About { metadata, ..About::default() });
    }

    /// Removes an object past all conditions.
    pub(crate) fn remove(&mut self, bucket: &str, name: &str) {
        self.stored.remove(&key(bucket, name)).unwrap();
    }

    pub(super) fn write(
        &mut self,
        bucket: &str,
        name: &str,
        bytes: Bytes,
        about: About,
        if_generation: Option<i64>,
    ) -> Result<&Object, Refusal> {
        self.may_change(bucket, name, if_generation)?;
        let (size, crc32c) = (bytes.len() as u64, crc32c::crc32c(&bytes));
        let pieces = if self.discard_bytes { Vec::new() } else { vec![bytes] };
        Ok(self.store(bucket, name, pieces, size, crc32c, about))
    }

    /// Composes `sources`, each with the generation it must have if one is named.
    pub(super) fn compose(
        &mut self,
        bucket: &str,
        name: &str,
        sources: &[(String, Option<i64>)],
        about: About,
        if_generation: Option<i64>,
    ) -> Result<&Object, Refusal> {
        if !(1..=32).contains(&sources.len()) {
            return Err(Refusal::Invalid);
        }
        self.may_change(bucket, name, if_generation)?;
        let (mut pieces, mut size, mut crc32c) = (Vec::new(), 0, 0);
        for (source, generation) in sources {
            let source = self.get(bucket, source).ok_or(Refusal::NotFound)?;
            if generation.is_some_and(|generation| generation != source.generation) {
                // There are no older generations here: what was replaced is gone.
                return Err(Refusal::NotFound);
            }
            pieces.extend(source.pieces.iter().cloned());
            crc32c = crc32c::crc32c_combine(crc32c, source.crc32c, usize::try_from(source.size).unwrap());
            size += source.size;
        }
        Ok(self.store(bucket, name, pieces, size, crc32c, about))
    }

    pub(super) fn delete(&mut self, bucket: &str, name: &str, if_generation: Option<i64>) -> Result<(), Refusal> {
        if self.get(bucket, name).is_none() {
            return Err(Refusal::NotFound);
        }
        self.may_change(bucket, name, if_generation)?;
        self.stored.remove(&key(bucket, name));
        self.changed.insert(key(bucket, name), Instant::now());
        Ok(())
    }

    fn may_change(&mut self, bucket: &str, name: &str, if_generation: Option<i64>) -> Result<(), Refusal> {
        if self.missing_buckets.iter().any(|missing| missing == bucket) {
            return Err(Refusal::NotFound);
        }
        let changed = self.changed.get(&key(bucket, name));
        if let (Some(gap), Some(changed)) = (self.one_change_per, changed)
            && changed.elapsed() < gap
        {
            self.too_fast += 1;
            return Err(Refusal::TooFast);
        }
        let generation = self.get(bucket, name).map_or(0, |object| object.generation);
        if if_generation.is_some_and(|expected| expected != generation) {
            return Err(Refusal::Precondition);
        }
        Ok(())
    }

    fn store(&mut self, bucket: &str, name: &str, pieces: Vec<Bytes>, size: u64, crc32c: u32, about: About) -> &Object {
        self.last_generation += 1;
        self.changed.insert(key(bucket, name), Instant::now());
        let About { content_type, cache_control, metadata } = about;
        let generation = self.last_generation;
        let object = Object { generation, pieces, size, crc32c, content_type, cache_control, metadata };
        self.stored.insert(key(bucket, name), object);
        &self.stored[&key(bucket, name)]
    }
}

fn key(bucket: &str, name: &str) -> (String, String) {
    (bucket.to_owned(), name.to_owned())
}
