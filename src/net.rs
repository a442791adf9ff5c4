//! The guarded HTTP client: fetches what a stranger's URL names, and reaches nothing that is not public.
//!
//! Owns which addresses may be dialled ([`address`]), which URLs may be asked ([`target`]), and one bounded
//! fetch that holds both rules over every answer of the name system and every redirect ([`client`]). What it
//! refuses it refuses before a byte is sent. May call `domain` and `clock` alone; knows nothing of pictures.

pub mod address;
pub mod client;
pub mod lookup;
pub mod target;

#[cfg(test)]
pub(crate) mod scripted;
