//! StatefulSet: pods with names and storage that stay theirs.

use jiff::Timestamp;
use serde_json::Value;

use super::validation::{self, SPEC, STATUS};
use crate::api::kinds::core::persistent_volume_claim::default_claim;
use crate::api::kinds::defaults::{items, set, text as set_text};
use crate::api::kinds::{Column, KindDef, Subresource, cells, label_name, prepare, rows};
use crate::api::object::{Object, child_mut};
use crate::api::status::FieldError;
use crate::api::validation::{Errors, is_set, text};

pub(crate) const DEF: KindDef = KindDef {
    group: "apps",
    kind: "StatefulSet",
    plural: "statefulsets",
    singular: "statefulset",
    short_names: &["sts"],
    categories: &["all"],
    subresources: SUBRESOURCES,
    schema: "apps.v1.StatefulSet",
    storage: "statefulsets.apps",
    columns: COLUMNS,
    cells: row,
    prepare_create: prepare::drop_status,
    prepare_update: prepare::keep_status,
    has_generation: true,
    default,
    validate,
    validate_update,
    validate_status,
    validate_name: label_name,
    ..KindDef::BASE
};

const SUBRESOURCES: &[Subresource] = &[
    rows::SCALE,
    rows::item("status", ("apps", "v1", "StatefulSet")),
];

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string("Ready", "Number of the pod with ready state"),
    rows::AGE,
    rows::wide("Containers", "Names of each container in the template."),
    rows::wide(
        "Images",
        "Images referenced by each container in the template.",
    ),
];

fn row(set: &Object, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (set.field("spec"), set.field("status"));
    let ready = status["readyReplicas"].as_i64().unwrap_or(0);
    let wanted = spec["replicas"].as_i64().unwrap_or(0);
    let [names, images] = cells::containers(&spec["template"]["spec"]);
    vec![
        cells::name(set),
        format!("{ready}/{wanted}").into(),
        cells::age(set, now),
        names,
        images,
    ]
}

fn default(stateful: &mut Object) {
    validation::default(stateful);
    let spec = child_mut(&mut stateful.0, "spec");
    set_text(spec, "podManagementPolicy", "OrderedReady");
    set(spec, "revisionHistoryLimit", 10);
    let strategy = child_mut(spec, "updateStrategy");
    set_text(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        set(child_mut(strategy, "rollingUpdate"), "partition", 0);
    }
    let retention = child_mut(spec, "persistentVolumeClaimRetentionPolicy");
    set_text(retention, "whenDeleted", "Retain");
    set_text(retention, "whenScaled", "Retain");
    for claim in items(spec, "volumeClaimTemplates") {
        claim.insert("apiVersion".to_owned(), "v1".into());
        claim.insert("kind".to_owned(), "PersistentVolumeClaim".into());
        default_claim(claim);
    }
}

fn validate(set: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = set.field("spec");
    let path = SPEC.field("podManagementPolicy");
    match text(&spec["podManagementPolicy"]) {
        "" => errors.required(&path, ""),
        "OrderedReady" | "Parallel" => {}
        other => errors.invalid(&path, other, "must be 'OrderedReady' or 'Parallel'"),
    }
    update_strategy(&mut errors, &spec["updateStrategy"]);
    let retention = SPEC.field("persistentVolumeClaimRetentionPolicy");
    for field in ["whenDeleted", "whenScaled"] {
        let policy = text(&spec["persistentVolumeClaimRetentionPolicy"][field]);
        if !matches!(policy, "Retain" | "Delete") {
            errors.not_supported(&retention.field(field), policy, &["Delete", "Retain"]);
        }
    }
    let ordinals = SPEC.field("ordinals");
    errors.nonnegative(&ordinals.field("start"), &spec["ordinals"]["start"]);
    let history = SPEC.field("revisionHistoryLimit");
    errors.nonnegative(&history, &spec["revisionHistoryLimit"]);
    validation::replicas_selector_template(&mut errors, spec, "StatefulSet");
    errors.into_vec()
}

fn update_strategy(errors: &mut Errors, strategy: &Value) {
    let path = SPEC.field("updateStrategy");
    let rolling_path = path.field("rollingUpdate");
    let rolling = &strategy["rollingUpdate"];
    match text(&strategy["type"]) {
        "" => errors.required(&path, ""),
        "OnDelete" if rolling.is_null() => {}
        "OnDelete" => {
            let why = "only allowed for updateStrategy 'RollingUpdate'";
            errors.invalid(&rolling_path, rolling.clone(), why);
        }
        "RollingUpdate" => {
            errors.nonnegative(&rolling_path.field("partition"), &rolling["partition"]);
            let unavailable = &rolling["maxUnavailable"];
            if is_set(unavailable) {
                let path = rolling_path.field("maxUnavailable");
                validation::unavailable(errors, unavailable, &path);
                if validation::is_zero(unavailable) {
                    errors.invalid(&path, unavailable.clone(), "cannot be 0");
                }
            }
        }
        _ => {
            let why = "must be 'RollingUpdate' or 'OnDelete'";
            errors.invalid(&path, strategy.clone(), why);
        }
    }
}

/// What of `spec` may change.
const MAY_CHANGE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    errors.extend(validate(new));
    let rest = |set: &Object| {
        let mut spec = set.spec().cloned().unwrap_or_default();
        spec.retain(|field, _| !MAY_CHANGE.contains(&field.as_str()));
        spec
    };
    if rest(new) != rest(old) {
        let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', \
            'template', 'updateStrategy', 'revisionHistoryLimit', \
            'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        errors.forbidden(&SPEC, why);
    }
    errors.into_vec()
}

fn validate_status(new: &Object, old: &Object) -> Vec<FieldError> {
    let counts = [
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
    ];
    let status = new.field("status");
    let mut errors = Errors::new();
    errors.extend(validation::counts(status, &counts));
    let path = STATUS.field("collisionCount");
    errors.nonnegative(&path, &status["collisionCount"]);
    validation::collisions(&mut errors, new, old);
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set_of(change: impl Fn(&mut Value)) -> Object {
        let mut value = json!({"spec": {
            "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}},
                         "spec": {"containers": [{"name": "c", "image": "db:1"}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}],
        }});
        change(&mut value);
        let mut set = Object::from_value(value).unwrap();
        default(&mut set);
        set
    }

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_smallest_set_is_filled_in_and_valid() {
        let set = set_of(|_| {});
        assert_eq!(texts(&validate(&set)), [""; 0]);
        let spec = set.field("spec");
        assert_eq!(spec["podManagementPolicy"], "OrderedReady");
        assert_eq!(
            spec["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
        );
        assert_eq!(
            spec["volumeClaimTemplates"][0],
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": {"name": "data"}, "spec": {"volumeMode": "Filesystem"},
                "status": {"phase": "Pending"}})
        );
        assert_eq!(row(&set, Timestamp::UNIX_EPOCH)[1], "0/1");
    }

    #[test]
    fn each_rule_has_its_words() {
        let wrong = set_of(|s| {
            s["spec"]["podManagementPolicy"] = "Random".into();
            s["spec"]["updateStrategy"] = json!({"type": "OnDelete", "rollingUpdate": {}});
            s["spec"]["selector"] = json!({});
            s["spec"]["template"]["spec"]["activeDeadlineSeconds"] = 1.into();
        });
        assert_eq!(
            texts(&validate(&wrong)),
            [
                "spec.podManagementPolicy: Invalid value: \"Random\": must be 'OrderedReady' or \
                 'Parallel'",
                "spec.updateStrategy.rollingUpdate: Invalid value: {}: only allowed for \
                 updateStrategy 'RollingUpdate'",
                "spec.selector: Invalid value: {}: empty selector is invalid for statefulset",
                "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in \
                 StatefulSet is not Supported",
            ]
        );
    }

    #[test]
    fn most_of_a_set_stays() {
        let other = set_of(|s| s["spec"]["serviceName"] = "other".into());
        let wrong = texts(&validate_update(&other, &set_of(|_| {})));
        assert!(wrong[0].starts_with("spec: Forbidden: updates to statefulset spec for fields"));
        let larger = set_of(|s| s["spec"]["replicas"] = 5.into());
        assert_eq!(texts(&validate_update(&larger, &set_of(|_| {}))), [""; 0]);
    }
}
