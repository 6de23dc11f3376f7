//! Who is calling: client certificate, service-account token, bootstrap token; or nobody.
//!
//! Revocation needs no list: a token is good only while its account, and the pod, secret or node
//! it is bound to, exist with the same uid.

pub mod bootstrap_token;
mod impersonate;
mod peer;
pub mod service_account;
mod x509;

use std::sync::Arc;

use http::HeaderMap;
use serde_json::Value;

use crate::api::object::Object;
use crate::server::cacher::Cacher;
use crate::server::request::User;
use crate::util::clock::Clock;
use crate::util::tls;

use service_account::{Claims, Reference, Tokens};

pub use impersonate::{Impersonation, Wanted};
pub use peer::Peer;

/// Everybody who showed good credentials is in this group.
pub const AUTHENTICATED: &str = "system:authenticated";

/// Credentials were missing or not good. The text helps whoever reads it and gives nothing away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nothing was shown.
    #[error(
        "no credentials were sent; use the kubeconfig the server wrote at its start, a client \
         certificate of this cluster, or a bearer token"
    )]
    Nothing,
    /// A certificate that does not verify.
    #[error("the client certificate is not accepted: {0}")]
    Certificate(String),
    /// A token that is not good.
    #[error("the bearer token is not accepted: {0}")]
    Token(String),
}

/// Finds out who is calling.
#[derive(Debug)]
pub struct Authn {
    certificates: x509::Verifier,
    tokens: Arc<Tokens>,
    cacher: Cacher,
    clock: Clock,
}

impl Authn {
    /// Trusts client certificates of the authority `ca_pem` and tokens of `tokens`.
    pub fn new(
        ca_pem: &str,
        tokens: Arc<Tokens>,
        cacher: Cacher,
        clock: Clock,
    ) -> Result<Self, tls::Error> {
        Ok(Self {
            certificates: x509::Verifier::new(ca_pem)?,
            tokens,
            cacher,
            clock,
        })
    }

    /// Who sent a request: the certificate first, then the bearer token, as upstream.
    pub fn authenticate(&self, peer: Option<&Peer>, bearer: Option<&str>) -> Result<User, Refused> {
        let now = self.clock.now();
        let mut refused = Refused::Nothing;
        if let Some(peer) = peer.filter(|peer| !peer.certificates().is_empty()) {
            match self.certificates.user(peer, now) {
                Ok(user) => return Ok(authenticated(user)),
                Err(why) => refused = Refused::Certificate(why),
            }
        }
        match bearer {
            Some(token) => self.token(token, &[]).map(|(user, _)| user),
            None => Err(refused),
        }
    }

    /// Who shows `token`, and for which of `audiences` (empty: the API server) it is.
    pub fn token(&self, token: &str, audiences: &[String]) -> Result<(User, Vec<String>), Refused> {
        let now = self.clock.now();
        match self.tokens.verify(token, audiences, now) {
            Ok(claims) => {
                self.check_bound(&claims).map_err(Refused::Token)?;
                let user = authenticated(claims.user());
                let shared = claims.aud.into_iter();
                let shared = shared
                    .filter(|a| audiences.contains(a) || audiences.is_empty())
                    .collect();
                Ok((user, shared))
            }
            Err(service_account::Error::Foreign) => {
                let user = bootstrap_token::user(token, &self.cacher, now)
                    .map_err(|why| Refused::Token(why.to_owned()))?;
                let api_server = self.tokens.issuer().to_owned();
                if audiences.is_empty() || audiences.contains(&api_server) {
                    return Ok((authenticated(user), vec![api_server]));
                }
                Err(Refused::Token("it is for the API server only".to_owned()))
            }
            Err(error) => Err(Refused::Token(error.to_string())),
        }
    }

    /// The audience of tokens for the API server.
    pub fn audience(&self) -> &str {
        self.tokens.issuer()
    }

    /// Whether the account and what the token is bound to are still the same objects.
    fn check_bound(&self, claims: &Claims) -> Result<(), String> {
        let bound = &claims.kubernetes;
        let namespace = bound.namespace.as_str();
        let account = self.exists("serviceaccounts", namespace, &bound.serviceaccount);
        if !account {
            return Err("its service account no longer exists".to_owned());
        }
        for (what, storage, namespace, reference) in [
            ("pod", "pods", namespace, &bound.pod),
            ("secret", "secrets", namespace, &bound.secret),
        ] {
            if let Some(reference) = reference
                && !self.exists(storage, namespace, reference)
            {
                return Err(format!("the {what} it is bound to no longer exists"));
            }
        }
        // A node named beside a pod says where the pod runs and binds nothing.
        if let (Some(node), None) = (&bound.node, &bound.pod)
            && !self.exists("nodes", "", node)
        {
            return Err("the node it is bound to no longer exists".to_owned());
        }
        Ok(())
    }

    fn exists(&self, storage: &str, namespace: &str, reference: &Reference) -> bool {
        let object = read(&self.cacher, storage, namespace, &reference.name);
        object.is_some_and(|object| object.uid() == reference.uid)
    }
}

/// The bearer token of a request, taken out of its headers so that nobody behind sees it: from
/// `Authorization`, or from the WebSocket subprotocol that browsers use.
pub fn take_bearer(headers: &mut HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(http::header::AUTHORIZATION) {
        let value = value.to_str().unwrap_or_default().trim();
        let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
        if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() {
            let token = token.trim().to_owned();
            headers.remove(http::header::AUTHORIZATION);
            return Some(token);
        }
        return None;
    }
    take_subprotocol(headers)
}

const SUBPROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

fn take_subprotocol(headers: &mut HeaderMap) -> Option<String> {
    use base64::Engine;
    let name = http::header::SEC_WEBSOCKET_PROTOCOL;
    let mut token = None;
    let mut kept: Vec<String> = Vec::new();
    for value in headers.get_all(&name) {
        for protocol in value.to_str().unwrap_or_default().split(',').map(str::trim) {
            match protocol.strip_prefix(SUBPROTOCOL) {
                Some(encoded) => token = Some(encoded.to_owned()),
                None => kept.push(protocol.to_owned()),
            }
        }
    }
    let encoded = token?;
    // As upstream: the token may not be the only protocol, since none would be left to choose.
    let kept = http::HeaderValue::from_str(&kept.join(", ")).ok()?;
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let decoded = engine.decode(encoded.trim_end_matches('=')).ok()?;
    headers.insert(name, kept);
    String::from_utf8(decoded).ok()
}

/// One object out of the cache.
fn read(cacher: &Cacher, storage: &str, namespace: &str, name: &str) -> Option<Object> {
    let key = if namespace.is_empty() {
        name.to_owned()
    } else {
        format!("{namespace}/{name}")
    };
    cacher.get(storage, &key)?.object().ok()
}

fn authenticated(mut user: User) -> User {
    if !user.is_in(AUTHENTICATED) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    user
}

/// The decoded text of a field of a Secret's `data`.
fn secret_text(secret: &Object, field: &str) -> Option<String> {
    use base64::Engine;
    let encoded = secret.at(&["data", field]).and_then(Value::as_str)?;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .ok()?;
    String::from_utf8(bytes).ok()
}

/// Whether two secrets are equal, in a time that does not tell where they differ.
pub fn secrets_equal(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    a.len() == b.len() && a.iter().zip(b).fold(0, |diff, (x, y)| diff | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;

    fn headers(name: http::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn a_bearer_token_is_taken_out_of_the_headers() {
        let mut with = headers(http::header::AUTHORIZATION, "bearer  abc");
        assert_eq!(take_bearer(&mut with).as_deref(), Some("abc"));
        assert!(with.is_empty());
        let mut basic = headers(http::header::AUTHORIZATION, "Basic abc");
        assert_eq!(take_bearer(&mut basic), None);
    }

    #[test]
    fn a_browser_sends_its_token_as_a_subprotocol() {
        let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode("abc");
        let value = format!("v4.channel.k8s.io, {SUBPROTOCOL}{token}");
        let mut with = headers(http::header::SEC_WEBSOCKET_PROTOCOL, &value);
        assert_eq!(take_bearer(&mut with).as_deref(), Some("abc"));
        assert_eq!(
            with[http::header::SEC_WEBSOCKET_PROTOCOL],
            "v4.channel.k8s.io"
        );
    }

    #[test]
    fn secrets_are_compared_whole() {
        assert!(secrets_equal("abc", "abc"));
        assert!(!secrets_equal("abc", "abd") && !secrets_equal("abc", "ab"));
    }
}
