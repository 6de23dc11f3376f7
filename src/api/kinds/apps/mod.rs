//! Kinds of the group `apps`.

pub(super) mod deployment;
pub(super) mod replica_set;
mod validation;
