//! Opens the datastore the configuration names, and closes it at the end.

use std::path::Path;
use std::sync::Arc;

use crate::server::Error;
use crate::server::config::{self, Config, Datastore};
use crate::server::storage::seal::{Sealed, Sealing};
#[cfg(feature = "etcd")]
use crate::store::etcd::{Etcd, EtcdConfig};
use crate::store::mvcc::{self, Mvcc};
use crate::store::{self, Store};
use crate::util::clock::Clock;
use crate::util::errors::OrLog;

fn sealing(file: &Path) -> Result<Sealing, Error> {
    let wrong = |source: Box<dyn std::error::Error + Send + Sync>| Error::File {
        flag: "encryption-provider-config",
        path: file.display().to_string(),
        source,
    };
    let text = std::fs::read_to_string(file).map_err(|e| wrong(e.into()))?;
    Sealing::read(&text).map_err(|e| wrong(e.into()))
}

/// An open datastore.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) store: Arc<dyn Store>,
    held: Held,
}

/// What is closed at the end.
#[derive(Clone)]
enum Held {
    Embedded(Arc<Mvcc>),
    #[cfg(feature = "etcd")]
    Etcd(Arc<Etcd>),
}

impl Kept {
    /// Opens, and locks where it is a folder. What the configuration wants encrypted is, also what
    /// was written before.
    pub(super) async fn open(config: &Config, clock: &Clock) -> Result<Self, Error> {
        let Some(file) = &config.encryption_provider_config else {
            return Ok(Self::plain(config, clock).await?);
        };
        let sealing = sealing(file)?;
        let kept = Self::plain(config, clock).await?;
        let sealed = Sealed::new(Arc::clone(&kept.store), sealing);
        match sealed.renew().await {
            Ok(0) => {}
            Ok(objects) => tracing::info!(objects, "encrypted anew with the first key"),
            Err(error) => {
                kept.close().await;
                return Err(error.into());
            }
        }
        Ok(Self {
            store: Arc::new(sealed),
            held: kept.held,
        })
    }

    async fn plain(config: &Config, clock: &Clock) -> store::Result<Self> {
        let embedded = match &config.datastore {
            Datastore::Memory => Mvcc::in_memory(),
            Datastore::Embedded(folder) => Mvcc::open(&mvcc::Config {
                clock: clock.clone(),
                ..mvcc::Config::new(folder)
            })?,
            Datastore::Etcd(etcd) => return Self::connect(etcd, clock).await,
        };
        let held = Held::Embedded(embedded.clone());
        Ok(Self {
            store: embedded,
            held,
        })
    }

    #[cfg(feature = "etcd")]
    async fn connect(wanted: &config::Etcd, clock: &Clock) -> store::Result<Self> {
        let (cert, key) = wanted.client_files.clone().unzip();
        let etcd = Etcd::connect(EtcdConfig {
            endpoints: wanted.endpoints.clone(),
            ca: wanted.ca_file.clone(),
            cert,
            key,
            clock: clock.clone(),
        })
        .await?;
        let held = Held::Etcd(etcd.clone());
        Ok(Self { store: etcd, held })
    }

    #[cfg(not(feature = "etcd"))]
    async fn connect(_: &config::Etcd, _: &Clock) -> store::Result<Self> {
        Err(store::Error::Unavailable {
            doing: "connecting to etcd",
            why: "this program was built without the feature `etcd`".to_owned(),
        })
    }

    /// After this nothing more is written. `false`: the disk could not be left tidy; nothing that
    /// was answered is lost all the same.
    pub(super) async fn close(&self) -> bool {
        match &self.held {
            Held::Embedded(embedded) => embedded
                .close()
                .await
                .ok_or_log("close the datastore")
                .is_some(),
            #[cfg(feature = "etcd")]
            Held::Etcd(etcd) => {
                etcd.close().await;
                true
            }
        }
    }
}
