//! Security contexts of pods and containers.

use serde_json::Value;

use crate::api::name;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, is_set, list, text};

/// `securityContext` of a pod, and what of the host it may share.
pub(super) fn pod(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let context = &spec["securityContext"];
    let path_of_context = path.field("securityContext");
    ids(
        errors,
        context,
        &["runAsUser", "runAsGroup", "fsGroup"],
        &path_of_context,
    );
    let groups = path_of_context.field("supplementalGroups");
    for (index, group) in list(&context["supplementalGroups"]).iter().enumerate() {
        id(errors, group, &groups.index(index));
    }
    if spec["hostPID"] == true && spec["shareProcessNamespace"] == true {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        let both = serde_json::json!(true);
        errors.invalid(&path_of_context.field("shareProcessNamespace"), both, why);
    }
    let policy = &context["fsGroupChangePolicy"];
    if is_set(policy) {
        let supported = ["Always", "OnRootMismatch"];
        errors.one_of(
            &path_of_context.field("fsGroupChangePolicy"),
            policy,
            &supported,
        );
    }
    sysctls(errors, context, &path_of_context.field("sysctls"));
    profiles(errors, context, &path_of_context);
}

/// `securityContext` of a container.
pub(super) fn container(errors: &mut Errors, context: &Value, path: &Path<'_>) {
    if context.is_null() {
        return;
    }
    ids(errors, context, &["runAsUser", "runAsGroup"], path);
    let proc_mount = &context["procMount"];
    if is_set(proc_mount) {
        errors.one_of(
            &path.field("procMount"),
            proc_mount,
            &["Default", "Unmasked"],
        );
    }
    if context["allowPrivilegeEscalation"] == false {
        let mut added = list(&context["capabilities"]["add"]).iter().map(text);
        let mut refuse = |why| errors.invalid(path, context.clone(), why);
        if context["privileged"] == true {
            refuse("cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        if added.any(|c| matches!(c, "CAP_SYS_ADMIN" | "SYS_ADMIN")) {
            refuse(
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` \
                 CAP_SYS_ADMIN",
            );
        }
    }
    profiles(errors, context, path);
}

fn ids(errors: &mut Errors, context: &Value, fields: &[&str], path: &Path<'_>) {
    for field in fields {
        id(errors, &context[*field], &path.field(field));
    }
}

fn id(errors: &mut Errors, id: &Value, path: &Path<'_>) {
    if let Some(id) = id.as_i64() {
        for wrong in name::range(id, 0, i64::from(i32::MAX)) {
            errors.invalid(path, id, &wrong);
        }
    }
}

fn profiles(errors: &mut Errors, context: &Value, path: &Path<'_>) {
    const TYPES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];
    for field in ["seccompProfile", "appArmorProfile"] {
        let profile = &context[field];
        if profile.is_null() {
            continue;
        }
        let path = path.field(field);
        let name = &profile["localhostProfile"];
        match text(&profile["type"]) {
            "Localhost" if !is_set(name) => {
                let why = "must be set when seccomp type is Localhost";
                errors.required(&path.field("localhostProfile"), why);
            }
            "Localhost" => {}
            "RuntimeDefault" | "Unconfined" if !name.is_null() => {
                let why = "can only be set when seccomp type is Localhost";
                errors.invalid(&path.field("localhostProfile"), name.clone(), why);
            }
            _ => errors.one_of(&path.field("type"), &profile["type"], &TYPES),
        }
    }
}

fn sysctls(errors: &mut Errors, context: &Value, path: &Path<'_>) {
    let mut seen = std::collections::BTreeSet::new();
    for (index, sysctl) in list(&context["sysctls"]).iter().enumerate() {
        let name = text(&sysctl["name"]);
        let path = path.index(index);
        let part = |part: &str| {
            let inner =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
            let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
            part.chars().all(inner) && edge(part.chars().next()) && edge(part.chars().last())
        };
        if name.is_empty() {
            errors.required(&path.field("name"), "");
        } else if !name.split(['.', '/']).all(part) {
            let why = "must have at most 253 characters and match regex \
                       ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.invalid(&path.field("name"), name, why);
        } else if !seen.insert(name) {
            errors.duplicate(&path.field("name"), name);
        }
    }
}
