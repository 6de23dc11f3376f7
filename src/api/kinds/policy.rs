//! Kinds of the group `policy`: the PodDisruptionBudget, how many pods must be left when nodes are
//! emptied.

use jiff::Timestamp;
use serde_json::Value;

use super::{Column, KindDef, Subresource, cells, prepare, rows};
use crate::api::int_or_string::percent;
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, common, text};

pub(super) const POD_DISRUPTION_BUDGET: KindDef = KindDef {
    group: "policy",
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    short_names: &["pdb"],
    subresources: SUBRESOURCES,
    schema: "policy.v1.PodDisruptionBudget",
    storage: "poddisruptionbudgets.policy",
    columns: COLUMNS,
    cells: row,
    prepare_create: prepare::drop_status,
    prepare_update: prepare::keep_status,
    has_generation: true,
    unconditional_update: false,
    validate,
    validate_update: |new, _| validate(new),
    validate_status,
    ..KindDef::BASE
};

const SUBRESOURCES: &[Subresource] = &[rows::item(
    "status",
    ("policy", "v1", "PodDisruptionBudget"),
)];

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string(
        "Min Available",
        "The minimum number of pods that must be available.",
    ),
    rows::string(
        "Max Unavailable",
        "The maximum number of pods that may be unavailable.",
    ),
    rows::integer(
        "Allowed Disruptions",
        "Calculated number of pods that may be disrupted at this time.",
    ),
    rows::AGE,
];

fn row(budget: &Object, now: Timestamp) -> Vec<Value> {
    let spec = budget.field("spec");
    let bound = |field: &str| -> Value {
        match &spec[field] {
            Value::Null => "N/A".into(),
            Value::String(text) => text.as_str().into(),
            number => number.to_string().into(),
        }
    };
    vec![
        cells::name(budget),
        bound("minAvailable"),
        bound("maxUnavailable"),
        cells::number(&budget.field("status")["disruptionsAllowed"]),
        cells::age(budget, now),
    ]
}

const SPEC: Path<'static> = Path::root("spec");
const STATUS: Path<'static> = Path::root("status");

fn validate(budget: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = budget.field("spec");
    if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
        let why = "minAvailable and maxUnavailable cannot be both set";
        errors.invalid(&SPEC, spec.clone(), why);
    }
    for field in ["minAvailable", "maxUnavailable"] {
        let (value, path) = (&spec[field], SPEC.field(field));
        if value.is_null() {
            continue;
        }
        common::positive_int_or_percent(&mut errors, value, &path);
        if percent(text(value)).is_ok_and(|n| n > 100) {
            errors.invalid(&path, value.clone(), "must not be greater than 100%");
        }
    }
    common::label_selector(&mut errors, &spec["selector"], &SPEC.field("selector"));
    let policy = text(&spec["unhealthyPodEvictionPolicy"]);
    if !matches!(policy, "" | "AlwaysAllow" | "IfHealthyBudget") {
        let path = SPEC.field("unhealthyPodEvictionPolicy");
        errors.not_supported(&path, policy, &["AlwaysAllow", "IfHealthyBudget"]);
    }
    errors.into_vec()
}

fn validate_status(new: &Object, _old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    for field in [
        "disruptionsAllowed",
        "currentHealthy",
        "desiredHealthy",
        "expectedPods",
    ] {
        errors.nonnegative(&STATUS.field(field), &new.field("status")[field]);
    }
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_budget_has_one_bound() {
        let budget = |spec: Value| Object::from_value(json!({"spec": spec})).unwrap();
        let both = validate(&budget(
            json!({"minAvailable": "101%", "maxUnavailable": 1}),
        ));
        let texts: Vec<_> = both.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec: Invalid value: {\"maxUnavailable\":1,\"minAvailable\":\"101%\"}: \
                 minAvailable and maxUnavailable cannot be both set",
                "spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%",
            ]
        );
        let row = row(&budget(json!({"minAvailable": 2})), Timestamp::UNIX_EPOCH);
        assert_eq!(row[1..4], [json!("2"), json!("N/A"), json!(0)]);
    }
}
