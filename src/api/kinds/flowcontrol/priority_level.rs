//! PriorityLevelConfiguration: how many requests of a level run at once, and how many wait.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{GROUP, SPEC};
use crate::api::gvk::Scope;
use crate::api::kinds::defaults::{child, number, set};
use crate::api::kinds::{Column, KindDef, cells, prepare, rows};
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, text};

pub(crate) const DEF: KindDef = KindDef {
    group: GROUP,
    kind: "PriorityLevelConfiguration",
    plural: "prioritylevelconfigurations",
    singular: "prioritylevelconfiguration",
    scope: Scope::Cluster,
    subresources: &[rows::item(
        "status",
        (GROUP, "v1", "PriorityLevelConfiguration"),
    )],
    schema: "flowcontrol.v1.PriorityLevelConfiguration",
    storage: "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io",
    columns: COLUMNS,
    cells: row,
    prepare_create: prepare::drop_status,
    prepare_update: prepare::keep_status,
    has_generation: true,
    unconditional_update: false,
    default,
    validate,
    validate_update: |new, _| validate(new),
    validate_status: |new, _| super::status(new),
    ..KindDef::BASE
};

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string(
        "Type",
        "`type` indicates whether this priority level is subject to limitation on request \
         execution.",
    ),
    rows::string(
        "NominalConcurrencyShares",
        "`nominalConcurrencyShares` (NCS) contributes to the computation of the \
         NominalConcurrencyLimit (NominalCL) of this level.",
    ),
    rows::string(
        "Queues",
        "`queues` is the number of queues for this priority level.",
    ),
    rows::string(
        "HandSize",
        "`handSize` is a small positive number that configures the shuffle sharding of requests \
         into queues.",
    ),
    rows::string(
        "QueueLengthLimit",
        "`queueLengthLimit` is the maximum number of requests allowed to be waiting in a given \
         queue of this priority level at a time; excess requests are rejected.",
    ),
    rows::AGE,
];

const QUEUES_MAX: i64 = 10_000_000;
/// Bits of the hash that deals hands of queues.
const HASH_BITS_MAX: i64 = 60;

fn row(level: &Object, now: Timestamp) -> Vec<Value> {
    let spec = level.field("spec");
    let shown = |value: &Value| -> Value {
        value
            .as_i64()
            .map_or("<none>".to_owned(), |n| n.to_string())
            .into()
    };
    let limited = &spec["limited"];
    let shares = if limited.is_null() {
        &spec["exempt"]["nominalConcurrencyShares"]
    } else {
        &limited["nominalConcurrencyShares"]
    };
    let queuing = &limited["limitResponse"]["queuing"];
    vec![
        cells::name(level),
        text(&spec["type"]).into(),
        shown(shares),
        shown(&queuing["queues"]),
        shown(&queuing["handSize"]),
        shown(&queuing["queueLengthLimit"]),
        cells::age(level, now),
    ]
}

fn default(level: &mut Object) {
    let Some(spec) = child(&mut level.0, "spec") else {
        return;
    };
    if spec.get("type").is_some_and(|kind| kind == "Exempt") {
        set(spec, "exempt", Map::new());
    }
    if let Some(exempt) = child(spec, "exempt") {
        set(exempt, "nominalConcurrencyShares", 0);
        set(exempt, "lendablePercent", 0);
    }
    if let Some(limited) = child(spec, "limited") {
        set(limited, "nominalConcurrencyShares", 30);
        set(limited, "lendablePercent", 0);
        let queuing =
            child(limited, "limitResponse").and_then(|response| child(response, "queuing"));
        if let Some(queuing) = queuing {
            number(queuing, "handSize", 8);
            number(queuing, "queues", 64);
            number(queuing, "queueLengthLimit", 50);
        }
    }
}

fn validate(level: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = level.field("spec");
    let kind = text(&spec["type"]);
    if (level.name() == "exempt") != (kind == "Exempt") {
        let why = "type must be 'Exempt' if and only if name is 'exempt'";
        errors.invalid(&SPEC.field("type"), kind, why);
    }
    let (limited, exempt) = (&spec["limited"], &spec["exempt"]);
    match kind {
        "Exempt" => {
            if !limited.is_null() {
                let why = "must be nil if the type is not Limited";
                errors.forbidden(&SPEC.field("limited"), why);
            }
            shares(&mut errors, exempt, &SPEC.field("exempt"));
        }
        "Limited" => {
            if !exempt.is_null() {
                let why = "must be nil if the type is Limited";
                errors.forbidden(&SPEC.field("exempt"), why);
            }
            let path = SPEC.field("limited");
            if limited.is_null() {
                errors.required(&path, "must not be empty when type is Limited");
            } else {
                shares(&mut errors, limited, &path);
                response(
                    &mut errors,
                    &limited["limitResponse"],
                    &path.field("limitResponse"),
                );
            }
        }
        other => errors.not_supported(&SPEC.field("type"), other, &["Exempt", "Limited"]),
    }
    errors.into_vec()
}

fn shares(errors: &mut Errors, level: &Value, path: &Path<'_>) {
    for (field, why) in [
        ("nominalConcurrencyShares", "must be a non-negative integer"),
        (
            "borrowingLimitPercent",
            "if specified, must be a non-negative integer",
        ),
    ] {
        if let Some(value) = level[field].as_i64().filter(|value| *value < 0) {
            errors.invalid(&path.field(field), value, why);
        }
    }
    let lendable = level["lendablePercent"].as_i64().unwrap_or(0);
    if !(0..=100).contains(&lendable) {
        let why = "must be between 0 and 100, inclusive";
        errors.invalid(&path.field("lendablePercent"), lendable, why);
    }
}

fn response(errors: &mut Errors, response: &Value, path: &Path<'_>) {
    let (queuing_, here) = (&response["queuing"], path.field("queuing"));
    match text(&response["type"]) {
        "Reject" if queuing_.is_null() => {}
        "Reject" => {
            let why = "must be nil if limited.limitResponse.type is not Limited";
            errors.forbidden(&here, why);
        }
        "Queue" if queuing_.is_null() => {
            let why = "must not be empty if limited.limitResponse.type is Limited";
            errors.required(&here, why);
        }
        "Queue" => queuing(errors, queuing_, &here),
        other => errors.not_supported(&path.field("type"), other, &["Queue", "Reject"]),
    }
}

fn queuing(errors: &mut Errors, queuing: &Value, path: &Path<'_>) {
    let number = |field: &str| queuing[field].as_i64().unwrap_or(0);
    let (queues, hand, length) = (
        number("queues"),
        number("handSize"),
        number("queueLengthLimit"),
    );
    if length <= 0 {
        errors.invalid(&path.field("queueLengthLimit"), length, "must be positive");
    }
    if queues <= 0 {
        errors.invalid(&path.field("queues"), queues, "must be positive");
    } else if queues > QUEUES_MAX {
        let why = format!("must not be greater than {QUEUES_MAX}");
        errors.invalid(&path.field("queues"), queues, &why);
    }
    let here = path.field("handSize");
    if hand <= 0 {
        errors.invalid(&here, hand, "must be positive");
    } else if hand > queues {
        let why = format!("should not be greater than queues ({queues})");
        errors.invalid(&here, hand, &why);
    } else if entropy_bits_exceed(queues, hand) {
        let why = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater \
             than {HASH_BITS_MAX}"
        );
        errors.invalid(&here, hand, &why);
    }
}

/// Whether dealing `hand` of `deck` cards takes more bits than a hash has; a hand of more than the
/// bits of a hash of more cards than that always does, so the loop is short.
fn entropy_bits_exceed(deck: i64, hand: i64) -> bool {
    let mut ways: u128 = 1;
    for dealt in 0..hand {
        let cards = u128::try_from(deck - dealt).unwrap_or(1);
        ways = ways.saturating_mul(cards);
        if ways > 1 << HASH_BITS_MAX {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wrong(name: &str, spec: Value) -> Vec<String> {
        let level = json!({"metadata": {"name": name}, "spec": spec});
        let mut level = Object::from_value(level).unwrap();
        default(&mut level);
        validate(&level).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn levels_are_filled_in_and_checked() {
        let queue = json!({"type": "Queue", "queuing": {}});
        let good = json!({"type": "Limited", "limited": {"limitResponse": queue}});
        assert_eq!(wrong("a", good.clone()), [""; 0]);
        assert_eq!(
            wrong("exempt", good),
            [
                "spec.type: Invalid value: \"Limited\": type must be 'Exempt' if and only if name \
                 is 'exempt'"
            ]
        );
        let queue = json!({"type": "Queue", "queuing": {"queues": 1024, "handSize": 8}});
        assert_eq!(
            wrong(
                "a",
                json!({"type": "Limited", "limited": {"limitResponse": queue}})
            ),
            [
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 8: required entropy \
                 bits of deckSize 1024 and handSize 8 should not be greater than 60"
            ]
        );
    }
}
