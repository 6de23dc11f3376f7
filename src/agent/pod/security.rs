//! Security contexts of pod and container as one (kubernetes `pkg/securitycontext`). Pure.

use std::path::Path;

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, Pod, SeccompProfile, SecurityContext,
};

use crate::runtime::{ImageConfig, Security};

/// What a container may do and as whom.
///
/// Errors: a text as the kubelet shows it: the user must not be root and is, or may be.
pub(crate) fn security(
    pod: &Pod,
    container: &Container,
    image: &ImageConfig,
    seccomp_folder: &Path,
) -> Result<Security, String> {
    let empty = SecurityContext::default();
    let own = container.security_context.as_ref().unwrap_or(&empty);
    let of_pod = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let user = own.run_as_user.or(of_pod.and_then(|p| p.run_as_user));
    let group = own.run_as_group.or(of_pod.and_then(|p| p.run_as_group));
    let non_root = own
        .run_as_non_root
        .or(of_pod.and_then(|p| p.run_as_non_root));
    if non_root == Some(true) {
        check_not_root(user, image)?;
    }
    let mut groups = of_pod.and_then(|p| p.supplemental_groups.clone());
    let groups = groups.get_or_insert_default();
    groups.extend(of_pod.and_then(|p| p.fs_group));
    let privileged = own.privileged == Some(true);
    let caps = own.capabilities.clone().unwrap_or_default();
    let profile = own
        .seccomp_profile
        .as_ref()
        .or(of_pod.and_then(|p| p.seccomp_profile.as_ref()));
    let apparmor = own
        .app_armor_profile
        .as_ref()
        .or(of_pod.and_then(|p| p.app_armor_profile.as_ref()));
    let local = |profile: &SeccompProfile| {
        let name = profile.localhost_profile.as_deref().unwrap_or_default();
        (profile.type_ == "Localhost").then(|| seccomp_folder.join(name))
    };
    let profile = profile.filter(|_| !privileged);
    let id = |id: i64| u32::try_from(id).ok();
    Ok(Security {
        user: user.and_then(id),
        group: group.and_then(id),
        supplemental_groups: groups.iter().copied().filter_map(id).collect(),
        privileged,
        add_capabilities: plain(caps.add),
        drop_capabilities: plain(caps.drop),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        read_only_root: own.read_only_root_filesystem == Some(true),
        seccomp_default: profile.is_some_and(|p| p.type_ == "RuntimeDefault"),
        seccomp_profile: profile.and_then(local),
        apparmor: apparmor.map(apparmor_name).unwrap_or_default(),
        unmasked_proc: own.proc_mount.as_deref() == Some("Unmasked"),
    })
}

fn plain(names: Option<Vec<String>>) -> Vec<String> {
    let names = names.unwrap_or_default().into_iter();
    names
        .map(|name| name.strip_prefix("CAP_").unwrap_or(&name).to_owned())
        .collect()
}

fn apparmor_name(profile: &AppArmorProfile) -> String {
    match profile.type_.as_str() {
        "Localhost" => profile.localhost_profile.clone().unwrap_or_default(),
        "Unconfined" => "unconfined".to_owned(),
        _ => String::new(),
    }
}

fn check_not_root(user: Option<i64>, image: &ImageConfig) -> Result<(), String> {
    match user {
        Some(0) => {
            return Err("container's runAsUser breaks non-root policy".to_owned());
        }
        Some(_) => return Ok(()),
        None => {}
    }
    let name = image.user.split(':').next().unwrap_or_default();
    match name.parse::<u32>() {
        Ok(0) => Err("container has runAsNonRoot and image will run as root".to_owned()),
        Ok(_) => Ok(()),
        Err(_) if name.is_empty() => {
            Err("container has runAsNonRoot and image will run as root".to_owned())
        }
        Err(_) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify \
             user is non-root"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn run(of_pod: Value, own: Value, user: &str) -> Result<Security, String> {
        let pod = crate::agent::pod::testing::pod(json!({"securityContext": of_pod,
            "containers": [{"name": "a", "securityContext": own}]}));
        let image = ImageConfig {
            user: user.to_owned(),
            ..ImageConfig::default()
        };
        let container = &pod.spec.as_ref().unwrap().containers[0];
        security(&pod, container, &image, Path::new("/seccomp"))
    }

    #[test]
    fn the_container_s_own_fields_win_over_the_pod_s() {
        let of_pod = json!({"runAsUser": 1, "runAsGroup": 2, "fsGroup": 5,
            "supplementalGroups": [4], "seccompProfile": {"type": "RuntimeDefault"}});
        let own = json!({"runAsUser": 7, "capabilities": {"add": ["CAP_NET_ADMIN"],
            "drop": ["ALL"]}, "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true});
        let got = run(of_pod, own, "").unwrap();
        assert_eq!((got.user, got.group), (Some(7), Some(2)));
        assert_eq!(got.supplemental_groups, [4, 5]);
        assert_eq!(got.add_capabilities, ["NET_ADMIN"]);
        assert_eq!(got.drop_capabilities, ["ALL"]);
        assert!(got.no_new_privileges && got.read_only_root && got.seccomp_default);
    }

    #[test]
    fn profiles_of_the_node_lie_in_its_folder_and_privileged_has_none() {
        let local = json!({"type": "Localhost", "localhostProfile": "x.json"});
        let got = run(json!({}), json!({"seccompProfile": local}), "").unwrap();
        assert_eq!(got.seccomp_profile.unwrap(), Path::new("/seccomp/x.json"));
        let own = json!({"privileged": true, "seccompProfile": local});
        assert_eq!(run(json!({}), own, "").unwrap().seccomp_profile, None);
    }

    #[test]
    fn non_root_is_checked_against_the_image() {
        let non_root = json!({"runAsNonRoot": true});
        assert!(run(non_root.clone(), json!({}), "1000").is_ok());
        assert!(run(non_root.clone(), json!({"runAsUser": 5}), "").is_ok());
        let error = |own: Value, user| run(non_root.clone(), own, user).unwrap_err();
        assert_eq!(
            error(json!({}), ""),
            "container has runAsNonRoot and image will run as root"
        );
        assert_eq!(
            error(json!({}), "www"),
            "container has runAsNonRoot and image has non-numeric user (www), cannot verify user \
             is non-root"
        );
        assert_eq!(
            error(json!({"runAsUser": 0}), "5"),
            "container's runAsUser breaks non-root policy"
        );
    }
}
