//! Where a webhook is: `clientConfig` of a configuration, read once.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use crate::server::cacher::Cacher;
use crate::util::rng::Rng;

const SLICES: &str = "endpointslices.discovery.k8s.io";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const HTTPS: u16 = 443;

/// A place to call, and whom to believe there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Hook {
    /// Where.
    pub place: Place,
    /// PEM of the authorities; empty: the public ones.
    pub ca_pem: String,
}

/// Where a webhook is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// `https://host[:port]/path`
    Url(String),
    /// A service of the cluster.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Begins with `/`, or is empty.
        path: String,
        /// Of the service.
        port: u16,
    },
}

/// `clientConfig` says no place.
#[derive(Debug, thiserror::Error)]
#[error("webhook client config must have exactly one of url and service")]
pub struct InvalidHook;

impl Hook {
    /// From a `clientConfig` (`admissionregistration.k8s.io`, `apiextensions.k8s.io`).
    pub fn from_value(config: &Value) -> Result<Self, InvalidHook> {
        use base64::Engine;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let bundle = config["caBundle"].as_str().unwrap_or_default();
        let bundle = base64::engine::general_purpose::STANDARD.decode(bundle);
        let ca_pem = bundle.ok().and_then(|pem| String::from_utf8(pem).ok());
        let place = match (&config["url"], &config["service"]) {
            (Value::String(url), Value::Null) => Place::Url(url.clone()),
            (Value::Null, service @ Value::Object(_)) => {
                let port = service["port"]
                    .as_u64()
                    .and_then(|port| u16::try_from(port).ok());
                Place::Service {
                    namespace: text(&service["namespace"]),
                    name: text(&service["name"]),
                    path: text(&service["path"]),
                    port: port.unwrap_or(HTTPS),
                }
            }
            _ => return Err(InvalidHook),
        };
        Ok(Self {
            place,
            ca_pem: ca_pem.unwrap_or_default(),
        })
    }

    /// What is posted to, as errors name it.
    pub(super) fn url(&self, timeout: Duration) -> String {
        let base = match &self.place {
            Place::Url(url) => url.clone(),
            Place::Service {
                namespace,
                name,
                path,
                port,
            } => {
                let slash = if path.starts_with('/') { "" } else { "/" };
                format!("https://{name}.{namespace}.svc:{port}{slash}{path}")
            }
        };
        let mark = if base.contains('?') { '&' } else { '?' };
        format!("{base}{mark}timeout={}s", timeout.as_secs().max(1))
    }

    /// The name its certificate is for.
    pub(super) fn server_name(&self, authority: &str) -> String {
        match &self.place {
            Place::Service {
                namespace, name, ..
            } => format!("{name}.{namespace}.svc"),
            Place::Url(_) => host_and_port(authority).0.to_owned(),
        }
    }
}

/// `host[:port]` and the path with its query, of an `https` URL.
pub(super) fn split(url: &str) -> Result<(&str, Cow<'_, str>), String> {
    let rest = url
        .strip_prefix("https://")
        .ok_or("unsupported protocol scheme: `https` is needed")?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.is_empty() || authority.contains('@') {
        return Err("no Host in request URL".to_owned());
    }
    let path = match path.starts_with('/') {
        true => path.into(),
        false => format!("/{path}").into(),
    };
    Ok((authority, path))
}

/// `[::1]:443` is `::1` and 443; without a port 443.
pub(super) fn host_and_port(authority: &str) -> (&str, u16) {
    if let Some((host, port)) = authority.rsplit_once(':')
        && let Ok(port) = port.parse()
        && (host.ends_with(']') || !host.contains(':'))
    {
        return (host.trim_start_matches('[').trim_end_matches(']'), port);
    }
    let host = authority.trim_start_matches('[').trim_end_matches(']');
    (host, HTTPS)
}

/// A place to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// The node to connect from; empty: here.
    pub(super) node: String,
    pub(super) address: SocketAddr,
}

/// One of the ready endpoints of a service.
pub(super) fn endpoint(
    cacher: &Cacher,
    rng: &Rng,
    (namespace, name): (&str, &str),
    port: u16,
) -> Result<Endpoint, String> {
    let service = cacher.get("services", &format!("{namespace}/{name}"));
    let service = service.ok_or_else(|| format!("service \"{name}\" not found"))?;
    let service = service.object().map_err(|error| error.to_string())?;
    let ports = service.at(&["spec", "ports"]).and_then(Value::as_array);
    let meant = ports.into_iter().flatten().find(|p| p["port"] == port);
    let meant =
        meant.ok_or_else(|| format!("no service port {port} found for service \"{name}\""))?;
    let port_name = meant["name"].as_str().unwrap_or_default();
    let mut endpoints = Vec::new();
    for item in cacher.list(SLICES, namespace) {
        if item.labels.get(SERVICE_LABEL).is_some_and(|of| of == name) {
            let slice = item.object().map_err(|error| error.to_string())?;
            endpoints.extend(ready(&slice.into_value(), port_name));
        }
    }
    if endpoints.is_empty() {
        return Err(format!("no endpoints available for service \"{name}\""));
    }
    Ok(endpoints.swap_remove(rng.below(endpoints.len())))
}

/// The ready endpoints of a slice at the port of that name.
fn ready(slice: &Value, port_name: &str) -> Vec<Endpoint> {
    let list = |field: &str| slice[field].as_array().cloned().unwrap_or_default();
    let port = list("ports")
        .iter()
        .find(|port| port["name"].as_str().unwrap_or_default() == port_name)
        .and_then(|port| u16::try_from(port["port"].as_u64()?).ok());
    let Some(port) = port else {
        return Vec::new();
    };
    let made = |endpoint: &Value| {
        let ip: std::net::IpAddr = endpoint["addresses"][0].as_str()?.parse().ok()?;
        let is_ready = endpoint["conditions"]["ready"].as_bool().unwrap_or(true);
        is_ready.then(|| Endpoint {
            node: endpoint["nodeName"].as_str().unwrap_or_default().to_owned(),
            address: SocketAddr::new(ip, port),
        })
    };
    list("endpoints").iter().filter_map(made).collect()
}
