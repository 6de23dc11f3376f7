//! The node: pods, containers, network, service proxy, DNS.

pub mod seam;
