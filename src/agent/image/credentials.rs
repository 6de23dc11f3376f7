//! Registry credentials in pull secrets: `kubernetes.io/dockerconfigjson` and the older
//! `kubernetes.io/dockercfg`. Pure.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;

use crate::runtime::Credential;

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

/// The credentials in a secret; none where it holds none that can be read.
pub(crate) fn credentials(secret: &Secret) -> Vec<Credential> {
    let data = |key: &str| secret.data.as_ref()?.get(key).map(|bytes| &bytes.0);
    let entries = if let Some(bytes) = data(".dockerconfigjson") {
        serde_json::from_slice::<Config>(bytes).map(|config| config.auths)
    } else if let Some(bytes) = data(".dockercfg") {
        serde_json::from_slice(bytes)
    } else {
        return Vec::new();
    };
    let entries = entries.unwrap_or_default().into_iter();
    entries
        .filter_map(|(registry, entry)| credential(&registry, &entry))
        .collect()
}

fn credential(registry: &str, entry: &Entry) -> Option<Credential> {
    let mut username = entry.username.clone();
    let mut password = entry.password.clone();
    if !entry.auth.is_empty() {
        let pair = STANDARD.decode(entry.auth.trim()).ok()?;
        let pair = String::from_utf8(pair).ok()?;
        let (user, secret) = pair.split_once(':')?;
        user.clone_into(&mut username);
        secret.trim_end_matches('\0').clone_into(&mut password);
    }
    for token in [&entry.identitytoken, &entry.registrytoken] {
        if password.is_empty() && !token.is_empty() {
            password.clone_from(token);
        }
    }
    if password.is_empty() {
        return None;
    }
    Some(Credential {
        registry: host(registry),
        username,
        password,
    })
}

/// `https://index.docker.io/v1/` is `docker.io`; other keys lose their scheme and API version.
fn host(key: &str) -> String {
    let key = key.trim_start_matches("https://");
    let key = key.trim_start_matches("http://").trim_end_matches('/');
    let key = key.strip_suffix("/v1").unwrap_or(key);
    let key = key.strip_suffix("/v2").unwrap_or(key);
    match key {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use serde_json::json;

    fn secret(key: &str, value: &serde_json::Value) -> Secret {
        Secret {
            data: Some([(key.to_owned(), ByteString(value.to_string().into_bytes()))].into()),
            ..Secret::default()
        }
    }

    fn found(registry: &str, username: &str, password: &str) -> Credential {
        Credential {
            registry: registry.into(),
            username: username.into(),
            password: password.into(),
        }
    }

    #[test]
    fn both_forms_and_all_ways_to_write_a_login_are_read() {
        let auths = json!({"auths": {
            "https://index.docker.io/v1/": {"auth": "dTpwOnc="},
            "reg:5000/team": {"username": "a", "password": "b"},
            "ghcr.io": {"identitytoken": "t"},
            "empty": {}}});
        let got = credentials(&secret(".dockerconfigjson", &auths));
        let expected = [
            found("ghcr.io", "", "t"),
            found("docker.io", "u", "p:w"),
            found("reg:5000/team", "a", "b"),
        ];
        assert_eq!(got, expected);
        let old = json!({"reg": {"username": "a", "password": "b"}});
        let got = credentials(&secret(".dockercfg", &old));
        assert_eq!(got, [found("reg", "a", "b")]);
        assert!(credentials(&secret(".dockerconfigjson", &json!("x"))).is_empty());
    }
}
