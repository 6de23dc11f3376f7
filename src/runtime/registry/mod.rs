//! Images in registries: what they are called, and how they are fetched.

mod auth;
mod client;
mod config;
#[cfg(test)]
mod tests;
mod transport;

pub mod reference;

pub use client::{Blob, Fetched, Registry, RegistryError, Session};
pub use config::{ConfigError, RegistriesConfig};

pub(crate) use auth::fitting;
