//! The node: pods, containers, network, service proxy, DNS.

mod checkpoint;
pub mod config;
pub mod dns;
mod image;
pub mod network;
pub mod nft;
mod pleg;
pub mod pod;
mod probe;
pub mod proxy;
pub mod seam;
pub mod sys;
pub mod volume;
