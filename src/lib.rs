//! Kubernetes as one small program.
//!
//! ```text
//! main ──► cli ──► server ──► store ──► util
//!           │        ├──────► client ──► api
//!           │        └──────► api          (api imports nothing)
//!           └────► agent ───► runtime ──► util
//!                    ├──────► client ──► api
//!                    └──────► api
//! ```
//!
//! `server` never imports `agent` or `runtime`; `agent` never imports `server` or `store`; they
//! meet only in `cli`. `tests/tidy.rs` holds the whole import map and checks it.

pub mod util;

pub mod api;

pub mod client;
pub mod store;

pub mod server;

pub mod agent;
pub mod runtime;

pub mod cli;
