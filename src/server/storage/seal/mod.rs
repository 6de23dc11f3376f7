//! Encryption at rest: a [`Store`] over another that keeps the values of chosen resources
//! encrypted. What is above sees plain values, what is below never does; journals, images and
//! snapshots hold what was encrypted.
//!
//! The first provider of a rule writes, all of them read, so a key is rotated by putting a new one
//! first. What an older key (or none) wrote is written again at the next start by
//! [`Sealed::renew`]; upstream leaves that to `kubectl replace`.
//!
//! A value no key reads is an error: the server does not start, and says which object it is.
//! Nothing is lost, a configuration with the missing key reads it again.

mod cipher;
mod config;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;

use super::keys;
use crate::store::{
    Durability, Error, Event, KeyRange, KeyValue, Page, Precondition, Result, Revision, Store, Txn,
    WatchItem, WatchStream, Write,
};
use config::Rule;

pub use config::ConfigError;

/// Keys read in one step when what older keys wrote is written again.
const STEP: usize = 500;

/// Which resources are encrypted, and how.
#[derive(Debug)]
pub struct Sealing(Vec<Rule>);

/// A store whose chosen values are encrypted. Clones share it.
#[derive(Clone)]
pub struct Sealed {
    store: Arc<dyn Store>,
    sealing: Arc<Sealing>,
}

impl Sealing {
    /// From the text of an `EncryptionConfiguration`.
    pub fn read(text: &str) -> std::result::Result<Self, ConfigError> {
        config::read(text).map(Self)
    }

    /// The first rule for the object at `key`.
    fn rule(&self, key: &[u8]) -> Option<&Rule> {
        let (storage, _) = keys::parse(key)?;
        // Allocations are no objects.
        if storage.starts_with('-') {
            return None;
        }
        self.0.iter().find(|rule| rule.covers(storage))
    }

    fn seal(&self, key: &Bytes, value: Bytes) -> Result<Bytes> {
        let Some(writer) = self.rule(key).and_then(|rule| rule.ciphers.first()) else {
            return Ok(value);
        };
        let sealed = writer.seal(key, &value);
        sealed.map(Bytes::from).map_err(|_| Error::Unavailable {
            doing: "encrypting a value",
            why: format!("the cipher failed for `{}`", text(key)),
        })
    }

    fn open(&self, key: &Bytes, value: Bytes) -> Result<Bytes> {
        let Some(rule) = self.rule(key) else {
            return plain(key, value);
        };
        let Some(reader) = rule.ciphers.iter().find(|cipher| cipher.wrote(&value)) else {
            return Err(unreadable(key));
        };
        let opened = reader.open(key, &value);
        opened.map(Bytes::from).map_err(|_| unreadable(key))
    }

    /// Whether another key than the one that writes wrote it.
    fn is_stale(&self, key: &[u8], value: &[u8]) -> bool {
        let writer = self.rule(key).and_then(|rule| rule.ciphers.first());
        writer.is_some_and(|writer| !writer.wrote(value))
    }

    fn open_item(&self, item: KeyValue) -> Result<KeyValue> {
        let value = self.open(&item.key, item.value)?;
        Ok(KeyValue { value, ..item })
    }

    fn open_events(&self, item: WatchItem) -> Result<WatchItem> {
        let WatchItem::Events(events) = item else {
            return Ok(item);
        };
        let opened = events.into_iter().map(|event| match event {
            Event::Put(item) => self.open_item(item).map(Event::Put),
            gone => Ok(gone),
        });
        opened.collect::<Result<_>>().map(WatchItem::Events)
    }
}

/// A value no rule is for: it was encrypted when there was one.
fn plain(key: &Bytes, value: Bytes) -> Result<Bytes> {
    if value.starts_with(cipher::ENCRYPTED) {
        return Err(unreadable(key));
    }
    Ok(value)
}

fn unreadable(key: &[u8]) -> Error {
    Error::Corrupt {
        path: text(key),
        why: "no provider of the encryption configuration reads it; give \
              `--encryption-provider-config` the key it was written with, or `identity` where it \
              was not encrypted"
            .to_owned(),
    }
}

fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealed")
            .field("sealing", &self.sealing)
            .finish_non_exhaustive()
    }
}

impl Sealed {
    /// Over `store`.
    pub fn new(store: Arc<dyn Store>, sealing: Sealing) -> Self {
        Self {
            store,
            sealing: Arc::new(sealing),
        }
    }

    /// Writes again what another key wrote, a bounded number at a time. Returns how many.
    ///
    /// What somebody else writes meanwhile is written with the new key by that.
    pub async fn renew(&self) -> Result<usize> {
        let mut range = KeyRange::prefix(keys::ROOT);
        let mut renewed = 0;
        loop {
            let page = self.store.range(range.clone(), None, Some(STEP)).await?;
            for item in &page.items {
                if self.sealing.is_stale(&item.key, &item.value) {
                    renewed += usize::from(self.rewrite(item).await?);
                }
            }
            let Some(last) = page.items.last().filter(|_| page.remaining > 0) else {
                return Ok(renewed);
            };
            let mut next = last.key.to_vec();
            next.push(0);
            range.start = next.into();
        }
    }

    /// DEVIATION: the resourceVersion of the object changes, as by `kubectl replace`.
    async fn rewrite(&self, item: &KeyValue) -> Result<bool> {
        let (storage, _) = keys::parse(&item.key).unwrap_or_default();
        // They end by themselves, and their time to live is not known here.
        if storage == "events" {
            return Ok(false);
        }
        let value = self.sealing.open(&item.key, item.value.clone())?;
        let txn = Txn {
            preconditions: vec![Precondition::ModifiedAt(item.key.clone(), item.modified)],
            writes: vec![Write::Put {
                key: item.key.clone(),
                value: self.sealing.seal(&item.key, value)?,
                ttl: None,
            }],
            durability: Durability::Synced,
        };
        match self.store.txn(txn).await {
            Ok(_) => Ok(true),
            Err(Error::Conflict { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Store for Sealed {
    async fn current(&self) -> Result<Revision> {
        self.store.current().await
    }

    async fn get(&self, key: &[u8]) -> Result<(Option<KeyValue>, Revision)> {
        let (item, revision) = self.store.get(key).await?;
        let item = item.map(|item| self.sealing.open_item(item)).transpose()?;
        Ok((item, revision))
    }

    async fn range(
        &self,
        range: KeyRange,
        at: Option<Revision>,
        limit: Option<usize>,
    ) -> Result<Page> {
        let page = self.store.range(range, at, limit).await?;
        let items = page.items.into_iter();
        let items = items.map(|item| self.sealing.open_item(item));
        Ok(Page {
            items: items.collect::<Result<_>>()?,
            ..page
        })
    }

    async fn txn(&self, mut txn: Txn) -> Result<Revision> {
        for write in &mut txn.writes {
            if let Write::Put { key, value, .. } = write {
                *value = self.sealing.seal(key, std::mem::take(value))?;
            }
        }
        match self.store.txn(txn).await {
            Err(Error::Conflict { key, current }) => {
                let current = current.map(|item| self.sealing.open_item(item));
                let current = current.transpose()?;
                Err(Error::Conflict { key, current })
            }
            done => done,
        }
    }

    async fn watch(&self, range: KeyRange, after: Revision) -> Result<WatchStream> {
        let inner = self.store.watch(range, after).await?;
        let sealing = Arc::clone(&self.sealing);
        let items = stream::unfold((inner, sealing), |(mut inner, sealing)| async move {
            let item = inner.next().await?;
            let item = item.and_then(|item| sealing.open_events(item));
            Some((item, (inner, sealing)))
        });
        Ok(WatchStream::from_stream(items))
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.store.compact(revision).await
    }

    async fn oldest(&self) -> Result<Revision> {
        self.store.oldest().await
    }

    async fn sync(&self) -> Result<()> {
        self.store.sync().await
    }

    async fn deadlines(&self) -> Result<BTreeMap<Bytes, u64>> {
        self.store.deadlines().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::mvcc::Mvcc;

    const OLD: &str = "aescbc: {keys: [{name: old, secret: AAAAAAAAAAAAAAAAAAAAAA==}]}";
    const NEW: &str = "aesgcm: {keys: [{name: new, secret: AQEBAQEBAQEBAQEBAQEBAQ==}]}";

    fn sealed(store: &Arc<Mvcc>, providers: &[&str]) -> Sealed {
        let providers: String = providers.iter().map(|p| format!("  - {p}\n")).collect();
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n\
             - resources: [secrets]\n  providers:\n{providers}"
        );
        Sealed::new(store.clone(), Sealing::read(&text).unwrap())
    }

    fn put(key: &str, value: &str) -> Txn {
        Txn {
            writes: vec![Write::Put {
                key: key.to_owned().into(),
                value: value.to_owned().into(),
                ttl: None,
            }],
            ..Txn::default()
        }
    }

    async fn raw(store: &Arc<Mvcc>, key: &str) -> Bytes {
        let (item, _) = store.get(key.as_bytes()).await.unwrap();
        item.unwrap().value
    }

    const SECRET: &str = "/registry/secrets/default/a";
    const MAP: &str = "/registry/configmaps/default/a";

    #[tokio::test]
    async fn only_chosen_resources_are_encrypted_and_all_ways_of_reading_are_plain() {
        let store = Mvcc::in_memory();
        let sealed = sealed(&store, &[OLD]);
        let mut watch = sealed
            .watch(KeyRange::prefix(keys::ROOT), Revision(0))
            .await
            .unwrap();
        sealed.txn(put(SECRET, "hidden")).await.unwrap();
        sealed.txn(put(MAP, "plain")).await.unwrap();
        assert!(
            raw(&store, SECRET)
                .await
                .starts_with(b"k8s:enc:aescbc:v1:old:")
        );
        assert_eq!(raw(&store, MAP).await, "plain");
        let (item, _) = sealed.get(SECRET.as_bytes()).await.unwrap();
        assert_eq!(item.unwrap().value, "hidden");
        let page = sealed.range(KeyRange::prefix(keys::ROOT), None, None).await;
        assert_eq!(page.unwrap().items[1].value, "hidden");
        let conflict = Txn {
            preconditions: vec![Precondition::Absent(SECRET.into())],
            ..put(SECRET, "x")
        };
        let Err(Error::Conflict { current, .. }) = sealed.txn(conflict).await else {
            panic!("no conflict");
        };
        assert_eq!(current.unwrap().value, "hidden");
        let seen = loop {
            let item = watch.next().await.unwrap().unwrap();
            if let WatchItem::Events(events) = item
                && let Some(Event::Put(item)) = events.into_iter().find(|e| e.key() == SECRET)
            {
                break item.value;
            }
        };
        assert_eq!(seen, "hidden");
    }

    #[tokio::test]
    async fn a_new_key_reads_what_the_old_wrote_and_renews_it() {
        let store = Mvcc::in_memory();
        store.txn(put(SECRET, "from before")).await.unwrap();
        let first = sealed(&store, &[OLD, "identity: {}"]);
        assert_eq!(first.renew().await.unwrap(), 1);
        assert!(
            raw(&store, SECRET)
                .await
                .starts_with(b"k8s:enc:aescbc:v1:old:")
        );
        let rotated = sealed(&store, &[NEW, OLD]);
        assert_eq!(rotated.renew().await.unwrap(), 1);
        assert_eq!(rotated.renew().await.unwrap(), 0);
        assert!(
            raw(&store, SECRET)
                .await
                .starts_with(b"k8s:enc:aesgcm:v1:new:")
        );
        let (item, _) = rotated.get(SECRET.as_bytes()).await.unwrap();
        assert_eq!(item.unwrap().value, "from before");
        let without = sealed(&store, &[OLD, "identity: {}"]);
        let error = without.get(SECRET.as_bytes()).await.unwrap_err();
        assert!(error.to_string().contains(SECRET), "{error}");
        let back = sealed(&store, &["identity: {}", NEW]);
        assert_eq!(back.renew().await.unwrap(), 1);
        assert_eq!(raw(&store, SECRET).await, "from before");
    }
}
