//! The control plane as a whole, in process: a real server, scheduler and controllers; only the
//! nodes are played.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

mod admission;
mod certificates;
mod crd;
mod deletion;
mod jobs;
mod kinds_extension;
mod machinery;
mod nodes;
mod parsers;
mod quotas;
mod scheduling;
mod services;
mod workloads;
mod world;
