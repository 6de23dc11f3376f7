//! Deployment: replica sets, one a version, rolled from one to the next.

use jiff::Timestamp;
use serde_json::Value;

use super::validation::{self, SPEC, STATUS};
use crate::api::kinds::defaults::{set, text as set_text};
use crate::api::kinds::{Column, KindDef, Subresource, cells, prepare, rows};
use crate::api::object::{Object, child_mut};
use crate::api::selector::label::format_label_selector;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, common, text};

pub(crate) const DEF: KindDef = KindDef {
    group: "apps",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    subresources: SUBRESOURCES,
    schema: "apps.v1.Deployment",
    storage: "deployments.apps",
    columns: COLUMNS,
    cells: row,
    prepare_create: prepare::drop_status,
    prepare_update: prepare::keep_status,
    prepare_status: prepare::only_status_without_labels,
    has_generation: true,
    default,
    validate,
    validate_update,
    validate_status,
    ..KindDef::BASE
};

const SUBRESOURCES: &[Subresource] = &[
    rows::SCALE,
    rows::item("status", ("apps", "v1", "Deployment")),
];

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string("Ready", "Number of the pod with ready state"),
    rows::string(
        "Up-to-date",
        "Total number of non-terminating pods targeted by this deployment that have the desired \
         template spec.",
    ),
    rows::string(
        "Available",
        "Total number of available non-terminating pods (ready for at least minReadySeconds) \
         targeted by this deployment.",
    ),
    rows::AGE,
    rows::wide("Containers", "Names of each container in the template."),
    rows::wide(
        "Images",
        "Images referenced by each container in the template.",
    ),
    rows::wide(
        "Selector",
        "Label selector for pods. Existing ReplicaSets whose pods are selected by this will be \
         the ones affected by this deployment. It must match the pod template's labels.",
    ),
];

fn row(deployment: &Object, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (deployment.field("spec"), deployment.field("status"));
    let ready = status["readyReplicas"].as_i64().unwrap_or(0);
    let wanted = spec["replicas"].as_i64().unwrap_or(0);
    let [names, images] = cells::containers(&spec["template"]["spec"]);
    vec![
        cells::name(deployment),
        format!("{ready}/{wanted}").into(),
        cells::number(&status["updatedReplicas"]),
        cells::number(&status["availableReplicas"]),
        cells::age(deployment, now),
        names,
        images,
        format_label_selector(&spec["selector"]).into(),
    ]
}

fn default(deployment: &mut Object) {
    validation::default(deployment);
    let spec = child_mut(&mut deployment.0, "spec");
    set(spec, "revisionHistoryLimit", 10);
    set(spec, "progressDeadlineSeconds", 600);
    let strategy = child_mut(spec, "strategy");
    set_text(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = child_mut(strategy, "rollingUpdate");
        set(rolling, "maxUnavailable", "25%");
        set(rolling, "maxSurge", "25%");
    }
}

fn validate(deployment: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = deployment.field("spec");
    validation::replicas_selector_template(&mut errors, spec, "ReplicaSet");
    strategy(&mut errors, &spec["strategy"], &SPEC.field("strategy"));
    let path = SPEC.field("revisionHistoryLimit");
    errors.nonnegative(&path, &spec["revisionHistoryLimit"]);
    if let Some(deadline) = spec["progressDeadlineSeconds"].as_i64() {
        let path = SPEC.field("progressDeadlineSeconds");
        errors.nonnegative(&path, &spec["progressDeadlineSeconds"]);
        if deadline <= spec["minReadySeconds"].as_i64().unwrap_or(0) {
            errors.invalid(&path, deadline, "must be greater than minReadySeconds");
        }
    }
    errors.into_vec()
}

fn strategy(errors: &mut Errors, strategy: &Value, path: &Path<'_>) {
    let rolling = &strategy["rollingUpdate"];
    let rolling_path = path.field("rollingUpdate");
    match text(&strategy["type"]) {
        "Recreate" if !rolling.is_null() => {
            let why = "may not be specified when strategy `type` is 'Recreate'";
            errors.forbidden(&rolling_path, why);
        }
        "Recreate" => {}
        "RollingUpdate" if rolling.is_null() => {
            errors.required(&rolling_path, "this should be defaulted and never be nil");
        }
        "RollingUpdate" => rolling_update(errors, rolling, &rolling_path),
        other => errors.not_supported(&path.field("type"), other, &["Recreate", "RollingUpdate"]),
    }
}

fn rolling_update(errors: &mut Errors, rolling: &Value, path: &Path<'_>) {
    let (surge, unavailable) = (&rolling["maxSurge"], &rolling["maxUnavailable"]);
    let path_of_unavailable = path.field("maxUnavailable");
    common::positive_int_or_percent(errors, unavailable, &path_of_unavailable);
    common::positive_int_or_percent(errors, surge, &path.field("maxSurge"));
    if validation::is_zero(surge) && validation::is_zero(unavailable) {
        let why = "may not be 0 when `maxSurge` is 0";
        errors.invalid(&path_of_unavailable, unavailable.clone(), why);
    }
    validation::at_most_all(errors, unavailable, &path_of_unavailable);
}

fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    errors.extend(validate(new));
    validation::same_selector(&mut errors, new, old);
    errors.into_vec()
}

fn validate_status(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let counts = ["updatedReplicas", "readyReplicas", "availableReplicas"];
    let status = new.field("status");
    errors.extend(validation::counts(status, &counts));
    for field in ["unavailableReplicas", "collisionCount"] {
        errors.nonnegative(&STATUS.field(field), &status[field]);
    }
    validation::collisions(&mut errors, new, old);
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(change: impl Fn(&mut Value)) -> Object {
        let mut value = json!({"spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                         "spec": {"containers": [{"name": "c", "image": "nginx:1"}]}},
        }});
        change(&mut value);
        let mut deployment = Object::from_value(value).unwrap();
        default(&mut deployment);
        deployment
    }

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_smallest_deployment_is_filled_in_and_valid() {
        let deployment = deployment(|_| {});
        let spec = deployment.field("spec");
        assert_eq!(texts(&validate(&deployment)), [""; 0]);
        assert_eq!(spec["replicas"], 1);
        assert_eq!(
            spec["strategy"],
            json!({"type": "RollingUpdate",
                   "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
        );
        let container = &spec["template"]["spec"]["containers"][0];
        assert_eq!(container["imagePullPolicy"], "IfNotPresent");
        assert_eq!(row(&deployment, Timestamp::UNIX_EPOCH)[7], "app=web");
    }

    #[test]
    fn the_selector_selects_the_template_and_stays() {
        let other = deployment(|d| d["spec"]["selector"] = json!({"matchLabels": {"app": "db"}}));
        assert_eq!(
            texts(&validate_update(&other, &deployment(|_| {}))),
            [
                "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does \
                 not match template `labels`",
                "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"db\"}}: field is \
                 immutable",
            ]
        );
        let none = deployment(|d| d["spec"]["selector"] = Value::Null);
        assert_eq!(
            texts(&validate(&none)),
            [
                "spec.selector: Required value",
                "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does \
                 not match template `labels`",
            ]
        );
    }

    #[test]
    fn strategies_can_move() {
        let with = |strategy: Value| {
            texts(&validate(&deployment(|d| {
                d["spec"]["strategy"] = strategy.clone()
            })))
        };
        assert_eq!(
            with(json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}})),
            [
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 \
                 when `maxSurge` is 0"
            ]
        );
        assert_eq!(
            with(json!({"rollingUpdate": {"maxUnavailable": "101%", "maxSurge": "x"}})),
            [
                "spec.strategy.rollingUpdate.maxSurge: Invalid value: \"x\": a valid percent \
                 string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', \
                 regex used for validation is '[0-9]+%')",
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be \
                 greater than 100%",
            ]
        );
        assert_eq!(
            with(json!({"type": "Recreate", "rollingUpdate": {}})),
            [
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy \
                 `type` is 'Recreate'"
            ]
        );
    }

    #[test]
    fn templates_restart_always() {
        let once = deployment(|d| d["spec"]["template"]["spec"]["restartPolicy"] = "Never".into());
        assert_eq!(
            texts(&validate(&once)),
            [
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported \
                 values: \"Always\""
            ]
        );
    }

    #[test]
    fn counts_of_a_status_fit_together() {
        let status = |status: Value| Object::from_value(json!({"status": status})).unwrap();
        let new = status(json!({"replicas": 1, "readyReplicas": 2, "availableReplicas": 1}));
        assert_eq!(
            texts(&validate_status(
                &new,
                &status(json!({"collisionCount": 1}))
            )),
            [
                "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
                "status.collisionCount: Invalid value: null: cannot be decremented",
            ]
        );
    }
}
