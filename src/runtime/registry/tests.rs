//! The client against a registry that misbehaves on purpose.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;

use super::reference::Reference;
use super::{RegistriesConfig, Registry, RegistryError, Session};
use crate::runtime::Credential;
use crate::util::tasks::Tasks;

type Answer = Box<dyn Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Send + Sync>;

/// A server on a free port that answers by path and remembers what it was asked.
struct Server {
    address: String,
    asked: Mutex<Vec<String>>,
    answers: Mutex<HashMap<String, Answer>>,
    tasks: Tasks,
}

fn header<'a>(request: &'a Request<Incoming>, name: &str) -> &'a str {
    request
        .headers()
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

fn plain(status: u16, body: &str) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .body(Full::from(body.to_owned()))
        .unwrap()
}

impl Server {
    async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Arc::new(Self {
            address: listener.local_addr().unwrap().to_string(),
            asked: Mutex::default(),
            answers: Mutex::default(),
            tasks: Tasks::new(),
        });
        let accepting = server.clone();
        server.tasks.service("test registry", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = accepting.clone();
                accepting.tasks.job("test connection", async move {
                    let service = service_fn(|request| {
                        let answer = serving.answer(&request);
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        server
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let line = format!(
            "{} auth=[{}] range=[{}]",
            request.uri(),
            header(request, "authorization"),
            header(request, "range")
        );
        self.asked.lock().push(line);
        match self.answers.lock().get(request.uri().path()) {
            Some(answer) => answer(request),
            None => plain(404, "{}"),
        }
    }

    fn on(
        &self,
        path: &str,
        answer: impl Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Send + Sync + 'static,
    ) {
        self.answers
            .lock()
            .insert(path.to_owned(), Box::new(answer));
    }

    fn session(&self, repository: &str, credential: Option<&Credential>) -> Session {
        let reference = Reference::parse(&format!("{}/{repository}", self.address)).unwrap();
        Registry::new(RegistriesConfig::default(), self.tasks.clone())
            .session(&reference, credential)
    }
}

async fn whole(session: &Session, digest: &str, offset: u64) -> Result<String, RegistryError> {
    let mut blob = session.blob(digest, offset).await?;
    let mut text = String::new();
    while let Some(chunk) = blob.chunk().await? {
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    Ok(text)
}

#[tokio::test]
async fn a_token_is_fetched_with_the_credential_and_used_until_refused() {
    let server = Server::start().await;
    let realm = format!("http://{}/token", server.address);
    server.on("/token", |request| {
        let known = header(request, "authorization") == "Basic dTpw";
        let scope = request.uri().query().unwrap_or_default();
        if known && scope.contains("scope=repository%3Aa%2Fb%3Apull") {
            plain(200, r#"{"token":"good"}"#)
        } else {
            plain(401, "{}")
        }
    });
    server.on("/v2/a/b/manifests/1", move |request| {
        if header(request, "authorization") == "Bearer good" {
            return plain(200, r#"{"mediaType":"m"}"#);
        }
        Response::builder()
            .status(StatusCode::UNAUTHORIZED)
            .header(
                "www-authenticate",
                format!("Bearer realm=\"{realm}\",service=\"s\""),
            )
            .body(Full::default())
            .unwrap()
    });
    let credential = Credential {
        registry: String::new(),
        username: "u".to_owned(),
        password: "p".to_owned(),
    };
    let session = server.session("a/b:1", Some(&credential));
    let fetched = session.resolve().await.unwrap();
    assert_eq!(fetched.media_type, "m");
    assert!(fetched.digest.starts_with("sha256:"));
    session.resolve().await.unwrap();
    assert_eq!(server.asked.lock().len(), 4, "the token is kept");
    let error = server.session("a/b:1", None).resolve().await.unwrap_err();
    assert!(
        error.to_string().starts_with("failed to authorize: failed to fetch anonymous token: unexpected status from GET request to http://127.0.0.1"),
        "{error}"
    );
}

#[tokio::test]
async fn who_we_are_is_not_told_to_where_a_redirect_leads() {
    let (registry, storage) = (Server::start().await, Server::start().await);
    let elsewhere = format!("http://{}/stored", storage.address);
    registry.on("/v2/a/blobs/sha256:x", move |request| {
        if header(request, "authorization").is_empty() {
            return Response::builder()
                .status(401)
                .header("www-authenticate", "Basic realm=\"r\"")
                .body(Full::default())
                .unwrap();
        }
        Response::builder()
            .status(307)
            .header("location", &elsewhere)
            .body(Full::default())
            .unwrap()
    });
    storage.on("/stored", |_| plain(200, "data"));
    let credential = Credential {
        registry: String::new(),
        username: "u".to_owned(),
        password: "p".to_owned(),
    };
    let session = registry.session("a", Some(&credential));
    assert_eq!(whole(&session, "sha256:x", 0).await.unwrap(), "data");
    assert_eq!(*storage.asked.lock(), ["/stored auth=[] range=[]"]);
}

#[tokio::test]
async fn a_blob_goes_on_where_it_was_with_or_without_the_registrys_help() {
    let server = Server::start().await;
    server.on("/v2/a/blobs/sha256:ranges", |request| {
        assert_eq!(header(request, "range"), "bytes=3-");
        plain(206, "def")
    });
    server.on("/v2/a/blobs/sha256:none", |_| plain(200, "abcdef"));
    let session = server.session("a", None);
    assert_eq!(whole(&session, "sha256:ranges", 3).await.unwrap(), "def");
    assert_eq!(whole(&session, "sha256:none", 3).await.unwrap(), "def");
}

#[tokio::test]
async fn refusals_say_what_users_look_for() {
    let server = Server::start().await;
    server.on("/v2/a/manifests/denied", |_| {
        plain(403, r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#)
    });
    server.on("/v2/a/manifests/busy", |_| plain(503, "busy"));
    let failure = async |tag: &str| {
        server
            .session(&format!("a:{tag}"), None)
            .resolve()
            .await
            .unwrap_err()
    };
    let missing = failure("nope").await;
    assert_eq!(
        missing.to_string(),
        format!("{}/a:nope: not found", server.address)
    );
    let denied = failure("denied").await.to_string();
    assert!(
        denied.starts_with(
            "pull access denied, repository does not exist or may require authorization"
        ),
        "{denied}"
    );
    assert!(
        denied.ends_with("denied: requested access to the resource is denied"),
        "{denied}"
    );
    assert!(failure("busy").await.is_passing());
    assert!(!missing.is_passing());
}

#[tokio::test]
async fn a_manifest_that_is_not_what_was_asked_for_is_refused() {
    let server = Server::start().await;
    let digest = format!("sha256:{}", "0".repeat(64));
    server.on(&format!("/v2/a/manifests/{digest}"), |_| plain(200, "{}"));
    let error = server
        .session(&format!("a@{digest}"), None)
        .resolve()
        .await
        .unwrap_err();
    assert!(matches!(error, RegistryError::Digest { .. }), "{error}");
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_the_registry_when_it_fails() {
    let (mirror, registry) = (Server::start().await, Server::start().await);
    registry.on("/v2/a/manifests/1", |_| plain(200, "{}"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("registries.yaml");
    let text = format!(
        "mirrors:\n  \"{}\":\n    endpoint: [\"http://{}\"]\n",
        registry.address, mirror.address
    );
    std::fs::write(&file, text).unwrap();
    let config = RegistriesConfig::load(&file).unwrap();
    let reference = Reference::parse(&format!("{}/a:1", registry.address)).unwrap();
    let session = Registry::new(config, mirror.tasks.clone()).session(&reference, None);
    session.resolve().await.unwrap();
    assert_eq!(mirror.asked.lock().len(), 1);
    mirror.on("/v2/a/manifests/1", |_| plain(200, "{}"));
    session.resolve().await.unwrap();
    assert_eq!(registry.asked.lock().len(), 1);
}
