//! The control plane: API server, scheduler, controllers.

pub mod http;
pub mod pki;
pub mod request;
