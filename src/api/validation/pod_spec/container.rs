//! Containers of all three lists, their ports, mounts and hooks.

use std::collections::BTreeSet;

use serde_json::Value;

use super::volume::Volumes;
use super::{env, probe, resources, security};
use crate::api::ip;
use crate::api::name;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, common, is_set, list, text};

/// What the checks of one container need to know of its pod.
struct Pod<'a> {
    spec: &'a Value,
    volumes: &'a Volumes<'a>,
}

/// All containers of a pod.
pub(super) fn containers(
    errors: &mut Errors,
    spec: &Value,
    volumes: &Volumes<'_>,
    path: &Path<'_>,
) {
    let pod = Pod { spec, volumes };
    let mut names = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    let main_path = path.field("containers");
    let main = list(&spec["containers"]);
    if main.is_empty() {
        errors.required(&main_path, "");
    }
    for (index, container) in main.iter().enumerate() {
        let path = main_path.index(index);
        unique_name(errors, container, &mut names, &path);
        container_checks(errors, &pod, container, &path);
        probe::main_container(errors, container, &path);
        unique_host_ports(errors, container, &mut host_ports, &path);
        restart_policy(errors, container, &["Always", "Never", "OnFailure"], &path);
    }
    let init_path = path.field("initContainers");
    for (index, container) in list(&spec["initContainers"]).iter().enumerate() {
        let path = init_path.index(index);
        unique_name(errors, container, &mut names, &path);
        container_checks(errors, &pod, container, &path);
        init_container(errors, container, &path);
        if crate::api::validation::text(&container["restartPolicy"]) == "Always" {
            unique_host_ports(errors, container, &mut host_ports, &path);
        }
    }
    let ephemeral_path = path.field("ephemeralContainers");
    for (index, container) in list(&spec["ephemeralContainers"]).iter().enumerate() {
        let path = ephemeral_path.index(index);
        unique_name(errors, container, &mut names, &path);
        container_checks(errors, &pod, container, &path);
        ephemeral_container(errors, spec, container, &path);
    }
}

fn unique_name<'a>(
    errors: &mut Errors,
    container: &'a Value,
    names: &mut BTreeSet<&'a str>,
    path: &Path<'_>,
) {
    let name = text(&container["name"]);
    if !name.is_empty() && !names.insert(name) {
        errors.duplicate(&path.field("name"), name);
    }
}

fn container_checks(errors: &mut Errors, pod: &Pod<'_>, container: &Value, path: &Path<'_>) {
    match text(&container["name"]) {
        "" => errors.required(&path.field("name"), ""),
        name => errors.invalid_each(&path.field("name"), name, name::dns1123_label(name)),
    }
    let image = text(&container["image"]);
    if image.is_empty() {
        errors.required(&path.field("image"), "");
    } else if image.trim() != image {
        let why = "must not have leading or trailing whitespace";
        errors.invalid(&path.field("image"), image, why);
    }
    errors.one_of(
        &path.field("terminationMessagePolicy"),
        &container["terminationMessagePolicy"],
        &["FallbackToLogsOnError", "File"],
    );
    errors.one_of(
        &path.field("imagePullPolicy"),
        &container["imagePullPolicy"],
        &["Always", "IfNotPresent", "Never"],
    );
    ports(errors, pod.spec, container, &path.field("ports"));
    env::variables(errors, &container["env"], &path.field("env"));
    env::sources(errors, &container["envFrom"], &path.field("envFrom"));
    mounts(errors, pod.volumes, container, &path.field("volumeMounts"));
    resources::of_container(errors, &container["resources"], &path.field("resources"));
    let context = &container["securityContext"];
    security::container(errors, context, &path.field("securityContext"));
}

fn ports(errors: &mut Errors, spec: &Value, container: &Value, path: &Path<'_>) {
    let mut names = BTreeSet::new();
    for (index, port) in list(&container["ports"]).iter().enumerate() {
        let path = path.index(index);
        let name = text(&port["name"]);
        if !name.is_empty() {
            let wrong = name::port_name(name);
            if wrong.is_empty() && !names.insert(name) {
                errors.duplicate(&path.field("name"), name);
            }
            errors.invalid_each(&path.field("name"), name, wrong);
        }
        let number = port["containerPort"].as_i64().unwrap_or(0);
        match number {
            0 => errors.required(&path.field("containerPort"), ""),
            number => common::port(errors, number, &path.field("containerPort")),
        }
        let host_port = port["hostPort"].as_i64().unwrap_or(0);
        if host_port != 0 {
            common::port(errors, host_port, &path.field("hostPort"));
        }
        if spec["hostNetwork"] == true && host_port != 0 && host_port != number {
            let why = "must match `hostPort` when `hostNetwork` is true";
            errors.invalid(&path.field("containerPort"), number, why);
        }
        errors.one_of(
            &path.field("protocol"),
            &port["protocol"],
            &["SCTP", "TCP", "UDP"],
        );
        let host_ip = text(&port["hostIP"]);
        if let Some(why) = ip::wrong_address(host_ip).filter(|_| !host_ip.is_empty()) {
            errors.invalid(&path.field("hostIP"), host_ip, why);
        }
    }
}

fn unique_host_ports(
    errors: &mut Errors,
    container: &Value,
    seen: &mut BTreeSet<String>,
    path: &Path<'_>,
) {
    for (index, port) in list(&container["ports"]).iter().enumerate() {
        let Some(number) = port["hostPort"].as_i64().filter(|n| *n != 0) else {
            continue;
        };
        let taken = format!(
            "{}/{}/{number}",
            text(&port["protocol"]),
            text(&port["hostIP"])
        );
        if seen.contains(&taken) {
            let path = path.field("ports");
            errors.duplicate(&path.index(index).field("hostPort"), taken);
        } else {
            seen.insert(taken);
        }
    }
}

fn mounts(errors: &mut Errors, volumes: &Volumes<'_>, container: &Value, path: &Path<'_>) {
    let mut seen = BTreeSet::new();
    for (index, mount) in list(&container["volumeMounts"]).iter().enumerate() {
        let at = path.index(index);
        let name = text(&mount["name"]);
        if name.is_empty() {
            errors.required(&at.field("name"), "");
        }
        if !volumes.has(name) {
            errors.not_found(&at.field("name"), name);
        }
        let target = text(&mount["mountPath"]);
        if target.is_empty() {
            errors.required(&at.field("mountPath"), "");
        }
        if !seen.insert(target) {
            errors.invalid(&at.field("mountPath"), target, "must be unique");
        }
        let (sub, expression) = (text(&mount["subPath"]), text(&mount["subPathExpr"]));
        if !sub.is_empty() && !expression.is_empty() {
            let why = "subPathExpr and subPath are mutually exclusive";
            errors.invalid(&at.field("subPathExpr"), expression, why);
        }
        descending_path(errors, sub, &path.field("subPath"));
        descending_path(errors, expression, &path.field("subPathExpr"));
        let propagation = &mount["mountPropagation"];
        if is_set(propagation) {
            let supported = ["Bidirectional", "HostToContainer", "None"];
            errors.one_of(&at.field("mountPropagation"), propagation, &supported);
        }
        if propagation == "Bidirectional" && container["securityContext"]["privileged"] != true {
            let why = "Bidirectional mount propagation is available only to privileged containers";
            errors.forbidden(&at.field("mountPropagation"), why);
        }
    }
}

/// A path that stays below where it starts.
pub(super) fn descending_path(errors: &mut Errors, value: &str, path: &Path<'_>) {
    if value.starts_with('/') {
        errors.invalid(path, value, "must be a relative path");
    }
    no_backsteps(errors, value, path);
}

/// A path without `..`.
pub(crate) fn no_backsteps(errors: &mut Errors, value: &str, path: &Path<'_>) {
    if value.split('/').any(|part| part == "..") {
        errors.invalid(path, value, "must not contain '..'");
    }
}

fn restart_policy(errors: &mut Errors, container: &Value, supported: &[&str], path: &Path<'_>) {
    let policy = &container["restartPolicy"];
    if is_set(policy) {
        errors.one_of(&path.field("restartPolicy"), policy, supported);
    }
}

fn init_container(errors: &mut Errors, container: &Value, path: &Path<'_>) {
    restart_policy(errors, container, &["Always", "Never", "OnFailure"], path);
    if container["restartPolicy"] == "Always" {
        probe::main_container(errors, container, path);
        return;
    }
    for field in [
        "lifecycle",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
    ] {
        if !container[field].is_null() {
            let why = "may not be set for init containers without restartPolicy=Always";
            errors.forbidden(&path.field(field), why);
        }
    }
}

fn ephemeral_container(errors: &mut Errors, spec: &Value, container: &Value, path: &Path<'_>) {
    for field in [
        "ports",
        "lifecycle",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
    ] {
        if !container[field].is_null() {
            let why = "cannot be set for an Ephemeral Container";
            errors.forbidden(&path.field(field), why);
        }
    }
    let has_resources = container["resources"]
        .as_object()
        .is_some_and(|r| !r.is_empty());
    if has_resources {
        let why = "cannot be set for an Ephemeral Container";
        errors.forbidden(&path.field("resources"), why);
    }
    let target = text(&container["targetContainerName"]);
    let is_there = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| crate::api::validation::list(&spec[*list]))
        .any(|c| c["name"] == target);
    if !target.is_empty() && !is_there {
        errors.not_found(&path.field("targetContainerName"), target);
    }
}
