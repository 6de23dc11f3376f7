//! What every part may use and what uses nothing of ours: clock, randomness, tasks, errors, files.

pub mod backoff;
pub mod byte_body;
pub mod clock;
pub mod csr;
pub mod errors;
pub mod frames;
pub mod fs;
pub mod gzip;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod net;
pub mod rng;
pub mod signal;
pub mod tasks;
pub mod tls;
pub mod x509;
