//! Image references, with the defaults that docker gave them.
//!
//! `nginx` is `docker.io/library/nginx:latest`; the part before the first slash is a registry only
//! where it has a dot or a colon or is `localhost`. See distribution/reference in Docker's sources.

use std::fmt;

/// A reference that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name \"{reference}\": invalid reference format{hint}")]
pub struct InvalidReference {
    /// As given.
    pub reference: String,
    /// Empty, or what is wrong after a colon.
    pub hint: &'static str,
}

/// A full image reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// For instance `docker.io`, `localhost:5000`.
    pub registry: String,
    /// For instance `library/nginx`.
    pub repository: String,
    /// `None` only where there is a digest.
    pub tag: Option<String>,
    /// `sha256:…`
    pub digest: Option<String>,
}

const REPOSITORY_CHARS_MAX: usize = 255;
const TAG_CHARS_MAX: usize = 128;

impl Reference {
    /// Reads and normalizes; with neither tag nor digest the tag is `latest`.
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        let invalid = |hint| InvalidReference {
            reference: text.to_owned(),
            hint,
        };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) if is_digest(digest) => (name, Some(digest.to_owned())),
            Some(_) => return Err(invalid("")),
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => {
                if !is_tag(tag) {
                    return Err(invalid(""));
                }
                (name, Some(tag.to_owned()))
            }
            _ => (name, None),
        };
        let (registry, repository) = split_registry(name);
        if repository.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(invalid(": repository name must be lowercase"));
        }
        if !is_repository(&repository) || !is_registry(&registry) {
            return Err(invalid(""));
        }
        let tag = match (&digest, tag) {
            (None, None) => Some("latest".to_owned()),
            (_, tag) => tag,
        };
        Ok(Self {
            registry,
            repository,
            tag,
            digest,
        })
    }

    /// Registry and repository.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The name it is kept under: a digest says more than a tag beside it.
    pub fn stored_name(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("{}@{digest}", self.name()),
            (None, Some(tag)) => format!("{}:{tag}", self.name()),
            (None, None) => self.name(),
        }
    }

    /// What a manifest is asked for by: the digest, else the tag.
    pub fn manifest(&self) -> &str {
        self.digest
            .as_deref()
            .or(self.tag.as_deref())
            .unwrap_or("latest")
    }

    /// The host that serves this registry: Docker's hub lives elsewhere than its name says.
    pub fn host(&self) -> &str {
        match self.registry.as_str() {
            "docker.io" => "registry-1.docker.io",
            other => other,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn split_registry(name: &str) -> (String, String) {
    let (registry, rest) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(|c| c.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => ("docker.io", name),
    };
    let registry = match registry {
        "index.docker.io" => "docker.io",
        other => other,
    };
    let repository = if registry == "docker.io" && !rest.contains('/') {
        format!("library/{rest}")
    } else {
        rest.to_owned()
    };
    (registry.to_owned(), repository)
}

/// Whether the text is `sha256:` (or sha512) and the right number of hexadecimal digits.
pub fn is_digest(text: &str) -> bool {
    let Some((algorithm, value)) = text.split_once(':') else {
        return false;
    };
    let digits = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    value.len() == digits
        && value
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_tag(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= TAG_CHARS_MAX
        && text.starts_with(word)
        && text.chars().all(|c| word(c) || c == '.' || c == '-')
}

fn is_repository(text: &str) -> bool {
    text.len() <= REPOSITORY_CHARS_MAX && text.split('/').all(is_path_part)
}

/// Lower-case letters and digits, separated by one dot, one or two underscores, or any dashes.
fn is_path_part(part: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends_well =
        bytes.first().is_some_and(|b| alnum(*b)) && bytes.last().is_some_and(|b| alnum(*b));
    ends_well
        && bytes.split(|b| alnum(*b)).all(|between| {
            matches!(between, b"" | b"." | b"_" | b"__") || between.iter().all(|b| *b == b'-')
        })
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port_fits = port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    let host_fits = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        }),
    };
    port_fits && host_fits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(text: &str) -> String {
        Reference::parse(text).unwrap().to_string()
    }

    #[test]
    fn short_names_get_dockers_defaults() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (short, long) in [
            ("nginx", "docker.io/library/nginx:latest".to_owned()),
            ("nginx:1.25", "docker.io/library/nginx:1.25".to_owned()),
            (
                "grafana/grafana",
                "docker.io/grafana/grafana:latest".to_owned(),
            ),
            (
                "index.docker.io/nginx",
                "docker.io/library/nginx:latest".to_owned(),
            ),
            ("localhost/a", "localhost/a:latest".to_owned()),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c".to_owned()),
            (
                "registry.k8s.io/pause:3.9",
                "registry.k8s.io/pause:3.9".to_owned(),
            ),
            ("[::1]:5000/a", "[::1]:5000/a:latest".to_owned()),
        ] {
            assert_eq!(full(short), long);
        }
        assert_eq!(
            full(&format!("nginx@{digest}")),
            format!("docker.io/library/nginx@{digest}")
        );
        assert_eq!(
            full(&format!("nginx:1@{digest}")),
            format!("docker.io/library/nginx:1@{digest}")
        );
    }

    #[test]
    fn bad_references_are_refused_with_the_usual_text() {
        for bad in [
            "",
            "nginx:",
            ":x",
            "a//b",
            "a/../b",
            "nginx@sha256:12",
            "x y",
            "-a",
            "a___b",
            "a.-b:x",
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(
            Reference::parse("Nginx").unwrap_err().to_string(),
            "couldn't parse image name \"Nginx\": invalid reference format: repository name must be lowercase"
        );
    }

    #[test]
    fn the_digest_wins_over_the_tag_in_requests() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let reference = Reference::parse(&format!("nginx:1@{digest}")).unwrap();
        assert_eq!(reference.manifest(), digest);
        assert_eq!(reference.host(), "registry-1.docker.io");
    }
}
