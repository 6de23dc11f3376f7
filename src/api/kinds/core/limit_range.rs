//! LimitRange: how much one pod, container or claim of a namespace may ask for, and what it gets
//! where it asks for nothing.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::resource_name as resource;
use crate::api::kinds::defaults::items;
use crate::api::kinds::{KindDef, cells, rows};
use crate::api::name;
use crate::api::object::{Object, child_mut};
use crate::api::quantity::Quantity;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, entries, list, text};

pub(crate) const DEF: KindDef = KindDef {
    kind: "LimitRange",
    plural: "limitranges",
    singular: "limitrange",
    short_names: &["limits"],
    schema: "core.v1.LimitRange",
    storage: "limitranges",
    columns: rows::NAME_CREATED,
    cells: cells::name_created,
    creates_on_update: true,
    default,
    validate,
    validate_update: |new, _| validate(new),
    ..KindDef::BASE
};

const LIMITS: Path<'static> = Path::root("spec.limits");

/// A default limit is the most there may be, a default request the default limit, or the least.
fn default(range: &mut Object) {
    let spec = child_mut(&mut range.0, "spec");
    for limit in items(spec, "limits") {
        if limit.get("type").and_then(Value::as_str) != Some("Container") {
            continue;
        }
        fill(limit, "max", "default");
        fill(limit, "default", "defaultRequest");
        fill(limit, "min", "defaultRequest");
    }
}

fn fill(limit: &mut Map<String, Value>, from: &str, to: &str) {
    let Some(from) = limit.get(from).and_then(Value::as_object).cloned() else {
        return;
    };
    if from.is_empty() {
        return;
    }
    let to = child_mut(limit, to);
    for (name, amount) in from {
        to.entry(name).or_insert(amount);
    }
}

fn validate(range: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let mut seen = BTreeSet::new();
    for (index, limit) in list(&range.field("spec")["limits"]).iter().enumerate() {
        let path = LIMITS.index(index);
        let kind = text(&limit["type"]);
        let type_path = path.field("type");
        errors.invalid_each(&type_path, kind, name::qualified_name(kind));
        let is_standard = matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim");
        if !kind.contains('/') && !is_standard {
            let why = "must be a standard limit type or fully qualified";
            errors.invalid(&type_path, kind, why);
        }
        if !seen.insert(kind) {
            errors.duplicate(&type_path, kind);
        }
        names(&mut errors, kind, limit, &path);
        let fields = [
            "max",
            "min",
            "default",
            "defaultRequest",
            "maxLimitRequestRatio",
        ];
        let all = fields.iter().flat_map(|field| entries(&limit[*field]));
        let all: BTreeSet<_> = all.map(|(name, _)| name).collect();
        for name in all {
            order(&mut errors, limit, name, &path);
            ratio(&mut errors, limit, name, &path);
        }
    }
    errors.into_vec()
}

fn names(errors: &mut Errors, kind: &str, limit: &Value, path: &Path<'_>) {
    let check = match kind {
        "Pod" | "Container" => resource::check_container,
        _ => resource::check,
    };
    for field in [
        "max",
        "min",
        "default",
        "defaultRequest",
        "maxLimitRequestRatio",
    ] {
        let path = path.field(field);
        let is_default = field.starts_with("default");
        if kind == "Pod" && is_default {
            if entries(&limit[field]).next().is_some() {
                errors.forbidden(&path, "may not be specified when `type` is 'Pod'");
            }
            continue;
        }
        for (name, amount) in entries(&limit[field]) {
            check(errors, name, &path.key(name));
            resource::quantity(errors, amount, &path.key(name));
        }
    }
    let has_storage = |field: &str| !limit[field]["storage"].is_null();
    if kind == "PersistentVolumeClaim" && !has_storage("min") && !has_storage("max") {
        let why = "either minimum or maximum storage value is required, but neither was provided";
        errors.required(&path.field("limits"), why);
    }
}

/// Two amounts that must not fall: the smaller and its name, the larger and its name, and which
/// field with which of the two values is wrong.
const ORDER: [(&str, &str, &str, &str, &str, &str); 6] = [
    ("min", "min value", "max", "max value", "min", "min"),
    (
        "min",
        "min value",
        "defaultRequest",
        "default request value",
        "defaultRequest",
        "defaultRequest",
    ),
    (
        "defaultRequest",
        "default request value",
        "max",
        "max value",
        "defaultRequest",
        "defaultRequest",
    ),
    (
        "defaultRequest",
        "default request value",
        "default",
        "default limit value",
        "defaultRequest",
        "defaultRequest",
    ),
    (
        "min",
        "min value",
        "default",
        "default value",
        "default",
        "min",
    ),
    (
        "default",
        "default value",
        "max",
        "max value",
        "default",
        "max",
    ),
];

fn order(errors: &mut Errors, limit: &Value, name: &str, path: &Path<'_>) {
    let amount = |field: &str| Quantity::from_json(&limit[field][name]).ok();
    for (less, less_text, more, more_text, at, shown) in ORDER {
        let (Some(less), Some(more)) = (amount(less), amount(more)) else {
            continue;
        };
        if less > more {
            let why = format!("{less_text} {less} is greater than {more_text} {more}");
            let value = amount(shown).unwrap_or(Quantity::ZERO).to_string();
            errors.invalid(&path.field(at).key(name), value, &why);
        }
    }
    if let (Some(limit), Some(request)) = (amount("default"), amount("defaultRequest"))
        && limit != request
        && !resource::may_overcommit(name)
    {
        let why =
            format!("default value {limit} must equal to defaultRequest value {request} in {name}");
        let path = path.field("defaultRequest");
        errors.invalid(&path.key(name), request.to_string(), &why);
    }
}

fn ratio(errors: &mut Errors, limit: &Value, name: &str, path: &Path<'_>) {
    let amount = |field: &str| Quantity::from_json(&limit[field][name]).ok();
    let Some(ratio) = amount("maxLimitRequestRatio") else {
        return;
    };
    let path = path.field("maxLimitRequestRatio");
    let path = path.key(name);
    if ratio.partial_cmp(&Quantity::units(1)) == Some(Ordering::Less) {
        let why = format!("ratio {ratio} is less than 1");
        errors.invalid(&path, ratio.to_string(), &why);
    }
    let (Some(min), Some(max)) = (amount("min"), amount("max")) else {
        return;
    };
    let most = max.nano() as f64 / min.nano() as f64;
    if ratio.nano() as f64 / 1e9 > most {
        let why = format!("ratio {ratio} is greater than max/min = {most:.6}");
        errors.invalid(&path, ratio.to_string(), &why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wrong(limit: Value) -> Vec<String> {
        let mut range = Object::from_value(json!({"spec": {"limits": [limit]}})).unwrap();
        default(&mut range);
        validate(&range).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_container_gets_defaults_from_what_is_said() {
        let limits = json!({"spec": {"limits": [
            {"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1", "memory": "1Gi"}},
            {"type": "Pod", "max": {"cpu": "4"}},
        ]}});
        let mut range = Object::from_value(limits).unwrap();
        default(&mut range);
        let limits = &range.field("spec")["limits"];
        assert_eq!(limits[0]["default"], json!({"cpu": "2"}));
        assert_eq!(
            limits[0]["defaultRequest"],
            json!({"cpu": "2", "memory": "1Gi"})
        );
        assert_eq!(limits[1], json!({"type": "Pod", "max": {"cpu": "4"}}));
        assert!(validate(&range).is_empty());
    }

    #[test]
    fn amounts_are_in_order() {
        let limit = |more: Value| {
            let mut limit = json!({"type": "Container"});
            limit
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            wrong(limit)
        };
        assert_eq!(
            limit(json!({"min": {"cpu": "2"}, "max": {"cpu": "1"}}))[0],
            "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1"
        );
        assert_eq!(
            limit(json!({"default": {"cpu": "1"}, "defaultRequest": {"cpu": "2"}})),
            [
                "spec.limits[0].defaultRequest[cpu]: Invalid value: \"2\": default request value 2 is \
              greater than default limit value 1"
            ]
        );
        assert_eq!(
            limit(
                json!({"maxLimitRequestRatio": {"cpu": "3"}, "min": {"cpu": "1"},
                "max": {"cpu": "2"}})
            ),
            [
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"3\": ratio 3 is greater \
              than max/min = 2.000000"
            ]
        );
    }

    #[test]
    fn types_have_rules() {
        assert_eq!(
            wrong(json!({"type": "Pod", "default": {"cpu": "1"}})),
            ["spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"]
        );
        assert_eq!(
            wrong(json!({"type": "PersistentVolumeClaim"})),
            [
                "spec.limits[0].limits: Required value: either minimum or maximum storage value is \
              required, but neither was provided"
            ]
        );
        assert_eq!(
            wrong(json!({"type": "Thing"})),
            [
                "spec.limits[0].type: Invalid value: \"Thing\": must be a standard limit type or \
              fully qualified"
            ]
        );
    }
}
