//! Service account tokens for pods: asked for by TokenRequest, bound to the pod, renewed at 80 % of
//! their life (kubernetes `pkg/kubelet/token`).

use std::collections::HashMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use parking_lot::Mutex;

use crate::client::Client;
use crate::util::{clock::Clock, errors::chain};

use super::payload::TokenWish;

/// A token is renewed at this age at the latest.
const AGE_MOST: SignedDuration = SignedDuration::from_hours(24);

#[derive(Clone)]
struct Token {
    text: String,
    renew_at: Timestamp,
    expires_at: Timestamp,
}

/// The tokens in use. Clones share them.
#[derive(Clone)]
pub(crate) struct Tokens(Arc<Inner>);

struct Inner {
    client: Client,
    clock: Clock,
    held: Mutex<HashMap<(String, TokenWish), Token>>,
}

impl Tokens {
    pub(crate) fn new(client: Client, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            client,
            clock,
            held: Mutex::default(),
        }))
    }

    /// A token for the pod, and when to ask again.
    ///
    /// Errors: the server gives none, and there is no old one that is still valid.
    pub(crate) async fn get(
        &self,
        pod: &Pod,
        wish: &TokenWish,
    ) -> Result<(String, Timestamp), String> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let key = (uid, wish.clone());
        let held = self.0.held.lock().get(&key).cloned();
        let now = self.0.clock.now();
        if let Some(token) = held.as_ref().filter(|token| now < token.renew_at) {
            return Ok((token.text.clone(), token.renew_at));
        }
        match self.ask(pod, wish).await {
            Ok(token) => {
                let answer = (token.text.clone(), token.renew_at);
                self.0.held.lock().insert(key, token);
                Ok(answer)
            }
            Err(error) => match held.filter(|token| now < token.expires_at) {
                Some(token) => {
                    tracing::warn!(error, "token not renewed, the old one is still valid");
                    let again = now.saturating_add(SignedDuration::from_secs(30));
                    Ok((token.text, again.unwrap_or(now)))
                }
                None => Err(error),
            },
        }
    }

    /// Forgets the pod's tokens.
    pub(crate) fn release(&self, uid: &str) {
        self.0.held.lock().retain(|(holder, _), _| holder != uid);
    }

    async fn ask(&self, pod: &Pod, wish: &TokenWish) -> Result<Token, String> {
        let meta = &pod.metadata;
        let spec = pod.spec.as_ref();
        let account = spec.and_then(|spec| spec.service_account_name.as_deref());
        let account = account.filter(|name| !name.is_empty()).unwrap_or("default");
        let audiences = if wish.audience.is_empty() {
            Vec::new()
        } else {
            vec![wish.audience.clone()]
        };
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(audiences),
                expiration_seconds: Some(wish.seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: meta.name.clone(),
                    uid: meta.uid.clone(),
                }),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let api = self.0.client.namespaced::<ServiceAccount>(namespace);
        let asked_at = self.0.clock.now();
        let failed = |why: String| format!("failed to fetch token: {why}");
        let answer = api
            .create_subresource(account, "token", &request)
            .await
            .map_err(|error| failed(chain(&error)))?;
        let answer: TokenRequest =
            serde_json::from_value(answer).map_err(|error| failed(error.to_string()))?;
        let no_token = || failed("the answer has no token".to_owned());
        let status = answer.status.ok_or_else(no_token)?;
        let expires_at = status.expiration_timestamp.ok_or_else(no_token)?.0;
        let life = expires_at.duration_since(asked_at);
        let wait = (life * 4 / 5).min(AGE_MOST);
        Ok(Token {
            text: status.token.ok_or_else(no_token)?,
            renew_at: asked_at.saturating_add(wait).unwrap_or(expires_at),
            expires_at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::ApiError;
    use crate::client::fake::Fake;
    use serde_json::json;

    const PATH: &str = "POST /api/v1/namespaces/n/serviceaccounts/sa/token";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn answer(token: &str, until: i64) -> serde_json::Value {
        json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
            "metadata": {}, "spec": {"audiences": []},
            "status": {"token": token, "expirationTimestamp": at(until).to_string()}})
    }

    #[tokio::test]
    async fn a_token_is_kept_renewed_at_four_fifths_and_outlives_a_failure() {
        let fake = Fake::new();
        let clock = Clock::fixed(at(0));
        let tokens = Tokens::new(fake.client(), clock.clone());
        let pod: Pod = serde_json::from_value(json!({"metadata":
            {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"serviceAccountName": "sa", "containers": []}}))
        .unwrap();
        let wish = TokenWish {
            audience: String::new(),
            seconds: 3600,
        };
        fake.answer(PATH, answer("one", 3600));
        let first = tokens.get(&pod, &wish).await.unwrap();
        assert_eq!(first, ("one".to_owned(), at(2880)));
        fake.fail(PATH, ApiError::unavailable("down"));
        clock.set(at(2879));
        assert_eq!(tokens.get(&pod, &wish).await.unwrap().0, "one");
        clock.set(at(2881));
        assert_eq!(tokens.get(&pod, &wish).await.unwrap().0, "one");
        fake.answer(PATH, answer("two", 6000));
        assert_eq!(tokens.get(&pod, &wish).await.unwrap().0, "two");
        let (_, body) = fake.seen().pop().unwrap();
        assert_eq!(body["spec"]["boundObjectRef"]["uid"], "u");
        fake.fail(PATH, ApiError::unavailable("down"));
        clock.set(at(7000));
        assert!(tokens.get(&pod, &wish).await.is_err());
    }
}
