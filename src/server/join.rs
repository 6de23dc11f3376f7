//! How a machine becomes a node: it shows a token, and gets a client certificate for
//! `system:node:<name>`, the cluster's authority and what it needs to know of the network.
//!
//! A name belongs to the machine that joined with it first: its password is kept hashed in the
//! Secret `<name>.node-password.orch` of `kube-system`. Deleting the Node frees the name.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::api::gvk::GroupVersionResource;
use crate::api::name;
use crate::api::object::Object;
use crate::api::status::ApiError;
use crate::client::{self, Client, DynamicApi};
use crate::server::authn::{bootstrap_token, secrets_equal};
use crate::server::cacher::Cacher;
use crate::server::pki::{Pki, bare_secret};
use crate::server::request::User;
use crate::util::clock::Clock;
use crate::util::tls;

/// Where a machine joins.
pub const JOIN_PATH: &str = "/orch/v1/join";
/// Where a node gets its next certificate.
pub const RENEW_PATH: &str = "/orch/v1/renew";
/// Where a node leaves a connection to be called back through.
pub const TUNNEL_PATH: &str = "/orch/v1/tunnel";

const NAMESPACE: &str = "kube-system";
const PASSWORD_TYPE: &str = "orch.dev/node-password";
const PASSWORD_BYTES_MIN: usize = 16;
/// Two machines that take one name at the same moment: the slower one reads again.
const TRIES: usize = 3;

/// What every node is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Addresses of pods.
    pub cluster_cidr: String,
    /// Addresses of services.
    pub service_cidr: String,
    /// Address of the cluster DNS.
    pub cluster_dns: String,
    /// For instance `cluster.local`.
    pub cluster_domain: String,
    /// `vxlan`, `host-gw` or `none`.
    pub network_backend: String,
}

/// Secrets that let a machine join, beside bootstrap tokens.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    /// Of the server token.
    pub server: String,
    /// `--agent-token`.
    pub agent: Option<String>,
    /// The file the server token is in, for messages.
    pub server_file: String,
}

/// Lets machines join.
pub struct Join {
    pki: Arc<Pki>,
    secrets: Secrets,
    network: Network,
    client: Client,
    cacher: Cacher,
    clock: Clock,
}

impl std::fmt::Debug for Join {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Join")
            .field("network", &self.network)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JoinRequest {
    node_name: String,
    csr: String,
    node_password: String,
}

#[derive(Deserialize)]
struct RenewRequest {
    csr: String,
}

impl Join {
    /// Reads and writes through `client`, which must pass the filters.
    pub fn new(
        pki: Arc<Pki>,
        secrets: Secrets,
        network: Network,
        (client, cacher): (Client, Cacher),
        clock: Clock,
    ) -> Self {
        Self {
            pki,
            secrets,
            network,
            client,
            cacher,
            clock,
        }
    }

    /// `POST /orch/v1/join`
    pub async fn join(&self, bearer: Option<&str>, body: &[u8]) -> Result<Value, ApiError> {
        self.check_token(bearer)?;
        let request: JoinRequest = decode(body)?;
        check_name(&request.node_name)?;
        if request.node_password.len() < PASSWORD_BYTES_MIN {
            let message =
                format!("`nodePassword` must have at least {PASSWORD_BYTES_MIN} characters");
            return Err(ApiError::bad_request(message));
        }
        let certificate = self.sign(&request.node_name, &request.csr)?;
        self.claim(&request.node_name, &request.node_password)
            .await?;
        tracing::info!(node = request.node_name, "joined");
        Ok(json!({
            "certificate": certificate,
            "ca": self.pki.ca_pem(),
            "clusterCIDR": self.network.cluster_cidr,
            "serviceCIDR": self.network.service_cidr,
            "clusterDNS": self.network.cluster_dns,
            "clusterDomain": self.network.cluster_domain,
            "networkBackend": self.network.network_backend,
        }))
    }

    /// `POST /orch/v1/renew`
    pub fn renew(&self, user: &User, body: &[u8]) -> Result<Value, ApiError> {
        let node = node_of(user)?;
        let request: RenewRequest = decode(body)?;
        Ok(json!({"certificate": self.sign(&node, &request.csr)?}))
    }

    fn sign(&self, node: &str, csr: &str) -> Result<String, ApiError> {
        self.pki
            .sign_node(node, csr)
            .map_err(|error| ApiError::bad_request(format!("`csr` cannot be signed: {error}")))
    }

    /// Whether `bearer` lets a machine join; the refusal says what would.
    fn check_token(&self, bearer: Option<&str>) -> Result<(), ApiError> {
        let refuse = |why: &str| {
            let message = format!(
                "{why}; use the token in `{}` on the server, or make one with `orch token create`",
                self.secrets.server_file
            );
            ApiError {
                message,
                ..ApiError::unauthorized()
            }
        };
        let Some(token) = bearer else {
            return Err(refuse("joining needs a token and none was sent"));
        };
        let token = bare_secret(token);
        let secret = token.split_once(':').map_or(token, |(_, secret)| secret);
        let agent = self.secrets.agent.as_deref();
        if secrets_equal(secret, &self.secrets.server)
            || agent.is_some_and(|agent| secrets_equal(secret, agent))
        {
            return Ok(());
        }
        let now = self.clock.now();
        if bootstrap_token::parse(secret).is_some() {
            return match bootstrap_token::user(secret, &self.cacher, now) {
                Ok(_) => Ok(()),
                Err(why) if why.contains("neither") => {
                    Err(refuse("no bootstrap token of that id and secret exists"))
                }
                Err(why) => Err(refuse(why)),
            };
        }
        Err(refuse("the token is not one of this cluster"))
    }

    /// Makes `name` belong to whoever has `password`, or says how to free it.
    async fn claim(&self, name: &str, password: &str) -> Result<(), ApiError> {
        let secrets = self.api("secrets", NAMESPACE);
        let secret = password_secret(name);
        for _ in 0..TRIES {
            let kept = secrets.get_opt(&secret).await.map_err(internal)?;
            let written = match kept {
                None => secrets.create(&password_object(name, password)).await,
                Some(kept) if matches(&kept, password) => return Ok(()),
                Some(mut kept) => {
                    if self.node_exists(name).await? {
                        return Err(taken(name, &secret));
                    }
                    let fresh = password_object(name, password);
                    let data = fresh.0.get("data").cloned().unwrap_or_default();
                    kept.0.insert("data".into(), data);
                    secrets.replace(&secret, &kept).await
                }
            };
            match written {
                Ok(_) => return Ok(()),
                Err(error) if error.is_conflict() || error.is_already_exists() => {}
                Err(error) => return Err(internal(error)),
            }
        }
        Err(taken(name, &secret))
    }

    async fn node_exists(&self, name: &str) -> Result<bool, ApiError> {
        let node = self
            .api("nodes", "")
            .get_opt(name)
            .await
            .map_err(internal)?;
        Ok(node.is_some())
    }

    fn api(&self, resource: &str, namespace: &str) -> DynamicApi {
        let resource = GroupVersionResource::new("", "v1", resource);
        self.client.dynamic(&resource, namespace)
    }
}

/// The node a user is; 403 for everybody else.
pub fn node_of(user: &User) -> Result<String, ApiError> {
    let name = user.name.strip_prefix("system:node:").unwrap_or_default();
    if name.is_empty() || !user.is_in("system:nodes") {
        let message = format!("forbidden: User \"{}\" is not a node", user.name);
        return Err(ApiError::plain(403, "Forbidden", message));
    }
    Ok(name.to_owned())
}

/// Name of the Secret with the password of node `name`.
pub fn password_secret(name: &str) -> String {
    format!("{name}.node-password.orch")
}

fn decode<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        ApiError::bad_request(format!("the body is not what is expected: {error}"))
    })
}

fn check_name(node: &str) -> Result<(), ApiError> {
    match name::dns1123_subdomain(node).first() {
        None => Ok(()),
        Some(why) => Err(ApiError::bad_request(format!(
            "invalid `nodeName` `{node}`: {why}"
        ))),
    }
}

fn password_object(name: &str, password: &str) -> Object {
    let salt = hex::encode(tls::random_bytes::<16>());
    let mut object = Object::default();
    let value = json!({
        "apiVersion": "v1", "kind": "Secret", "type": PASSWORD_TYPE,
        "metadata": {"name": password_secret(name), "namespace": NAMESPACE},
        "data": {"hash": encode(&format!("{salt}:{}", hash(&salt, password)))},
    });
    if let Value::Object(map) = value {
        object.0 = map;
    }
    object
}

/// The password is random and long, so a plain salted hash cannot be guessed either.
fn hash(salt: &str, password: &str) -> String {
    hex::encode(Sha256::digest(format!("{salt}:{password}")))
}

fn matches(kept: &Object, password: &str) -> bool {
    let kept = decoded(kept.text_at(&["data", "hash"])).unwrap_or_default();
    let (salt, wanted) = kept.split_once(':').unwrap_or_default();
    !salt.is_empty() && secrets_equal(&hash(salt, password), wanted)
}

fn encode(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn decoded(text: &str) -> Option<String> {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .ok()?;
    String::from_utf8(bytes).ok()
}

fn taken(name: &str, secret: &str) -> ApiError {
    let message = format!(
        "the node name \"{name}\" is taken by another machine; to free it run `kubectl delete node \
         {name}` (and, if it still is, `kubectl -n {NAMESPACE} delete secret {secret}`), or join \
         with another `--node-name`"
    );
    ApiError::plain(403, "Forbidden", message)
}

fn internal(error: client::Error) -> ApiError {
    match error {
        client::Error::Api(error) => error,
        other => ApiError::internal(other),
    }
}
