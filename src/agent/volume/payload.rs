//! Which files a volume made of objects holds. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, Volume, VolumeProjection,
};

use super::atomic::{FileContent, Files};
use super::fields::{self, Place};
use super::objects::Found;

/// Mode of files for which nothing is said.
const MODE_DEFAULT: i32 = 0o644;

/// What files are made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sources<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) place: &'a Place,
    pub(crate) found: &'a Found,
    /// Tokens of the pod by what was asked for.
    pub(crate) tokens: &'a BTreeMap<TokenWish, String>,
}

/// A service account token as a projected volume asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TokenWish {
    /// Empty: the API server's own.
    pub(crate) audience: String,
    pub(crate) seconds: i64,
}

/// Seconds a token lives for which nothing is said.
const TOKEN_SECONDS_DEFAULT: i64 = 3600;

/// The tokens a pod's volumes ask for.
pub(crate) fn token_wishes(pod: &Pod) -> Vec<TokenWish> {
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    let sources = volumes.filter_map(|volume| volume.projected.as_ref()?.sources.as_ref());
    let tokens = sources
        .flatten()
        .filter_map(|source| source.service_account_token.as_ref());
    tokens
        .map(|token| wish(token.audience.as_deref(), token.expiration_seconds))
        .collect()
}

fn wish(audience: Option<&str>, seconds: Option<i64>) -> TokenWish {
    TokenWish {
        audience: audience.unwrap_or_default().to_owned(),
        seconds: seconds.unwrap_or(TOKEN_SECONDS_DEFAULT),
    }
}

/// Whether the volume is made of files that come from objects, fields or tokens.
pub(crate) fn is_payload(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

/// Whether what it holds must not reach a disk.
pub(crate) fn is_secret(volume: &Volume) -> bool {
    volume.secret.is_some() || volume.projected.is_some()
}

/// The files of a volume for which [`is_payload`] holds.
///
/// Errors: a text as the kubelet shows it.
pub(crate) fn files(volume: &Volume, sources: &Sources<'_>) -> Result<Files, String> {
    let mut files = Files::new();
    if let Some(source) = &volume.config_map {
        let map = sources.found.config_map(&source.name);
        let pick = Pick {
            kind: "configmap",
            name: &source.name,
            items: source.items.as_deref().unwrap_or_default(),
            optional: source.optional == Some(true),
            mode: source.default_mode,
        };
        pick.files(map.map(config_map_data), &mut files)?;
    } else if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let pick = Pick {
            kind: "secret",
            name,
            items: source.items.as_deref().unwrap_or_default(),
            optional: source.optional == Some(true),
            mode: source.default_mode,
        };
        pick.files(sources.found.secret(name).map(secret_data), &mut files)?;
    } else if let Some(source) = &volume.downward_api {
        let items = source.items.as_deref().unwrap_or_default();
        downward(items, source.default_mode, sources, &mut files)?;
    } else if let Some(source) = &volume.projected {
        for projection in source.sources.iter().flatten() {
            projected(projection, source.default_mode, sources, &mut files)?;
        }
    }
    Ok(files)
}

type Data<'a> = BTreeMap<&'a str, &'a [u8]>;

fn config_map_data(map: &ConfigMap) -> Data<'_> {
    let text = map.data.iter().flatten();
    let text = text.map(|(key, value)| (key.as_str(), value.as_bytes()));
    let binary = map.binary_data.iter().flatten();
    let binary = binary.map(|(key, value)| (key.as_str(), value.0.as_slice()));
    text.chain(binary).collect()
}

fn secret_data(secret: &Secret) -> Data<'_> {
    let data = secret.data.iter().flatten();
    data.map(|(key, value)| (key.as_str(), value.0.as_slice()))
        .collect()
}

/// Which keys of an object become which files.
struct Pick<'a> {
    kind: &'static str,
    name: &'a str,
    items: &'a [KeyToPath],
    optional: bool,
    mode: Option<i32>,
}

impl Pick<'_> {
    fn files(&self, data: Option<Data<'_>>, files: &mut Files) -> Result<(), String> {
        let Some(data) = data else {
            if self.optional {
                return Ok(());
            }
            return Err(format!("{} \"{}\" not found", self.kind, self.name));
        };
        if self.items.is_empty() {
            for (key, bytes) in data {
                files.insert(key.to_owned(), content(bytes, None, self.mode));
            }
            return Ok(());
        }
        for item in self.items {
            match data.get(item.key.as_str()) {
                Some(bytes) => {
                    let file = content(bytes, item.mode, self.mode);
                    files.insert(item.path.clone(), file);
                }
                None if self.optional => {}
                None => {
                    let kind = match self.kind {
                        "configmap" => "config",
                        other => other,
                    };
                    return Err(format!("references non-existent {kind} key: {}", item.key));
                }
            }
        }
        Ok(())
    }
}

fn content(bytes: &[u8], own: Option<i32>, default: Option<i32>) -> FileContent {
    let mode = own.or(default).unwrap_or(MODE_DEFAULT);
    FileContent {
        bytes: bytes.to_vec(),
        mode: mode.unsigned_abs() & 0o777,
        user: None,
    }
}

fn downward(
    items: &[DownwardAPIVolumeFile],
    default: Option<i32>,
    sources: &Sources<'_>,
    files: &mut Files,
) -> Result<(), String> {
    for item in items {
        let text = if let Some(field) = &item.field_ref {
            fields::field(sources.pod, sources.place, &field.field_path)?
        } else if let Some(selector) = &item.resource_field_ref {
            fields::resource(sources.pod, None, selector, sources.place)?
        } else {
            continue;
        };
        let file = content(text.as_bytes(), item.mode, default);
        files.insert(item.path.clone(), file);
    }
    Ok(())
}

fn projected(
    projection: &VolumeProjection,
    default: Option<i32>,
    sources: &Sources<'_>,
    files: &mut Files,
) -> Result<(), String> {
    if let Some(source) = &projection.config_map {
        let pick = Pick {
            kind: "configmap",
            name: &source.name,
            items: source.items.as_deref().unwrap_or_default(),
            optional: source.optional == Some(true),
            mode: default,
        };
        let map = sources.found.config_map(&source.name);
        pick.files(map.map(config_map_data), files)?;
    }
    if let Some(source) = &projection.secret {
        let pick = Pick {
            kind: "secret",
            name: &source.name,
            items: source.items.as_deref().unwrap_or_default(),
            optional: source.optional == Some(true),
            mode: default,
        };
        let secret = sources.found.secret(&source.name);
        pick.files(secret.map(secret_data), files)?;
    }
    if let Some(source) = &projection.downward_api {
        let items = source.items.as_deref().unwrap_or_default();
        downward(items, default, sources, files)?;
    }
    if let Some(source) = &projection.service_account_token {
        let wish = wish(source.audience.as_deref(), source.expiration_seconds);
        let token = sources.tokens.get(&wish);
        let token = token.ok_or("the service account token has not been fetched")?;
        files.insert(source.path.clone(), token_file(token, default, sources.pod));
    }
    if projection.cluster_trust_bundle.is_some() || projection.pod_certificate.is_some() {
        return Err("cluster trust bundles and pod certificates are not supported".to_owned());
    }
    Ok(())
}

/// A token is readable for the user all containers run as, or the pod's group; otherwise as any
/// other file.
fn token_file(token: &str, default: Option<i32>, pod: &Pod) -> FileContent {
    let user = common_user(pod);
    let group = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.as_ref()?.fs_group);
    let mut file = content(token.as_bytes(), None, default);
    if user.is_some() || group.is_some() {
        file.mode = 0o600;
    }
    file.user = user;
    file
}

fn common_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|s| s.run_as_user);
    let init = spec.init_containers.iter().flatten();
    let mut users = init.chain(&spec.containers).map(|container| {
        let own = container.security_context.as_ref();
        own.and_then(|own| own.run_as_user).or(of_pod)
    });
    let first = users.next()??;
    if users.all(|user| user == Some(first)) {
        u32::try_from(first).ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn run(volume: serde_json::Value) -> Result<Vec<(String, String, u32)>, String> {
        let volume: Volume = serde_json::from_value(volume).unwrap();
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c", "securityContext": {"runAsUser": 7}}]}}))
        .unwrap();
        let map = serde_json::from_value(json!({"data": {"a": "1"}, "binaryData": {"b": "Mg=="}}));
        let mut found = Found::default();
        found
            .config_maps
            .insert("cm".into(), Arc::new(map.unwrap()));
        let tokens = BTreeMap::from([(wish(None, None), "tok".to_owned())]);
        let sources = Sources {
            pod: &pod,
            place: &Place::default(),
            found: &found,
            tokens: &tokens,
        };
        let files = files(&volume, &sources)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(files
            .iter()
            .map(|(path, file)| (path.clone(), text(&file.bytes), file.mode))
            .collect())
    }

    fn file(path: &str, text: &str, mode: u32) -> (String, String, u32) {
        (path.to_owned(), text.to_owned(), mode)
    }

    #[test]
    fn all_keys_or_the_listed_ones_become_files() {
        let all = run(json!({"name": "v", "configMap": {"name": "cm", "defaultMode": 0o400}}));
        assert_eq!(all.unwrap(), [file("a", "1", 0o400), file("b", "2", 0o400)]);
        let one = run(json!({"name": "v", "configMap": {"name": "cm", "items":
            [{"key": "a", "path": "x/y", "mode": 0o600}]}}));
        assert_eq!(one.unwrap(), [file("x/y", "1", 0o600)]);
    }

    #[test]
    fn what_is_missing_is_an_error_unless_optional() {
        let error = |value| run(value).unwrap_err();
        assert_eq!(
            error(json!({"name": "v", "secret": {"secretName": "s"}})),
            "secret \"s\" not found"
        );
        assert_eq!(
            error(json!({"name": "v", "configMap": {"name": "cm", "items":
                [{"key": "z", "path": "z"}]}})),
            "references non-existent config key: z"
        );
        let optional = run(json!({"name": "v", "secret": {"secretName": "s", "optional": true}}));
        assert_eq!(optional.unwrap(), []);
    }

    #[test]
    fn projections_share_one_folder_and_tokens_belong_to_the_user() {
        let got = run(json!({"name": "v", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token"}},
            {"configMap": {"name": "cm", "items": [{"key": "a", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "name", "fieldRef":
                {"fieldPath": "metadata.name"}}]}}]}}));
        let expected = [
            file("ca.crt", "1", 0o644),
            file("name", "p", 0o644),
            file("token", "tok", 0o600),
        ];
        assert_eq!(got.unwrap(), expected);
    }
}
