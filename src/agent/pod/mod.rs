//! The pods of this node, one worker each.

pub(crate) mod env;
pub(crate) mod expand;
pub(crate) mod files;
pub(crate) mod names;
pub(crate) mod plan;
pub(crate) mod resources;
pub(crate) mod restart;
pub(crate) mod security;
pub(crate) mod state;
pub(crate) mod status;
#[cfg(test)]
mod testing;
