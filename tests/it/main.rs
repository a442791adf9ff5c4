//! The one integration binary.

mod engines;
mod store;
