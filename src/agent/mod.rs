//! The node: pods, containers, network, service proxy, DNS.

pub mod config;
pub mod dns;
pub mod network;
pub mod nft;
pub mod node;
pub mod pod;
pub mod proxy;
pub mod seam;
pub mod sys;
pub mod volume;
