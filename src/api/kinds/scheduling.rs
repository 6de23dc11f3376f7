//! PriorityClass: a name for how important a pod is.

use jiff::Timestamp;
use serde_json::Value;

use super::{Column, KindDef, cells, defaults, rows};
use crate::api::gvk::Scope;
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, text};

pub(super) const PRIORITY_CLASS: KindDef = KindDef {
    group: "scheduling.k8s.io",
    kind: "PriorityClass",
    plural: "priorityclasses",
    singular: "priorityclass",
    short_names: &["pc"],
    scope: Scope::Cluster,
    schema: "scheduling.v1.PriorityClass",
    storage: "priorityclasses.scheduling.k8s.io",
    columns: COLUMNS,
    cells: row,
    default,
    validate,
    validate_update,
    ..KindDef::BASE
};

/// The two classes everybody has, with their values.
const SYSTEM: [(&str, i64); 2] = [
    ("system-cluster-critical", 2_000_000_000),
    ("system-node-critical", 2_000_001_000),
];

/// Above are the system's own.
const VALUE_MAX: i64 = 1_000_000_000;

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::integer(
        "Value",
        "value represents the integer value of this priority class. This is the actual priority \
         that pods receive when they have the name of this class in their pod spec.",
    ),
    Column {
        kind: "boolean",
        ..rows::string(
            "Global-Default",
            "globalDefault specifies whether this PriorityClass should be considered as the \
             default priority for pods that do not have any priority class. Only one \
             PriorityClass can be marked as `globalDefault`. However, if more than one \
             PriorityClasses exists with their `globalDefault` field set to true, the smallest \
             value of such global default PriorityClasses will be used as the default priority.",
        )
    },
    rows::AGE,
    rows::wide(
        "PreemptionPolicy",
        "preemptionPolicy is the Policy for preempting pods with lower priority. One of Never, \
         PreemptLowerPriority. Defaults to PreemptLowerPriority if unset.",
    ),
];

fn row(class: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        cells::name(class),
        cells::number(class.field("value")),
        (class.field("globalDefault") == true).into(),
        cells::age(class, now),
        text(class.field("preemptionPolicy")).into(),
    ]
}

fn default(class: &mut Object) {
    defaults::text(&mut class.0, "preemptionPolicy", "PreemptLowerPriority");
}

fn validate(class: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let value = class.field("value").as_i64().unwrap_or(0);
    let name = class.name();
    if name.starts_with("system-") && !SYSTEM.contains(&(name, value)) {
        let why = "priority class names with 'system-' prefix are reserved for system use only. \
                   error: the name or value is not one of a system priority class";
        errors.forbidden(&Path::root("metadata.name"), why);
    } else if value > VALUE_MAX && !name.starts_with("system-") {
        let why = format!("maximum allowed value of a user defined priority is {VALUE_MAX}");
        errors.forbidden(&Path::root("value"), &why);
    }
    let policies = ["Never", "PreemptLowerPriority"];
    let path = Path::root("preemptionPolicy");
    errors.one_of(&path, class.field("preemptionPolicy"), &policies);
    errors.into_vec()
}

/// Pods keep the number they got: a class does not change under them.
fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    if new.field("value").as_i64().unwrap_or(0) != old.field("value").as_i64().unwrap_or(0) {
        errors.forbidden(&Path::root("value"), "may not be changed in an update.");
    }
    let path = Path::root("preemptionPolicy");
    let policy = new.field("preemptionPolicy");
    errors.immutable(&path, policy, old.field("preemptionPolicy"));
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn class(name: &str, value: i64) -> Object {
        let class = json!({"metadata": {"name": name}, "value": value});
        let mut class = Object::from_value(class).unwrap();
        default(&mut class);
        class
    }

    #[test]
    fn the_systems_classes_are_the_systems() {
        assert!(validate(&class("high", VALUE_MAX)).is_empty());
        assert!(validate(&class("system-node-critical", 2_000_001_000)).is_empty());
        assert_eq!(validate(&class("system-mine", 1)).len(), 1);
        assert_eq!(
            validate(&class("high", VALUE_MAX + 1))[0].to_string(),
            "value: Forbidden: maximum allowed value of a user defined priority is 1000000000"
        );
        assert_eq!(
            validate_update(&class("high", 2), &class("high", 1))[0].to_string(),
            "value: Forbidden: may not be changed in an update."
        );
    }
}
