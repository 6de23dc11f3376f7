//! Gives every namespace its `default` service account.
//!
//! Writes: ServiceAccounts named `default` that are missing. Never changes one that exists.

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::api::{meta, object::ObjectKey};
use crate::client::controller::{Action, Reconcile};
use crate::client::{Cache, Client, Queue, Result};

use super::{Setup, shared::namespaces};

const WORKERS: usize = 2;
/// The account a pod gets that names none.
const NAME: &str = "default";

struct ServiceAccounts {
    namespaces: Cache<Namespace>,
    accounts: Cache<ServiceAccount>,
    client: Client,
}

pub(super) fn start(setup: &Setup) {
    let namespaces = setup.informers.cache::<Namespace>();
    let accounts = setup.informers.cache::<ServiceAccount>();
    let queue = Queue::new();
    namespaces::on_change(&namespaces, &queue);
    let gone = queue.clone();
    accounts.on_change(move |change| {
        if change.new.is_none() {
            gone.add(ObjectKey::cluster(&change.key().namespace));
        }
    });
    let controller = ServiceAccounts {
        namespaces: namespaces.clone(),
        accounts: accounts.clone(),
        client: setup.client.clone(),
    };
    setup.run(controller, queue, WORKERS, async move {
        namespaces.synced().await;
        accounts.synced().await;
    });
}

impl Reconcile for ServiceAccounts {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "service_account"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let wanted = self
            .namespaces
            .get(key)
            .is_some_and(|n| !meta::is_terminating(&n.metadata));
        let there = self
            .accounts
            .get(&ObjectKey::new(&key.name, NAME))
            .is_some();
        if !wanted || there {
            return Ok(Action::Done);
        }
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        match self.client.namespaced(&key.name).create(&account).await {
            Err(error) if !namespaces::is_settled(&error) => Err(error),
            _ => Ok(Action::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{cache, fake::Fake, watch::Step};
    use serde_json::json;

    #[tokio::test]
    async fn only_living_namespaces_without_an_account_get_one() {
        let fake = Fake::new();
        let (mut namespaces, namespace_cache) = cache::cache::<Namespace>();
        let (mut accounts, account_cache) = cache::cache::<ServiceAccount>();
        let namespace = |name: &str, deleted: Option<&str>| {
            let meta = json!({"metadata": {"name": name, "deletionTimestamp": deleted}});
            serde_json::from_value::<Namespace>(meta).unwrap()
        };
        namespaces.apply(Step::Listed(vec![
            namespace("new", None),
            namespace("old", None),
            namespace("ending", Some("2026-01-01T00:00:00Z")),
        ]));
        let account = json!({"metadata": {"name": "default", "namespace": "old"}});
        accounts.apply(Step::Listed(vec![serde_json::from_value(account).unwrap()]));
        let controller = ServiceAccounts {
            namespaces: namespace_cache,
            accounts: account_cache,
            client: fake.client(),
        };
        let path = "POST /api/v1/namespaces/new/serviceaccounts";
        fake.answer(path, json!({"metadata": {"name": "default"}}));
        for name in ["new", "old", "ending", "gone"] {
            controller
                .reconcile(&ObjectKey::cluster(name))
                .await
                .unwrap();
        }
        let requests: Vec<_> = fake
            .seen()
            .into_iter()
            .map(|(request, _)| request)
            .collect();
        assert_eq!(requests, [path]);
    }
}
