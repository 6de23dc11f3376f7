//! What the REST verbs ask of authentication and authorization, joined to them here.

use jiff::Timestamp;

use crate::api::status::ApiError;
use crate::server::authn::service_account::{ClaimsSpec, Reference, Tokens};
use crate::server::authz::{Attributes, Authz, Verdict};
use crate::server::request::{RequestInfo, User};
use crate::server::rest::{NameAndUid, Permission, TokenIssuer, TokenWish};
use crate::util::errors::chain;

impl TokenIssuer for Tokens {
    fn audience(&self) -> String {
        self.issuer().to_owned()
    }

    fn issue(&self, wish: &TokenWish, now: Timestamp) -> Result<String, ApiError> {
        let reference = |named: &NameAndUid| Reference {
            name: named.name.clone(),
            uid: named.uid.clone(),
        };
        let spec = ClaimsSpec {
            namespace: wish.namespace.clone(),
            service_account: reference(&wish.service_account),
            pod: wish.pod.as_ref().map(reference),
            secret: wish.secret.as_ref().map(reference),
            node: wish.node.as_ref().map(reference),
            audiences: wish.audiences.clone(),
            lifetime_seconds: wish.lifetime_seconds,
            warn_after_seconds: None,
            id: wish.id.clone(),
        };
        Self::issue(self, &spec, now).map_err(|error| {
            tracing::error!(error = %chain(&error), "token cannot be signed");
            ApiError::internal("token cannot be signed")
        })
    }
}

impl Permission for Authz {
    fn check(&self, user: &User, info: &RequestInfo) -> Result<(), ApiError> {
        let asked = Attributes {
            user,
            info,
            field_selector: "",
        };
        match self.authorize(&asked) {
            Verdict::Allowed(_) => Ok(()),
            Verdict::NotAllowed(_) => {
                let why = asked.refusal();
                Err(ApiError::forbidden(
                    &info.group,
                    &info.resource,
                    &info.name,
                    &why,
                ))
            }
        }
    }
}
