//! The kinds of `admissionregistration.k8s.io`: who is asked, and which expressions hold, before
//! an object is written.
//!
//! Here only the objects themselves are defaulted and checked.
//!
//! DEVIATION: an expression that does not compile is stored. Expressions are compiled where they
//! are run (`server::admission`), so this module knows nothing of CEL.

pub(crate) mod binding;
mod matching;
pub(crate) mod policy;
pub(crate) mod webhook;

const GROUP: &str = "admissionregistration.k8s.io";

/// `Fail` stops the request where a check cannot be made.
const FAILURE_POLICIES: [&str; 2] = ["Fail", "Ignore"];
const MATCH_POLICIES: [&str; 2] = ["Equivalent", "Exact"];
const REINVOCATION_POLICIES: [&str; 2] = ["IfNeeded", "Never"];
