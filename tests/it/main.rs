//! The one integration binary.

mod engines;
mod process;
mod promises;
mod sse;
mod store;
