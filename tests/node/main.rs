//! Whole clusters: the real program on hosts made of network namespaces, with real containerd,
//! real containers and a real kubectl. Needs root, containerd, runc, nftables and iproute2; run by
//! `make test`.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    reason = "these tests run programs and wait in threads of their own"
)]

#[path = "../support/mod.rs"]
mod support;

mod dead_host;
mod features;
mod joining;
mod restart;
mod several_servers;
mod three_hosts;
mod tools;
