//! Everything between a connection and the REST verbs: TLS, filters, routes, health, discovery.

pub mod route;
