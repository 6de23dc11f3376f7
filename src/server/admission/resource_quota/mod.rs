//! A namespace's ResourceQuotas: a write that would exceed one is refused, one that fits is charged
//! before it is made (`k8s.io/apiserver/pkg/admission/plugin/resourcequota`).
//!
//! Invariants. `status.used` is raised by compare-and-swap on the quota itself, all quotas of a
//! write in one transaction, so that no two writes get the same room, whoever else writes. It is
//! raised before the object is stored and lowered again when that fails: between the two a quota
//! shows too much, never too little. After a crash in between it shows too much until the quota
//! controller counts anew. The raise itself does not wait for the disk: the object that follows
//! does, and the journal keeps their order.

pub(crate) mod plan;
mod usage;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::api::object::Object;
use crate::api::status::ApiError;
use crate::server::cacher::Item;
use crate::server::storage::{codec, keys};
use crate::store::{self, Durability, Precondition, Revision, Txn, Write};
use crate::util::errors::chain;

use super::compiled::Compiled;
use super::{Attributes, Lookup, Plugin};
use plan::Asked;
use usage::Evaluator;

const STORAGE: &str = "resourcequotas";
/// How often others may change a quota in between; within one server nobody does but who writes
/// its status.
const TRIES: usize = 100;

type Turns = Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>;

pub(super) struct ResourceQuota {
    lookup: Lookup,
    /// Namespaces with quotas.
    namespaces: Compiled<BTreeSet<String>>,
    /// Writers of one namespace take turns, which is quicker than to collide. Not held where the
    /// namespace has no quota; there are as many as namespaces that had one.
    turns: Turns,
}

impl ResourceQuota {
    pub(super) fn new(lookup: &Lookup) -> Self {
        Self {
            lookup: lookup.clone(),
            namespaces: Compiled::new(lookup, &[STORAGE], namespaces),
            turns: Turns::default(),
        }
    }

    fn turn(&self, namespace: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock();
        Arc::clone(turns.entry(namespace.to_owned()).or_default())
    }

    /// The quotas of a namespace as they are now.
    async fn quotas(&self, namespace: &str) -> Result<Vec<(String, Object, Revision)>, ApiError> {
        let mut quotas = Vec::new();
        for item in self.lookup.all_in(STORAGE, namespace) {
            let key = keys::object(STORAGE, &item.key);
            let (stored, _) = self.lookup.store().get(&key).await.map_err(failed)?;
            let Some(stored) = stored else {
                continue;
            };
            let object = codec::decode(&stored.value, stored.modified).map_err(|error| {
                tracing::error!(key = &*item.key, error = %chain(&error), "quota is not readable");
                ApiError::internal("stored quota is not readable")
            })?;
            quotas.push((item.key.to_string(), object, stored.modified));
        }
        Ok(quotas)
    }

    /// Changes the usage of quotas as `change` says, or nothing.
    async fn change<F>(&self, attributes: &Attributes<'_>, change: F) -> Result<(), ApiError>
    where
        F: Fn(&Object) -> Result<Option<crate::api::pod::Resources>, String> + Send + Sync,
    {
        let turn = self.turn(attributes.namespace);
        let _turn = turn.lock().await;
        for _ in 0..TRIES {
            let mut txn = Txn {
                durability: Durability::Relaxed,
                ..Txn::default()
            };
            for (local, quota, revision) in self.quotas(attributes.namespace).await? {
                let used = change(&quota).map_err(|why| attributes.forbidden(&why))?;
                let Some(used) = used else {
                    continue;
                };
                let key = keys::object(STORAGE, &local);
                let value = codec::encode(&plan::with_used(&quota, &used));
                let unchanged = Precondition::ModifiedAt(key.clone(), revision);
                txn.preconditions.push(unchanged);
                txn.writes.push(Write::Put {
                    key,
                    value,
                    ttl: None,
                });
            }
            if txn.writes.is_empty() || attributes.dry_run {
                return Ok(());
            }
            match self.lookup.store().txn(txn).await {
                Ok(_) => return Ok(()),
                Err(store::Error::Conflict { .. }) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let gvr = &attributes.def.gvr;
        let why = "quotas of the namespace change too quickly; please try again";
        Err(ApiError::conflict(
            &gvr.group,
            &gvr.resource,
            attributes.name,
            why,
        ))
    }
}

fn namespaces(objects: &[Vec<Arc<Item>>]) -> BTreeSet<String> {
    let items = objects.iter().flatten();
    items.map(|item| item.namespace().to_owned()).collect()
}

fn failed(error: store::Error) -> ApiError {
    tracing::error!(error = %chain(&error), "quota cannot be read or written");
    ApiError::unavailable("the datastore is unavailable")
}

fn asked<'a>(attributes: &Attributes<'a>, object: &'a Object) -> Option<Asked<'a>> {
    Some(Asked {
        def: attributes.def,
        evaluator: Evaluator::of(attributes.def)?,
        object,
        old: attributes.old,
        is_status: attributes.subresource == "status",
    })
}

#[async_trait]
impl Plugin for ResourceQuota {
    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        !attributes.namespace.is_empty()
            && Evaluator::of(attributes.def).is_some_and(|e| e.handles(attributes))
            && self.namespaces.get().contains(attributes.namespace)
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), ApiError> {
        let Some(asked) = object.and_then(|object| asked(attributes, object)) else {
            return Ok(());
        };
        self.change(attributes, |quota| asked.charge(quota)).await
    }

    async fn undo(&self, attributes: &Attributes<'_>, object: &Object) {
        let Some(asked) = asked(attributes, object) else {
            return;
        };
        let refunded = self
            .change(attributes, |quota| Ok(asked.refund(quota)))
            .await;
        if let Err(error) = refunded {
            // The quota controller counts anew.
            tracing::warn!(namespace = attributes.namespace, %error, "quota is not given back");
        }
    }
}
