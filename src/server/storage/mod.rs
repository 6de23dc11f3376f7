//! Objects over the [`Store`](crate::store::Store): where they lie ([`keys`]) how they are written ([`codec`]),
//! and which of them are kept encrypted ([`seal`]).
//! Nothing else in the program knows either.

pub mod codec;
pub mod keys;
pub mod seal;

use crate::store;

pub use codec::Served;

/// How reading or writing an object fails below the API.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The store's own failure.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A stored value that this program did not write, or a damaged one.
    #[error("stored value is not readable: {0}")]
    Codec(String),
}
