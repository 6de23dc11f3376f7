//! The API machinery as pure functions: no task, no IO, no clock, no randomness.

pub mod apply;
pub mod codec;
pub mod cron;
pub mod duration;
pub mod gvk;
pub mod int_or_string;
pub mod ip;
pub mod kinds;
pub mod meta;
pub mod name;
pub mod object;
pub mod openapi;
pub mod options;
pub mod patch;
pub mod pod;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod time;
pub mod toleration;
pub mod validation;
pub mod watch;
pub mod workload;
