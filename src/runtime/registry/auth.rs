//! Who we are to a registry: which credentials fit, what it asks for, and its token service.
//!
//! <https://distribution.github.io/distribution/spec/auth/token/>

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::reference::Reference;
use crate::runtime::Credential;

/// What a `WWW-Authenticate` header asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: String,
        scope: String,
    },
}

/// Reads the header; of several challenges Bearer is preferred.
pub(super) fn challenge<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for header in headers {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("bearer") {
            let parameters = parameters(rest);
            let get = |name: &str| {
                let found = parameters
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.clone()).unwrap_or_default()
            };
            return Some(Challenge::Bearer {
                realm: get("realm"),
                service: get("service"),
                scope: get("scope"),
            });
        }
        if scheme.eq_ignore_ascii_case("basic") {
            basic = Some(Challenge::Basic);
        }
    }
    basic
}

/// `a="x, y",b=z` in pairs.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = text.trim();
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_start_matches([',', ' ']).trim().to_owned();
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        pairs.push((key, value.to_owned()));
        rest = next;
    }
    pairs
}

/// The value of an `Authorization` header.
pub(super) fn basic(credential: &Credential) -> String {
    let pair = format!("{}:{}", credential.username, credential.password);
    format!("Basic {}", STANDARD.encode(pair))
}

/// What a token service answers.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TokenAnswer {
    token: String,
    access_token: String,
}

impl TokenAnswer {
    pub(super) fn token(self) -> Option<String> {
        [self.token, self.access_token]
            .into_iter()
            .find(|token| !token.is_empty())
    }
}

/// The credentials that are for this image's registry, the most specific first.
///
/// As the kubelet does it: a path narrows the repository, `*` stands for one label of the host.
pub(crate) fn fitting(credentials: &[Credential], reference: &Reference) -> Vec<Credential> {
    let mut fit: Vec<(usize, Credential)> = credentials
        .iter()
        .filter_map(|credential| {
            let key = plain_key(&credential.registry);
            fits(&key, reference).then(|| (key.len(), credential.clone()))
        })
        .collect();
    fit.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    fit.into_iter().map(|(_, credential)| credential).collect()
}

/// Docker's configuration files know registries as URLs, and its hub by an old one.
fn plain_key(registry: &str) -> String {
    let plain = registry
        .trim_start_matches("https://")
        .trim_start_matches("http://")
        .trim_end_matches('/');
    let plain = plain
        .strip_suffix("/v1")
        .or_else(|| plain.strip_suffix("/v2"))
        .unwrap_or(plain);
    let (host, path) = plain.split_once('/').unwrap_or((plain, ""));
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    };
    if path.is_empty() {
        host.to_owned()
    } else {
        format!("{host}/{path}")
    }
}

fn fits(key: &str, reference: &Reference) -> bool {
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    let (host, port) = split_port(host);
    let (own_host, own_port) = split_port(&reference.registry);
    let labels: Vec<&str> = host.split('.').collect();
    let own_labels: Vec<&str> = own_host.split('.').collect();
    let host_fits = labels.len() == own_labels.len()
        && labels
            .iter()
            .zip(&own_labels)
            .all(|(pattern, label)| glob(pattern, label));
    let path_fits = path.is_empty()
        || reference.repository == path
        || reference.repository.starts_with(&format!("{path}/"));
    host_fits && (port.is_none() || port == own_port) && path_fits
}

fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    }
}

/// `*` stands for any characters.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).any(|at| rest.is_char_boundary(at) && glob(after, &rest[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_with_quotes_and_commas() {
        let header = r#"Bearer realm="https://auth.test/token",service="reg", scope="repository:a:pull,push""#;
        assert_eq!(
            challenge([header].into_iter()),
            Some(Challenge::Bearer {
                realm: "https://auth.test/token".to_owned(),
                service: "reg".to_owned(),
                scope: "repository:a:pull,push".to_owned(),
            })
        );
        assert_eq!(
            challenge([r#"Basic realm="x""#].into_iter()),
            Some(Challenge::Basic)
        );
        assert_eq!(challenge(["Negotiate"].into_iter()), None);
    }

    #[test]
    fn credentials_fit_by_host_port_path_and_wildcard() {
        let credential = |registry: &str| Credential {
            registry: registry.to_owned(),
            ..Credential::default()
        };
        let list = [
            "https://index.docker.io/v1/",
            "docker.io/library",
            "docker.io/other",
            "*.azurecr.io",
            "registry.test:5000",
        ]
        .map(credential);
        let names = |image: &str| -> Vec<String> {
            let reference = Reference::parse(image).unwrap();
            fitting(&list, &reference)
                .into_iter()
                .map(|c| c.registry)
                .collect()
        };
        assert_eq!(
            names("nginx"),
            ["docker.io/library", "https://index.docker.io/v1/"]
        );
        assert_eq!(names("my.azurecr.io/a"), ["*.azurecr.io"]);
        assert!(names("a.b.azurecr.io/a").is_empty());
        assert_eq!(names("registry.test:5000/a"), ["registry.test:5000"]);
        assert!(names("registry.test:5001/a").is_empty());
    }
}
