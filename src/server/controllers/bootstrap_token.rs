//! Deletes join tokens when they expire.
//!
//! Writes: Secrets of type `bootstrap.kubernetes.io/token`, by deleting them.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use crate::api::{meta, object::ObjectKey, time};
use crate::client::{
    Cache, Client, DeleteParams, ListParams, Queue, Result,
    controller::{Action, Reconcile},
};
use crate::util::clock::Clock;

use super::Setup;
use super::shared::wire;

struct BootstrapTokens {
    secrets: Cache<Secret>,
    client: Client,
    clock: Clock,
}

pub(super) fn start(setup: &Setup) {
    let only = ListParams::fields("type=bootstrap.kubernetes.io/token");
    let secrets = setup.informers.cache_where::<Secret>(&only);
    let queue = Queue::new();
    wire::on_own(&secrets, &queue);
    let controller = BootstrapTokens {
        secrets: secrets.clone(),
        client: setup.client.clone(),
        clock: setup.clock.clone(),
    };
    setup.run(controller, queue, 1, async move { secrets.synced().await });
}

#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Keep,
    KeepFor(Duration),
    Delete,
}

/// A token without an expiration, or with one that cannot be read, is kept.
fn plan(secret: &Secret, now: Timestamp) -> Plan {
    let expiration = secret.data.as_ref().and_then(|data| data.get("expiration"));
    let text = expiration.and_then(|bytes| std::str::from_utf8(&bytes.0).ok());
    let Some(at) = text.and_then(time::parse) else {
        return Plan::Keep;
    };
    match Duration::try_from(at.duration_since(now)) {
        Ok(left) if !left.is_zero() => Plan::KeepFor(left),
        _ => Plan::Delete,
    }
}

impl Reconcile for BootstrapTokens {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "bootstrap_token"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let Some(secret) = self.secrets.get(key) else {
            return Ok(Action::Done);
        };
        match plan(&secret, self.clock.now()) {
            Plan::Keep => Ok(Action::Done),
            Plan::KeepFor(left) => Ok(Action::After(left)),
            Plan::Delete => {
                let params = DeleteParams::uid(meta::uid(&secret.metadata));
                let api = self.client.namespaced::<Secret>(&key.namespace);
                match api.delete(&key.name, &params).await {
                    Err(error) if !error.is_not_found() => Err(error),
                    _ => Ok(Action::Done),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    #[test]
    fn a_token_is_kept_until_it_expires() {
        let now = time::parse("2026-01-01T00:00:00Z").unwrap();
        let secret = |expiration: &str| Secret {
            data: Some([("expiration".to_owned(), ByteString(expiration.into()))].into()),
            ..Secret::default()
        };
        assert_eq!(plan(&Secret::default(), now), Plan::Keep);
        assert_eq!(plan(&secret("soon"), now), Plan::Keep);
        let hour = Plan::KeepFor(Duration::from_secs(3600));
        assert_eq!(plan(&secret("2026-01-01T01:00:00Z"), now), hour);
        assert_eq!(plan(&secret("2025-12-31T23:59:59Z"), now), Plan::Delete);
    }
}
