//! How everyone talks to the API: scheduler, controllers, manifests folder, agents, commands.
//!
//! The same code runs over HTTPS and, inside the server's own process, over the request handler
//! itself: both are a [`Transport`].

mod error;
mod transport;

pub use error::Error;
pub use transport::{Body, Transport, body_from, empty_body};

/// What client calls return.
pub type Result<T> = std::result::Result<T, Error>;
