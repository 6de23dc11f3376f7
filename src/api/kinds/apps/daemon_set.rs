//! DaemonSet: one pod of a template on every node.

use jiff::Timestamp;
use serde_json::Value;

use super::validation::{self, SPEC, STATUS};
use crate::api::kinds::defaults::{set, text as set_text};
use crate::api::kinds::{Column, KindDef, Subresource, cells, prepare, rows};
use crate::api::object::{Object, child_mut};
use crate::api::selector::label::format_label_selector;
use crate::api::status::FieldError;
use crate::api::validation::{Errors, text};

pub(crate) const DEF: KindDef = KindDef {
    group: "apps",
    kind: "DaemonSet",
    plural: "daemonsets",
    singular: "daemonset",
    short_names: &["ds"],
    categories: &["all"],
    subresources: SUBRESOURCES,
    schema: "apps.v1.DaemonSet",
    storage: "daemonsets.apps",
    columns: COLUMNS,
    cells: row,
    prepare_create,
    prepare_update,
    has_generation: true,
    default,
    validate,
    validate_update,
    validate_status,
    ..KindDef::BASE
};

const SUBRESOURCES: &[Subresource] = &[rows::item("status", ("apps", "v1", "DaemonSet"))];

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::integer(
        "Desired",
        "The total number of nodes that should be running the daemon pod (including nodes \
         correctly running the daemon pod). More info: \
         https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/",
    ),
    rows::integer(
        "Current",
        "The number of nodes that are running at least 1 daemon pod and are supposed to run the \
         daemon pod. More info: \
         https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/",
    ),
    rows::integer(
        "Ready",
        "numberReady is the number of nodes that should be running the daemon pod and have one or \
         more of the daemon pod running with a Ready Condition.",
    ),
    rows::integer(
        "Up-to-date",
        "The total number of nodes that are running updated daemon pod",
    ),
    rows::integer(
        "Available",
        "The number of nodes that should be running the daemon pod and have one or more of the \
         daemon pod running and available (ready for at least spec.minReadySeconds)",
    ),
    rows::string(
        "Node Selector",
        "NodeSelector is a selector which must be true for the pod to fit on a node. Selector \
         which must match a node's labels for the pod to be scheduled on that node. More info: \
         https://kubernetes.io/docs/concepts/configuration/assign-pod-node/",
    ),
    rows::AGE,
    rows::wide("Containers", "Names of each container in the template."),
    rows::wide(
        "Images",
        "Images referenced by each container in the template.",
    ),
    rows::wide(
        "Selector",
        "A label query over pods that are managed by the daemon set. Must match in order to be \
         controlled. It must match the pod template's labels. More info: \
         https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
    ),
];

fn row(daemons: &Object, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (daemons.field("spec"), daemons.field("status"));
    let pod = &spec["template"]["spec"];
    let [names, images] = cells::containers(pod);
    vec![
        cells::name(daemons),
        cells::number(&status["desiredNumberScheduled"]),
        cells::number(&status["currentNumberScheduled"]),
        cells::number(&status["numberReady"]),
        cells::number(&status["updatedNumberScheduled"]),
        cells::number(&status["numberAvailable"]),
        cells::labels(&pod["nodeSelector"]),
        cells::age(daemons, now),
        names,
        images,
        format_label_selector(&spec["selector"]).into(),
    ]
}

fn default(daemons: &mut Object) {
    let spec = child_mut(&mut daemons.0, "spec");
    crate::api::kinds::core::pod::default::template(spec);
    set(spec, "revisionHistoryLimit", 10);
    let strategy = child_mut(spec, "updateStrategy");
    set_text(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = child_mut(strategy, "rollingUpdate");
        set(rolling, "maxUnavailable", 1);
        set(rolling, "maxSurge", 0);
    }
}

/// Counts changes of the template.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn prepare_create(daemons: &mut Object) {
    prepare::drop_status(daemons);
    set_template_generation(daemons, 1);
}

fn prepare_update(new: &mut Object, old: &Object) {
    prepare::keep_status(new, old);
    let was = old.text_at(&["metadata", "annotations", TEMPLATE_GENERATION]);
    let was: i64 = was.parse().unwrap_or(0);
    let is_changed = new.field("spec")["template"] != old.field("spec")["template"];
    set_template_generation(new, was + i64::from(is_changed));
}

fn set_template_generation(daemons: &mut Object, generation: i64) {
    child_mut(daemons.metadata_mut(), "annotations").insert(
        TEMPLATE_GENERATION.to_owned(),
        generation.to_string().into(),
    );
}

fn validate(daemons: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = daemons.field("spec");
    validation::replicas_selector_template(&mut errors, spec, "DaemonSet");
    update_strategy(&mut errors, &spec["updateStrategy"]);
    let path = SPEC.field("revisionHistoryLimit");
    errors.nonnegative(&path, &spec["revisionHistoryLimit"]);
    errors.into_vec()
}

fn update_strategy(errors: &mut Errors, strategy: &Value) {
    let path = SPEC.field("updateStrategy");
    let rolling = &strategy["rollingUpdate"];
    let rolling_path = path.field("rollingUpdate");
    match text(&strategy["type"]) {
        "OnDelete" => {}
        "RollingUpdate" if rolling.is_null() => errors.required(&rolling_path, ""),
        "RollingUpdate" => {
            let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
            let unavailable_path = rolling_path.field("maxUnavailable");
            let surge_path = rolling_path.field("maxSurge");
            validation::unavailable(errors, unavailable, &unavailable_path);
            validation::unavailable(errors, surge, &surge_path);
            match (validation::is_zero(unavailable), validation::is_zero(surge)) {
                (false, false) => {
                    let why = "may not be set when maxUnavailable is non-zero";
                    errors.invalid(&surge_path, surge.clone(), why);
                }
                (true, true) => {
                    errors.required(&unavailable_path, "cannot be 0 when maxSurge is 0");
                }
                _ => {}
            }
        }
        other => {
            let supported = ["RollingUpdate", "OnDelete"];
            errors.not_supported(&path.field("type"), other, &supported);
        }
    }
}

fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    errors.extend(validate(new));
    validation::same_selector(&mut errors, new, old);
    errors.into_vec()
}

fn validate_status(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    for field in [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ] {
        errors.nonnegative(&STATUS.field(field), &new.field("status")[field]);
    }
    validation::collisions(&mut errors, new, old);
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn daemons(rolling: Value) -> Object {
        let value = json!({"spec": {
            "selector": {"matchLabels": {"app": "log"}},
            "updateStrategy": {"rollingUpdate": rolling},
            "template": {"metadata": {"labels": {"app": "log"}},
                         "spec": {"containers": [{"name": "c", "image": "log:1"}]}},
        }});
        let mut daemons = Object::from_value(value).unwrap();
        default(&mut daemons);
        daemons
    }

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_rollout_surges_or_takes_away() {
        let fine = daemons(json!({}));
        assert_eq!(texts(&validate(&fine)), [""; 0]);
        assert_eq!(
            fine.field("spec")["updateStrategy"]["rollingUpdate"],
            json!({"maxUnavailable": 1, "maxSurge": 0})
        );
        assert_eq!(
            texts(&validate(&daemons(json!({"maxSurge": "10%"})))),
            [
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: \"10%\": may not be set \
              when maxUnavailable is non-zero"
            ]
        );
        assert_eq!(
            texts(&validate(&daemons(json!({"maxUnavailable": 0})))),
            [
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when \
              maxSurge is 0"
            ]
        );
    }

    #[test]
    fn changes_of_the_template_are_counted() {
        let mut old = daemons(json!({}));
        prepare_create(&mut old);
        let count = |daemons: &Object| {
            let path = ["metadata", "annotations", TEMPLATE_GENERATION];
            daemons.text_at(&path).to_owned()
        };
        let mut new = old.clone();
        prepare_update(&mut new, &old);
        assert_eq!((count(&old), count(&new)), ("1".to_owned(), "1".to_owned()));
        new.0["spec"]["template"]["spec"]["hostNetwork"] = true.into();
        prepare_update(&mut new, &old);
        assert_eq!(count(&new), "2");
        assert_eq!(row(&new, Timestamp::UNIX_EPOCH)[6], "<none>");
    }
}
