//! Whole clusters: the real program on hosts made of network namespaces, with real containerd,
//! real containers and a real kubectl. Needs root, containerd, runc, nftables and iproute2; run by
//! `make test`.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    missing_docs,
    reason = "these tests run programs and wait in threads of their own"
)]

#[path = "../support/mod.rs"]
mod support;

mod three_hosts;
