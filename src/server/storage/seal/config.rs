//! The file behind `--encryption-provider-config`, in upstream's format
//! (`apiserver.config.k8s.io/v1 EncryptionConfiguration`). Pure: the file is read elsewhere.

use base64::Engine;
use serde::Deserialize;

use super::cipher::Cipher;

/// What is wrong with an encryption configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not the format.
    #[error("not an EncryptionConfiguration: {0}")]
    Format(String),
    /// A field with a value that cannot be used.
    #[error("{field}: {why}")]
    Field {
        /// Path of the field.
        field: String,
        /// What would be right.
        why: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    resources: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    providers: Vec<Provider>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Provider {
    aesgcm: Option<Keys>,
    aescbc: Option<Keys>,
    secretbox: Option<serde::de::IgnoredAny>,
    identity: Option<Identity>,
    kms: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Vec<NamedKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedKey {
    name: String,
    secret: String,
}

/// Resources and the keys their values are kept under.
#[derive(Debug)]
pub(super) struct Rule {
    resources: Vec<String>,
    /// Never empty. The first one writes, all read.
    pub(super) ciphers: Vec<Cipher>,
}

impl Rule {
    /// Whether it is for the objects below `storage` (`secrets`, `deployments.apps`).
    pub(super) fn covers(&self, storage: &str) -> bool {
        let (_, group) = storage.split_once('.').unwrap_or((storage, ""));
        self.resources.iter().any(|wanted| {
            wanted == "*.*"
                || wanted == storage
                || wanted.strip_prefix("*.").is_some_and(|of| of == group)
        })
    }
}

/// The rules of the file's `text`, in order.
pub(super) fn read(text: &str) -> Result<Vec<Rule>, ConfigError> {
    let file: File = serde_yaml::from_str(text).map_err(|e| ConfigError::Format(e.to_string()))?;
    if file.kind != "EncryptionConfiguration" || file.api_version != "apiserver.config.k8s.io/v1" {
        let found = format!("it is a `{}` of `{}`", file.kind, file.api_version);
        return Err(ConfigError::Format(found));
    }
    if file.resources.is_empty() {
        return Err(wrong("resources", "at least one entry is required"));
    }
    let entries = file.resources.into_iter().enumerate();
    entries
        .map(|(at, entry)| rule(entry, &format!("resources[{at}]")))
        .collect()
}

fn rule(entry: Entry, path: &str) -> Result<Rule, ConfigError> {
    if entry.resources.is_empty() {
        return Err(wrong(&format!("{path}.resources"), "required"));
    }
    for (at, resource) in entry.resources.iter().enumerate() {
        let field = format!("{path}.resources[{at}]");
        if resource == "*" {
            return Err(wrong(&field, "use `*.` for the core group, `*.*` for all"));
        }
        if resource.contains('/') || resource.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(wrong(&field, "a lower-case `resource` or `resource.group`"));
        }
    }
    let mut ciphers = Vec::new();
    for (at, provider) in entry.providers.into_iter().enumerate() {
        ciphers.extend(of_provider(provider, &format!("{path}.providers[{at}]"))?);
    }
    if ciphers.is_empty() {
        return Err(wrong(&format!("{path}.providers"), "required"));
    }
    Ok(Rule {
        resources: entry.resources,
        ciphers,
    })
}

/// DEVIATION: `secretbox` and `kms` are refused: the first needs a further cipher library, the
/// second a plug-in beside the server. AES-GCM does what the first does.
fn of_provider(provider: Provider, path: &str) -> Result<Vec<Cipher>, ConfigError> {
    let Provider {
        aesgcm,
        aescbc,
        secretbox,
        identity,
        kms,
    } = provider;
    if secretbox.is_some() || kms.is_some() {
        let why = "not supported by orch; use `aesgcm` or `aescbc`";
        return Err(wrong(path, why));
    }
    match (aesgcm, aescbc, identity) {
        (Some(keys), None, None) => ciphers(keys, &format!("{path}.aesgcm"), Cipher::aes_gcm),
        (None, Some(keys), None) => ciphers(keys, &format!("{path}.aescbc"), Cipher::aes_cbc),
        (None, None, Some(Identity {})) => Ok(vec![Cipher::identity()]),
        (None, None, None) => Err(wrong(path, "provider does not contain any provider type")),
        _ => Err(wrong(
            path,
            "more than one provider specified in a single element",
        )),
    }
}

fn ciphers(
    keys: Keys,
    path: &str,
    make: fn(&str, &[u8]) -> Result<Cipher, super::cipher::Unfit>,
) -> Result<Vec<Cipher>, ConfigError> {
    if keys.keys.is_empty() {
        return Err(wrong(
            &format!("{path}.keys"),
            "at least one key is required",
        ));
    }
    let mut names: Vec<String> = Vec::new();
    let mut made = Vec::new();
    for (at, key) in keys.keys.into_iter().enumerate() {
        let field = |name: &str| format!("{path}.keys[{at}].{name}");
        if key.name.is_empty() || key.name.contains(':') || names.contains(&key.name) {
            return Err(wrong(&field("name"), "required, unique and without `:`"));
        }
        let engine = base64::engine::general_purpose::STANDARD;
        let secret = engine
            .decode(key.secret.trim())
            .map_err(|_| wrong(&field("secret"), "must be base64 encoded"))?;
        let why = "secret is not of the expected length, expected 16, 24 or 32 bytes";
        made.push(make(&key.name, &secret).map_err(|_| wrong(&field("secret"), why))?);
        names.push(key.name);
    }
    Ok(made)
}

fn wrong(field: &str, why: &str) -> ConfigError {
    ConfigError::Field {
        field: field.to_owned(),
        why: why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(resources: &str, providers: &str) -> String {
        format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n\
             - resources: [{resources}]\n  providers: [{providers}]\n"
        )
    }

    #[test]
    fn a_rule_covers_the_resources_it_names() {
        let rules = read(&file("secrets, '*.apps', '*.'", "identity: {}")).unwrap();
        let covered = ["secrets", "deployments.apps", "configmaps"];
        assert!(covered.iter().all(|storage| rules[0].covers(storage)));
        let rules = read(&file("pandas.example.org", "identity: {}")).unwrap();
        assert!(rules[0].covers("pandas.example.org") && !rules[0].covers("secrets"));
        assert!(read(&file("'*.*'", "identity: {}")).unwrap()[0].covers("jobs.batch"));
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let short = "aescbc: {keys: [{name: a, secret: AAAA}]}";
        let error = read(&file("secrets", short)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "resources[0].providers[0].aescbc.keys[0].secret: secret is not of the expected \
             length, expected 16, 24 or 32 bytes"
        );
        for (resources, providers) in [
            ("secrets", "kms: {name: x}"),
            ("secrets", "secretbox: {keys: []}"),
            ("secrets", "rot13: {}"),
            ("secrets", ""),
            ("'*'", "identity: {}"),
            ("", "identity: {}"),
        ] {
            assert!(read(&file(resources, providers)).is_err(), "{providers}");
        }
        assert!(read("kind: Pod").is_err());
    }
}
