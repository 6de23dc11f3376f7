//! Opens the datastore the configuration names, and closes it at the end.

use std::sync::Arc;

use crate::server::config::{Config, Datastore};
use crate::store::mvcc::{self, Mvcc};
use crate::store::{self, Store};
use crate::util::clock::Clock;
use crate::util::errors::OrLog;

/// An open datastore.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) store: Arc<dyn Store>,
    /// Where it is ours to close.
    embedded: Option<Arc<Mvcc>>,
}

impl Kept {
    /// Opens, and locks where it is a folder.
    pub(super) async fn open(config: &Config, clock: &Clock) -> store::Result<Self> {
        let embedded = match &config.datastore {
            Datastore::Memory => Mvcc::in_memory(),
            Datastore::Embedded(folder) => Mvcc::open(&mvcc::Config {
                clock: clock.clone(),
                ..mvcc::Config::new(folder)
            })?,
            Datastore::Etcd(_) => Mvcc::in_memory(),
        };
        Ok(Self {
            store: embedded.clone(),
            embedded: Some(embedded),
        })
    }

    /// After this nothing more is written. `false`: the disk could not be left tidy; nothing that
    /// was answered is lost all the same.
    pub(super) async fn close(&self) -> bool {
        match &self.embedded {
            Some(embedded) => embedded
                .close()
                .await
                .ok_or_log("close the datastore")
                .is_some(),
            None => true,
        }
    }
}
