//! FlowSchema: which requests belong to which priority level.

use jiff::Timestamp;
use serde_json::Value;

use super::{GROUP, SPEC, has_wildcard};
use crate::api::gvk::Scope;
use crate::api::kinds::defaults::{child, number};
use crate::api::kinds::{Column, KindDef, cells, prepare, rows};
use crate::api::name;
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, list, text};

pub(crate) const DEF: KindDef = KindDef {
    group: GROUP,
    kind: "FlowSchema",
    plural: "flowschemas",
    singular: "flowschema",
    scope: Scope::Cluster,
    subresources: &[rows::item("status", (GROUP, "v1", "FlowSchema"))],
    schema: "flowcontrol.v1.FlowSchema",
    storage: "flowschemas.flowcontrol.apiserver.k8s.io",
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
        "PriorityLevel",
        "`name` is the name of the priority level configuration being referenced Required.",
    ),
    rows::string(
        "MatchingPrecedence",
        "`matchingPrecedence` is used to choose among the FlowSchemas that match a given request. \
         The chosen FlowSchema is among those with the numerically lowest (which we take to be \
         logically highest) MatchingPrecedence.  Each MatchingPrecedence value must be ranged in \
         [1,10000]. Note that if the precedence is not specified, it will be set to 1000 as \
         default.",
    ),
    rows::string(
        "DistinguisherMethod",
        "`distinguisherMethod` defines how to compute the flow distinguisher for requests that \
         match this schema. `nil` specifies that the distinguisher is disabled and thus will \
         always be the empty string.",
    ),
    rows::AGE,
    rows::string(
        "MissingPL",
        "references a broken or non-existent PriorityLevelConfiguration",
    ),
];

const PRECEDENCE_MAX: i64 = 10_000;
const METHODS: [&str; 2] = ["ByNamespace", "ByUser"];
const VERBS: [&str; 9] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "proxy",
    "update",
    "watch",
];

fn row(schema: &Object, now: Timestamp) -> Vec<Value> {
    let spec = schema.field("spec");
    let conditions = list(&schema.field("status")["conditions"]);
    let dangling = conditions.iter().find(|one| one["type"] == "Dangling");
    vec![
        cells::name(schema),
        cells::or_none(text(&spec["priorityLevelConfiguration"]["name"])),
        spec["matchingPrecedence"]
            .as_i64()
            .unwrap_or(0)
            .to_string()
            .into(),
        cells::or_none(text(&spec["distinguisherMethod"]["type"])),
        cells::age(schema, now),
        dangling.map_or("?", |one| text(&one["status"])).into(),
    ]
}

fn default(schema: &mut Object) {
    if let Some(spec) = child(&mut schema.0, "spec") {
        number(spec, "matchingPrecedence", 1000);
    }
}

fn validate(schema: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = schema.field("spec");
    let precedence = spec["matchingPrecedence"].as_i64().unwrap_or(0);
    let path = SPEC.field("matchingPrecedence");
    if precedence <= 0 {
        errors.invalid(&path, precedence, "must be a positive value");
    }
    if precedence > PRECEDENCE_MAX {
        let why = format!("must not be greater than {PRECEDENCE_MAX}");
        errors.invalid(&path, precedence, &why);
    }
    if precedence == 1 && schema.name() != "exempt" {
        let why = "only the schema named 'exempt' may have matchingPrecedence 1";
        errors.invalid(&path, precedence, why);
    }
    let method = &spec["distinguisherMethod"];
    if !method.is_null() && !METHODS.contains(&text(&method["type"])) {
        let path = SPEC.field("distinguisherMethod");
        errors.not_supported(&path.field("type"), text(&method["type"]), &METHODS);
    }
    let path = SPEC.field("priorityLevelConfiguration");
    match text(&spec["priorityLevelConfiguration"]["name"]) {
        "" => errors.required(&path.field("name"), "must reference a priority level"),
        level => {
            let wrong = name::dns1123_subdomain(level);
            errors.invalid_each(&path.field("name"), level, wrong);
        }
    }
    let path = SPEC.field("rules");
    for (index, one) in list(&spec["rules"]).iter().enumerate() {
        rule(&mut errors, one, &path.index(index));
    }
    errors.into_vec()
}

fn rule(errors: &mut Errors, rule: &Value, path: &Path<'_>) {
    let subjects = list(&rule["subjects"]);
    let here = path.field("subjects");
    if subjects.is_empty() {
        errors.required(&here, "subjects must contain at least one value");
    }
    for (index, one) in subjects.iter().enumerate() {
        subject(errors, one, &here.index(index));
    }
    let (resources, others) = (
        list(&rule["resourceRules"]),
        list(&rule["nonResourceRules"]),
    );
    if resources.is_empty() && others.is_empty() {
        let why = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.required(path, why);
    }
    for (index, one) in resources.iter().enumerate() {
        resource_rule(errors, one, &path.field("resourceRules").index(index));
    }
    for (index, one) in others.iter().enumerate() {
        let here = path.field("nonResourceRules");
        let here = here.index(index);
        verbs(errors, &one["verbs"], &here.field("verbs"));
        urls(
            errors,
            &one["nonResourceURLs"],
            &here.field("nonResourceURLs"),
        );
    }
}

fn subject(errors: &mut Errors, subject: &Value, path: &Path<'_>) {
    const KINDS: [(&str, &str); 3] = [
        ("Group", "group"),
        ("ServiceAccount", "serviceAccount"),
        ("User", "user"),
    ];
    let kind = text(&subject["kind"]);
    let Some((_, wanted)) = KINDS.iter().find(|(name, _)| *name == kind) else {
        return errors.not_supported(&path.field("kind"), kind, &KINDS.map(|(name, _)| name));
    };
    let here = path.field(wanted);
    if subject[wanted].is_null() {
        let why = format!("{wanted} is required when subject kind is '{kind}'");
        errors.required(&here, &why);
    } else {
        named(errors, &subject[wanted], kind, &here);
    }
    for (other, field) in KINDS.iter().filter(|(name, _)| *name != kind) {
        if !subject[field].is_null() {
            let why = format!("{field} is forbidden when subject kind is not '{other}'");
            errors.forbidden(&path.field(field), &why);
        }
    }
}

fn named(errors: &mut Errors, subject: &Value, kind: &str, path: &Path<'_>) {
    let is_account = kind == "ServiceAccount";
    match text(&subject["name"]) {
        "" => errors.required(&path.field("name"), ""),
        name if is_account && name != "*" => {
            errors.invalid_each(&path.field("name"), name, name::dns1123_subdomain(name));
        }
        _ => {}
    }
    let here = path.field("namespace");
    match text(&subject["namespace"]) {
        _ if !is_account => {}
        "" => errors.required(&here, "must specify namespace for service account"),
        namespace => errors.invalid_each(&here, namespace, name::dns1123_label(namespace)),
    }
}

fn verbs(errors: &mut Errors, verbs: &Value, path: &Path<'_>) {
    let all = list(verbs);
    if all.is_empty() {
        errors.required(path, "verbs must contain at least one value");
    } else if has_wildcard(verbs) {
        only_wildcard(errors, verbs, path, "verbs");
    } else if all.iter().any(|verb| !VERBS.contains(&text(verb))) {
        errors.push(FieldError::not_supported(path, verbs, &VERBS));
    }
}

fn only_wildcard(errors: &mut Errors, values: &Value, path: &Path<'_>, what: &str) {
    if list(values).len() > 1 && has_wildcard(values) {
        let why = format!("if '*' is present, must not specify other {what}");
        errors.invalid(path, values.clone(), &why);
    }
}

fn resource_rule(errors: &mut Errors, rule: &Value, path: &Path<'_>) {
    verbs(errors, &rule["verbs"], &path.field("verbs"));
    for (field, one, many) in [
        ("apiGroups", "api group", "api groups"),
        ("resources", "resource", "resources"),
    ] {
        let here = path.field(field);
        if list(&rule[field]).is_empty() {
            let why = format!("resource rules must supply at least one {one}");
            errors.required(&here, &why);
        }
        only_wildcard(errors, &rule[field], &here, many);
    }
    let here = path.field("namespaces");
    let namespaces = &rule["namespaces"];
    if list(namespaces).is_empty() && rule["clusterScope"] != true {
        let why = "resource rules that are not cluster scoped must supply at least one namespace";
        errors.required(&here, why);
    } else if has_wildcard(namespaces) {
        only_wildcard(errors, namespaces, &here, "namespaces");
    } else {
        for (index, one) in list(namespaces).iter().map(text).enumerate() {
            for wrong in name::dns1123_label(one) {
                let why =
                    format!("each member of this list must be '*' or a DNS-1123 label; {wrong}");
                errors.invalid(&here.index(index), one, &why);
            }
        }
    }
}

fn urls(errors: &mut Errors, urls: &Value, path: &Path<'_>) {
    if list(urls).is_empty() {
        return errors.required(path, "nonResourceURLs must contain at least one value");
    }
    if has_wildcard(urls) {
        return only_wildcard(errors, urls, path, "non-resource URLs");
    }
    for (index, url) in list(urls).iter().map(text).enumerate() {
        if let Some(why) = wrong_url(url) {
            errors.invalid(&path.index(index), url, why);
        }
    }
}

fn wrong_url(url: &str) -> Option<&'static str> {
    let wildcards = url.matches('*').count();
    let why = match url {
        "" => "must not be empty",
        "/" => return None,
        url if !url.starts_with('/') => "must start with slash",
        url if url.contains(' ') => "must not contain white-space",
        url if url.contains("//") => "must not contain double slash",
        url if wildcards > 1 || (wildcards == 1 && !url.ends_with("/*")) => {
            "wildcard can only do suffix matching"
        }
        _ => return None,
    };
    Some(why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wrong(spec: Value) -> Vec<String> {
        let mut schema = Object::from_value(json!({"spec": spec})).unwrap();
        default(&mut schema);
        validate(&schema).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn schemas_are_filled_in_and_checked() {
        let level = json!({"name": "workload-low"});
        assert_eq!(wrong(json!({"priorityLevelConfiguration": level})), [""; 0]);
        let subject = json!({"kind": "User", "group": {"name": "g"}});
        let other = json!({"verbs": ["get"], "nonResourceURLs": ["/a*"]});
        assert_eq!(
            wrong(json!({"matchingPrecedence": 1, "rules": [
                {"subjects": [subject], "nonResourceRules": [other]}]})),
            [
                "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may \
                 have matchingPrecedence 1",
                "spec.priorityLevelConfiguration.name: Required value: must reference a priority \
                 level",
                "spec.rules[0].subjects[0].user: Required value: user is required when subject \
                 kind is 'User'",
                "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind \
                 is not 'Group'",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"/a*\": \
                 wildcard can only do suffix matching",
            ]
        );
    }
}
