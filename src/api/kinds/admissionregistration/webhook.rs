//! ValidatingWebhookConfiguration and MutatingWebhookConfiguration: programs that are asked before
//! an object is written.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::matching;
use super::{FAILURE_POLICIES, GROUP, MATCH_POLICIES, REINVOCATION_POLICIES};
use crate::api::gvk::Scope;
use crate::api::kinds::defaults::{child, items, number, set};
use crate::api::kinds::{Column, KindDef, cells, rows};
use crate::api::name;
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, client_config, common, list, text};

pub(crate) const VALIDATING: KindDef = KindDef {
    group: GROUP,
    kind: "ValidatingWebhookConfiguration",
    plural: "validatingwebhookconfigurations",
    singular: "validatingwebhookconfiguration",
    categories: &["api-extensions"],
    scope: Scope::Cluster,
    schema: "admissionregistration.v1.ValidatingWebhookConfiguration",
    storage: "validatingwebhookconfigurations.admissionregistration.k8s.io",
    columns: COLUMNS,
    cells: row,
    has_generation: true,
    unconditional_update: false,
    default: default_validating,
    validate: |configuration| check(configuration, Known::default()),
    validate_update,
    ..KindDef::BASE
};

pub(crate) const MUTATING: KindDef = KindDef {
    kind: "MutatingWebhookConfiguration",
    plural: "mutatingwebhookconfigurations",
    singular: "mutatingwebhookconfiguration",
    schema: "admissionregistration.v1.MutatingWebhookConfiguration",
    storage: "mutatingwebhookconfigurations.admissionregistration.k8s.io",
    default: default_mutating,
    ..VALIDATING
};

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::integer(
        "Webhooks",
        "Webhooks indicates the number of webhooks registered in this configuration",
    ),
    rows::AGE,
];

/// Versions of AdmissionReview a webhook can be asked in.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
/// A webhook that may be asked at a dry run too.
const NO_SIDE_EFFECTS: [&str; 2] = ["None", "NoneOnDryRun"];
const SIDE_EFFECTS: [&str; 4] = ["None", "NoneOnDryRun", "Some", "Unknown"];
const TIMEOUT_SECONDS_MAX: i64 = 30;

fn row(configuration: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        cells::name(configuration),
        cells::count(configuration.field("webhooks")).into(),
        cells::age(configuration, now),
    ]
}

fn default_validating(configuration: &mut Object) {
    for hook in items(&mut configuration.0, "webhooks") {
        matching::default_failure_policy(hook);
        set(hook, "matchPolicy", "Equivalent");
        set(hook, "namespaceSelector", json!({}));
        set(hook, "objectSelector", json!({}));
        set(hook, "timeoutSeconds", 10);
        matching::default_rules(hook, "rules");
        if let Some(service) =
            child(hook, "clientConfig").and_then(|config| child(config, "service"))
        {
            number(service, "port", 443);
        }
    }
}

fn default_mutating(configuration: &mut Object) {
    default_validating(configuration);
    for hook in items(&mut configuration.0, "webhooks") {
        set(hook, "reinvocationPolicy", "Never");
    }
}

/// What an old object was allowed that a new one is not: an update keeps it.
#[derive(Clone, Copy, Default)]
struct Known {
    side_effects: bool,
    review_versions: bool,
    same_names: bool,
}

impl Known {
    fn of(old: &Object) -> Self {
        let hooks = list(old.field("webhooks"));
        let mut names = BTreeSet::new();
        Self {
            side_effects: hooks
                .iter()
                .any(|hook| !NO_SIDE_EFFECTS.contains(&text(&hook["sideEffects"]))),
            review_versions: hooks.iter().any(|hook| {
                let versions = list(&hook["admissionReviewVersions"]);
                !versions.is_empty() && !versions.iter().any(is_review_version)
            }),
            same_names: !hooks.iter().all(|hook| names.insert(text(&hook["name"]))),
        }
    }
}

fn is_review_version(version: &Value) -> bool {
    REVIEW_VERSIONS.contains(&text(version))
}

fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    check(new, Known::of(old))
}

fn check(configuration: &Object, known: Known) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let mut names = BTreeSet::new();
    let path = Path::root("webhooks");
    for (index, hook) in list(configuration.field("webhooks")).iter().enumerate() {
        let here = path.index(index);
        webhook(&mut errors, hook, known, &here);
        let versions_path = here.field("admissionReviewVersions");
        let versions = &hook["admissionReviewVersions"];
        review_versions(&mut errors, versions, known, &versions_path);
        let name = text(&hook["name"]);
        if !name.is_empty() && !names.insert(name) && !known.same_names {
            errors.duplicate(&here.field("name"), name);
        }
    }
    errors.into_vec()
}

fn webhook(errors: &mut Errors, hook: &Value, known: Known, path: &Path<'_>) {
    full_name(errors, text(&hook["name"]), &path.field("name"));
    for (index, rule) in list(&hook["rules"]).iter().enumerate() {
        matching::rule(errors, rule, &path.field("rules").index(index));
    }
    for (field, supported) in [
        ("failurePolicy", FAILURE_POLICIES),
        ("matchPolicy", MATCH_POLICIES),
    ] {
        if !hook[field].is_null() {
            matching::known(errors, &hook[field], &path.field(field), &supported);
        }
    }
    side_effects(
        errors,
        &hook["sideEffects"],
        known,
        &path.field("sideEffects"),
    );
    if let Some(seconds) = hook["timeoutSeconds"].as_i64()
        && !(1..=TIMEOUT_SECONDS_MAX).contains(&seconds)
    {
        let why = "the timeout value must be between 1 and 30 seconds";
        errors.invalid(&path.field("timeoutSeconds"), seconds, why);
    }
    for field in ["namespaceSelector", "objectSelector"] {
        common::label_selector(errors, &hook[field], &path.field(field));
    }
    let policy = &hook["reinvocationPolicy"];
    if !policy.is_null() {
        let here = path.field("reinvocationPolicy");
        matching::known(errors, policy, &here, &REINVOCATION_POLICIES);
    }
    client_config::check(errors, &hook["clientConfig"], &path.field("clientConfig"));
    let here = path.field("matchConditions");
    matching::conditions(errors, &hook["matchConditions"], &here);
}

/// A domain of at least three parts.
fn full_name(errors: &mut Errors, name: &str, path: &Path<'_>) {
    let wrong = name::dns1123_subdomain(name);
    if name.is_empty() {
        errors.required(path, "");
    } else if !wrong.is_empty() {
        errors.invalid(path, name, &wrong.join(","));
    } else if name.split('.').count() < 3 {
        let why = "should be a domain with at least three segments separated by dots";
        errors.invalid(path, name, why);
    }
}

fn side_effects(errors: &mut Errors, effects: &Value, known: Known, path: &Path<'_>) {
    let supported: &[&str] = if known.side_effects {
        &SIDE_EFFECTS
    } else {
        &NO_SIDE_EFFECTS
    };
    if effects.is_null() {
        let why = format!("must specify one of {}", supported.join(", "));
        errors.required(path, &why);
    } else {
        matching::known(errors, effects, path, supported);
    }
}

fn review_versions(errors: &mut Errors, versions: &Value, known: Known, path: &Path<'_>) {
    let offered = REVIEW_VERSIONS.join(", ");
    if list(versions).is_empty() {
        errors.required(path, &format!("must specify one of {offered}"));
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, version) in list(versions).iter().map(text).enumerate() {
        if !seen.insert(version) {
            errors.invalid(&path.index(index), version, "duplicate version");
            continue;
        }
        errors.invalid_each(&path.index(index), version, name::dns1035_label(version));
    }
    if !known.review_versions && !list(versions).iter().any(is_review_version) {
        let why = format!("must include at least one of {offered}");
        errors.invalid(path, versions.clone(), &why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(change: impl Fn(&mut Value)) -> Object {
        let mut hook = json!({
            "name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"name": "s", "namespace": "n"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
                "resources": ["pods"]}],
        });
        change(&mut hook);
        let mut object = Object::from_value(json!({"webhooks": [hook]})).unwrap();
        default_mutating(&mut object);
        object
    }

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_smallest_webhook_is_filled_in_and_valid() {
        let object = hook(|_| {});
        let hook = &object.field("webhooks")[0];
        assert_eq!(texts(&(VALIDATING.validate)(&object)), [""; 0]);
        assert_eq!(hook["failurePolicy"], "Fail");
        assert_eq!(hook["timeoutSeconds"], 10);
        assert_eq!(hook["reinvocationPolicy"], "Never");
        assert_eq!(hook["clientConfig"]["service"]["port"], 443);
        assert_eq!(hook["rules"][0]["scope"], "*");
        assert_eq!(row(&object, Timestamp::UNIX_EPOCH)[1], 1);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |change: fn(&mut Value)| texts(&(MUTATING.validate)(&hook(change)));
        assert_eq!(
            wrong(|h| h["name"] = "a.b".into()),
            [
                "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three \
                 segments separated by dots"
            ]
        );
        assert_eq!(
            wrong(|h| h["sideEffects"] = Value::Null),
            ["webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun"]
        );
        assert_eq!(
            wrong(|h| h["sideEffects"] = "Some".into()),
            [
                "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \
                 \"None\", \"NoneOnDryRun\""
            ]
        );
        assert_eq!(
            wrong(|h| h["rules"][0]["resources"] = json!(["*", "pods"])),
            [
                "webhooks[0].rules[0].resources: Invalid value: [\"*\",\"pods\"]: if '*' is \
                 present, must not specify other resources without subresources"
            ]
        );
        assert_eq!(
            wrong(|h| h["timeoutSeconds"] = 31.into()),
            [
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between \
                 1 and 30 seconds"
            ]
        );
        assert_eq!(
            wrong(|h| h["admissionReviewVersions"] = json!(["v3"])),
            [
                "webhooks[0].admissionReviewVersions: Invalid value: [\"v3\"]: must include at \
                 least one of v1, v1beta1"
            ]
        );
        assert_eq!(
            wrong(|h| h["clientConfig"] = json!({})),
            [
                "webhooks[0].clientConfig: Required value: exactly one of url or service is \
                 required"
            ]
        );
    }

    #[test]
    fn an_update_keeps_what_was_allowed_once() {
        let old = hook(|h| h["sideEffects"] = "Some".into());
        assert_eq!(texts(&validate_update(&old, &old)), [""; 0]);
        assert_eq!(validate_update(&old, &hook(|_| {})).len(), 1);
    }
}
