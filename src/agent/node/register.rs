//! How a machine becomes a node: it checks the server against its token, shows the token, and gets
//! a client certificate; later it renews that certificate with itself.
//!
//! The long token (`K10<hash>::…`) names the cluster's authority: what `/cacerts` answers must
//! have that hash before anything is sent. The bare secret trusts whom it first meets. What was
//! given is kept below `DATA/agent/tls` and used at later starts.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::client::{self, Call, Client, HttpsTransport, config, https::Endpoint};
use crate::util::tls::{self, Identity, Trust};
use crate::util::x509::{self, Facts, Key};
use crate::util::{
    backoff::Backoff, clock::Clock, errors::chain, fs as files, rng::Rng, tasks::Tasks,
};

const JOIN_PATH: &str = "/orch/v1/join";
const RENEW_PATH: &str = "/orch/v1/renew";
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MOST: Duration = Duration::from_secs(10);
const PRIVATE: u32 = 0o600;

/// Joining failed for good: trying again would not help.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The token has none of the known forms.
    #[error(
        "the token cannot be read: {0}; expected `K10<hash>::<user>:<secret>`, \
         `K10<hash>::<id>.<secret>` or the bare secret"
    )]
    Token(&'static str),
    /// The server's address is not one.
    #[error("{0}")]
    Address(String),
    /// Somebody else answers at the server's address, or the token is another cluster's.
    #[error(
        "the server at `{server}` is not the one the token was made for: its authority has the \
         hash {found}, the token says {wanted}; nothing was sent to it. \
         hint: take the token again from the server (`orch token`), or check the address"
    )]
    WrongServer {
        /// Address as given.
        server: String,
        /// Hash of what it answered.
        found: String,
        /// Hash in the token.
        wanted: String,
    },
    /// The server said no.
    #[error("the server refused to let this machine join as `{node}`: {message} (code {code})")]
    Refused {
        /// Name it wanted.
        node: String,
        /// What the server said.
        message: String,
        /// HTTP status.
        code: u16,
    },
    /// A certificate or key cannot be made or used.
    #[error(transparent)]
    Certificate(#[from] x509::Error),
    /// A certificate and key do not go together.
    #[error("use the node's certificate")]
    Tls(#[from] tls::Error),
    /// A file cannot be read or written.
    #[error("{doing} `{}`", path.display())]
    File {
        /// What was to be done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// What the server answered cannot be read.
    #[error("read the server's answer")]
    Answer(#[source] serde_json::Error),
    /// The connection cannot be set up.
    #[error("set up the connection to the server")]
    Client(#[source] client::Error),
}

/// What a node has from its cluster.
#[derive(Clone, Debug)]
pub struct NodeCredentials {
    /// Servers as `host:port`.
    pub servers: Vec<String>,
    /// The cluster's authority, PEM.
    pub ca_pem: String,
    /// Certificate and key; replaced in place when renewed.
    pub identity: Identity,
    /// What the network needs to know.
    pub cluster: ClusterFacts,
    /// When the certificate should be renewed.
    pub renew_at: Timestamp,
    /// `DATA/agent/tls`
    folder: PathBuf,
    node_name: String,
}

/// What every node of a cluster is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterFacts {
    /// Addresses of pods.
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: String,
    /// Addresses of services.
    #[serde(rename = "serviceCIDR")]
    pub service_cidr: String,
    /// Address of the cluster DNS; may be empty.
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: String,
    /// For instance `cluster.local`.
    pub cluster_domain: String,
    /// `vxlan`, `host-gw` or `none`.
    pub network_backend: String,
}

#[derive(Deserialize)]
struct Joined {
    certificate: String,
    ca: String,
    #[serde(flatten)]
    cluster: ClusterFacts,
}

#[derive(Deserialize)]
struct Renewed {
    certificate: String,
}

/// A token, read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    /// Hash of the authority, lower-case hex.
    hash: Option<String>,
    /// What is shown: `user:secret`, `id.secret` or the bare secret.
    bearer: String,
}

/// Whom to join, as whom, and where to keep what comes of it.
#[derive(Clone, Copy, Debug)]
pub struct Join<'a> {
    /// `https://HOST:6443`
    pub url: &'a str,
    /// One of the token forms.
    pub token: &'a str,
    /// Name of the Node object.
    pub node_name: &'a str,
    /// What is kept is below `agent/` here.
    pub data_dir: &'a Path,
    /// More servers of the cluster, as `host:port`, from an earlier run.
    pub known: &'a [String],
}

/// Joins, or takes what an earlier join gave while its certificate is valid. Tries until the
/// server answers.
///
/// Errors: what trying again would not change.
pub async fn join(
    wish: Join<'_>,
    clock: &Clock,
    rng: Rng,
    tasks: &Tasks,
) -> Result<NodeCredentials, Error> {
    let (server, _) = config::address(wish.url).map_err(Error::Address)?;
    let agent = wish.data_dir.join("agent");
    let folder = agent.join("tls");
    let token = parse(wish.token)?;
    let mut servers = vec![server.clone()];
    let others = wish.known.iter().filter(|other| **other != server);
    servers.extend(others.cloned());
    if let Some(kept) = kept(&folder, wish.node_name, &servers, clock.now()) {
        let hash = hex::encode(Sha256::digest(kept.ca_pem.as_bytes()));
        // Another hash means another cluster, or the same one made anew.
        if token.hash.as_ref().is_none_or(|wanted| *wanted == hash) {
            return Ok(kept);
        }
    }
    let key = kept_key(&folder.join("client.key"))?;
    let password = kept_password(&agent.join("node-password"))?;
    let name = format!("system:node:{}", wish.node_name);
    let body = json!({
        "nodeName": wish.node_name,
        "csr": key.request(&name, "system:nodes")?,
        "nodePassword": password,
    });
    let body = Bytes::from(body.to_string());
    let mut pause = Backoff::new(RETRY_FIRST, RETRY_MOST, rng);
    let joined = loop {
        match try_join(&server, &token, (wish.node_name, &body), tasks).await {
            Ok(Some(joined)) => break joined,
            Ok(None) => tokio::time::sleep(pause.next_delay()).await,
            Err(error) => return Err(error),
        }
    };
    let Joined {
        certificate,
        ca,
        cluster,
    } = joined;
    write(&folder.join("ca.crt"), ca.as_bytes(), 0o644)?;
    let facts = serde_json::to_vec(&cluster).map_err(Error::Answer)?;
    write(&folder.join("cluster.json"), &facts, 0o644)?;
    // Last, because it is what a later start looks for.
    write(&folder.join("client.crt"), certificate.as_bytes(), 0o644)?;
    Ok(NodeCredentials {
        servers,
        renew_at: Facts::from_pem(&certificate)?.renew_at(),
        identity: Identity::new(&certificate, &key.pem())?,
        ca_pem: ca,
        cluster,
        folder,
        node_name: wish.node_name.to_owned(),
    })
}

/// `Ok(None)`: the server does not answer (yet).
async fn try_join(
    server: &str,
    token: &Token,
    (node, body): (&str, &Bytes),
    tasks: &Tasks,
) -> Result<Option<Joined>, Error> {
    // Connections end with this try.
    let tasks = tasks.child();
    let made = |trust: Trust, bearer: Option<String>| -> Result<Client, Error> {
        let mut endpoint = Endpoint::new(vec![server.to_owned()], trust);
        endpoint.token = bearer;
        let transport = HttpsTransport::new(endpoint, &tasks).map_err(Error::Client)?;
        Ok(Client::new(std::sync::Arc::new(transport)))
    };
    let anyone = made(Trust::Anyone, None)?;
    let authority = anyone.call(Call::new(Method::GET, "/cacerts")).await;
    let Some(authority) = answered(authority, node, server)? else {
        tasks.cancel();
        return Ok(None);
    };
    drop(anyone);
    let found = hex::encode(Sha256::digest(&authority));
    match &token.hash {
        Some(wanted) if *wanted != found => {
            tasks.cancel();
            return Err(Error::WrongServer {
                server: server.to_owned(),
                found,
                wanted: wanted.clone(),
            });
        }
        Some(_) => {}
        None => tracing::warn!(
            server,
            authority_sha256 = found,
            "the token does not name the cluster's authority, trusting the one that answers"
        ),
    }
    let authority = String::from_utf8_lossy(&authority).into_owned();
    let client = made(Trust::Authorities(authority), Some(token.bearer.clone()))?;
    let answer = client
        .call(Call::json(Method::POST, JOIN_PATH, body.clone()))
        .await;
    let answer = answered(answer, node, server);
    tasks.cancel();
    match answer? {
        Some(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(Error::Answer),
        None => Ok(None),
    }
}

/// Tells a refusal, which is final, from a server that is not (quite) there.
fn answered(
    answer: client::Result<Bytes>,
    node: &str,
    server: &str,
) -> Result<Option<Bytes>, Error> {
    match answer {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) => match error.api() {
            Some(api) if (400..500).contains(&api.code) && api.code != 429 => Err(Error::Refused {
                node: node.to_owned(),
                message: api.message.clone(),
                code: api.code,
            }),
            _ => {
                tracing::info!(server, error = %chain(&error), "the server does not answer yet");
                Ok(None)
            }
        },
    }
}

fn parse(token: &str) -> Result<Token, Error> {
    let token = token.trim();
    if token.is_empty() {
        return Err(Error::Token("it is empty"));
    }
    let Some(rest) = token.strip_prefix("K10") else {
        return Ok(Token {
            hash: None,
            bearer: token.to_owned(),
        });
    };
    let Some((hash, bearer)) = rest.split_once("::") else {
        return Err(Error::Token("there is no `::` in it"));
    };
    let is_hash = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
    if !is_hash {
        return Err(Error::Token("what follows `K10` is not a sha256 in hex"));
    }
    if bearer.is_empty() {
        return Err(Error::Token("there is nothing after `::`"));
    }
    Ok(Token {
        hash: Some(hash.to_ascii_lowercase()),
        bearer: bearer.to_owned(),
    })
}

/// What an earlier join gave, where it is for this node and valid for a while.
fn kept(folder: &Path, node: &str, servers: &[String], now: Timestamp) -> Option<NodeCredentials> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let certificate = read("client.crt")?;
    let facts = Facts::from_pem(&certificate).ok()?;
    let is_ours = facts.common_name == format!("system:node:{node}");
    if !is_ours || facts.not_after <= now || facts.not_before > now {
        return None;
    }
    let cluster = serde_json::from_str(&read("cluster.json")?).ok()?;
    Some(NodeCredentials {
        servers: servers.to_vec(),
        ca_pem: read("ca.crt")?,
        identity: Identity::new(&certificate, &read("client.key")?).ok()?,
        cluster,
        renew_at: facts.renew_at(),
        folder: folder.to_owned(),
        node_name: node.to_owned(),
    })
}

fn kept_key(path: &Path) -> Result<Key, Error> {
    if let Ok(pem) = fs::read_to_string(path)
        && let Ok(key) = Key::from_pem(&pem)
    {
        return Ok(key);
    }
    let key = Key::generate()?;
    write(path, key.pem().as_bytes(), PRIVATE)?;
    Ok(key)
}

fn kept_password(path: &Path) -> Result<String, Error> {
    if let Ok(text) = fs::read_to_string(path)
        && !text.trim().is_empty()
    {
        return Ok(text.trim().to_owned());
    }
    let password = hex::encode(tls::random_bytes::<16>());
    write(path, password.as_bytes(), PRIVATE)?;
    Ok(password)
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    files::write_atomic(path, content, mode).map_err(|source| Error::File {
        doing: "write",
        path: path.to_owned(),
        source,
    })
}

impl NodeCredentials {
    /// The transport of this node. Connections live in `tasks`.
    ///
    /// Errors: the certificates cannot be used.
    pub fn transport(&self, tasks: &Tasks) -> client::Result<HttpsTransport> {
        let trust = Trust::Authorities(self.ca_pem.clone());
        let mut endpoint = Endpoint::new(self.servers.clone(), trust);
        endpoint.identity = Some(self.identity.clone());
        HttpsTransport::new(endpoint, tasks)
    }

    /// Renews the certificate for ever, each time when a third of its life is left, and makes
    /// `transport` connect anew with it.
    pub async fn keep_renewed(mut self, transport: HttpsTransport, clock: Clock, rng: Rng) {
        let client = Client::new(std::sync::Arc::new(transport.clone()));
        let mut pause = Backoff::new(RETRY_FIRST, Duration::from_secs(300), rng);
        loop {
            let left = self.renew_at.duration_since(clock.now());
            let left = Duration::try_from(left).unwrap_or_default();
            // Timers that run for months drift and sleep with the machine: look once an hour.
            if !left.is_zero() {
                tokio::time::sleep(left.min(Duration::from_secs(3600))).await;
                continue;
            }
            match self.renew(&client).await {
                Ok(renew_at) => {
                    tracing::info!(next = %renew_at, "node certificate renewed");
                    self.renew_at = renew_at;
                    transport.reconnect();
                    pause.reset();
                }
                Err(error) => {
                    tracing::warn!(error, "node certificate not renewed, trying again");
                    tokio::time::sleep(pause.next_delay()).await;
                }
            }
        }
    }

    async fn renew(&self, client: &Client) -> Result<Timestamp, String> {
        let text = |error: &(dyn std::error::Error + 'static)| chain(error);
        let key = Key::generate().map_err(|error| text(&error))?;
        let name = format!("system:node:{}", self.node_name);
        let csr = key
            .request(&name, "system:nodes")
            .map_err(|error| text(&error))?;
        let body = json!({"csr": csr}).to_string();
        let answer = client
            .call(Call::json(Method::POST, RENEW_PATH, body))
            .await
            .map_err(|error| text(&error))?;
        let renewed: Renewed =
            serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
        let facts = Facts::from_pem(&renewed.certificate).map_err(|error| text(&error))?;
        self.identity
            .replace(&renewed.certificate, &key.pem())
            .map_err(|error| text(&error))?;
        // A crash between the two leaves a pair that does not fit: the next start joins anew.
        let kept = write(
            &self.folder.join("client.key"),
            key.pem().as_bytes(),
            PRIVATE,
        )
        .and_then(|()| {
            let path = self.folder.join("client.crt");
            write(&path, renewed.certificate.as_bytes(), 0o644)
        });
        kept.map_err(|error| text(&error))?;
        Ok(facts.renew_at())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_of_a_token_are_read() {
        let hash = "ab".repeat(32);
        let long = parse(&format!("K10{hash}::server:abc")).unwrap();
        assert_eq!(long.hash.as_deref(), Some(hash.as_str()));
        assert_eq!(long.bearer, "server:abc");
        let bootstrap = parse(&format!("K10{hash}::abcdef.0123456789abcdef\n")).unwrap();
        assert_eq!(bootstrap.bearer, "abcdef.0123456789abcdef");
        let bare = parse("secret").unwrap();
        assert_eq!((bare.hash, bare.bearer.as_str()), (None, "secret"));
        for broken in ["", "K10", "K10zz::a", &format!("K10{hash}::"), "K10abc:def"] {
            assert!(matches!(parse(broken), Err(Error::Token(_))), "{broken}");
        }
    }

    #[test]
    fn a_password_and_key_are_made_once_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent/node-password");
        let first = kept_password(&path).unwrap();
        assert_eq!(first, kept_password(&path).unwrap());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let key = folder.path().join("client.key");
        let first = kept_key(&key).unwrap().pem();
        assert_eq!(first, kept_key(&key).unwrap().pem());
    }

    #[test]
    fn a_certificate_is_kept_for_its_node_while_it_is_valid() {
        let folder = tempfile::tempdir().unwrap();
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let lifetime = Duration::from_secs(3600);
        let authority = x509::Authority::generate("ca", now, lifetime).unwrap();
        let key = Key::generate().unwrap();
        let profile = x509::Profile {
            common_name: "system:node:n1".into(),
            organization: Some("system:nodes".into()),
            usage: x509::Usage::Client,
            dns_names: vec![],
            addresses: vec![],
            lifetime,
        };
        let certificate = authority.0.sign(&profile, &key, now).unwrap();
        let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        put("client.crt", &certificate);
        put("client.key", &key.pem());
        put("ca.crt", authority.0.pem());
        put("cluster.json", r#"{"clusterCIDR": "10.244.0.0/16"}"#);
        let at = |seconds: i64| Timestamp::from_second(1_700_000_000 + seconds).unwrap();
        let found = kept(folder.path(), "n1", &["h:6443".into()], at(10)).unwrap();
        assert_eq!(found.cluster.cluster_cidr, "10.244.0.0/16");
        assert!(kept(folder.path(), "n2", &["h:6443".into()], at(10)).is_none());
        assert!(kept(folder.path(), "n1", &["h:6443".into()], at(4000)).is_none());
    }
}
