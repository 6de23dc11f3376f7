//! The control plane: API server, scheduler, controllers.

pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod cacher;
pub mod config;
pub mod discovery;
pub mod http;
pub mod join;
pub mod manifests;
pub mod pki;
pub mod registry;
pub mod request;
pub mod rest;
pub mod review;
pub mod scheduler;
pub mod storage;
