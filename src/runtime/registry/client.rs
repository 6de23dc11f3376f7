//! Fetches manifests and blobs from a registry or its mirrors.
//!
//! <https://github.com/opencontainers/distribution-spec/blob/main/spec.md>

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION, RANGE, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use parking_lot::Mutex;
use sha2::{Digest, Sha256, Sha512};

use super::auth::{Challenge, TokenAnswer, basic, challenge};
use super::config::{Endpoint, RegistriesConfig};
use super::reference::Reference;
use super::transport::{Transport, TransportError, read_text};
use crate::runtime::Credential;
use crate::util::tasks::Tasks;

const MANIFEST_TYPES: &str = "application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*";

const REDIRECTS_MAX: usize = 5;

/// A body that gives nothing for this long is broken.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// Error texts of registries are cut to this.
const MESSAGE_CHARS_MAX: usize = 500;

/// Why a registry did not give what was asked for. The texts are containerd's, which users search
/// for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// There is no such image, or no such content.
    #[error("{0}: not found")]
    NotFound(String),
    /// The registry knows who asks and says no, or will not say whether it exists.
    #[error(
        "pull access denied, repository does not exist or may require authorization: \
         server message: {0}"
    )]
    Denied(String),
    /// Nobody we are may ask.
    #[error("failed to authorize: {0}")]
    Unauthorized(String),
    /// Another answer than 200.
    #[error("unexpected status from GET request to {url}: {status}{message}")]
    Status {
        /// What was asked.
        url: String,
        /// The answer.
        status: StatusCode,
        /// Empty, or the registry's own words after a colon.
        message: String,
    },
    /// Below HTTP.
    #[error("failed to do request: Get \"{url}\": {why}")]
    Failed {
        /// What was asked.
        url: String,
        /// The cause.
        why: String,
        /// Whether trying again may help.
        passing: bool,
    },
    /// Not what its digest says.
    #[error("unexpected digest {got}, expected {wanted}")]
    Digest {
        /// Of what came.
        got: String,
        /// As asked.
        wanted: String,
    },
}

impl RegistryError {
    /// Whether trying again may help.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Failed { passing, .. } => *passing,
            Self::Status { status, .. } => {
                status.is_server_error()
                    || matches!(
                        *status,
                        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
                    )
            }
            _ => false,
        }
    }
}

type Result<T> = std::result::Result<T, RegistryError>;

/// All registries.
pub struct Registry {
    transport: Arc<Transport>,
    config: Arc<RegistriesConfig>,
}

/// One image being fetched: its registry, its mirrors, and who we are to them.
pub struct Session {
    transport: Arc<Transport>,
    hosts: Vec<Host>,
    reference: Reference,
}

struct Host {
    endpoint: Endpoint,
    credential: Option<Credential>,
    /// The header value that worked last.
    authorization: Mutex<Option<String>>,
}

/// A manifest or an index.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// As the registry or the document says.
    pub media_type: String,
    /// Of `data`, checked.
    pub digest: String,
    /// The document.
    pub data: Bytes,
}

/// A blob on its way.
pub struct Blob {
    body: Incoming,
    host: String,
    /// Bytes at the beginning that the caller has already.
    skip: u64,
}

impl Registry {
    /// With what a file says of registries. Connections are made in `jobs`.
    pub fn new(config: RegistriesConfig, jobs: Tasks) -> Self {
        let config = Arc::new(config);
        Self {
            transport: Arc::new(Transport::new(config.clone(), jobs)),
            config,
        }
    }

    /// Begins to fetch an image. The credential is for the registry itself; mirrors get only what
    /// the file has for them. No request is made yet.
    pub fn session(&self, reference: &Reference, credential: Option<&Credential>) -> Session {
        let endpoints =
            self.config
                .endpoints(&reference.registry, reference.host(), &reference.repository);
        let hosts = endpoints
            .into_iter()
            .map(|endpoint| {
                let given = credential.filter(|_| endpoint.is_origin).cloned();
                Host {
                    credential: given.or_else(|| self.config.credential(&endpoint.authority)),
                    authorization: Mutex::new(None),
                    endpoint,
                }
            })
            .collect();
        Session {
            transport: self.transport.clone(),
            hosts,
            reference: reference.clone(),
        }
    }
}

impl Session {
    /// The manifest or index that the reference names.
    pub async fn resolve(&self) -> Result<Fetched> {
        self.manifest(self.reference.manifest()).await
    }

    /// A manifest or index by digest or tag.
    pub async fn manifest(&self, wanted: &str) -> Result<Fetched> {
        let mut last = RegistryError::NotFound(self.reference.to_string());
        for host in &self.hosts {
            match self.manifest_from(host, wanted).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => last = note(host, error),
            }
        }
        Err(last)
    }

    async fn manifest_from(&self, host: &Host, wanted: &str) -> Result<Fetched> {
        let url = host.url(&format!("manifests/{wanted}"));
        let answer = self
            .get(host, &url, &[(ACCEPT, MANIFEST_TYPES.to_owned())])
            .await?;
        let media_type = answer
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map(|value| value.split(';').next().unwrap_or(value).trim().to_owned())
            .unwrap_or_default();
        let authority = &host.endpoint.authority;
        let data = read_text(authority, answer.into_body())
            .await
            .map_err(|e| failed(&url, &e))?;
        let is_digest = super::reference::is_digest(wanted);
        let digest = digest_like(if is_digest { wanted } else { "sha256:" }, &data);
        if is_digest && digest != wanted {
            return Err(RegistryError::Digest {
                got: digest,
                wanted: wanted.to_owned(),
            });
        }
        Ok(Fetched {
            media_type: stated_type(&data).unwrap_or(media_type),
            digest,
            data,
        })
    }

    /// A blob from `offset` on.
    pub async fn blob(&self, digest: &str, offset: u64) -> Result<Blob> {
        let mut last = RegistryError::NotFound(digest.to_owned());
        for host in &self.hosts {
            match self.blob_from(host, digest, offset).await {
                Ok(blob) => return Ok(blob),
                Err(error) => last = note(host, error),
            }
        }
        Err(last)
    }

    async fn blob_from(&self, host: &Host, digest: &str, offset: u64) -> Result<Blob> {
        let url = host.url(&format!("blobs/{digest}"));
        let range = (RANGE, format!("bytes={offset}-"));
        let headers = if offset > 0 { vec![range] } else { Vec::new() };
        let answer = self.get(host, &url, &headers).await?;
        let from_offset = answer.status() == StatusCode::PARTIAL_CONTENT;
        Ok(Blob {
            body: answer.into_body(),
            host: host.endpoint.authority.clone(),
            skip: if from_offset { 0 } else { offset },
        })
    }

    /// A GET that authorizes itself where asked to.
    async fn get(
        &self,
        host: &Host,
        url: &str,
        headers: &[(http::HeaderName, String)],
    ) -> Result<Response<Incoming>> {
        let mut tried_anew = false;
        loop {
            let authorization = host.authorization.lock().clone();
            let answer = self.follow(url, headers, authorization).await?;
            let status = answer.status();
            if status.is_success() {
                return Ok(answer);
            }
            if status == StatusCode::UNAUTHORIZED && !tried_anew {
                tried_anew = true;
                let authorization = self.authorize(host, &answer).await?;
                *host.authorization.lock() = Some(authorization);
                continue;
            }
            return Err(self.refusal(host, url, answer).await);
        }
    }

    /// A GET that follows redirects, telling nobody else who we are.
    async fn follow(
        &self,
        url: &str,
        headers: &[(http::HeaderName, String)],
        authorization: Option<String>,
    ) -> Result<Response<Incoming>> {
        let mut url = url.to_owned();
        let mut authorization = authorization;
        for _ in 0..REDIRECTS_MAX {
            let mut request = Request::builder().method(Method::GET).uri(&url);
            for (name, value) in headers {
                request = request.header(name, value);
            }
            if let Some(value) = &authorization {
                let mut value = HeaderValue::from_str(value).map_err(|_| {
                    RegistryError::Unauthorized("credential is not text".to_owned())
                })?;
                value.set_sensitive(true);
                request = request.header(AUTHORIZATION, value);
            }
            let request = request
                .body(Full::default())
                .map_err(|e| broken(&url, &e))?;
            let answer = self
                .transport
                .send(request)
                .await
                .map_err(|e| failed(&url, &e))?;
            if !answer.status().is_redirection() {
                return Ok(answer);
            }
            let location = answer
                .headers()
                .get(LOCATION)
                .and_then(|value| value.to_str().ok());
            let Some(next) = location.and_then(|location| joined(&url, location)) else {
                return Err(broken(&url, &"a redirect that leads nowhere"));
            };
            if !same_host(&url, &next) {
                authorization = None;
            }
            url = next;
        }
        Err(broken(&url, &"stopped after 5 redirects"))
    }

    /// What to say after a 401.
    async fn authorize(&self, host: &Host, answer: &Response<Incoming>) -> Result<String> {
        let headers = answer.headers().get_all(WWW_AUTHENTICATE);
        match challenge(headers.iter().filter_map(|value| value.to_str().ok())) {
            Some(Challenge::Basic) => {
                host.credential.as_ref().map(basic).ok_or_else(|| {
                    RegistryError::Unauthorized("no basic auth credentials".to_owned())
                })
            }
            Some(Challenge::Bearer {
                realm,
                service,
                scope,
            }) => {
                let scope = if scope.is_empty() {
                    format!("repository:{}:pull", host.endpoint.repository)
                } else {
                    scope
                };
                self.token(host, &realm, &service, &scope).await
            }
            None => Err(RegistryError::Unauthorized(
                "the registry wants an authorization of no kind it names".to_owned(),
            )),
        }
    }

    async fn token(&self, host: &Host, realm: &str, service: &str, scope: &str) -> Result<String> {
        let kind = if host.credential.is_some() {
            "oauth"
        } else {
            "anonymous"
        };
        let denied = |why: String| {
            RegistryError::Unauthorized(format!("failed to fetch {kind} token: {why}"))
        };
        let request = token_request(host.credential.as_ref(), realm, service, scope)
            .map_err(|why| denied(why.clone()))?;
        let url = request.uri().to_string();
        let method = request.method().clone();
        let answer = self
            .transport
            .send(request)
            .await
            .map_err(|e| failed(&url, &e))?;
        let status = answer.status();
        let authority = url
            .parse::<Uri>()
            .ok()
            .and_then(|u| u.authority().map(ToString::to_string));
        let text = read_text(&authority.unwrap_or_default(), answer.into_body())
            .await
            .map_err(|e| failed(&url, &e))?;
        if !status.is_success() {
            if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
                return Err(RegistryError::Status {
                    url,
                    status,
                    message: message_of(&text),
                });
            }
            return Err(denied(format!(
                "unexpected status from {method} request to {url}: {status}"
            )));
        }
        let token = serde_json::from_slice::<TokenAnswer>(&text)
            .ok()
            .and_then(TokenAnswer::token);
        match token {
            Some(token) => Ok(format!("Bearer {token}")),
            None => Err(denied(
                "authorization server did not include a token in the response".to_owned(),
            )),
        }
    }

    /// What an answer that is none means.
    async fn refusal(&self, host: &Host, url: &str, answer: Response<Incoming>) -> RegistryError {
        let status = answer.status();
        let text = read_text(&host.endpoint.authority, answer.into_body())
            .await
            .unwrap_or_default();
        let message = message_of(&text);
        let words = message.trim_start_matches(": ").to_owned();
        match status {
            StatusCode::NOT_FOUND => RegistryError::NotFound(self.reference.to_string()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if !words.is_empty() => {
                RegistryError::Denied(words)
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                RegistryError::Denied("insufficient_scope: authorization failed".to_owned())
            }
            _ => RegistryError::Status {
                url: url.to_owned(),
                status,
                message,
            },
        }
    }
}

impl Host {
    fn url(&self, rest: &str) -> String {
        let Endpoint {
            https,
            authority,
            prefix,
            repository,
            ..
        } = &self.endpoint;
        let scheme = if *https { "https" } else { "http" };
        format!("{scheme}://{authority}{prefix}/{repository}/{rest}")
    }
}

impl Blob {
    /// The next bytes; `None` at the end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            let frame = match tokio::time::timeout(STALL_LIMIT, self.body.frame()).await {
                Ok(frame) => frame,
                Err(_) => {
                    return Err(failed(
                        &self.host,
                        &TransportError::Timeout(self.host.clone()),
                    ));
                }
            };
            let Some(frame) = frame else {
                return Ok(None);
            };
            let frame = frame.map_err(|error| RegistryError::Failed {
                url: self.host.clone(),
                why: crate::util::errors::chain(&error),
                passing: true,
            })?;
            let Ok(mut data) = frame.into_data() else {
                continue;
            };
            let skipped = self.skip.min(data.len() as u64);
            self.skip -= skipped;
            let data = data.split_off(usize::try_from(skipped).unwrap_or(data.len()));
            if !data.is_empty() {
                return Ok(Some(data));
            }
        }
    }
}

/// Mirrors that fail are passed over, but not without a word.
fn note(host: &Host, error: RegistryError) -> RegistryError {
    if !host.endpoint.is_origin {
        tracing::info!(
            mirror = host.endpoint.authority,
            error = %error,
            "mirror passed over"
        );
    }
    error
}

fn failed(url: &str, error: &TransportError) -> RegistryError {
    RegistryError::Failed {
        url: url.to_owned(),
        why: error.to_string(),
        passing: error.is_passing(),
    }
}

fn broken(url: &str, why: &impl ToString) -> RegistryError {
    RegistryError::Failed {
        url: url.to_owned(),
        why: why.to_string(),
        passing: false,
    }
}

/// A token by user name and password, or by an identity token where there is no user name.
fn token_request(
    credential: Option<&Credential>,
    realm: &str,
    service: &str,
    scope: &str,
) -> std::result::Result<Request<Full<Bytes>>, String> {
    let identity = credential.filter(|c| c.username.is_empty() || c.username == "<token>");
    let mut query = form_urlencoded::Serializer::new(String::new());
    if !service.is_empty() {
        query.append_pair("service", service);
    }
    for scope in scope.split(' ').filter(|scope| !scope.is_empty()) {
        query.append_pair("scope", scope);
    }
    if let Some(credential) = identity {
        query.append_pair("grant_type", "refresh_token");
        query.append_pair("refresh_token", &credential.password);
        query.append_pair("client_id", "orch");
        return Request::post(realm)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::from(query.finish()))
            .map_err(|error| error.to_string());
    }
    let separator = if realm.contains('?') { '&' } else { '?' };
    let mut request = Request::get(format!("{realm}{separator}{}", query.finish()));
    if let Some(credential) = credential {
        request = request.header(AUTHORIZATION, basic(credential));
    }
    request
        .body(Full::default())
        .map_err(|error| error.to_string())
}

/// `: code: message` of a registry's error document; empty where it is none.
fn message_of(text: &[u8]) -> String {
    let document: serde_json::Value = serde_json::from_slice(text).unwrap_or_default();
    let first = &document["errors"][0];
    let word = |key: &str| first[key].as_str().unwrap_or_default().to_owned();
    let (code, message) = (word("code").to_lowercase(), word("message"));
    let joined: Vec<String> = [code, message]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect();
    if joined.is_empty() {
        return String::new();
    }
    format!(": {}", joined.join(": "))
        .chars()
        .take(MESSAGE_CHARS_MAX)
        .collect()
}

/// The media type a manifest gives itself.
fn stated_type(data: &[u8]) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(data).ok()?;
    document["mediaType"]
        .as_str()
        .filter(|stated| !stated.is_empty())
        .map(str::to_owned)
}

/// The digest of `data` in the algorithm that `like` begins with.
fn digest_like(like: &str, data: &[u8]) -> String {
    if like.starts_with("sha512:") {
        format!("sha512:{}", hex::encode(Sha512::digest(data)))
    } else {
        format!("sha256:{}", hex::encode(Sha256::digest(data)))
    }
}

fn same_host(one: &str, other: &str) -> bool {
    let parts = |url: &str| {
        let uri: Uri = url.parse().ok()?;
        Some((uri.scheme_str()?.to_owned(), uri.authority()?.to_string()))
    };
    parts(one).is_some() && parts(one) == parts(other)
}

/// A `Location` seen from the URL that gave it.
fn joined(base: &str, location: &str) -> Option<String> {
    if location.starts_with("https://") || location.starts_with("http://") {
        return Some(location.to_owned());
    }
    let base: Uri = base.parse().ok()?;
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    if let Some(rest) = location.strip_prefix("//") {
        return Some(format!("{scheme}://{rest}"));
    }
    if location.starts_with('/') {
        return Some(format!("{scheme}://{authority}{location}"));
    }
    let folder = base
        .path()
        .rsplit_once('/')
        .map_or("", |(folder, _)| folder);
    Some(format!("{scheme}://{authority}{folder}/{location}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_joined_and_other_hosts_seen() {
        let base = "https://r.test/v2/a/blobs/x";
        assert_eq!(joined(base, "/y?z=1").unwrap(), "https://r.test/y?z=1");
        assert_eq!(joined(base, "y").unwrap(), "https://r.test/v2/a/blobs/y");
        assert_eq!(joined(base, "//s.test/y").unwrap(), "https://s.test/y");
        assert!(same_host(base, "https://r.test/y"));
        assert!(!same_host(base, "http://r.test/y"));
        assert!(!same_host(base, "https://s3.test/y"));
    }

    #[test]
    fn tokens_are_asked_for_by_password_or_identity_token() {
        let credential = Credential {
            registry: String::new(),
            username: "u".to_owned(),
            password: "p".to_owned(),
        };
        let request = token_request(
            Some(&credential),
            "https://a.test/t?x=1",
            "s",
            "repository:a:pull",
        )
        .unwrap();
        assert_eq!(
            request.uri().to_string(),
            "https://a.test/t?x=1&service=s&scope=repository%3Aa%3Apull"
        );
        assert_eq!(request.headers()[AUTHORIZATION], "Basic dTpw");
        let identity = Credential {
            username: String::new(),
            ..credential
        };
        let request = token_request(Some(&identity), "https://a.test/t", "s", "").unwrap();
        assert_eq!(request.method(), Method::POST);
    }

    #[test]
    fn the_registrys_own_words_are_kept() {
        let text = br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#;
        assert_eq!(message_of(text), ": toomanyrequests: slow down");
        assert_eq!(message_of(b"<html>"), "");
    }
}
