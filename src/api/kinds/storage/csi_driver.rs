//! CSIDriver: how a driver wants its volumes handled.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::GROUP;
use crate::api::gvk::Scope;
use crate::api::kinds::defaults::{child, set};
use crate::api::kinds::{Column, KindDef, cells, rows};
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, list, text};

pub(crate) const DEF: KindDef = KindDef {
    group: GROUP,
    kind: "CSIDriver",
    plural: "csidrivers",
    singular: "csidriver",
    scope: Scope::Cluster,
    schema: "storage.v1.CSIDriver",
    storage: "csidrivers.storage.k8s.io",
    columns: COLUMNS,
    cells: row,
    has_generation: true,
    default,
    validate,
    validate_update,
    unconditional_update: false,
    ..KindDef::BASE
};

const fn boolean(name: &'static str, description: &'static str) -> Column {
    Column {
        kind: "boolean",
        ..rows::string(name, description)
    }
}

const COLUMNS: &[Column] = &[
    rows::NAME,
    boolean(
        "AttachRequired",
        "attachRequired indicates this CSI volume driver requires an attach operation",
    ),
    boolean(
        "PodInfoOnMount",
        "podInfoOnMount indicates this CSI volume driver requires additional pod information \
         during mount operations, if set to true.",
    ),
    boolean(
        "StorageCapacity",
        "storageCapacity indicates that the CSI volume driver wants pod scheduling to consider the \
         storage capacity that the driver deployment will report",
    ),
    rows::string(
        "TokenRequests",
        "tokenRequests indicates the CSI driver needs pods' service account tokens it is mounting \
         volume for to do necessary authentication.",
    ),
    boolean(
        "RequiresRepublish",
        "requiresRepublish indicates the CSI driver wants `NodePublishVolume` being periodically \
         called to reflect any possible change in the mounted volume.",
    ),
    rows::string(
        "Modes",
        "volumeLifecycleModes defines what kind of volumes this CSI volume driver supports.",
    ),
    rows::AGE,
];

const SPEC: Path<'static> = Path::root("spec");
const FS_GROUP: [&str; 3] = ["File", "None", "ReadWriteOnceWithFSType"];
const MODES: [&str; 2] = ["Persistent", "Ephemeral"];
const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;
const UPDATE_SECONDS_MIN: i64 = 10;

fn row(driver: &Object, now: Timestamp) -> Vec<Value> {
    let spec = driver.field("spec");
    let joined = |field: &str, of: &dyn Fn(&Value) -> String| -> String {
        let texts: Vec<_> = list(&spec[field]).iter().map(of).collect();
        texts.join(",")
    };
    let audiences = joined("tokenRequests", &|one| text(&one["audience"]).to_owned());
    let tokens = if list(&spec["tokenRequests"]).is_empty() {
        "<unset>".to_owned()
    } else {
        audiences
    };
    vec![
        cells::name(driver),
        // Absent means that it must be attached.
        (spec["attachRequired"] != false).into(),
        (spec["podInfoOnMount"] == true).into(),
        (spec["storageCapacity"] == true).into(),
        tokens.into(),
        (spec["requiresRepublish"] == true).into(),
        cells::or_none(&joined("volumeLifecycleModes", &|one| text(one).to_owned())),
        cells::age(driver, now),
    ]
}

fn default(driver: &mut Object) {
    let Some(spec) = child(&mut driver.0, "spec") else {
        return;
    };
    set(spec, "attachRequired", true);
    set(spec, "podInfoOnMount", false);
    set(spec, "storageCapacity", false);
    set(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    set(spec, "requiresRepublish", false);
    set(spec, "seLinuxMount", false);
    if list(spec.get("volumeLifecycleModes").unwrap_or(&Value::Null)).is_empty() {
        spec.insert("volumeLifecycleModes".to_owned(), json!(["Persistent"]));
    }
}

fn validate(driver: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = driver.field("spec");
    for (field, shown) in [
        // Upstream's own spelling of this path.
        ("attachRequired", "attachedRequired"),
        ("podInfoOnMount", "podInfoOnMount"),
        ("storageCapacity", "storageCapacity"),
        ("seLinuxMount", "seLinuxMount"),
    ] {
        if spec[field].is_null() {
            errors.required(&SPEC.field(shown), "");
        }
    }
    let policy = &spec["fsGroupPolicy"];
    if !policy.is_null() && !FS_GROUP.contains(&text(policy)) {
        errors.not_supported(&SPEC.field("fsGroupPolicy"), text(policy), &FS_GROUP);
    }
    token_requests(&mut errors, list(&spec["tokenRequests"]));
    for mode in list(&spec["volumeLifecycleModes"]).iter().map(text) {
        if !MODES.contains(&mode) {
            errors.not_supported(&SPEC.field("volumeLifecycleModes"), mode, &MODES);
        }
    }
    let field = "nodeAllocatableUpdatePeriodSeconds";
    if let Some(seconds) = spec[field].as_i64()
        && seconds < UPDATE_SECONDS_MIN
    {
        let why = "must be greater than or equal to 10 seconds";
        errors.invalid(&SPEC.field(field), seconds, why);
    }
    errors.into_vec()
}

fn token_requests(errors: &mut Errors, requests: &[Value]) {
    let mut audiences = BTreeSet::new();
    let path = SPEC.field("tokenRequests");
    for (index, request) in requests.iter().enumerate() {
        let here = path.index(index);
        let audience = text(&request["audience"]);
        if !audiences.insert(audience) {
            errors.duplicate(&here.field("audience"), audience);
            continue;
        }
        let seconds_path = here.field("expirationSeconds");
        match request["expirationSeconds"].as_i64() {
            Some(seconds) if seconds < TOKEN_SECONDS_MIN => {
                let why = "may not specify a duration less than 10 minutes";
                errors.invalid(&seconds_path, seconds, why);
            }
            Some(seconds) if seconds > TOKEN_SECONDS_MAX => {
                let why = "may not specify a duration larger than 2^32 seconds";
                errors.invalid(&seconds_path, seconds, why);
            }
            _ => {}
        }
    }
}

fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    errors.extend(validate(new));
    let (now, was) = (new.field("spec"), old.field("spec"));
    for (field, shown) in [
        ("attachRequired", "attachedRequired"),
        ("volumeLifecycleModes", "volumeLifecycleModes"),
    ] {
        errors.immutable(&SPEC.field(shown), &now[field], &was[field]);
    }
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_filled_in_and_checked() {
        let driver = |spec: Value| {
            let mut driver = Object::from_value(json!({"spec": spec})).unwrap();
            default(&mut driver);
            driver
        };
        let good = driver(json!({}));
        assert!(validate(&good).is_empty());
        let row = row(&good, Timestamp::UNIX_EPOCH);
        assert_eq!(row[1], true);
        assert_eq!(
            (&row[4], &row[6]),
            (&json!("<unset>"), &json!("Persistent"))
        );
        let bad = driver(json!({"attachRequired": false,
            "tokenRequests": [{"audience": "a", "expirationSeconds": 1}, {"audience": "a"}]}));
        let texts: Vec<_> = validate_update(&bad, &good)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            texts,
            [
                "spec.tokenRequests[0].expirationSeconds: Invalid value: 1: may not specify a \
                 duration less than 10 minutes",
                "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
                "spec.attachedRequired: Invalid value: false: field is immutable",
            ]
        );
    }
}
