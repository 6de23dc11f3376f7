//! Probes and lifecycle hooks.

use serde_json::Value;

use crate::api::name;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, common, is_set, list, text};

const PROBE_HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];
const HOOK_HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "sleep"];

/// Probes and hooks of a container that keeps running.
pub(super) fn main_container(errors: &mut Errors, container: &Value, path: &Path<'_>) {
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = &container[field];
        if probe.is_null() {
            continue;
        }
        let path = path.field(field);
        check(errors, probe, &path);
        let successes = probe["successThreshold"].as_i64().unwrap_or(1);
        if field != "readinessProbe" && successes != 1 {
            errors.invalid(&path.field("successThreshold"), successes, "must be 1");
        }
        let grace = &probe["terminationGracePeriodSeconds"];
        if field == "readinessProbe" && !grace.is_null() {
            let why = "must not be set for readinessProbes";
            errors.invalid(
                &path.field("terminationGracePeriodSeconds"),
                grace.clone(),
                why,
            );
        }
    }
    let lifecycle = path.field("lifecycle");
    for hook in ["postStart", "preStop"] {
        let handler = &container["lifecycle"][hook];
        if !handler.is_null() {
            check_handler(errors, handler, &HOOK_HANDLERS, &lifecycle.field(hook));
        }
    }
}

fn check(errors: &mut Errors, probe: &Value, path: &Path<'_>) {
    check_handler(errors, probe, &PROBE_HANDLERS, path);
    for field in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        errors.nonnegative(&path.field(field), &probe[field]);
    }
    if let Some(grace) = probe["terminationGracePeriodSeconds"]
        .as_i64()
        .filter(|n| *n <= 0)
    {
        let path = path.field("terminationGracePeriodSeconds");
        errors.invalid(&path, grace, "must be greater than 0");
    }
}

fn check_handler(errors: &mut Errors, handler: &Value, kinds: &[&str], path: &Path<'_>) {
    let mut count = 0;
    for kind in kinds {
        let action = &handler[*kind];
        if action.is_null() {
            continue;
        }
        count += 1;
        let path = path.field(kind);
        if count > 1 {
            errors.forbidden(&path, "may not specify more than 1 handler type");
            continue;
        }
        match *kind {
            "exec" if list(&action["command"]).is_empty() => {
                errors.required(&path.field("command"), "");
            }
            "httpGet" => http_get(errors, action, &path),
            "tcpSocket" | "grpc" => {
                common::port_or_name(errors, &action["port"], &path.field("port"));
            }
            "sleep" => errors.nonnegative(&path.field("seconds"), &action["seconds"]),
            _ => {}
        }
    }
    if count == 0 {
        errors.required(path, "must specify a handler type");
    }
}

fn http_get(errors: &mut Errors, get: &Value, path: &Path<'_>) {
    if !is_set(&get["path"]) {
        errors.required(&path.field("path"), "");
    }
    common::port_or_name(errors, &get["port"], &path.field("port"));
    let scheme = text(&get["scheme"]);
    if !matches!(scheme, "HTTP" | "HTTPS") {
        errors.not_supported(&path.field("scheme"), scheme, &["HTTP", "HTTPS"]);
    }
    for header in list(&get["httpHeaders"]) {
        let header = text(&header["name"]);
        errors.invalid_each(
            &path.field("httpHeaders"),
            header,
            name::http_header(header),
        );
    }
}
