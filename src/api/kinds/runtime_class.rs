//! RuntimeClass: which of a node's runtimes runs a pod.

use jiff::Timestamp;
use serde_json::Value;

use super::{Column, KindDef, cells, rows};
use crate::api::gvk::Scope;
use crate::api::name;
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, common, text};

pub(super) const DEF: KindDef = KindDef {
    group: "node.k8s.io",
    kind: "RuntimeClass",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    scope: Scope::Cluster,
    schema: "node.v1.RuntimeClass",
    storage: "runtimeclasses.node.k8s.io",
    columns: COLUMNS,
    cells: row,
    validate,
    validate_update,
    ..KindDef::BASE
};

const COLUMNS: &[Column] = &[rows::NAME, rows::string("Handler", ""), rows::AGE];

fn row(class: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        cells::name(class),
        text(class.field("handler")).into(),
        cells::age(class, now),
    ]
}

fn validate(class: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let handler = text(class.field("handler"));
    errors.invalid_each(
        &Path::root("handler"),
        handler,
        name::dns1123_label(handler),
    );
    let path = Path::root("scheduling.nodeSelector");
    let selector = &class.field("scheduling")["nodeSelector"];
    common::labels(&mut errors, selector, &path);
    errors.into_vec()
}

fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let path = Path::root("handler");
    errors.immutable(&path, new.field("handler"), old.field("handler"));
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_handler_is_a_label_and_stays() {
        let class = |handler: &str| Object::from_value(json!({"handler": handler})).unwrap();
        assert!(validate(&class("runsc")).is_empty());
        assert_eq!(validate(&class("Run")).len(), 1);
        assert_eq!(
            validate_update(&class("b"), &class("a"))[0].to_string(),
            "handler: Invalid value: \"b\": field is immutable"
        );
    }
}
