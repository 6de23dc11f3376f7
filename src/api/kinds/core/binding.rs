//! Binding: posted to bind a pod to a node; never stored.

use crate::api::kinds::{KindDef, rows};

pub(crate) const DEF: KindDef = KindDef {
    kind: "Binding",
    plural: "bindings",
    singular: "binding",
    verbs: rows::CREATE,
    schema: "core.v1.Binding",
    ..KindDef::BASE
};
