//! The API machinery as pure functions: no task, no IO, no clock, no randomness.

pub mod codec;
pub mod gvk;
pub mod kinds;
pub mod name;
pub mod object;
pub mod options;
pub mod schema;
pub mod selector;
pub mod status;
pub mod time;
