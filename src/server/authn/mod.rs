//! Who is calling: client certificate, service-account token, bootstrap token; or nobody.

mod peer;
pub mod service_account;

pub use peer::Peer;
