//! How a machine becomes a node, and stays one.
//!
//! With the long token (`K10<hash>::…`) the cluster's authority is checked against the hash before
//! anything is sent to the server; with a short one it is believed at the first contact. Then a key
//! is made here, and the server signs a certificate for `system:node:<name>` against the token.
//! Key, certificate, authority and what the server said of the cluster are kept, so an agent
//! starts without a server too. The certificate is renewed in the running process when a third of
//! its life is left.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Method;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::Digest;

use crate::client::config::address;
use crate::client::https::{Endpoint, HttpsTransport};
use crate::client::{Call, Client, Error};
use crate::util::fs::write_atomic;
use crate::util::tls::{self, Identity, Trust};
use crate::util::{backoff::Backoff, clock::Clock, errors::chain, rng::Rng, tasks::Tasks, x509};

/// First and longest pause while the server cannot be reached.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// The longest sleep before the certificate's age is looked at again: clocks are set.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// What every node is told of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// Addresses of pods.
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: Ipv4Net,
    /// Addresses of services.
    #[serde(rename = "serviceCIDR")]
    pub service_cidr: Ipv4Net,
    /// Address of cluster DNS.
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: Ipv4Addr,
    /// Domain of cluster DNS.
    pub cluster_domain: String,
    /// `vxlan`, `host-gw` or `none`.
    pub network_backend: String,
}

/// What a machine joins with.
#[derive(Clone, Debug)]
pub struct Join {
    /// `https://host:port`
    pub server: String,
    /// Long or short.
    pub token: String,
    /// The node's name.
    pub node_name: String,
    /// Credentials are kept below `agent/` in it.
    pub data_dir: PathBuf,
}

/// A node's identity.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The cluster's authority.
    pub ca_pem: String,
    /// Replaced when it is renewed.
    pub identity: Identity,
    /// What the server said of the cluster.
    pub cluster: Cluster,
    certificate_pem: String,
}

/// Why a machine cannot join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The server's address or the token cannot be used; nothing was sent.
    #[error("{0}")]
    Usage(String),
    /// The server is not the one the token is of; nothing secret was sent.
    #[error(
        "the authority of `{server}` has hash {found}, the token says {wanted}: this is another \
         cluster, or somebody stands between; get the token anew with `orch token` on the server"
    )]
    Untrusted {
        /// Who answered.
        server: String,
        /// Of the authority it showed.
        found: String,
        /// Of the token.
        wanted: String,
    },
    /// The server said no.
    #[error("`{server}` refused: {message}")]
    Refused {
        /// Who answered.
        server: String,
        /// Its text.
        message: String,
    },
    /// Credentials cannot be made or kept.
    #[error("{doing}")]
    Local {
        /// The step.
        doing: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

#[derive(Deserialize)]
struct Joined {
    certificate: String,
    ca: String,
    #[serde(flatten)]
    cluster: Cluster,
}

/// Gives the credentials that are kept and still good, or joins with the token, waiting for the
/// server where it cannot be reached.
pub async fn join(join: &Join, clock: &Clock, tasks: &Tasks) -> Result<Credentials, JoinError> {
    let (server, _) = address(&join.server).map_err(|why| {
        JoinError::Usage(format!(
            "invalid value `{}` for `--join`: {why}",
            join.server
        ))
    })?;
    let token = Token::parse(&join.token)?;
    let files = Files::new(&join.data_dir);
    if let Some(kept) = files.load(&join.node_name, &token, clock) {
        return Ok(kept);
    }
    let ca_pem = authority(&server, &token, tasks).await?;
    let key = x509::Key::generate().map_err(|e| local("make the node's key", e))?;
    let body = json!({
        "nodeName": join.node_name,
        "csr": request(&key, &join.node_name)?,
        "nodePassword": files.password()?,
    });
    let endpoint = Endpoint {
        token: Some(token.secret.clone()),
        ..Endpoint::new(vec![server.clone()], Trust::Authorities(ca_pem))
    };
    let client = client(endpoint, tasks)?;
    let body = body.to_string();
    let answer = patiently(&server, || {
        client.call(Call::json(Method::POST, "/orch/v1/join", body.clone()))
    })
    .await?;
    let joined: Joined =
        serde_json::from_slice(&answer).map_err(|e| local("read the server's answer", e))?;
    files.save(&joined, &key)?;
    let identity = Identity::new(&joined.certificate, &key.pem())
        .map_err(|e| local("use the node's certificate", e))?;
    Ok(Credentials {
        ca_pem: joined.ca,
        identity,
        cluster: joined.cluster,
        certificate_pem: joined.certificate,
    })
}

/// Keeps the certificate of `credentials` young until `tasks` end, through `transport`, which uses
/// its identity.
pub fn keep_renewed(
    credentials: &Credentials,
    join: &Join,
    transport: HttpsTransport,
    (clock, tasks): (&Clock, &Tasks),
) {
    let renewal = Renewal {
        certificate_pem: credentials.certificate_pem.clone(),
        identity: credentials.identity.clone(),
        node_name: join.node_name.clone(),
        files: Files::new(&join.data_dir),
        client: Client::new(std::sync::Arc::new(transport.clone())),
        transport,
        clock: clock.clone(),
    };
    let cancelled = tasks.cancelled();
    tasks.service("node-certificate", async move {
        cancelled.run_until_cancelled(renewal.run()).await;
    });
}

struct Renewal {
    certificate_pem: String,
    identity: Identity,
    node_name: String,
    files: Files,
    client: Client,
    transport: HttpsTransport,
    clock: Clock,
}

impl Renewal {
    async fn run(mut self) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1, Rng::from_system());
        loop {
            let wait = self.until_due();
            if !wait.is_zero() {
                tokio::time::sleep(wait.min(LOOK_AGAIN)).await;
                continue;
            }
            match self.renew().await {
                Ok(()) => {
                    tracing::info!("the node's certificate is renewed");
                    backoff.reset();
                }
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "certificate not renewed, trying again");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    fn until_due(&self) -> Duration {
        let facts = x509::Facts::from_pem(&self.certificate_pem);
        let due = facts.map_or(self.clock.now(), |facts| facts.renew_at());
        let left = due.duration_since(self.clock.now());
        Duration::try_from(left).unwrap_or_default()
    }

    async fn renew(&mut self) -> Result<(), JoinError> {
        let key = x509::Key::generate().map_err(|e| local("make the node's key", e))?;
        let body = json!({"csr": request(&key, &self.node_name)?}).to_string();
        let call = Call::json(Method::POST, "/orch/v1/renew", body);
        let answer = self
            .client
            .call(call)
            .await
            .map_err(|e| local("ask the server", e))?;
        let answer: serde_json::Value =
            serde_json::from_slice(&answer).map_err(|e| local("read the server's answer", e))?;
        let certificate = answer["certificate"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        self.identity
            .replace(&certificate, &key.pem())
            .map_err(|e| local("use the new certificate", e))?;
        self.files.save_identity(&certificate, &key)?;
        self.certificate_pem = certificate;
        self.transport.reconnect();
        Ok(())
    }
}

/// A token taken apart.
#[derive(Debug, PartialEq)]
struct Token {
    /// SHA-256 of the authority's PEM, in hex.
    ca_hash: Option<String>,
    /// What is sent.
    secret: String,
}

impl Token {
    fn parse(text: &str) -> Result<Self, JoinError> {
        let text = text.trim();
        let wrong = |why: &str| JoinError::Usage(format!("invalid token: {why}"));
        if text.is_empty() {
            return Err(wrong("it is empty"));
        }
        let Some(long) = text.strip_prefix("K10") else {
            return Ok(Self {
                ca_hash: None,
                secret: text.to_owned(),
            });
        };
        let (hash, secret) = long.split_once("::").ok_or_else(|| {
            wrong("`K10<hash>::<user>:<secret>` is expected; is its end missing?")
        })?;
        if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong(
                "between `K10` and `::` 64 hexadecimal digits are expected",
            ));
        }
        if secret.is_empty() {
            return Err(wrong("after `::` the secret is expected"));
        }
        Ok(Self {
            ca_hash: Some(hash.to_ascii_lowercase()),
            secret: secret.to_owned(),
        })
    }

    fn trusts(&self, ca_pem: &[u8]) -> Result<(), (String, String)> {
        let found = hex::encode(sha2::Sha256::digest(ca_pem));
        match &self.ca_hash {
            Some(wanted) if *wanted != found => Err((found, wanted.clone())),
            _ => Ok(()),
        }
    }
}

/// The cluster's authority, checked against the token.
async fn authority(server: &str, token: &Token, tasks: &Tasks) -> Result<String, JoinError> {
    let anyone = client(Endpoint::new(vec![server.to_owned()], Trust::Anyone), tasks)?;
    let pem = patiently(server, || anyone.call(Call::new(Method::GET, "/cacerts"))).await?;
    token
        .trusts(&pem)
        .map_err(|(found, wanted)| JoinError::Untrusted {
            server: server.to_owned(),
            found,
            wanted,
        })?;
    if token.ca_hash.is_none() {
        tracing::warn!(
            server,
            "the token has no hash of the authority: it is believed unseen"
        );
    }
    String::from_utf8(pem.into()).map_err(|e| local("read the server's authority", e))
}

/// Calls until there is an answer; a refusal is final.
async fn patiently<F>(server: &str, call: impl Fn() -> F) -> Result<bytes::Bytes, JoinError>
where
    F: Future<Output = Result<bytes::Bytes, Error>>,
{
    let mut backoff = Backoff::new(RETRY.0, RETRY.1, Rng::from_system());
    loop {
        match call().await {
            Ok(answer) => return Ok(answer),
            Err(Error::Api(error)) if error.code < 500 && error.code != 429 => {
                return Err(JoinError::Refused {
                    server: server.to_owned(),
                    message: error.message,
                });
            }
            Err(error) => {
                tracing::warn!(server, error = %chain(&error), "server not reached, trying again");
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
}

fn client(endpoint: Endpoint, tasks: &Tasks) -> Result<Client, JoinError> {
    let transport = HttpsTransport::new(endpoint, tasks);
    let transport = transport.map_err(|e| local("set up the connection", e))?;
    Ok(Client::new(std::sync::Arc::new(transport)))
}

fn request(key: &x509::Key, node_name: &str) -> Result<String, JoinError> {
    key.request(&format!("system:node:{node_name}"), "system:nodes")
        .map_err(|e| local("make the certificate request", e))
}

fn local(doing: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> JoinError {
    JoinError::Local {
        doing: doing.to_owned(),
        source: source.into(),
    }
}

/// Where credentials are kept.
struct Files {
    folder: PathBuf,
    password: PathBuf,
}

impl Files {
    fn new(data_dir: &Path) -> Self {
        let agent = data_dir.join("agent");
        Self {
            folder: agent.join("tls"),
            password: agent.join("node-password"),
        }
    }

    /// What is kept, where it is whole, still good, of this name and of the token's cluster.
    fn load(&self, node_name: &str, token: &Token, clock: &Clock) -> Option<Credentials> {
        let read = |name: &str| std::fs::read_to_string(self.folder.join(name)).ok();
        let (ca_pem, certificate_pem) = (read("ca.crt")?, read("node.crt")?);
        let cluster = serde_json::from_str(&read("cluster.json")?).ok()?;
        let facts = x509::Facts::from_pem(&certificate_pem).ok()?;
        let is_ours = facts.common_name == format!("system:node:{node_name}");
        let is_good = facts.not_after > clock.now();
        if !is_ours || !is_good || token.trusts(ca_pem.as_bytes()).is_err() {
            return None;
        }
        let identity = Identity::new(&certificate_pem, &read("node.key")?).ok()?;
        Some(Credentials {
            ca_pem,
            identity,
            cluster,
            certificate_pem,
        })
    }

    fn save(&self, joined: &Joined, key: &x509::Key) -> Result<(), JoinError> {
        let cluster = serde_json::to_vec(&joined.cluster)
            .map_err(|e| local("write what the server said of the cluster", e))?;
        self.write("ca.crt", joined.ca.as_bytes(), 0o644)?;
        self.write("cluster.json", &cluster, 0o644)?;
        self.save_identity(&joined.certificate, key)
    }

    fn save_identity(&self, certificate_pem: &str, key: &x509::Key) -> Result<(), JoinError> {
        // The key first: a certificate without its key is no credential, and is asked for anew.
        self.write("node.key", key.pem().as_bytes(), 0o600)?;
        self.write("node.crt", certificate_pem.as_bytes(), 0o644)
    }

    fn write(&self, name: &str, content: &[u8], mode: u32) -> Result<(), JoinError> {
        let path = self.folder.join(name);
        write_atomic(&path, content, mode)
            .map_err(|e| local(&format!("write `{}`", path.display()), e))
    }

    /// Proves to the server that a name is still the same machine's.
    fn password(&self) -> Result<String, JoinError> {
        if let Ok(kept) = std::fs::read_to_string(&self.password)
            && !kept.trim().is_empty()
        {
            return Ok(kept.trim().to_owned());
        }
        let password = hex::encode(tls::random_bytes::<16>());
        write_atomic(&self.password, password.as_bytes(), 0o600)
            .map_err(|e| local(&format!("write `{}`", self.password.display()), e))?;
        Ok(password)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_taken_apart_or_refused_with_what_is_wrong() {
        let hash = "ab".repeat(32);
        let long = Token::parse(&format!("K10{hash}::server:geheim\n")).unwrap();
        assert_eq!(
            long,
            Token {
                ca_hash: Some(hash.clone()),
                secret: "server:geheim".into()
            }
        );
        let short = Token::parse("geheim").unwrap();
        assert_eq!(
            short,
            Token {
                ca_hash: None,
                secret: "geheim".into()
            }
        );
        for bad in [
            "",
            "K10abc::x",
            "K10",
            &format!("K10{hash}::"),
            &format!("K10{hash}"),
        ] {
            let error = Token::parse(bad).unwrap_err().to_string();
            assert!(error.starts_with("invalid token: "), "{error}");
        }
    }

    #[test]
    fn another_authority_is_not_trusted() {
        let hash = hex::encode(sha2::Sha256::digest(b"pem"));
        let token = Token::parse(&format!("K10{hash}::a:b")).unwrap();
        assert!(token.trusts(b"pem").is_ok());
        assert!(token.trusts(b"other").is_err());
    }
}
