//! The API machinery as pure functions: no task, no IO, no clock, no randomness.

pub mod gvk;
pub mod kinds;
pub mod object;
pub mod status;
