//! The service proxy: translates service addresses and node ports to the addresses of pods.

pub mod model;
pub mod rules;

#[cfg(test)]
mod tests;
