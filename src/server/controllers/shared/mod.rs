//! What two or more controllers use.

pub(super) mod adopt;
pub(super) mod expectations;
pub(super) mod history;
pub(super) mod namespaces;
pub(super) mod nodes;
pub(super) mod pod_control;
pub(super) mod pods;
pub(super) mod services;
pub(super) mod status;
pub(super) mod wire;
