//! A server on a free port of loopback, with a memory store and everything real but the verbs.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Channel};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::api::kinds;
use crate::api::object::Object;
use crate::api::status::ApiError;
use crate::client::{
    self, Body, Client, Endpoint, HttpsTransport, Transport, body_from, empty_body,
};
use crate::server::authn::Authn;
use crate::server::authn::service_account::{ClaimsSpec, Reference, Tokens};
use crate::server::authz::Authz;
use crate::server::cacher::Cacher;
use crate::server::http::health::Health;
use crate::server::http::listener::Listener;
use crate::server::http::respond;
use crate::server::http::route::Upstream;
use crate::server::http::tunnel::{AsyncReadWrite, TunnelAcceptor};
use crate::server::http::{Direct, Handler, Parts};
use crate::server::join::{Join, Network, Secrets};
use crate::server::pki::{Names, Pki};
use crate::server::registry::Registry;
use crate::server::request::{RequestInfo, User};
use crate::server::snapshot::Snapshots;
use crate::server::storage::{codec, keys};
use crate::store::mvcc::Mvcc;
use crate::store::{Durability, Store, Txn, Write};
use crate::util::clock::Clock;
use crate::util::metrics::Metrics;
use crate::util::rng::Rng;
use crate::util::tasks::Tasks;
use crate::util::tls::{Identity, Trust};
use crate::util::x509::Key;

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

pub(super) enum As<'a> {
    Nobody,
    Admin,
    Token(&'a str),
    Certificate(Identity),
}

pub(super) type Tunnel = (String, Box<dyn AsyncReadWrite>);

pub(super) struct Fixture {
    pub(super) clock: Clock,
    pub(super) pki: Arc<Pki>,
    pub(super) tokens: Arc<Tokens>,
    pub(super) tasks: Tasks,
    pub(super) tunnels: mpsc::Receiver<Tunnel>,
    store: Arc<dyn Store>,
    cacher: Cacher,
    address: SocketAddr,
    client_tasks: Tasks,
    _folder: tempfile::TempDir,
}

struct Tunnels(mpsc::Sender<Tunnel>);

impl TunnelAcceptor for Tunnels {
    fn accept(&self, node: String, io: Box<dyn AsyncReadWrite>) {
        self.0.try_send((node, io)).ok();
    }
}

impl Fixture {
    pub(super) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (clock, rng, tasks) = (Clock::system(), Rng::seeded(1), Tasks::new());
        let mut names = Names::default();
        names.add("127.0.0.1");
        let pki = Arc::new(Pki::open(folder.path(), names, clock.clone()).unwrap());
        let store: Arc<dyn Store> = Mvcc::in_memory();
        let registry = Arc::new(Registry::of(kinds::all()));
        let cacher = Cacher::start(
            Arc::clone(&store),
            Arc::clone(&registry),
            rng.clone(),
            &tasks,
        )
        .await
        .unwrap();
        let tokens = Arc::new(Tokens::new(pki.service_account_key(), "https://issuer"));
        let rest: Arc<dyn Upstream> = Arc::new(Verbs {
            store: Arc::clone(&store),
            cacher: cacher.clone(),
        });
        let join = join(&pki, &rest, &cacher, &clock);
        let ca_pem = pki.ca_pem().to_owned();
        let authn =
            Authn::new(&ca_pem, Arc::clone(&tokens), cacher.clone(), clock.clone()).unwrap();
        let (sender, tunnels) = mpsc::channel(4);
        let handler = Handler::new(Parts {
            authn: Arc::new(authn),
            authz: Arc::new(Authz::new(cacher.clone())),
            registry,
            nodes: Arc::clone(&rest),
            rest,
            join: Arc::new(join),
            explainer: crate::server::scheduler::explain::Explainer::default(),
            snapshots: Snapshots::new(Arc::clone(&store), folder.path(), clock.clone()),
            tunnel: Arc::new(Tunnels(sender)),
            tokens: Arc::clone(&tokens),
            health: Health::new(),
            metrics: Metrics::new(),
            audit: None,
            cacher: cacher.clone(),
            ca_pem,
            address: "127.0.0.1:0".into(),
            rng,
            tasks: tasks.clone(),
        });
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let address = listener.address();
        listener.serve(pki.serving(), handler, &tasks).unwrap();
        Self {
            clock,
            pki,
            tokens,
            tasks,
            tunnels,
            store,
            cacher,
            address,
            client_tasks: Tasks::new(),
            _folder: folder,
        }
    }

    pub(super) async fn get(&self, who: As<'_>, path: &str) -> (u16, Value) {
        self.get_with(who, path, &[]).await
    }

    pub(super) async fn get_with(
        &self,
        who: As<'_>,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (u16, Value) {
        read(self.open_with(who, path, headers).await).await
    }

    pub(super) async fn open(&self, who: As<'_>, path: &str) -> Response<Body> {
        self.open_with(who, path, &[]).await
    }

    pub(super) async fn open_with(
        &self,
        who: As<'_>,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Response<Body> {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(empty_body()).unwrap();
        self.transport(who).send(request).await.unwrap()
    }

    pub(super) async fn send(
        &self,
        who: As<'_>,
        method: Method,
        path: &str,
        body: &Value,
    ) -> (u16, Value) {
        let body = match method {
            Method::GET => empty_body(),
            _ => body_from(body.to_string()),
        };
        let request = Request::builder().method(method).uri(path);
        let request = request.header("content-type", "application/json");
        let answer = self.transport(who).send(request.body(body).unwrap()).await;
        let answer = answer.unwrap();
        if answer.headers()["content-type"] == "watch" {
            return (answer.status().as_u16(), Value::Null);
        }
        read(answer).await
    }

    pub(super) async fn join(&self, who: As<'_>, body: &Value) -> (u16, Value) {
        self.send(who, Method::POST, "/orch/v1/join", body).await
    }

    pub(super) async fn upgrade(
        &self,
        who: As<'_>,
        path: &str,
    ) -> client::Result<TokioIo<Upgraded>> {
        let request = Request::get(path)
            .header("connection", "Upgrade")
            .header("upgrade", "orch-tunnel")
            .body(empty_body())
            .unwrap();
        let (_, upgraded) = self.transport(who).upgrade(request).await?;
        Ok(TokioIo::new(upgraded))
    }

    /// One HTTP/1.1 request as the administrator, by hand; the whole answer.
    pub(super) async fn http1(&self, request: &str) -> String {
        let trust = Trust::Authorities(self.pki.ca_pem().to_owned());
        let mut config = crate::util::tls::client(&trust, Some(&self.admin())).unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let tcp = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let name = "127.0.0.1".to_owned().try_into().unwrap();
        let mut tls = connector.connect(name, tcp).await.unwrap();
        tls.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A server that closes without close_notify has still sent everything.
        tls.read_to_end(&mut answer).await.ok();
        String::from_utf8(answer).unwrap()
    }

    fn admin(&self) -> Identity {
        let pair = self.pki.admin().unwrap();
        Identity::new(&pair.certificate, &pair.key).unwrap()
    }

    fn transport(&self, who: As<'_>) -> HttpsTransport {
        let trust = Trust::Authorities(self.pki.ca_pem().to_owned());
        let mut endpoint = Endpoint::new(vec![self.address.to_string()], trust);
        match who {
            As::Nobody => {}
            As::Admin => endpoint.identity = Some(self.admin()),
            As::Token(token) => endpoint.token = Some(token.to_owned()),
            As::Certificate(identity) => endpoint.identity = Some(identity),
        }
        HttpsTransport::new(endpoint, &self.client_tasks).unwrap()
    }

    pub(super) fn node_identity(&self, name: &str) -> Identity {
        let key = Key::generate().unwrap();
        let request = key.request("any", "").unwrap();
        let pem = self.pki.sign_node(name, &request).unwrap();
        Identity::new(&pem, &key.pem()).unwrap()
    }

    /// A token of a new service account.
    pub(super) async fn account_token(&self, namespace: &str, name: &str) -> String {
        let account = json!({"metadata": {"namespace": namespace, "name": name, "uid": "u"}});
        self.put("serviceaccounts", &account).await;
        let spec = ClaimsSpec {
            namespace: namespace.into(),
            service_account: Reference {
                name: name.into(),
                uid: "u".into(),
            },
            lifetime_seconds: 600,
            ..ClaimsSpec::default()
        };
        self.tokens.issue(&spec, self.clock.now()).unwrap()
    }

    pub(super) async fn put(&self, storage: &str, object: &Value) {
        let object = Object::from_value(object.clone()).unwrap();
        let local = keys::local(object.namespace(), object.name());
        let write = Write::Put {
            key: keys::object(storage, &local),
            value: codec::encode(&object),
            ttl: None,
        };
        write_and_wait(&*self.store, &self.cacher, write).await;
    }

    pub(super) async fn delete(&self, storage: &str, local: &str) {
        let key = keys::object(storage, local);
        write_and_wait(&*self.store, &self.cacher, Write::Delete { key }).await;
    }
}

fn join(pki: &Arc<Pki>, rest: &Arc<dyn Upstream>, cacher: &Cacher, clock: &Clock) -> Join {
    let direct = Client::new(Arc::new(Direct::new(Arc::clone(rest))));
    let secrets = Secrets {
        server: "server-secret".into(),
        agent: None,
        server_file: "/data/token".into(),
    };
    let network = Network {
        cluster_dns: "10.96.0.10".into(),
        ..Network::default()
    };
    let clock = clock.clone();
    Join::new(
        Arc::clone(pki),
        secrets,
        network,
        (direct, cacher.clone()),
        clock,
    )
}

async fn write_and_wait(store: &dyn Store, cacher: &Cacher, write: Write) {
    let txn = Txn {
        preconditions: vec![],
        writes: vec![write],
        durability: Durability::Synced,
    };
    let revision = store.txn(txn).await.unwrap();
    assert!(cacher.wait_for(revision, PATIENCE).await);
}

async fn read(response: Response<Body>) -> (u16, Value) {
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&body).unwrap_or_default())
}

/// Keeps Secrets and Nodes as they are sent; tells of everything else what was asked.
struct Verbs {
    store: Arc<dyn Store>,
    cacher: Cacher,
}

#[async_trait]
impl Upstream for Verbs {
    async fn admit(&self, _: &RequestInfo, _: &User, _: &str) -> Result<(), ApiError> {
        Ok(())
    }

    async fn handle(
        &self,
        info: RequestInfo,
        user: User,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        assert_ne!(info.resource, "panic");
        if info.verb == "watch" {
            return Ok(self.watch().await);
        }
        let is_kept = user.name == "system:apiserver";
        let local = keys::local(&info.namespace, &info.name);
        if is_kept && info.verb == "get" {
            let kept = self.cacher.get(&info.resource, &local);
            let kept = kept.ok_or(ApiError::not_found("", &info.resource, &info.name))?;
            return Ok(respond::whole(
                200.try_into().unwrap(),
                "application/json",
                kept.bytes().clone(),
            ));
        }
        if is_kept {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let object = Object::from_value(serde_json::from_slice(&body).unwrap()).unwrap();
            let write = Write::Put {
                key: keys::object(&info.resource, &keys::local(&info.namespace, object.name())),
                value: codec::encode(&object),
                ttl: None,
            };
            write_and_wait(&*self.store, &self.cacher, write).await;
            return Ok(respond::whole(
                200.try_into().unwrap(),
                "application/json",
                body,
            ));
        }
        let told = json!({"verb": info.verb, "user": user.name, "groups": user.groups});
        Ok(respond::json(200.try_into().unwrap(), &told))
    }
}

impl Verbs {
    /// One event, and then nothing until somebody ends it.
    async fn watch(&self) -> Response<Body> {
        type Error = Box<dyn std::error::Error + Send + Sync>;
        let (mut sender, body) = Channel::<Bytes, Error>::new(1);
        sender
            .send_data(Bytes::from_static(b"event\n"))
            .await
            .unwrap();
        // Held open for as long as the store lives.
        std::mem::forget(sender);
        let mut response = Response::new(body.boxed_unsync());
        response
            .headers_mut()
            .insert("content-type", "watch".parse().unwrap());
        response
    }
}
