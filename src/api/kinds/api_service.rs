//! APIService: who serves a version of a group, this server or a service of the cluster.

use jiff::Timestamp;
use serde_json::Value;

use super::{Column, KindDef, cells, defaults, prepare, rows};
use crate::api::gvk::Scope;
use crate::api::name;
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, common, is_set, list, text};

pub(super) const DEF: KindDef = KindDef {
    group: GROUP,
    kind: "APIService",
    plural: "apiservices",
    singular: "apiservice",
    categories: &["api-extensions"],
    scope: Scope::Cluster,
    subresources: &[rows::item("status", (GROUP, "v1", "APIService"))],
    schema: "apiregistration.v1.APIService",
    storage: "apiservices.apiregistration.k8s.io",
    columns: COLUMNS,
    cells: row,
    prepare_create: prepare::drop_status,
    prepare_update: prepare::keep_status,
    unconditional_update: false,
    default,
    validate,
    validate_update: |new, _| validate(new),
    validate_status: |new, _| status(new),
    validate_name: |name, _| name::path_segment(name),
    ..KindDef::BASE
};

const GROUP: &str = "apiregistration.k8s.io";

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string(
        "Service",
        "The reference to the service that hosts this API endpoint.",
    ),
    rows::string("Available", "Whether this service is available."),
    rows::AGE,
];

const SPEC: Path<'static> = Path::root("spec");
const GROUP_PRIORITY_MAX: i64 = 20_000;
const VERSION_PRIORITY_MAX: i64 = 1_000;
const STATUSES: [&str; 3] = ["True", "False", "Unknown"];

fn row(api: &Object, now: Timestamp) -> Vec<Value> {
    let service = &api.field("spec")["service"];
    let service = if service.is_null() {
        "Local".to_owned()
    } else {
        format!("{}/{}", text(&service["namespace"]), text(&service["name"]))
    };
    let conditions = list(&api.field("status")["conditions"]);
    let available = conditions.iter().find(|one| one["type"] == "Available");
    let available = match available {
        None => "Unknown".to_owned(),
        Some(one) if one["status"] == "True" => "True".to_owned(),
        Some(one) => format!("{} ({})", text(&one["status"]), text(&one["reason"])),
    };
    vec![
        cells::name(api),
        service.into(),
        available.into(),
        cells::age(api, now),
    ]
}

fn default(api: &mut Object) {
    if let Some(service) =
        defaults::child(&mut api.0, "spec").and_then(|spec| defaults::child(spec, "service"))
    {
        defaults::set(service, "port", 443);
    }
}

fn validate(api: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = api.field("spec");
    let (group, version) = (text(&spec["group"]), text(&spec["version"]));
    let required = format!("{version}.{group}");
    if api.name() != required {
        let why = format!("must be `spec.version+\".\"+spec.group`: {required:?}");
        errors.invalid(&Path::root("metadata.name"), api.name(), &why);
    }
    let group_path = SPEC.field("group");
    if group.is_empty() && version != "v1" {
        let why = "only v1 may have an empty group and it better be legacy kube";
        errors.required(&group_path, why);
    } else if !group.is_empty() {
        errors.invalid_each(&group_path, group, name::dns1123_subdomain(group));
    }
    let wrong = name::dns1035_label(version);
    errors.invalid_each(&SPEC.field("version"), version, wrong);
    for (field, most) in [
        ("groupPriorityMinimum", GROUP_PRIORITY_MAX),
        ("versionPriority", VERSION_PRIORITY_MAX),
    ] {
        let priority = spec[field].as_i64().unwrap_or(0);
        if !(1..=most).contains(&priority) {
            let why = format!("must be positive and less than {most}");
            errors.invalid(&SPEC.field(field), priority, &why);
        }
    }
    if spec["service"].is_null() {
        local(&mut errors, spec);
    } else {
        remote(&mut errors, spec);
    }
    errors.into_vec()
}

fn local(errors: &mut Errors, spec: &Value) {
    if is_set(&spec["caBundle"]) {
        let size = common::decoded_len(text(&spec["caBundle"]));
        let why = "local APIServices may not have a caBundle";
        errors.invalid(&SPEC.field("caBundle"), format!("{size} bytes"), why);
    }
    if spec["insecureSkipTLSVerify"] == true {
        let why = "local APIServices may not have insecureSkipTLSVerify";
        errors.invalid(&SPEC.field("insecureSkipTLSVerify"), true, why);
    }
}

fn remote(errors: &mut Errors, spec: &Value) {
    let service = &spec["service"];
    let path = SPEC.field("service");
    for field in ["namespace", "name"] {
        if !is_set(&service[field]) {
            errors.required(&path.field(field), "");
        }
    }
    let port = service["port"].as_i64().unwrap_or(0);
    let wrong = name::port_number(port);
    if !wrong.is_empty() {
        let why = format!("port is not valid: {}", wrong.join(", "));
        errors.invalid(&path.field("port"), port, &why);
    }
    if spec["insecureSkipTLSVerify"] == true && is_set(&spec["caBundle"]) {
        let why = "may not be true if caBundle is present";
        errors.invalid(&SPEC.field("insecureSkipTLSVerify"), true, why);
    }
}

fn status(api: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let path = Path::root("status.conditions");
    for (index, one) in list(&api.field("status")["conditions"]).iter().enumerate() {
        if !STATUSES.contains(&text(&one["status"])) {
            let here = path.index(index);
            errors.not_supported(&here.field("status"), text(&one["status"]), &STATUSES);
        }
    }
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn services_are_named_after_what_they_serve() {
        let api = |name: &str, spec: Value| {
            let api = json!({"metadata": {"name": name}, "spec": spec});
            let mut api = Object::from_value(api).unwrap();
            default(&mut api);
            api
        };
        let good = api(
            "v1beta1.metrics.k8s.io",
            json!({"group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100,
                "versionPriority": 100, "service": {"namespace": "kube-system", "name": "m"}}),
        );
        assert!(validate(&good).is_empty());
        let row = row(&good, Timestamp::UNIX_EPOCH);
        assert_eq!(row[1..3], ["kube-system/m", "Unknown"].map(Value::from));
        let bad = api(
            "x",
            json!({"group": "g", "version": "v1", "versionPriority": 1}),
        );
        let texts: Vec<_> = validate(&bad).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "metadata.name: Invalid value: \"x\": must be `spec.version+\".\"+spec.group`: \
                 \"v1.g\"",
                "spec.groupPriorityMinimum: Invalid value: 0: must be positive and less than 20000",
            ]
        );
    }
}
