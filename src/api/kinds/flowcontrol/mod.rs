//! The kinds of `flowcontrol.apiserver.k8s.io`: which requests wait for which.

pub(super) mod flow_schema;
pub(super) mod priority_level;

use std::collections::BTreeSet;

use serde_json::Value;

use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, list, text};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SPEC: Path<'static> = Path::root("spec");

/// The conditions of a status: one a type.
fn status(object: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let path = Path::root("status.conditions");
    let mut seen = BTreeSet::new();
    for (index, one) in list(&object.field("status")["conditions"])
        .iter()
        .enumerate()
    {
        let here = path.index(index);
        let here = here.field("type");
        let kind = text(&one["type"]);
        if !seen.insert(kind) {
            errors.duplicate(&here, kind);
        }
        if kind.is_empty() {
            errors.required(&here, "must not be empty");
        }
    }
    errors.into_vec()
}

fn has_wildcard(values: &Value) -> bool {
    list(values).iter().any(|value| value == "*")
}
