//! Every Pod runs as a service account and gets its token, the cluster's CA and its namespace
//! mounted where client libraries look for them (`plugin/pkg/admission/serviceaccount`).

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::api::object::{Object, child_mut};
use crate::api::status::ApiError;
use crate::util::rng::Rng;

use super::{Attributes, Lookup, Plugin};

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
const CA_CONFIG_MAP: &str = "kube-root-ca.crt";
/// An hour and seven seconds: the seven tell it apart from what a user asks for.
const TOKEN_SECONDS: i64 = 3607;
const MIRROR: &str = "kubernetes.io/config.mirror";
const CONTAINERS: [&str; 2] = ["initContainers", "containers"];

pub(super) struct ServiceAccounts {
    lookup: Lookup,
    rng: Rng,
}

impl ServiceAccounts {
    pub(super) fn new(lookup: Lookup, rng: Rng) -> Self {
        Self { lookup, rng }
    }
}

#[async_trait]
impl Plugin for ServiceAccounts {
    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        attributes.is_new_pod()
    }

    async fn mutate(
        &self,
        attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), ApiError> {
        if !attributes.is_new_pod() || is_mirror(object) {
            return Ok(());
        }
        let spec = child_mut(&mut object.0, "spec");
        let name = match spec.get("serviceAccountName").and_then(Value::as_str) {
            None | Some("") => "default".to_owned(),
            Some(name) => name.to_owned(),
        };
        spec.insert("serviceAccountName".into(), name.clone().into());
        // The field's deprecated name says the same.
        spec.insert("serviceAccount".into(), name.clone().into());
        let key = format!("{}/{name}", attributes.namespace);
        let Some(found) = self.lookup.find("serviceaccounts", &key).await? else {
            let why = format!(
                "error looking up service account {key}: serviceaccount \"{name}\" not found"
            );
            return Err(attributes.forbidden(&why));
        };
        let account = found.object().map_err(ApiError::internal)?;
        let flag = |value: Option<&Value>| value.and_then(Value::as_bool);
        let mounts = flag(object.at(&["spec", "automountServiceAccountToken"]))
            .or_else(|| flag(account.at(&["automountServiceAccountToken"])))
            .unwrap_or(true);
        if mounts {
            mount_token(object, &self.rng);
        }
        add_pull_secrets(object, &account);
        Ok(())
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), ApiError> {
        let Some(pod) = object.filter(|pod| attributes.is_new_pod() && is_mirror(pod)) else {
            return Ok(());
        };
        // A mirror of a static Pod is made by its node, which must not get at secrets that way.
        if !pod.text_at(&["spec", "serviceAccountName"]).is_empty() {
            return Err(attributes.forbidden("a mirror pod may not reference service accounts"));
        }
        let volumes = pod.at(&["spec", "volumes"]).and_then(Value::as_array);
        for volume in volumes.into_iter().flatten() {
            if volume.get("secret").is_some() {
                return Err(attributes.forbidden("a mirror pod may not reference secrets"));
            }
            let sources = volume["projected"]["sources"].as_array();
            let is_token = |source: &Value| source.get("serviceAccountToken").is_some();
            if sources.into_iter().flatten().any(is_token) {
                let why = "a mirror pod may not use ServiceAccountToken volume projections";
                return Err(attributes.forbidden(why));
            }
        }
        Ok(())
    }
}

fn is_mirror(pod: &Object) -> bool {
    pod.at(&["metadata", "annotations", MIRROR]).is_some()
}

/// Mounts the token into every container that has nothing at its place.
fn mount_token(pod: &mut Object, rng: &Rng) {
    let spec = child_mut(&mut pod.0, "spec");
    let volumes = spec.get("volumes").and_then(Value::as_array);
    let existing = volumes.into_iter().flatten().find_map(|volume| {
        let name = volume["name"].as_str()?;
        let is_ours = name.starts_with(VOLUME_PREFIX) && volume.get("projected").is_some();
        is_ours.then(|| name.to_owned())
    });
    let is_new = existing.is_none();
    let volume = existing.unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", rng.suffix(5)));
    let mut is_used = false;
    for list in CONTAINERS {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let Some(container) = container.as_object_mut() else {
                continue;
            };
            let mounts = container
                .entry("volumeMounts")
                .or_insert_with(|| Value::Array(Vec::new()));
            let Some(mounts) = mounts.as_array_mut() else {
                continue;
            };
            if mounts.iter().all(|mount| mount["mountPath"] != MOUNT_PATH) {
                mounts.push(json!({"name": volume, "mountPath": MOUNT_PATH, "readOnly": true}));
                is_used = true;
            }
        }
    }
    if !is_new || !is_used {
        remove_empty_mounts(spec);
        return;
    }
    let volumes = spec
        .entry("volumes")
        .or_insert_with(|| Value::Array(Vec::new()));
    if let Some(volumes) = volumes.as_array_mut() {
        volumes.push(token_volume(&volume));
    }
}

/// Containers that had no mounts and got none have none.
fn remove_empty_mounts(spec: &mut serde_json::Map<String, Value>) {
    for list in CONTAINERS {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            if let Some(container) = container.as_object_mut()
                && container.get("volumeMounts") == Some(&json!([]))
            {
                container.remove("volumeMounts");
            }
        }
    }
}

fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 420,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": {
                    "name": CA_CONFIG_MAP, "items": [{"key": "ca.crt", "path": "ca.crt"}],
                }},
                {"downwardAPI": {"items": [{
                    "path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                }]}},
            ],
        },
    })
}

/// A Pod without pull secrets of its own has those of its account.
fn add_pull_secrets(pod: &mut Object, account: &Object) {
    let own = pod
        .at(&["spec", "imagePullSecrets"])
        .and_then(Value::as_array);
    let theirs = account.0.get("imagePullSecrets").and_then(Value::as_array);
    if own.is_none_or(Vec::is_empty)
        && let Some(theirs) = theirs.filter(|secrets| !secrets.is_empty())
    {
        let spec = child_mut(&mut pod.0, "spec");
        spec.insert("imagePullSecrets".into(), theirs.clone().into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: Value) -> Object {
        Object::from_value(json!({"spec": spec})).unwrap()
    }

    #[test]
    fn a_token_is_mounted_where_nothing_is() {
        let mut pod = pod(json!({"containers": [
            {"name": "a"},
            {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]},
        ]}));
        mount_token(&mut pod, &Rng::seeded(1));
        let spec = &pod.0["spec"];
        let volume = &spec["volumes"][0];
        assert!(volume["name"].as_str().unwrap().starts_with(VOLUME_PREFIX));
        assert_eq!(
            spec["containers"][0]["volumeMounts"][0]["name"],
            volume["name"]
        );
        assert_eq!(
            spec["containers"][1]["volumeMounts"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
        let before = pod.clone();
        mount_token(&mut pod, &Rng::seeded(2));
        assert_eq!(pod, before);
    }

    #[test]
    fn pull_secrets_of_the_account_serve_a_pod_without_any() {
        let account = json!({"imagePullSecrets": [{"name": "account"}]});
        let account = Object::from_value(account).unwrap();
        let mut bare = pod(json!({}));
        add_pull_secrets(&mut bare, &account);
        assert_eq!(bare.0["spec"]["imagePullSecrets"][0]["name"], "account");
        let mut own = pod(json!({"imagePullSecrets": [{"name": "own"}]}));
        add_pull_secrets(&mut own, &account);
        assert_eq!(own.0["spec"]["imagePullSecrets"], json!([{"name": "own"}]));
    }
}
