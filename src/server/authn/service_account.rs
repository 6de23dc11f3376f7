//! Service-account tokens: ES256 JWTs with the claims of
//! `k8s.io/kubernetes/pkg/serviceaccount/claims.go`, bound to a pod, secret or node.
//!
//! Pure: whether the account and what the token is bound to still exist is asked by
//! [`super::Authn`].

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::server::request::User;
use crate::util::x509::Key;

/// How far behind our clock another server's may be.
const LEEWAY_SECONDS: i64 = 10;

/// Why a token was not issued or not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a JWT of ours at all; another authenticator may know it.
    #[error("not a service account token of this cluster")]
    Foreign,
    /// Signed by us and not good: expired, another audience, no longer bound.
    #[error("{0}")]
    Invalid(String),
    /// The key does not sign.
    #[error("sign token: {0}")]
    Sign(String),
}

/// An object by name and uid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Name.
    pub name: String,
    /// UID.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// What a new token shall say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimsSpec {
    /// Of the service account.
    pub namespace: String,
    /// The service account.
    pub service_account: Reference,
    /// Bound to this pod; then `node` is where it runs.
    pub pod: Option<Reference>,
    /// Bound to this secret.
    pub secret: Option<Reference>,
    /// Bound to this node, or where the pod runs.
    pub node: Option<Reference>,
    /// Whom it is for; empty: the API server.
    pub audiences: Vec<String>,
    /// How long it is good.
    pub lifetime_seconds: i64,
    /// After so many seconds its use should be warned about.
    pub warn_after_seconds: Option<i64>,
    /// `jti`, a UUID.
    pub id: String,
}

/// What a good token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Whom it is for.
    pub aud: Vec<String>,
    /// End of validity, Unix seconds.
    pub exp: i64,
    /// When it was issued.
    pub iat: i64,
    /// Who issued it.
    pub iss: String,
    /// Its own name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jti: String,
    /// The bound objects.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Bound,
    /// Begin of validity.
    pub nbf: i64,
    /// `system:serviceaccount:<namespace>:<name>`
    pub sub: String,
}

/// The private part of the claims.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// Of the service account and what it is bound to.
    pub namespace: String,
    /// Where the pod runs, or what the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    /// Bound pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// Bound secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    /// Whose token it is.
    pub serviceaccount: Reference,
    /// Use after this time should be warned about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// Issues and verifies. One key for the life of the cluster.
pub struct Tokens {
    signing: EncodingKey,
    verifying: DecodingKey,
    key_id: String,
    point: Vec<u8>,
    issuer: String,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens")
            .field("issuer", &self.issuer)
            .finish()
    }
}

impl Tokens {
    /// With the cluster's key. `issuer` is also the API server's own audience.
    pub fn new(key: &Key, issuer: &str) -> Self {
        let digest = Sha256::digest(key.public_der());
        Self {
            signing: EncodingKey::from_ec_der(&key.der()),
            verifying: DecodingKey::from_ec_der(key.public_point()),
            key_id: URL_SAFE_NO_PAD.encode(digest),
            point: key.public_point().to_vec(),
            issuer: issuer.to_owned(),
        }
    }

    /// The `iss` of every token, and the audience of tokens that name none.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// A signed token.
    pub fn issue(&self, spec: &ClaimsSpec, now: Timestamp) -> Result<String, Error> {
        let now = now.as_second();
        let audiences = match &spec.audiences[..] {
            [] => vec![self.issuer.clone()],
            given => given.to_vec(),
        };
        let claims = Claims {
            aud: audiences,
            exp: now.saturating_add(spec.lifetime_seconds),
            iat: now,
            iss: self.issuer.clone(),
            jti: spec.id.clone(),
            kubernetes: Bound {
                namespace: spec.namespace.clone(),
                node: spec.node.clone(),
                pod: spec.pod.clone(),
                secret: spec.secret.clone(),
                serviceaccount: spec.service_account.clone(),
                warnafter: spec.warn_after_seconds.map(|s| now.saturating_add(s)),
            },
            nbf: now,
            sub: account_user(&spec.namespace, &spec.service_account.name),
        };
        let mut header = Header::new(Algorithm::ES256);
        header.typ = None;
        header.kid = Some(self.key_id.clone());
        jsonwebtoken::encode(&header, &claims, &self.signing)
            .map_err(|e| Error::Sign(e.to_string()))
    }

    /// The claims of a token that was signed here, is in time and is for one of `audiences`
    /// (empty: for the API server).
    pub fn verify(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<Claims, Error> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| Error::Foreign)?;
        if header.alg != Algorithm::ES256 || header.kid.as_ref() != Some(&self.key_id) {
            return Err(Error::Foreign);
        }
        let mut validation = Validation::new(Algorithm::ES256);
        // The times are checked below against the clock that was passed in.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let claims = jsonwebtoken::decode::<Claims>(token, &self.verifying, &validation)
            .map_err(|_| Error::Invalid("the token's signature or claims are invalid".to_owned()))?
            .claims;
        check(&claims, &self.issuer, audiences, now.as_second())?;
        Ok(claims)
    }

    /// `/openid/v1/jwks`
    pub fn key_set(&self) -> Value {
        let coordinate = |range: std::ops::Range<usize>| {
            URL_SAFE_NO_PAD.encode(self.point.get(range).unwrap_or_default())
        };
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256",
            "x": coordinate(1..33), "y": coordinate(33..65),
        }]})
    }

    /// `/.well-known/openid-configuration`
    pub fn openid_configuration(&self) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{}/openid/v1/jwks", self.issuer),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }
}

impl Claims {
    /// The caller who shows the token.
    pub fn user(&self) -> User {
        let bound = &self.kubernetes;
        let mut user = User {
            name: self.sub.clone(),
            uid: bound.serviceaccount.uid.clone(),
            groups: account_groups(&bound.namespace),
            ..User::default()
        };
        let mut add = |key: &str, value: &str| {
            if !value.is_empty() {
                let key = format!("authentication.kubernetes.io/{key}");
                user.extra.insert(key, vec![value.to_owned()]);
            }
        };
        for (what, reference) in [("pod", &bound.pod), ("node", &bound.node)] {
            if let Some(reference) = reference {
                add(&format!("{what}-name"), &reference.name);
                add(&format!("{what}-uid"), &reference.uid);
            }
        }
        if !self.jti.is_empty() {
            add("credential-id", &format!("JTI={}", self.jti));
        }
        user
    }
}

/// `system:serviceaccount:<namespace>:<name>`
pub fn account_user(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// The groups of a service account, without `system:authenticated`.
pub fn account_groups(namespace: &str) -> Vec<String> {
    vec![
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{namespace}"),
    ]
}

fn check(claims: &Claims, issuer: &str, audiences: &[String], now: i64) -> Result<(), Error> {
    let invalid = |why: &str| Err(Error::Invalid(why.to_owned()));
    if now > claims.exp.saturating_add(LEEWAY_SECONDS) {
        return invalid("the service account token has expired");
    }
    if now < claims.nbf.saturating_sub(LEEWAY_SECONDS) {
        return invalid("the service account token is not valid yet");
    }
    let is_for_us = match audiences {
        [] => claims.aud.iter().any(|a| a == issuer),
        wanted => claims.aud.iter().any(|a| wanted.contains(a)),
    };
    if claims.iss != issuer || !is_for_us {
        let why = format!("the service account token is for {:?}", claims.aud);
        return invalid(&why);
    }
    let bound = &claims.kubernetes;
    if claims.sub != account_user(&bound.namespace, &bound.serviceaccount.name) {
        return invalid("the service account token contradicts itself");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

    fn now() -> Timestamp {
        "2026-11-23T00:00:00Z".parse().unwrap()
    }

    fn tokens() -> Tokens {
        Tokens::new(&Key::generate().unwrap(), ISSUER)
    }

    fn spec() -> ClaimsSpec {
        ClaimsSpec {
            namespace: "default".into(),
            service_account: Reference {
                name: "web".into(),
                uid: "u1".into(),
            },
            pod: Some(Reference {
                name: "web-1".into(),
                uid: "u2".into(),
            }),
            lifetime_seconds: 600,
            id: "j".into(),
            ..ClaimsSpec::default()
        }
    }

    #[test]
    fn a_token_says_who_shows_it() {
        let tokens = tokens();
        let token = tokens.issue(&spec(), now()).unwrap();
        let user = tokens.verify(&token, &[], now()).unwrap().user();
        assert_eq!(user.name, "system:serviceaccount:default:web");
        assert_eq!(
            user.groups,
            ["system:serviceaccounts", "system:serviceaccounts:default"]
        );
        let extra = |key: &str| user.extra[&format!("authentication.kubernetes.io/{key}")].clone();
        assert_eq!(extra("pod-name"), ["web-1"]);
        assert_eq!(extra("credential-id"), ["JTI=j"]);
    }

    #[test]
    fn time_audience_and_key_are_checked() {
        let tokens = tokens();
        let token = tokens.issue(&spec(), now()).unwrap();
        let later = now() + std::time::Duration::from_secs(700);
        assert!(matches!(
            tokens.verify(&token, &[], later),
            Err(Error::Invalid(_))
        ));
        let vault = ["vault".to_owned()];
        assert!(matches!(
            tokens.verify(&token, &vault, now()),
            Err(Error::Invalid(_))
        ));
        let for_vault = ClaimsSpec {
            audiences: vault.to_vec(),
            ..spec()
        };
        let for_vault = tokens.issue(&for_vault, now()).unwrap();
        assert!(tokens.verify(&for_vault, &vault, now()).is_ok());
        assert!(tokens.verify(&for_vault, &[], now()).is_err());
        let others = Tokens::new(&Key::generate().unwrap(), ISSUER);
        assert_eq!(others.verify(&token, &[], now()), Err(Error::Foreign));
        assert_eq!(tokens.verify("rubbish", &[], now()), Err(Error::Foreign));
    }

    #[test]
    fn a_changed_token_is_refused() {
        let tokens = tokens();
        let token = tokens.issue(&spec(), now()).unwrap();
        let parts: Vec<_> = token.split('.').collect();
        let claims = String::from_utf8(URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
        let claims =
            URL_SAFE_NO_PAD.encode(claims.replace(":web", ":adm").replace("web\"", "adm\""));
        let forged = format!("{}.{claims}.{}", parts[0], parts[2]);
        assert!(matches!(
            tokens.verify(&forged, &[], now()),
            Err(Error::Invalid(_))
        ));
    }
}
