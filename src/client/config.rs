//! Credentials on disk: kubeconfig files and the token every Pod is given.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;

use crate::util::tls::{Identity, Trust};

use super::https::Endpoint;
use super::{Error, Result};

/// Where a Pod finds the credentials of its service account.
pub const IN_CLUSTER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What a kubeconfig says of the cluster to talk to.
#[derive(Clone, Debug)]
pub struct Target {
    /// Address and credentials.
    pub endpoint: Endpoint,
    /// The context's namespace; `default` where it names none.
    pub namespace: String,
}

/// A kubeconfig for one cluster and user.
#[derive(Clone, Debug)]
pub struct Kubeconfig<'a> {
    /// `https://host:port`
    pub server: &'a str,
    /// The cluster's authority.
    pub ca_pem: &'a str,
    /// Client certificate.
    pub certificate_pem: &'a str,
    /// Its key.
    pub key_pem: &'a str,
    /// Name of cluster, user and context.
    pub name: &'a str,
}

impl Kubeconfig<'_> {
    /// The file's text, with everything inline.
    pub fn render(&self) -> String {
        let name = self.name;
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "preferences": {}, "current-context": name,
            "clusters": [{"name": name, "cluster": {"server": self.server,
                "certificate-authority-data": STANDARD.encode(self.ca_pem)}}],
            "users": [{"name": name, "user": {
                "client-certificate-data": STANDARD.encode(self.certificate_pem),
                "client-key-data": STANDARD.encode(self.key_pem)}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        });
        // JSON is YAML; a map of texts always has a YAML form.
        serde_yaml::to_string(&config).unwrap_or_else(|_| config.to_string())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    clusters: Vec<Named<Entry>>,
    #[serde(default)]
    users: Vec<Named<Entry>>,
    #[serde(default)]
    contexts: Vec<Named<Entry>>,
    #[serde(default)]
    current_context: String,
}

#[derive(Deserialize)]
struct Named<T> {
    name: String,
    #[serde(alias = "cluster", alias = "user", alias = "context")]
    value: T,
}

type Entry = serde_json::Map<String, serde_json::Value>;

/// Reads a kubeconfig file: the current context, or `context` where one is named.
///
/// Errors: a file that cannot be read or does not say what is needed; each names file and field.
pub fn load(path: &Path, context: Option<&str>) -> Result<Target> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::Config(format!("read kubeconfig `{}`: {error}", path.display())))?;
    parse(&text, context, path.parent().unwrap_or(Path::new(".")))
        .map_err(|why| Error::Config(format!("kubeconfig `{}`: {why}", path.display())))
}

fn parse(text: &str, context: Option<&str>, folder: &Path) -> Result<Target, String> {
    let file: File = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
    let context = context.unwrap_or(&file.current_context);
    let chosen = find(&file.contexts, context, "context")?;
    let cluster_name = text_of(chosen, "cluster").unwrap_or_default();
    let cluster = find(&file.clusters, cluster_name, "cluster")?;
    let user = find(
        &file.users,
        text_of(chosen, "user").unwrap_or_default(),
        "user",
    )?;
    let server = text_of(cluster, "server")
        .ok_or_else(|| format!("cluster `{cluster_name}` has no `server`"))?;
    let (server, path_prefix) = address(server)?;
    let trust = match pem_of(cluster, "certificate-authority", folder)? {
        Some(pem) => Trust::Authorities(pem),
        None if is_true(cluster, "insecure-skip-tls-verify") => Trust::Anyone,
        None => Trust::Public,
    };
    let endpoint = Endpoint {
        path_prefix,
        identity: identity_of(user, folder)?,
        token: token_of(user, folder)?,
        server_name: text_of(cluster, "tls-server-name").map(str::to_owned),
        ..Endpoint::new(vec![server], trust)
    };
    let namespace = text_of(chosen, "namespace").unwrap_or("default").to_owned();
    Ok(Target {
        endpoint,
        namespace,
    })
}

/// The credentials of the Pod this runs in: `folder` is [`IN_CLUSTER`], `host` and `port` are
/// `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`.
pub fn in_cluster(folder: &Path, host: &str, port: u16) -> Result<Target> {
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read_to_string(&path)
            .map_err(|error| Error::Config(format!("read `{}`: {error}", path.display())))
    };
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    let endpoint = Endpoint {
        token: Some(read("token")?.trim().to_owned()),
        ..Endpoint::new(
            vec![format!("{host}:{port}")],
            Trust::Authorities(read("ca.crt")?),
        )
    };
    let namespace = read("namespace")?.trim().to_owned();
    Ok(Target {
        endpoint,
        namespace,
    })
}

/// `host:port` and path of an `https://` address.
///
/// Errors: another scheme, or no host.
pub fn address(server: &str) -> Result<(String, String), String> {
    let wrong = || format!("server `{server}`: expected `https://host:port`");
    let uri: http::Uri = server.parse().map_err(|_| wrong())?;
    if uri.scheme_str() != Some("https") {
        return Err(wrong());
    }
    let authority = uri.authority().ok_or_else(wrong)?;
    let server = format!(
        "{}:{}",
        authority.host(),
        authority.port_u16().unwrap_or(443)
    );
    Ok((server, uri.path().trim_end_matches('/').to_owned()))
}

fn identity_of(user: &Entry, folder: &Path) -> Result<Option<Identity>, String> {
    let certificate = pem_of(user, "client-certificate", folder)?;
    let key = pem_of(user, "client-key", folder)?;
    match (certificate, key) {
        (Some(certificate), Some(key)) => Identity::new(&certificate, &key)
            .map(Some)
            .map_err(|error| crate::util::errors::chain(&error)),
        (None, None) => Ok(None),
        _ => Err("`client-certificate` and `client-key` go together".to_owned()),
    }
}

fn token_of(user: &Entry, folder: &Path) -> Result<Option<String>, String> {
    if let Some(token) = text_of(user, "token") {
        return Ok(Some(token.to_owned()));
    }
    let Some(path) = text_of(user, "tokenFile") else {
        return Ok(None);
    };
    let token = std::fs::read_to_string(folder.join(path))
        .map_err(|error| format!("read `tokenFile` `{path}`: {error}"))?;
    Ok(Some(token.trim().to_owned()))
}

/// The text of `field-data` (base64) or of the file `field` names.
fn pem_of(entry: &Entry, field: &str, folder: &Path) -> Result<Option<String>, String> {
    if let Some(data) = text_of(entry, &format!("{field}-data")) {
        let bytes = STANDARD
            .decode(data.trim())
            .map_err(|error| format!("`{field}-data` is not base64: {error}"))?;
        let text = String::from_utf8(bytes).map_err(|_| format!("`{field}-data` is not PEM"))?;
        return Ok(Some(text));
    }
    let Some(path) = text_of(entry, field) else {
        return Ok(None);
    };
    std::fs::read_to_string(folder.join(path))
        .map(Some)
        .map_err(|error| format!("read `{field}` `{path}`: {error}"))
}

fn find<'a>(all: &'a [Named<Entry>], name: &str, what: &str) -> Result<&'a Entry, String> {
    all.iter()
        .find(|entry| entry.name == name)
        .map(|entry| &entry.value)
        .ok_or_else(|| format!("no {what} named `{name}`"))
}

fn text_of<'a>(entry: &'a Entry, field: &str) -> Option<&'a str> {
    entry
        .get(field)
        .and_then(serde_json::Value::as_str)
        .filter(|text| !text.is_empty())
}

fn is_true(entry: &Entry, field: &str) -> bool {
    entry.get(field).and_then(serde_json::Value::as_bool) == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_host_port_and_prefix() {
        assert_eq!(
            address("https://[::1]:6443/k8s/").unwrap(),
            ("[::1]:6443".into(), "/k8s".into())
        );
        assert_eq!(address("https://api").unwrap().0, "api:443");
        assert!(address("http://api").is_err());
    }

    #[test]
    fn what_is_missing_in_a_kubeconfig_is_named() {
        let no_context = parse("current-context: x", None, Path::new(".")).unwrap_err();
        assert_eq!(no_context, "no context named `x`");
        let text = "
current-context: a
contexts: [{name: a, context: {cluster: c, user: u, namespace: n}}]
clusters: [{name: c, cluster: {server: 'https://h:1', certificate-authority-data: '!'}}]
users: [{name: u, user: {token: t}}]";
        let error = parse(text, None, Path::new(".")).unwrap_err();
        assert!(error.starts_with("`certificate-authority-data` is not base64"));
        let text = text.replace(", certificate-authority-data: '!'", "");
        let target = parse(&text, None, Path::new(".")).unwrap();
        assert_eq!(target.namespace, "n");
        assert_eq!(target.endpoint.token.as_deref(), Some("t"));
        assert_eq!(target.endpoint.servers, ["h:1"]);
    }

    #[test]
    fn a_rendered_kubeconfig_can_be_loaded() {
        let rendered = Kubeconfig {
            server: "https://10.0.0.1:6443",
            ca_pem: "CA",
            certificate_pem: "C",
            key_pem: "K",
            name: "orch",
        }
        .render();
        let file: File = serde_yaml::from_str(&rendered).unwrap();
        assert_eq!(file.current_context, "orch");
        assert_eq!(
            text_of(&file.users[0].value, "client-key-data"),
            Some("Sw==")
        );
    }
}
