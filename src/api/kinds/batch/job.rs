//! Job: pods that run until enough of them have ended well.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::kinds::defaults::{child, items, set, text as set_text};
use crate::api::kinds::{Column, KindDef, Subresource, cells, prepare, rows};
use crate::api::name;
use crate::api::object::{Object, child_mut};
use crate::api::selector::label::{Selector, format_label_selector};
use crate::api::status::FieldError;
use crate::api::time;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, common, list, pod_spec, text};

pub(crate) const DEF: KindDef = KindDef {
    group: "batch",
    kind: "Job",
    plural: "jobs",
    singular: "job",
    categories: &["all"],
    subresources: SUBRESOURCES,
    schema: "batch.v1.Job",
    storage: "jobs.batch",
    columns: COLUMNS,
    cells: row,
    fields,
    default,
    prepare_create,
    prepare_update: prepare::keep_status,
    has_generation: true,
    validate,
    validate_update,
    validate_status,
    ..KindDef::BASE
};

const SUBRESOURCES: &[Subresource] = &[rows::item("status", ("batch", "v1", "Job"))];

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string("Status", "Status of the job."),
    rows::string("Completions", "Number of pods that have succeeded."),
    rows::string("Duration", "Time required to complete the job."),
    rows::AGE,
    rows::wide("Containers", "Names of each container in the template."),
    rows::wide(
        "Images",
        "Images referenced by each container in the template.",
    ),
    rows::wide(
        "Selector",
        "A label query over pods that should match the pod count. Normally, the system sets this \
         field for you. More info: \
         https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
    ),
];

fn row(job: &Object, now: Timestamp) -> Vec<Value> {
    let spec = job.field("spec");
    let [names, images] = cells::containers(&spec["template"]["spec"]);
    vec![
        cells::name(job),
        state(job).into(),
        completions(job).into(),
        duration(job, now).into(),
        cells::age(job, now),
        names,
        images,
        format_label_selector(&spec["selector"]).into(),
    ]
}

fn state(job: &Object) -> &'static str {
    let conditions = list(&job.field("status")["conditions"]);
    let holds = |kind| {
        let is_it = |c: &Value| c["type"] == kind && c["status"] == "True";
        conditions.iter().any(is_it)
    };
    match () {
        () if holds("Complete") => "Complete",
        () if holds("Failed") => "Failed",
        () if job.is_terminating() => "Terminating",
        () if holds("Suspended") => "Suspended",
        () if holds("FailureTarget") => "FailureTarget",
        () if holds("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

fn completions(job: &Object) -> String {
    let spec = job.field("spec");
    let done = job.field("status")["succeeded"].as_i64().unwrap_or(0);
    let at_once = spec["parallelism"].as_i64().unwrap_or(0);
    match spec["completions"].as_i64() {
        Some(wanted) => format!("{done}/{wanted}"),
        None if at_once > 1 => format!("{done}/1 of {at_once}"),
        None => format!("{done}/1"),
    }
}

fn duration(job: &Object, now: Timestamp) -> String {
    let at = |field: &str| time::parse(job.text_at(&["status", field]));
    match at("startTime") {
        Some(start) => time::human(at("completionTime").unwrap_or(now).duration_since(start)),
        None => String::new(),
    }
}

fn fields(job: &Object) -> Vec<(&'static str, String)> {
    let done = job.field("status")["succeeded"].as_i64().unwrap_or(0);
    vec![("status.successful", done.to_string())]
}

fn default(job: &mut Object) {
    let labels = job.at(&["spec", "template", "metadata", "labels"]).cloned();
    let spec = child_mut(&mut job.0, "spec");
    default_spec(spec);
    let is_unsaid = |spec: &serde_json::Map<String, Value>, field: &str| {
        spec.get(field).is_none_or(Value::is_null)
    };
    if is_unsaid(spec, "completions") && is_unsaid(spec, "parallelism") {
        set(spec, "completions", 1);
    }
    set(spec, "parallelism", 1);
    let retries = match is_unsaid(spec, "backoffLimitPerIndex") {
        true => 6,
        false => i32::MAX,
    };
    set(spec, "backoffLimit", retries);
    set_text(spec, "completionMode", "NonIndexed");
    set(spec, "suspend", false);
    set(spec, "manualSelector", false);
    let replacement = match is_unsaid(spec, "podFailurePolicy") {
        true => "TerminatingOrFailed",
        false => "Failed",
    };
    set_text(spec, "podReplacementPolicy", replacement);
    if let Some(labels) = labels.filter(|labels| cells::count(labels) > 0) {
        let own = child_mut(job.metadata_mut(), "labels");
        if own.is_empty() {
            job.metadata_mut().insert("labels".to_owned(), labels);
        }
    }
}

/// Defaults of a Job's spec and of that of a CronJob's template.
pub(super) fn default_spec(spec: &mut serde_json::Map<String, Value>) {
    crate::api::kinds::core::pod::default::template(spec);
    if let Some(policy) = child(spec, "podFailurePolicy") {
        for rule in items(policy, "rules") {
            items(rule, "onPodConditions").for_each(|c| set_text(c, "status", "True"));
        }
    }
}

const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";

/// Labels of the pods of a job whose selector is made for it, and the job's field they repeat.
const LABELS: [(&str, &str); 4] = [
    (CONTROLLER_UID, "uid"),
    ("batch.kubernetes.io/job-name", "name"),
    ("controller-uid", "uid"),
    ("job-name", "name"),
];

fn prepare_create(job: &mut Object) {
    prepare::drop_status(job);
    if job.field("spec")["manualSelector"] == true {
        return;
    }
    let values = LABELS.map(|(label, field)| (label, job.meta(field).to_owned()));
    let uid = job.uid().to_owned();
    let spec = child_mut(&mut job.0, "spec");
    let template = child_mut(spec, "template");
    let labels = child_mut(child_mut(template, "metadata"), "labels");
    for (label, value) in values {
        labels.entry(label).or_insert(value.into());
    }
    let selector = child_mut(child_mut(spec, "selector"), "matchLabels");
    selector.entry(CONTROLLER_UID).or_insert(uid.into());
}

const SPEC: Path<'static> = Path::root("spec");

fn validate(job: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = job.field("spec");
    generated_selector(&mut errors, job);
    validate_spec(&mut errors, spec, &SPEC);
    let completions = spec["completions"].as_i64().unwrap_or(0);
    if spec["completionMode"] == "Indexed" && completions > 0 {
        let pod = format!("{}-{}", job.name(), completions - 1);
        if !name::dns1123_label(&pod).is_empty() {
            let why = format!("will not able to create pod with invalid DNS label: {pod}");
            errors.invalid(&Path::root("metadata.name"), job.name(), &why);
        }
    }
    let selector = &spec["selector"];
    let path = SPEC.field("selector");
    match selector.is_null() {
        true => errors.required(&path, ""),
        false => common::label_selector(&mut errors, selector, &path),
    }
    let labels = &spec["template"]["metadata"]["labels"];
    if Selector::from_label_selector(selector).is_ok_and(|s| !s.matches(labels)) {
        let why = "`selector` does not match template `labels`";
        let path = Path::root("spec.template.metadata.labels");
        errors.invalid(&path, labels.clone(), why);
    }
    errors.into_vec()
}

fn generated_selector(errors: &mut Errors, job: &Object) {
    let spec = job.field("spec");
    if spec["manualSelector"] == true || spec["selector"].is_null() {
        return;
    }
    let path = Path::root("spec.template.metadata.labels");
    let labels = &spec["template"]["metadata"]["labels"];
    for (label, field) in LABELS {
        let value = job.meta(field);
        let is_legacy = !label.contains('/');
        match text(&labels[label]) {
            found if found == value => {}
            "" if is_legacy => {}
            "" => errors.required(&path, &format!("must be '{value}'")),
            _ => errors.invalid(&path, labels.clone(), &format!("must be '{value}'")),
        }
    }
    let selected = &spec["selector"]["matchLabels"];
    let selects = |label: &str| text(&selected[label]) == job.uid();
    if !selects(CONTROLLER_UID) && !selects("controller-uid") {
        let path = SPEC.field("selector");
        errors.invalid(
            &path,
            spec["selector"].clone(),
            "`selector` not auto-generated",
        );
    }
}

/// Of a Job and of a CronJob's template, but for the selector.
pub(super) fn validate_spec(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        errors.nonnegative(&path.field(field), &spec[field]);
    }
    let per_index = path.field("backoffLimitPerIndex");
    if !spec["maxFailedIndexes"].is_null() && spec["backoffLimitPerIndex"].is_null() {
        errors.required(&per_index, "when maxFailedIndexes is specified");
    }
    let mode = text(&spec["completionMode"]);
    match mode {
        "Indexed" => indexed(errors, spec, path),
        "" | "NonIndexed" => {
            for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                if !spec[field].is_null() {
                    let why = "requires indexed completion mode";
                    errors.invalid(&path.field(field), spec[field].clone(), why);
                }
            }
        }
        other => {
            let supported = ["Indexed", "NonIndexed"];
            errors.not_supported(&path.field("completionMode"), other, &supported);
        }
    }
    let replacement = text(&spec["podReplacementPolicy"]);
    let has_failure_policy = spec["podFailurePolicy"].is_object();
    let supported: &[&str] = match has_failure_policy {
        true => &["Failed"],
        false => &["Failed", "TerminatingOrFailed"],
    };
    if !replacement.is_empty() && !supported.contains(&replacement) {
        errors.not_supported(&path.field("podReplacementPolicy"), replacement, supported);
    }
    template(errors, spec, path);
}

fn indexed(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    const PARALLELISM_MAX: i64 = 100_000;
    if spec["completions"].is_null() {
        let why = "when completion mode is Indexed";
        errors.required(&path.field("completions"), why);
    }
    let parallelism = spec["parallelism"].as_i64().unwrap_or(0);
    if parallelism > PARALLELISM_MAX {
        let why = "must be less than or equal to 100000 when completion mode is Indexed";
        errors.invalid(&path.field("parallelism"), parallelism, why);
    }
}

fn template(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let template_path = path.field("template");
    pod_spec::validate_template(errors, &spec["template"], &template_path);
    let path = template_path.field("spec");
    let path = path.field("restartPolicy");
    let policy = text(&spec["template"]["spec"]["restartPolicy"]);
    match policy {
        "" | "Always" => errors.required(&path, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if spec["podFailurePolicy"].is_object() => {
            errors.invalid(
                &path,
                policy,
                "only \"Never\" is supported when podFailurePolicy is specified",
            );
        }
        "OnFailure" | "Never" => {}
        other => errors.not_supported(&path, other, &["OnFailure", "Never"]),
    }
}

fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    errors.extend(validate(new));
    let (spec, was) = (new.field("spec"), old.field("spec"));
    let completions = SPEC.field("completions");
    if spec["completions"] != was["completions"] {
        if spec["completionMode"] != "Indexed" || was["completions"].is_null() {
            errors.immutable(&completions, &spec["completions"], &was["completions"]);
        } else if spec["completions"] != spec["parallelism"] {
            let why = "can only be modified in tandem with spec.parallelism";
            errors.invalid(&completions, spec["completions"].clone(), why);
        }
    }
    errors.immutable(&SPEC.field("selector"), &spec["selector"], &was["selector"]);
    let is_waiting = was["suspend"] == true && old.text_at(&["status", "startTime"]).is_empty();
    let old_template = match is_waiting {
        true => scheduling_of(&was["template"], &spec["template"]),
        false => was["template"].clone(),
    };
    errors.immutable(&SPEC.field("template"), &spec["template"], &old_template);
    for field in [
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        errors.immutable(&SPEC.field(field), &spec[field], &was[field]);
    }
    errors.into_vec()
}

/// The old template with those fields of the new one that say where pods go: they may change
/// while the job has never run.
fn scheduling_of(old: &Value, new: &Value) -> Value {
    let mut template = old.clone();
    for (part, fields) in [
        ("metadata", &["labels", "annotations"][..]),
        (
            "spec",
            &["nodeSelector", "affinity", "tolerations", "schedulingGates"][..],
        ),
    ] {
        let Some(map) = template.get_mut(part).and_then(Value::as_object_mut) else {
            continue;
        };
        for field in fields {
            match new[part].get(*field) {
                Some(value) => map.insert((*field).to_owned(), value.clone()),
                None => map.remove(*field),
            };
        }
    }
    template
}

fn validate_status(new: &Object, _old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let path = Path::root("status");
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        errors.nonnegative(&path.field(field), &new.field("status")[field]);
    }
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn job(change: impl Fn(&mut Value)) -> Object {
        let mut value = json!({
            "metadata": {"name": "pi", "uid": "u"},
            "spec": {"template": {"metadata": {"labels": {"app": "pi"}}, "spec": {
                "restartPolicy": "Never", "containers": [{"name": "c", "image": "pi:1"}]}}},
        });
        change(&mut value);
        let mut job = Object::from_value(value).unwrap();
        default(&mut job);
        prepare_create(&mut job);
        job
    }

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_smallest_job_is_filled_in_and_selects_its_pods() {
        let job = job(|_| {});
        assert_eq!(texts(&validate(&job)), [""; 0]);
        let spec = job.field("spec");
        assert_eq!(
            spec["selector"],
            json!({"matchLabels": {CONTROLLER_UID: "u"}})
        );
        assert_eq!(spec["template"]["metadata"]["labels"]["job-name"], "pi");
        assert_eq!(job.text_at(&["metadata", "labels", "app"]), "pi");
        assert_eq!(
            [
                &spec["completions"],
                &spec["parallelism"],
                &spec["backoffLimit"]
            ],
            [&json!(1), &json!(1), &json!(6)]
        );
        let row = row(&job, Timestamp::UNIX_EPOCH);
        assert_eq!(row[1..4], [json!("Running"), json!("0/1"), json!("")]);
    }

    #[test]
    fn each_rule_has_its_words() {
        let always = job(|j| j["spec"]["template"]["spec"]["restartPolicy"] = "Always".into());
        assert_eq!(
            texts(&validate(&always)),
            [
                "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \
              \"Never\""
            ]
        );
        let indexed = job(|j| {
            j["spec"]["completionMode"] = "Indexed".into();
            j["spec"]["parallelism"] = 100_001.into();
        });
        assert_eq!(
            texts(&validate(&indexed)),
            [
                "spec.completions: Required value: when completion mode is Indexed",
                "spec.parallelism: Invalid value: 100001: must be less than or equal to 100000 \
                 when completion mode is Indexed",
            ]
        );
    }

    #[test]
    fn a_job_that_runs_keeps_its_template() {
        let zone = |j: &mut Value| {
            j["spec"]["template"]["spec"]["nodeSelector"] = json!({"zone": "a"});
        };
        let moved = job(zone);
        let wrong = texts(&validate_update(&moved, &job(|_| {})));
        assert!(
            wrong[0].starts_with("spec.template: Invalid value:"),
            "{wrong:?}"
        );
        assert!(wrong[0].ends_with("field is immutable"));
        let waiting = job(|j| j["spec"]["suspend"] = true.into());
        assert_eq!(texts(&validate_update(&moved, &waiting)), [""; 0]);
    }
}
