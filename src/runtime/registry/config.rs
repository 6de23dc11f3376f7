//! `/etc/orch/registries.yaml`: mirrors, credentials and TLS by registry, in k3s' format.
//!
//! <https://docs.k3s.io/installation/private-registry>

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde::Deserialize;

use crate::runtime::Credential;

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not what is expected.
    #[error("`{}`: {why}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        why: String,
    },
}

/// What is known of registries.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistriesConfig {
    mirrors: BTreeMap<String, Mirror>,
    configs: BTreeMap<String, HostConfig>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Mirror {
    endpoint: Vec<String>,
    rewrite: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct HostConfig {
    auth: Option<Auth>,
    pub tls: Option<Tls>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Auth {
    username: String,
    password: String,
    /// `username:password` in base64.
    auth: String,
    #[serde(alias = "identitytoken")]
    identity_token: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Tls {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    pub ca_file: PathBuf,
    pub insecure_skip_verify: bool,
}

/// Where a repository may be fetched from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub https: bool,
    /// Host and perhaps port.
    pub authority: String,
    /// `/v2` or what stands for it.
    pub prefix: String,
    /// As this endpoint calls it.
    pub repository: String,
    /// The registry itself rather than a mirror of it.
    pub is_origin: bool,
}

impl RegistriesConfig {
    /// Reads the file; where there is none, nothing is configured.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let invalid = |why: String| ConfigError::Invalid {
            path: path.to_owned(),
            why,
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(source) => {
                return Err(ConfigError::Read {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        if text
            .lines()
            .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
        {
            return Ok(Self::default());
        }
        let config: Self = serde_yaml::from_str(&text).map_err(|e| invalid(e.to_string()))?;
        config.check().map_err(invalid)?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        for (registry, mirror) in &self.mirrors {
            for endpoint in &mirror.endpoint {
                if parse_endpoint(endpoint).is_none() {
                    return Err(format!(
                        "mirrors.{registry}.endpoint: `{endpoint}` is not a URL like https://host:port"
                    ));
                }
            }
            for pattern in mirror.rewrite.keys() {
                if let Err(error) = Regex::new(pattern) {
                    return Err(format!("mirrors.{registry}.rewrite: `{pattern}`: {error}"));
                }
            }
        }
        Ok(())
    }

    /// Mirrors first, the registry itself last.
    pub(super) fn endpoints(&self, registry: &str, host: &str, repository: &str) -> Vec<Endpoint> {
        let mirror = self.mirrors.get(registry).or_else(|| self.mirrors.get("*"));
        let mut all: Vec<Endpoint> = Vec::new();
        for text in mirror.iter().flat_map(|mirror| &mirror.endpoint) {
            if let Some((https, authority, prefix)) = parse_endpoint(text) {
                let is_origin = authority == host;
                let repository = mirror.map_or_else(
                    || repository.to_owned(),
                    |mirror| rewritten(&mirror.rewrite, repository),
                );
                all.push(Endpoint {
                    https,
                    authority,
                    prefix,
                    repository,
                    is_origin,
                });
            }
        }
        if !all.iter().any(|endpoint| endpoint.is_origin) {
            all.push(Endpoint {
                https: !is_loopback(host),
                authority: host.to_owned(),
                prefix: "/v2".to_owned(),
                repository: repository.to_owned(),
                is_origin: true,
            });
        }
        all
    }

    /// Credentials of the file for a host.
    pub(super) fn credential(&self, authority: &str) -> Option<Credential> {
        let auth = self.host(authority)?.auth.as_ref()?;
        let mut credential = Credential {
            registry: authority.to_owned(),
            username: auth.username.clone(),
            password: auth.password.clone(),
        };
        if !auth.identity_token.is_empty() {
            credential.username.clear();
            credential.password.clone_from(&auth.identity_token);
        } else if credential.username.is_empty() && !auth.auth.is_empty() {
            use base64::Engine as _;
            let decoded = base64::engine::general_purpose::STANDARD
                .decode(auth.auth.trim())
                .ok()?;
            let text = String::from_utf8(decoded).ok()?;
            let (username, password) = text.split_once(':')?;
            username.clone_into(&mut credential.username);
            password
                .trim_end_matches('\0')
                .clone_into(&mut credential.password);
        }
        Some(credential)
    }

    pub(super) fn tls(&self, authority: &str) -> Option<&Tls> {
        self.host(authority)?.tls.as_ref()
    }

    /// Docker's hub is configured under its name and served elsewhere.
    fn host(&self, authority: &str) -> Option<&HostConfig> {
        self.configs.get(authority).or_else(|| match authority {
            "registry-1.docker.io" => self.configs.get("docker.io"),
            _ => None,
        })
    }
}

/// `https://host:5000/v2/proxy` in parts.
fn parse_endpoint(text: &str) -> Option<(bool, String, String)> {
    let (https, rest) = match text.split_once("://") {
        Some(("https", rest)) => (true, rest),
        Some(("http", rest)) => (false, rest),
        Some(_) => return None,
        None => (true, text),
    };
    let (authority, path) = match rest.split_once('/') {
        Some((authority, path)) => (authority, path.trim_end_matches('/')),
        None => (rest, ""),
    };
    if authority.parse::<http::uri::Authority>().is_err() {
        return None;
    }
    let prefix = if path.is_empty() {
        "/v2".to_owned()
    } else {
        format!("/{path}")
    };
    Some((https, authority.to_owned(), prefix))
}

/// The first pattern that matches wins; `$1` stands for its first group.
fn rewritten(rules: &BTreeMap<String, String>, repository: &str) -> String {
    for (pattern, replacement) in rules {
        if let Ok(pattern) = Regex::new(pattern)
            && pattern.is_match(repository)
        {
            return pattern
                .replace_all(repository, replacement.as_str())
                .into_owned();
        }
    }
    repository.to_owned()
}

/// A registry on this machine is spoken to without TLS where nothing else is configured.
fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
mirrors:
  docker.io:
    endpoint: ["https://mirror.test:5000", "http://cache.test/v2/hub/"]
    rewrite:
      "^library/(.*)": "hub/$1"
  "*": {endpoint: ["https://all.test"]}
configs:
  "mirror.test:5000":
    auth: {username: u, password: p}
    tls: {insecure_skip_verify: true}
  docker.io:
    auth: {auth: dTpw}
"#;

    fn loaded(text: &str) -> Result<RegistriesConfig, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registries.yaml");
        std::fs::write(&path, text).unwrap();
        RegistriesConfig::load(&path)
    }

    #[test]
    fn mirrors_come_first_and_rename_repositories() {
        let config = loaded(FILE).unwrap();
        let list = config.endpoints("docker.io", "registry-1.docker.io", "library/nginx");
        let brief: Vec<_> = list
            .iter()
            .map(|e| {
                format!(
                    "{} {}{}/{} {}",
                    e.https, e.authority, e.prefix, e.repository, e.is_origin
                )
            })
            .collect();
        assert_eq!(
            brief,
            [
                "true mirror.test:5000/v2/hub/nginx false",
                "false cache.test/v2/hub/hub/nginx false",
                "true registry-1.docker.io/v2/library/nginx true",
            ]
        );
        assert_eq!(
            config.endpoints("quay.io", "quay.io", "a")[0].authority,
            "all.test"
        );
        assert_eq!(config.credential("mirror.test:5000").unwrap().password, "p");
        let hub = config.credential("registry-1.docker.io").unwrap();
        assert_eq!((hub.username.as_str(), hub.password.as_str()), ("u", "p"));
    }

    #[test]
    fn registries_on_this_machine_need_no_tls() {
        let config = RegistriesConfig::default();
        for (host, https) in [
            ("localhost:5000", false),
            ("127.0.0.1", false),
            ("[::1]:5", false),
            ("quay.io", true),
        ] {
            assert_eq!(config.endpoints(host, host, "a")[0].https, https, "{host}");
        }
    }

    #[test]
    fn a_wrong_file_says_where_and_a_missing_or_empty_one_is_fine() {
        let error = loaded("mirrors:\n  a: {endpoint: [\"ftp://x\"]}\n").unwrap_err();
        assert!(
            error.to_string().contains("mirrors.a.endpoint: `ftp://x`"),
            "{error}"
        );
        assert!(loaded("mirrorz: {}\n").is_err());
        assert!(loaded("# nothing\n").is_ok());
        assert!(RegistriesConfig::load(Path::new("/no/such/file")).is_ok());
    }
}
