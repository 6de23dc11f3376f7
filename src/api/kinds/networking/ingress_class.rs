//! IngressClass: which controller serves an ingress.

use jiff::Timestamp;
use serde_json::Value;

use super::{GROUP, reference};
use crate::api::gvk::Scope;
use crate::api::kinds::defaults::{child, set};
use crate::api::kinds::{Column, KindDef, cells, rows};
use crate::api::name;
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, text};

pub(crate) const DEF: KindDef = KindDef {
    group: GROUP,
    kind: "IngressClass",
    plural: "ingressclasses",
    singular: "ingressclass",
    scope: Scope::Cluster,
    schema: "networking.v1.IngressClass",
    storage: "ingressclasses.networking.k8s.io",
    columns: COLUMNS,
    cells: row,
    has_generation: true,
    default,
    validate,
    validate_update,
    ..KindDef::BASE
};

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string(
        "Controller",
        "Controller that is responsible for handling this class",
    ),
    rows::string(
        "Parameters",
        "A reference to a resource with additional parameters",
    ),
    rows::AGE,
];

const SPEC: Path<'static> = Path::root("spec");
const CONTROLLER_MAX: usize = 250;
const SCOPES: [&str; 2] = ["Cluster", "Namespace"];

fn row(class: &Object, now: Timestamp) -> Vec<Value> {
    let spec = class.field("spec");
    let parameters = &spec["parameters"];
    let shown = match (&parameters["apiGroup"], parameters) {
        (_, Value::Null) => "<none>".to_owned(),
        (Value::String(group), p) => format!("{}.{group}/{}", text(&p["kind"]), text(&p["name"])),
        (_, p) => format!("{}/{}", text(&p["kind"]), text(&p["name"])),
    };
    vec![
        cells::name(class),
        text(&spec["controller"]).into(),
        shown.into(),
        cells::age(class, now),
    ]
}

fn default(class: &mut Object) {
    if let Some(parameters) = child(&mut class.0, "spec").and_then(|spec| child(spec, "parameters"))
    {
        set(parameters, "scope", "Cluster");
    }
}

fn validate(class: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = class.field("spec");
    let (controller, path) = (text(&spec["controller"]), SPEC.field("controller"));
    if controller.is_empty() {
        errors.required(&path, "");
    } else {
        if controller.len() > CONTROLLER_MAX {
            errors.too_long(&path, CONTROLLER_MAX);
        }
        prefixed_path(&mut errors, controller, &path);
    }
    if !spec["parameters"].is_null() {
        parameters(&mut errors, &spec["parameters"], &SPEC.field("parameters"));
    }
    errors.into_vec()
}

/// `example.com/some/path`
fn prefixed_path(errors: &mut Errors, value: &str, path: &Path<'_>) {
    let (domain, rest) = value.split_once('/').unwrap_or((value, ""));
    if domain.is_empty() || rest.is_empty() {
        let why = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        return errors.invalid(path, value, why);
    }
    for wrong in name::dns1123_subdomain(domain) {
        errors.invalid(path, domain, &wrong);
    }
    let is_path_char = |c: char| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(c);
    if !rest.chars().all(is_path_char) {
        let form = r"^[A-Za-z0-9/\-._~%!$&'()*+,;=:]+$";
        let why = name::regex_error("Invalid path", form, &[]);
        errors.invalid(path, rest, &why);
    }
}

fn parameters(errors: &mut Errors, parameters: &Value, path: &Path<'_>) {
    reference(errors, parameters, path);
    let namespace = &parameters["namespace"];
    let here = path.field("namespace");
    match text(&parameters["scope"]) {
        _ if parameters["scope"].is_null() => errors.required(&path.field("scope"), ""),
        "Namespace" if namespace.is_null() => {
            errors.required(&here, "`parameters.scope` is set to 'Namespace'");
        }
        "Namespace" => {
            let wrong = name::dns1123_label(text(namespace));
            errors.invalid_each(&here, text(namespace), wrong);
        }
        "Cluster" if namespace.is_null() => {}
        "Cluster" => errors.forbidden(&here, "`parameters.scope` is set to 'Cluster'"),
        other => errors.not_supported(&path.field("scope"), other, &SCOPES),
    }
}

fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let controller = |class: &Object| class.field("spec")["controller"].clone();
    errors.immutable(
        &SPEC.field("controller"),
        &controller(new),
        &controller(old),
    );
    errors.extend(validate(new));
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes_are_filled_in_and_checked() {
        let class = |spec: Value| {
            let mut class = Object::from_value(json!({"spec": spec})).unwrap();
            default(&mut class);
            class
        };
        let texts = |errors: Vec<FieldError>| -> Vec<String> {
            errors.iter().map(ToString::to_string).collect()
        };
        let good = class(json!({"controller": "example.com/c",
            "parameters": {"apiGroup": "k8s.example.com", "kind": "P", "name": "n"}}));
        assert_eq!(texts(validate(&good)), [""; 0]);
        assert_eq!(row(&good, Timestamp::UNIX_EPOCH)[2], "P.k8s.example.com/n");
        assert_eq!(
            texts(validate_update(&class(json!({"controller": "c"})), &good)),
            [
                "spec.controller: Invalid value: \"c\": field is immutable",
                "spec.controller: Invalid value: \"c\": must be a domain-prefixed path (such as \
                 \"acme.io/foo\")",
            ]
        );
    }
}
