//! Putting objects into the store: how durable, with which preconditions, together with what a
//! Service takes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::api::object::Object;
use crate::api::status::ApiError;
use crate::server::alloc::Reservation;
use crate::server::registry::ResourceDef;
use crate::server::storage::{self, codec, keys};
use crate::store::{self, Durability, KeyValue, Precondition, Revision, Txn, Write};

use super::{Core, errors, render};

/// How long Events are kept, as upstream.
const EVENT_TTL: Duration = Duration::from_secs(3600);

/// How long an answer waits for the cache.
const SHOWN_MAX: Duration = Duration::from_secs(1);
/// Storage folders, beside two groups, of what admission goes by.
const DECIDING: &[&str] = &[
    "limitranges",
    "namespaces",
    "resourcequotas",
    "ingressclasses.networking.k8s.io",
    "priorityclasses.scheduling.k8s.io",
    "runtimeclasses.node.k8s.io",
    "storageclasses.storage.k8s.io",
];
const DECIDING_GROUPS: &[&str] = &[
    ".admissionregistration.k8s.io",
    ".rbac.authorization.k8s.io",
];

/// One object on its way into the store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    pub(super) def: &'a ResourceDef,
    /// Local key.
    pub(super) key: &'a str,
    pub(super) name: &'a str,
}

/// What came of a write.
#[derive(Debug)]
pub(super) enum Written {
    /// It is stored; the object as it is served, in its stored version.
    Done(Bytes),
    /// Somebody else wrote first; what is there now.
    Lost(Option<KeyValue>),
    /// An address or port that was chosen is taken: choose again.
    Again,
}

impl Core {
    /// Stores a new object.
    pub(super) async fn insert(
        &self,
        target: Target<'_>,
        object: &Object,
        reservation: Option<Reservation>,
    ) -> Result<Written, ApiError> {
        let key = keys::object(&target.def.storage, target.key);
        let absent = Precondition::Absent(key.clone());
        self.put(target, object, absent, reservation).await
    }

    /// Stores an object in place of the one of `revision`.
    pub(super) async fn replace(
        &self,
        target: Target<'_>,
        object: &Object,
        revision: Revision,
        reservation: Option<Reservation>,
    ) -> Result<Written, ApiError> {
        let key = keys::object(&target.def.storage, target.key);
        let unchanged = Precondition::ModifiedAt(key, revision);
        self.put(target, object, unchanged, reservation).await
    }

    async fn put(
        &self,
        target: Target<'_>,
        object: &Object,
        precondition: Precondition,
        reservation: Option<Reservation>,
    ) -> Result<Written, ApiError> {
        let value = self.encode(target.def, object).await?;
        let write = Write::Put {
            key: keys::object(&target.def.storage, target.key),
            value: value.clone(),
            ttl: (target.def.storage == "events").then_some(EVENT_TTL),
        };
        match self
            .transact(target, write, precondition, reservation)
            .await?
        {
            Ok(revision) => {
                let served = codec::serve(&value, revision);
                let served = served.map_err(|e| errors::storage(e, target.def, target.name))?;
                Ok(Written::Done(served.bytes))
            }
            Err(lost) => Ok(lost),
        }
    }

    /// Removes the object of `revision`. [`Written::Done`] carries nothing.
    pub(super) async fn remove(
        &self,
        target: Target<'_>,
        revision: Revision,
        reservation: Option<Reservation>,
    ) -> Result<Written, ApiError> {
        let key = keys::object(&target.def.storage, target.key);
        let unchanged = Precondition::ModifiedAt(key.clone(), revision);
        let write = Write::Delete { key };
        let done = self.transact(target, write, unchanged, reservation).await?;
        Ok(match done {
            Ok(_) => Written::Done(Bytes::new()),
            Err(lost) => lost,
        })
    }

    /// The value to store for an object in the version of `def`.
    async fn encode(&self, def: &ResourceDef, object: &Object) -> Result<Bytes, ApiError> {
        if !def.is_converted() {
            return Ok(codec::encode(object));
        }
        let mut object = self.converter.to_stored(def, object.clone()).await?;
        render::to_stored(def, &mut object);
        Ok(codec::encode(&object))
    }

    async fn transact(
        &self,
        target: Target<'_>,
        write: Write,
        precondition: Precondition,
        reservation: Option<Reservation>,
    ) -> Result<Result<Revision, Written>, ApiError> {
        let mut txn = Txn {
            preconditions: vec![precondition],
            writes: vec![write],
            durability: durability(target.def),
        };
        if let Some(reservation) = &reservation {
            let (preconditions, writes) = reservation.changes(target.key);
            txn.preconditions.extend(preconditions);
            txn.writes.extend(writes);
        }
        let done = match reservation {
            None => (self.store.txn(txn).await, None),
            Some(reservation) => self.settle(txn, reservation).await,
        };
        match done {
            (Ok(revision), _) => {
                self.show(target.def, revision).await;
                Ok(Ok(revision))
            }
            (Err(store::Error::Conflict { key, current }), reservation) => {
                let is_allocation = reservation.is_some_and(|mut r| r.lost(&key));
                Ok(Err(match is_allocation {
                    true => Written::Again,
                    false => Written::Lost(current),
                }))
            }
            (Err(error), _) => {
                let error = storage::Error::Store(error);
                Err(errors::storage(error, target.def, target.name))
            }
        }
    }

    /// What decides about other requests decides from the answer on: who makes a policy and then an
    /// object has it judged. The cache is a moment behind the store, so it is waited for.
    async fn show(&self, def: &ResourceDef, revision: Revision) {
        if decides(&def.storage) {
            // Not in time: then it decides a moment later, as with any other cache.
            let _ = self.cacher.wait_for(revision, SHOWN_MAX).await;
        }
    }

    /// Writes what a reservation belongs to. A client that goes away does not stop it half-way:
    /// the pools must learn what the store did.
    async fn settle(
        &self,
        txn: Txn,
        reservation: Reservation,
    ) -> (store::Result<Revision>, Option<Reservation>) {
        let store = Arc::clone(&self.store);
        let (answer, answered) = oneshot::channel();
        self.tasks.job("write a service", async move {
            let done = match store.txn(txn).await {
                Ok(revision) => {
                    reservation.commit();
                    (Ok(revision), None)
                }
                Err(error) => (Err(error), Some(reservation)),
            };
            // Whoever asked may have gone.
            let _ = answer.send(done);
        });
        let gone = store::Error::Unavailable {
            doing: "write a service",
            why: "the server is ending".to_owned(),
        };
        answered.await.unwrap_or((Err(gone), None))
    }

    /// What a Service takes or gives back with a write; `None` for other kinds.
    pub(super) fn reserve(
        &self,
        def: &ResourceDef,
        object: Option<&mut Object>,
        old: Option<&Object>,
    ) -> Result<Option<Reservation>, ApiError> {
        if def.storage != "services" {
            return Ok(None);
        }
        self.alloc.reserve(object, old).map(Some)
    }
}

/// Whether objects of a folder decide about other requests.
fn decides(storage: &str) -> bool {
    DECIDING.contains(&storage) || DECIDING_GROUPS.iter().any(|group| storage.ends_with(group))
}

/// What is worthless after a crash, or will be written again within seconds, does not wait for the
/// disk and wears none out.
fn durability(def: &ResourceDef) -> Durability {
    match def.storage.as_str() {
        "leases.coordination.k8s.io" | "events" => Durability::Relaxed,
        _ => Durability::Synced,
    }
}

/// What a dry run answers: the object as it would be stored, with the revision it has.
pub(super) fn unwritten(def: &ResourceDef, object: &Object) -> Result<Bytes, ApiError> {
    let mut object = object.clone();
    // A custom object is answered in the version it is in.
    if def.rules.custom().is_none() {
        render::to_stored(def, &mut object);
    }
    let bytes = serde_json::to_vec(&object.into_value());
    Ok(bytes.map_err(ApiError::internal)?.into())
}
