//! CronJob: jobs made by the clock.

use jiff::Timestamp;
use serde_json::Value;

use super::job;
use crate::api::cron::Schedule;
use crate::api::kinds::defaults::{child, set, text as set_text};
use crate::api::kinds::{Column, KindDef, Subresource, cells, prepare, rows};
use crate::api::object::{Object, child_mut};
use crate::api::selector::label::format_label_selector;
use crate::api::status::FieldError;
use crate::api::time;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, text};

pub(crate) const DEF: KindDef = KindDef {
    group: "batch",
    kind: "CronJob",
    plural: "cronjobs",
    singular: "cronjob",
    short_names: &["cj"],
    categories: &["all"],
    subresources: SUBRESOURCES,
    schema: "batch.v1.CronJob",
    storage: "cronjobs.batch",
    columns: COLUMNS,
    cells: row,
    default,
    prepare_create: prepare::drop_status,
    prepare_update: prepare::keep_status,
    has_generation: true,
    validate,
    validate_update: |new, old| checked(new, Some(old)),
    ..KindDef::BASE
};

const SUBRESOURCES: &[Subresource] = &[rows::item("status", ("batch", "v1", "CronJob"))];

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string(
        "Schedule",
        "The schedule in Cron format, see https://en.wikipedia.org/wiki/Cron.",
    ),
    rows::string(
        "Timezone",
        "The time zone name for the given schedule, see \
         https://en.wikipedia.org/wiki/List_of_tz_database_time_zones.",
    ),
    Column {
        kind: "boolean",
        ..rows::string(
            "Suspend",
            "This flag tells the controller to suspend subsequent executions, it does not apply \
             to already started executions.  Defaults to false.",
        )
    },
    rows::integer("Active", "A list of pointers to currently running jobs."),
    rows::string(
        "Last Schedule",
        "Information when was the last time the job was successfully scheduled.",
    ),
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

fn row(cron: &Object, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (cron.field("spec"), cron.field("status"));
    let job = &spec["jobTemplate"]["spec"];
    let [names, images] = cells::containers(&job["template"]["spec"]);
    let suspend = match spec["suspend"].as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let last = match &status["lastScheduleTime"] {
        Value::Null => "<none>".to_owned(),
        at => time::age(at, now),
    };
    vec![
        cells::name(cron),
        text(&spec["schedule"]).into(),
        cells::or_none(text(&spec["timeZone"])),
        suspend.into(),
        cells::count(&status["active"]).into(),
        last.into(),
        cells::age(cron, now),
        names,
        images,
        format_label_selector(&job["selector"]).into(),
    ]
}

fn default(cron: &mut Object) {
    let spec = child_mut(&mut cron.0, "spec");
    set_text(spec, "concurrencyPolicy", "Allow");
    set(spec, "suspend", false);
    set(spec, "successfulJobsHistoryLimit", 3);
    set(spec, "failedJobsHistoryLimit", 1);
    if let Some(job) = child(spec, "jobTemplate").and_then(|t| child(t, "spec")) {
        job::default_spec(job);
    }
}

const SPEC: Path<'static> = Path::root("spec");

fn validate(cron: &Object) -> Vec<FieldError> {
    // The name of a job is that of its CronJob, a dash and up to ten digits.
    const NAME_MAX: usize = 52;
    let mut errors = checked(cron, None);
    if cron.name().len() > NAME_MAX {
        let path = Path::root("metadata.name");
        let why = "must be no more than 52 characters";
        errors.push(FieldError::invalid(&path, &cron.name().into(), why));
    }
    errors
}

fn checked(cron: &Object, old: Option<&Object>) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = cron.field("spec");
    let was = old.map_or(&Value::Null, |old| old.field("spec"));
    schedule(&mut errors, spec, was);
    for field in [
        "startingDeadlineSeconds",
        "successfulJobsHistoryLimit",
        "failedJobsHistoryLimit",
    ] {
        errors.nonnegative(&SPEC.field(field), &spec[field]);
    }
    let policies = ["Allow", "Forbid", "Replace"];
    let path = SPEC.field("concurrencyPolicy");
    errors.one_of(&path, &spec["concurrencyPolicy"], &policies);
    if spec["timeZone"] != was["timeZone"] {
        time_zone(&mut errors, &spec["timeZone"]);
    }
    let job_path = SPEC.field("jobTemplate");
    let job_path = job_path.field("spec");
    let job = &spec["jobTemplate"]["spec"];
    job::validate_spec(&mut errors, job, &job_path);
    if !job["selector"].is_null() {
        let path = job_path.field("selector");
        let why = "`selector` will be auto-generated";
        errors.invalid(&path, job["selector"].clone(), why);
    }
    if job["manualSelector"] == true {
        let path = job_path.field("manualSelector");
        let supported = ["nil", "false"];
        errors.push(FieldError::not_supported(&path, &true.into(), &supported));
    }
    errors.into_vec()
}

fn schedule(errors: &mut Errors, spec: &Value, was: &Value) {
    let schedule = text(&spec["schedule"]);
    let path = SPEC.field("schedule");
    if schedule.is_empty() {
        errors.required(&path, "");
        return;
    }
    if schedule.contains("TZ") && !spec["timeZone"].is_null() {
        let why = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
        errors.invalid(&path, schedule, why);
    } else if schedule.contains("TZ") && spec["schedule"] != was["schedule"] {
        let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.invalid(&path, schedule, why);
    }
    if let Err(error) = Schedule::parse(schedule) {
        errors.invalid(&path, schedule, &error.to_string());
    }
}

fn time_zone(errors: &mut Errors, zone: &Value) {
    let Some(name) = zone.as_str() else {
        return;
    };
    let path = SPEC.field("timeZone");
    if name.is_empty() {
        errors.invalid(&path, name, "timeZone must be nil or non-empty string");
    } else if name.eq_ignore_ascii_case("Local") {
        let why = "timeZone must be an explicit time zone as defined in \
                   https://www.iana.org/time-zones";
        errors.invalid(&path, name, why);
    } else if jiff::tz::TimeZone::get(name).is_err() {
        errors.invalid(&path, name, &format!("unknown time zone {name}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cron(change: impl Fn(&mut Value)) -> Object {
        let mut value = json!({"spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {
            "template": {"spec": {"restartPolicy": "Never",
                "containers": [{"name": "c", "image": "a:1"}]}}}}}});
        change(&mut value);
        let mut cron = Object::from_value(value).unwrap();
        default(&mut cron);
        cron
    }

    fn wrong(change: impl Fn(&mut Value)) -> Vec<String> {
        let errors = validate(&cron(change));
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_smallest_cron_job_is_filled_in_and_valid() {
        assert_eq!(wrong(|_| {}), [""; 0]);
        let cron = cron(|_| {});
        assert_eq!(cron.field("spec")["concurrencyPolicy"], "Allow");
        let row = row(&cron, Timestamp::UNIX_EPOCH);
        assert_eq!(
            row[2..6],
            [json!("<none>"), json!("False"), json!(0), json!("<none>")]
        );
    }

    #[test]
    fn each_rule_has_its_words() {
        assert_eq!(
            wrong(|c| c["spec"]["schedule"] = "* * *".into()),
            [
                "spec.schedule: Invalid value: \"* * *\": expected exactly 5 fields, found 3: [* * *]"
            ]
        );
        assert_eq!(
            wrong(|c| c["spec"]["timeZone"] = "Mars/Olympus".into()),
            ["spec.timeZone: Invalid value: \"Mars/Olympus\": unknown time zone Mars/Olympus"]
        );
        assert_eq!(
            wrong(|c| c["spec"]["jobTemplate"]["spec"]["manualSelector"] = true.into()),
            [
                "spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: \
              \"nil\", \"false\""
            ]
        );
        assert_eq!(
            wrong(|c| c["metadata"] = json!({"name": "x".repeat(53)})).len(),
            1
        );
        assert_eq!(
            wrong(|c| c["spec"]["timeZone"] = "Europe/Rome".into()),
            [""; 0]
        );
    }
}
