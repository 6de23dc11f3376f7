//! Ingress: which service answers which host and path.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::Value;

use super::{GROUP, reference};
use crate::api::ip;
use crate::api::kinds::{Column, KindDef, cells, prepare, rows};
use crate::api::name;
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, is_set, list, text};

pub(crate) const DEF: KindDef = KindDef {
    group: GROUP,
    kind: "Ingress",
    plural: "ingresses",
    singular: "ingress",
    short_names: &["ing"],
    subresources: &[rows::item("status", (GROUP, "v1", "Ingress"))],
    schema: "networking.v1.Ingress",
    storage: "ingresses.networking.k8s.io",
    columns: COLUMNS,
    cells: row,
    prepare_create: prepare::drop_status,
    prepare_update: prepare::keep_status,
    has_generation: true,
    validate: create,
    validate_update: |new, old| check(new, Known::of(old)).into_vec(),
    validate_status,
    ..KindDef::BASE
};

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string(
        "Class",
        "The name of the IngressClass resource that should be used for additional configuration",
    ),
    rows::string(
        "Hosts",
        "Hosts that incoming requests are matched against before the ingress rule",
    ),
    rows::string(
        "Address",
        "Address is a list containing ingress points for the load-balancer",
    ),
    rows::string("Ports", "Ports of TLS configurations that open"),
    rows::AGE,
];

const SPEC: Path<'static> = Path::root("spec");
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const PATH_TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];
const NOT_IN_PATHS: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];

fn row(ingress: &Object, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (ingress.field("spec"), ingress.field("status"));
    let class = match text(&spec["ingressClassName"]) {
        "" => ingress.text_at(&["metadata", "annotations", CLASS_ANNOTATION]),
        class => class,
    };
    let ports = if list(&spec["tls"]).is_empty() {
        "80"
    } else {
        "80, 443"
    };
    vec![
        cells::name(ingress),
        cells::or_none(class),
        hosts(&spec["rules"]).into(),
        points(&status["loadBalancer"]["ingress"]).into(),
        ports.into(),
        cells::age(ingress, now),
    ]
}

fn hosts(rules: &Value) -> String {
    const MOST: usize = 3;
    let hosts: Vec<_> = list(rules)
        .iter()
        .map(|rule| text(&rule["host"]))
        .filter(|host| !host.is_empty())
        .collect();
    match hosts.len() {
        0 => "*".to_owned(),
        count if count <= MOST => hosts.join(","),
        count => format!("{} + {} more...", hosts[..MOST].join(","), count - MOST),
    }
}

fn points(points: &Value) -> String {
    let texts: BTreeSet<_> = list(points)
        .iter()
        .map(|point| match text(&point["ip"]) {
            "" => text(&point["hostname"]),
            ip => ip,
        })
        .filter(|text| !text.is_empty())
        .collect();
    texts.into_iter().collect::<Vec<_>>().join(",")
}

/// What an old object was allowed that a new one is not.
#[derive(Clone, Copy, Default)]
struct Known {
    secret_names: bool,
    wildcard_rules: bool,
}

impl Known {
    fn of(old: &Object) -> Self {
        let spec = old.field("spec");
        let is_odd_rule = |rule: &Value| {
            let mut errors = Errors::new();
            http(&mut errors, &rule["http"], &SPEC);
            text(&rule["host"]).contains('*') && !errors.is_empty()
        };
        Self {
            secret_names: list(&spec["tls"])
                .iter()
                .any(|tls| !wrong_secret_name(text(&tls["secretName"])).is_empty()),
            wildcard_rules: list(&spec["rules"]).iter().any(is_odd_rule),
        }
    }
}

fn wrong_secret_name(name: &str) -> Vec<String> {
    if name.is_empty() {
        return Vec::new();
    }
    name::dns1123_subdomain(name)
}

fn create(ingress: &Object) -> Vec<FieldError> {
    let mut errors = check(ingress, Known::default());
    let class = &ingress.field("spec")["ingressClassName"];
    let annotation = ingress.at(&["metadata", "annotations", CLASS_ANNOTATION]);
    if let Some(annotation) = annotation
        && !class.is_null()
        && annotation != class
    {
        let path = Path::root("annotations");
        let why = "must match `ingressClassName` when both are specified";
        errors.invalid(&path.field(CLASS_ANNOTATION), annotation.clone(), why);
    }
    errors.into_vec()
}

fn check(ingress: &Object, known: Known) -> Errors {
    let mut errors = Errors::new();
    let spec = ingress.field("spec");
    if list(&spec["rules"]).is_empty() && spec["defaultBackend"].is_null() {
        let why = "either `defaultBackend` or `rules` must be specified";
        errors.invalid(&SPEC, spec["rules"].clone(), why);
    }
    if !spec["defaultBackend"].is_null() {
        backend(
            &mut errors,
            &spec["defaultBackend"],
            &SPEC.field("defaultBackend"),
        );
    }
    let path = SPEC.field("rules");
    for (index, one) in list(&spec["rules"]).iter().enumerate() {
        rule(&mut errors, one, known, &path.index(index));
    }
    let path = SPEC.field("tls");
    for (index, one) in list(&spec["tls"]).iter().enumerate() {
        tls(&mut errors, one, known, &path.index(index));
    }
    if !spec["ingressClassName"].is_null() {
        let class = text(&spec["ingressClassName"]);
        let wrong = name::dns1123_subdomain(class);
        errors.invalid_each(&SPEC.field("ingressClassName"), class, wrong);
    }
    errors
}

fn host(errors: &mut Errors, host: &str, path: &Path<'_>) {
    let wrong = if host.contains('*') {
        name::wildcard_subdomain(host)
    } else {
        name::dns1123_subdomain(host)
    };
    errors.invalid_each(path, host, wrong);
}

fn tls(errors: &mut Errors, tls: &Value, known: Known, path: &Path<'_>) {
    for (index, one) in list(&tls["hosts"]).iter().enumerate() {
        host(errors, text(one), &path.field("hosts").index(index));
    }
    if !known.secret_names {
        let name = text(&tls["secretName"]);
        errors.invalid_each(&path.field("secretName"), name, wrong_secret_name(name));
    }
}

fn rule(errors: &mut Errors, rule: &Value, known: Known, path: &Path<'_>) {
    let name = text(&rule["host"]);
    if !name.is_empty() {
        if name.parse::<IpAddr>().is_ok() {
            let why = "must be a DNS name, not an IP address";
            errors.invalid(&path.field("host"), name, why);
        }
        host(errors, name, &path.field("host"));
    }
    if !name.contains('*') || !known.wildcard_rules {
        http(errors, &rule["http"], &path.field("http"));
    }
}

fn http(errors: &mut Errors, http: &Value, path: &Path<'_>) {
    if http.is_null() {
        return;
    }
    let path = path.field("paths");
    if list(&http["paths"]).is_empty() {
        errors.required(&path, "");
    }
    for (index, one) in list(&http["paths"]).iter().enumerate() {
        http_path(errors, one, &path.index(index));
    }
}

fn http_path(errors: &mut Errors, entry: &Value, path: &Path<'_>) {
    let (url_path, here) = (text(&entry["path"]), path.field("path"));
    if entry["pathType"].is_null() {
        return errors.required(&path.field("pathType"), "pathType must be specified");
    }
    let is_absolute = url_path.starts_with('/');
    match text(&entry["pathType"]) {
        "Exact" | "Prefix" => {
            if !is_absolute {
                errors.invalid(&here, url_path, "must be an absolute path");
            }
            for odd in NOT_IN_PATHS.iter().filter(|odd| url_path.contains(**odd)) {
                errors.invalid(&here, url_path, &format!("must not contain '{odd}'"));
            }
            for odd in ["/..", "/."].iter().filter(|odd| url_path.ends_with(**odd)) {
                errors.invalid(&here, url_path, &format!("cannot end with '{odd}'"));
            }
        }
        "ImplementationSpecific" if url_path.is_empty() || is_absolute => {}
        "ImplementationSpecific" => {
            errors.invalid(&here, url_path, "must be an absolute path");
        }
        other => errors.not_supported(&path.field("pathType"), other, &PATH_TYPES),
    }
    backend(errors, &entry["backend"], &path.field("backend"));
}

fn backend(errors: &mut Errors, backend: &Value, path: &Path<'_>) {
    match (&backend["resource"], &backend["service"]) {
        (Value::Null, Value::Null) => {
            errors.invalid(path, "", "resource or service backend is required");
        }
        (Value::Null, service_) => service(errors, service_, path),
        (resource, Value::Null) => reference(errors, resource, &path.field("resource")),
        _ => errors.invalid(path, "", "cannot set both resource and service backends"),
    }
}

fn service(errors: &mut Errors, service: &Value, path: &Path<'_>) {
    let here = path.field("service");
    match text(&service["name"]) {
        "" => errors.required(&here.field("name"), ""),
        name => errors.invalid_each(&here.field("name"), name, name::dns1123_label(name)),
    }
    let port = &service["port"];
    let (name, number) = (text(&port["name"]), port["number"].as_i64().unwrap_or(0));
    let port_path = here.field("port");
    match (name, number) {
        ("", 0) => errors.required(path, "port name or number is required"),
        ("", number) => {
            for wrong in name::port_number(number) {
                errors.invalid(&port_path.field("number"), number, &wrong);
            }
        }
        (name, 0) => {
            errors.invalid_each(&port_path.field("name"), name, name::port_name(name));
        }
        _ => errors.invalid(path, "", "cannot set both port name & port number"),
    }
}

fn validate_status(new: &Object, _old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let path = Path::root("status.loadBalancer.ingress");
    let points = list(&new.field("status")["loadBalancer"]["ingress"]);
    for (index, point) in points.iter().enumerate() {
        let here = path.index(index);
        let (address, hostname) = (text(&point["ip"]), text(&point["hostname"]));
        if is_set(&point["ip"])
            && let Some(why) = ip::wrong_address(address)
        {
            errors.invalid(&here.field("ip"), address, why);
        }
        if is_set(&point["hostname"]) {
            let wrong = name::dns1123_subdomain(hostname);
            errors.invalid_each(&here.field("hostname"), hostname, wrong);
            if hostname.parse::<IpAddr>().is_ok() {
                let why = "must be a DNS name, not an IP address";
                errors.invalid(&here.field("hostname"), hostname, why);
            }
        }
    }
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ingress(change: impl Fn(&mut Value)) -> Object {
        let mut value = json!({"metadata": {"name": "i"}, "spec": {"rules": [{"host": "a.example",
            "http": {"paths": [{"path": "/", "pathType": "Prefix",
                "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}}]}});
        change(&mut value);
        Object::from_value(value).unwrap()
    }

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |change: fn(&mut Value)| texts(&create(&ingress(change)));
        assert_eq!(wrong(|_| {}), [""; 0]);
        assert_eq!(
            wrong(|i| i["spec"] = json!({})),
            [
                "spec: Invalid value: null: either `defaultBackend` or `rules` must be \
                 specified"
            ]
        );
        assert_eq!(
            wrong(|i| i["spec"]["rules"][0]["http"]["paths"][0]["path"] = "a//b".into()),
            [
                "spec.rules[0].http.paths[0].path: Invalid value: \"a//b\": must be an absolute \
                 path",
                "spec.rules[0].http.paths[0].path: Invalid value: \"a//b\": must not contain \
                 '//'",
            ]
        );
        assert_eq!(
            wrong(|i| i["spec"]["rules"][0]["http"]["paths"][0]["backend"] = json!({})),
            [
                "spec.rules[0].http.paths[0].backend: Invalid value: \"\": resource or service \
                 backend is required"
            ]
        );
        assert_eq!(
            wrong(|i| {
                i["spec"]["ingressClassName"] = "a".into();
                i["metadata"]["annotations"] = json!({CLASS_ANNOTATION: "b"});
            }),
            [
                "annotations.kubernetes.io/ingress.class: Invalid value: \"b\": must match \
                 `ingressClassName` when both are specified"
            ]
        );
    }

    #[test]
    fn a_row_shows_hosts_and_addresses() {
        let ingress = ingress(|i| {
            i["spec"]["tls"] = json!([{}]);
            i["status"] = json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}});
        });
        let row = row(&ingress, Timestamp::UNIX_EPOCH);
        assert_eq!(
            row[1..5],
            ["<none>", "a.example", "1.2.3.4", "80, 443"].map(Value::from)
        );
    }
}
