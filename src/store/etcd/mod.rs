//! A store in an external etcd v3, for several servers over one datastore.
//!
//! Revisions are etcd's. Every read is linearized. What our own engine does and etcd does not:
//! keys expire with leases that many keys share (`lease.rs`), and the history is shortened by
//! whoever uses it (`compactor.rs`). etcd knows no relaxed durability; every write is synced.
//!
//! A call that fails because an etcd member is away is tried again on another one while it has not
//! changed anything; a transaction is not, since it may have been carried out.
//!
//! DEVIATION from the embedded engine: after a compaction to R, a watch after R - 1 is accepted by
//! etcd and may miss what was deleted at R. Nobody can tell such a revision from a kept one, and
//! everybody who asks for it has been told R by [`Store::oldest`].

mod compactor;
mod convert;
mod lease;
mod watch;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, GetOptions, Identity, PutOptions,
    TlsOptions, TxnOp, TxnOpResponse,
};

use self::convert::{NO_KEY, etcd_range, fail, item, number, revision_of};
use self::lease::Leases;
use self::watch::Watcher;
use super::mvcc::check_shape;
use super::{
    Error, KeyRange, KeyValue, Page, Precondition, Result, Revision, Store, Txn, WatchStream, Write,
};
use crate::util::backoff::Backoff;
use crate::util::clock::Clock;
use crate::util::rng::Rng;
use crate::util::tasks::Tasks;

/// No single call takes longer, retries not counted.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// For the first contact with a member.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that does not answer a ping for this long is given up.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A read is tried so often.
const READ_TRIES: usize = 4;
/// Keys read at once; a page of large objects stays well below etcd's message limit.
const PAGE_KEYS: usize = 500;
/// The largest answer that is taken.
const MESSAGE_BYTES_MAX: usize = 512 << 20;
/// How long closing waits for watches.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How to reach an etcd cluster.
#[derive(Clone, Debug, Default)]
pub struct EtcdConfig {
    /// `http://host:2379` or `https://…`, one or more.
    pub endpoints: Vec<String>,
    /// PEM file with the CA of the members' certificates.
    pub ca: Option<PathBuf>,
    /// PEM file with our client certificate; together with `key`.
    pub cert: Option<PathBuf>,
    /// PEM file with its key.
    pub key: Option<PathBuf>,
    /// For deadlines in snapshots.
    pub clock: Clock,
}

/// A connected etcd cluster.
pub struct Etcd {
    shared: Arc<Shared>,
    tasks: Tasks,
}

/// What calls, watches and the compactor have in common.
pub(crate) struct Shared {
    pub(crate) client: Client,
    leases: Leases,
    clock: Clock,
    /// The newest revision anybody here was told; watches ask etcd for progress up to it.
    pub(crate) told: tokio::sync::watch::Sender<Revision>,
    /// No revision before it is kept.
    oldest: AtomicU64,
    /// Whether progress on request may come before events that precede it: etcd issue 15220.
    pub(crate) has_early_progress: bool,
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Etcd").finish_non_exhaustive()
    }
}

impl Etcd {
    /// Connects, and begins to shorten the history now and then.
    ///
    /// Errors: [`Error::Unavailable`] where no member answers or a file cannot be read.
    pub async fn connect(config: EtcdConfig) -> Result<Arc<Self>> {
        let options = options(&config)?;
        let connecting = Client::connect(&config.endpoints, Some(options));
        let mut client = timed("connecting to etcd", connecting).await?;
        let status = timed("connecting to etcd", client.status()).await?;
        tracing::info!(version = status.version(), "connected to etcd");
        let newest = revision_of(status.header());
        let shared = Arc::new(Shared {
            leases: Leases::new(client.lease_client()),
            client,
            clock: config.clock,
            told: tokio::sync::watch::Sender::new(newest),
            oldest: AtomicU64::new(0),
            has_early_progress: convert::has_early_progress(status.version()),
        });
        let tasks = Tasks::new();
        let closed = tasks.cancelled();
        let compacting = compactor::run(shared.clone());
        tasks.service("etcd-compactor", async move {
            closed.run_until_cancelled(compacting).await;
        });
        Ok(Arc::new(Self { shared, tasks }))
    }

    /// Ends watches and the compactor.
    pub async fn close(&self) {
        self.tasks.shutdown(CLOSE_TIMEOUT).await;
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

fn options(config: &EtcdConfig) -> Result<ConnectOptions> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE)
        .with_keep_alive_while_idle(true)
        // A member that lost its cluster must not keep our watches waiting.
        .with_require_leader(true);
    let is_tls = config.endpoints.iter().any(|e| e.starts_with("https://"));
    if is_tls {
        let mut tls = TlsOptions::new();
        tls = match &config.ca {
            Some(ca) => tls.ca_certificate(Certificate::from_pem(read(ca)?)),
            None => tls.with_enabled_roots(),
        };
        if let (Some(cert), Some(key)) = (&config.cert, &config.key) {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        options = options.with_tls(tls);
    }
    Ok(options)
}

fn read(path: &PathBuf) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| Error::Unavailable {
        doing: "connecting to etcd",
        why: format!("`{}`: {error}", path.display()),
    })
}

async fn timed<T>(
    doing: &'static str,
    call: impl Future<Output = std::result::Result<T, etcd_client::Error>>,
) -> Result<T> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(|error| fail(doing, &error)),
        Err(_) => Err(Error::Unavailable {
            doing,
            why: format!("etcd did not answer within {} s", CALL_TIMEOUT.as_secs()),
        }),
    }
}

/// Tries a read again while no member answers.
async fn retried<T, F>(mut call: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let first = Duration::from_millis(50);
    let mut backoff = Backoff::new(first, Duration::from_secs(1), Rng::from_system());
    for _ in 1..READ_TRIES {
        match call().await {
            Err(Error::Unavailable { .. }) => tokio::time::sleep(backoff.next_delay()).await,
            answered => return answered,
        }
    }
    call().await
}

impl Shared {
    /// Everybody hears of a revision that an answer had.
    fn tell(&self, newest: Revision) -> Revision {
        self.told.send_if_modified(|told| {
            let is_news = newest > *told;
            *told = newest.max(*told);
            is_news
        });
        newest
    }

    pub(crate) async fn current(&self) -> Result<Revision> {
        let options = GetOptions::new().with_count_only();
        let answer = retried(|| {
            let mut kv = self.client.kv_client();
            let options = options.clone();
            async move { timed("reading etcd's revision", kv.get(NO_KEY, Some(options))).await }
        })
        .await?;
        Ok(self.tell(revision_of(answer.header())))
    }

    /// One page of a range: the items, the revision of the store, and how many there are in all.
    async fn page(
        &self,
        range: &KeyRange,
        at: Option<Revision>,
        limit: usize,
    ) -> Result<(Vec<KeyValue>, Revision, u64)> {
        let (start, end) = etcd_range(range);
        let options = GetOptions::new()
            .with_range(end)
            .with_limit(i64::try_from(limit).unwrap_or(i64::MAX))
            .with_revision(at.map_or(0, number));
        let mut answer = retried(|| {
            let kv = self.client.kv_client();
            let mut kv = kv.max_decoding_message_size(MESSAGE_BYTES_MAX);
            let (start, options) = (start.clone(), options.clone());
            async move { timed("reading from etcd", kv.get(start, Some(options))).await }
        })
        .await
        .map_err(|error| self.complete(error, at.unwrap_or_default()))?;
        let newest = self.tell(revision_of(answer.header()));
        let count = u64::try_from(answer.count()).unwrap_or(0);
        let items = answer.take_kvs().iter().map(item).collect();
        Ok((items, newest, count))
    }

    /// Puts into an error what etcd does not say.
    fn complete(&self, error: Error, asked: Revision) -> Error {
        match error {
            Error::Compacted { .. } => Error::Compacted {
                wanted: asked,
                oldest: Revision(self.oldest.load(Ordering::Relaxed)).max(Revision(asked.0 + 1)),
            },
            Error::Future { .. } => Error::Future {
                wanted: asked,
                current: *self.told.borrow(),
            },
            other => other,
        }
    }

    pub(crate) async fn compact(&self, revision: Revision) -> Result<()> {
        let mut kv = self.client.kv_client();
        let compacting = kv.compact(number(revision), None);
        match timed("compacting etcd", compacting).await {
            // Somebody else was there before.
            Ok(_) | Err(Error::Compacted { .. }) => {
                self.oldest.fetch_max(revision.0, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(self.complete(error, revision)),
        }
    }

    async fn is_kept(&self, revision: Revision) -> Result<bool> {
        let options = GetOptions::new()
            .with_count_only()
            .with_revision(number(revision));
        let mut kv = self.client.kv_client();
        match timed("reading from etcd", kv.get(NO_KEY, Some(options))).await {
            Ok(_) => Ok(true),
            Err(Error::Compacted { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// etcd tells no one its compacted revision, so it is searched for.
    async fn find_oldest(&self) -> Result<Revision> {
        let mut kept = self.current().await?;
        let mut gone = Revision(self.oldest.load(Ordering::Relaxed).saturating_sub(1));
        if gone == Revision(0) && self.is_kept(Revision(1)).await? {
            return Ok(Revision(0));
        }
        // Most often nobody compacted since.
        let known = Revision(gone.0 + 1);
        if known < kept && self.is_kept(known).await? {
            return Ok(known);
        }
        while gone.0 + 1 < kept.0 {
            let middle = Revision(gone.0.midpoint(kept.0));
            match self.is_kept(middle).await? {
                true => kept = middle,
                false => gone = middle,
            }
        }
        self.oldest.fetch_max(kept.0, Ordering::Relaxed);
        Ok(kept)
    }

    async fn txn(&self, txn: &Txn) -> Result<Revision> {
        check_shape(txn)?;
        match self.try_txn(txn).await {
            // The lease ended, or somebody revoked it: another one will do.
            Err(Error::Unavailable { why, .. }) if convert::is_lease_gone(&why) => {
                self.leases.forget();
                self.try_txn(txn).await
            }
            answered => answered,
        }
    }

    async fn try_txn(&self, txn: &Txn) -> Result<Revision> {
        let mut writes = Vec::with_capacity(txn.writes.len());
        for write in &txn.writes {
            writes.push(self.operation(write).await?);
        }
        let keys = txn.preconditions.iter().map(key_of);
        let looks: Vec<_> = keys.map(|key| TxnOp::get(&key[..], None)).collect();
        let compares: Vec<_> = txn.preconditions.iter().map(compare).collect();
        let asked = etcd_client::Txn::new()
            .when(compares)
            .and_then(writes)
            .or_else(looks);
        let mut kv = self.client.kv_client();
        let answer = timed("writing to etcd", kv.txn(asked)).await?;
        let newest = self.tell(revision_of(answer.header()));
        if answer.succeeded() {
            return Ok(newest);
        }
        let found = answer
            .op_responses()
            .into_iter()
            .map(|response| match response {
                TxnOpResponse::Get(get) => get.kvs().first().map(item),
                _ => None,
            });
        let mut checked = txn.preconditions.iter().zip(found);
        let failed = checked.find(|(precondition, found)| !holds(precondition, found.as_ref()));
        let (precondition, current) = failed.ok_or(Error::Unavailable {
            doing: "writing to etcd",
            why: "a transaction failed though its preconditions hold".to_owned(),
        })?;
        Err(Error::Conflict {
            key: key_of(precondition).clone(),
            current,
        })
    }

    async fn operation(&self, write: &Write) -> Result<TxnOp> {
        Ok(match write {
            Write::Delete { key } => TxnOp::delete(&key[..], None),
            Write::Put { key, value, ttl } => {
                let options = match ttl {
                    Some(ttl) => {
                        let lease = self.leases.for_ttl(*ttl).await?;
                        Some(PutOptions::new().with_lease(lease))
                    }
                    None => None,
                };
                TxnOp::put(&key[..], &value[..], options)
            }
        })
    }
}

fn key_of(precondition: &Precondition) -> &Bytes {
    match precondition {
        Precondition::Absent(key) | Precondition::ModifiedAt(key, _) => key,
    }
}

fn compare(precondition: &Precondition) -> Compare {
    let revision = match precondition {
        Precondition::Absent(_) => 0,
        Precondition::ModifiedAt(_, revision) => number(*revision),
    };
    Compare::mod_revision(&key_of(precondition)[..], CompareOp::Equal, revision)
}

fn holds(precondition: &Precondition, found: Option<&KeyValue>) -> bool {
    match precondition {
        Precondition::Absent(_) => found.is_none(),
        Precondition::ModifiedAt(_, at) => found.is_some_and(|item| item.modified == *at),
    }
}

#[async_trait]
impl Store for Etcd {
    async fn current(&self) -> Result<Revision> {
        self.shared.current().await
    }

    async fn get(&self, key: &[u8]) -> Result<(Option<KeyValue>, Revision)> {
        let answer = retried(|| {
            let kv = self.shared.client.kv_client();
            let mut kv = kv.max_decoding_message_size(MESSAGE_BYTES_MAX);
            async move { timed("reading from etcd", kv.get(key, None)).await }
        })
        .await?;
        let newest = self.shared.tell(revision_of(answer.header()));
        Ok((answer.kvs().first().map(item), newest))
    }

    async fn range(
        &self,
        range: KeyRange,
        at: Option<Revision>,
        limit: Option<usize>,
    ) -> Result<Page> {
        if range.end.as_ref().is_some_and(|end| *end <= range.start) || limit == Some(0) {
            let revision = match at {
                Some(at) => at,
                None => self.current().await?,
            };
            return Ok(Page {
                revision,
                ..Page::default()
            });
        }
        let most = limit.unwrap_or(usize::MAX);
        let (items, newest, count) = self.shared.page(&range, at, most.min(PAGE_KEYS)).await?;
        let mut page = Page {
            items,
            revision: at.unwrap_or(newest),
            remaining: 0,
        };
        let mut rest = range;
        while (page.items.len() as u64) < count && page.items.len() < most {
            let Some(last) = page.items.last() else { break };
            rest.start = [&last.key[..], b"\0"].concat().into();
            let wanted = (most - page.items.len()).min(PAGE_KEYS);
            let (more, ..) = self.shared.page(&rest, Some(page.revision), wanted).await?;
            if more.is_empty() {
                break;
            }
            page.items.extend(more);
        }
        page.remaining = count.saturating_sub(page.items.len() as u64);
        Ok(page)
    }

    async fn txn(&self, txn: Txn) -> Result<Revision> {
        self.shared.txn(&txn).await
    }

    async fn watch(&self, range: KeyRange, after: Revision) -> Result<WatchStream> {
        let newest = self.shared.current().await?;
        if after > newest {
            return Err(Error::Future {
                wanted: after,
                current: newest,
            });
        }
        let (watcher, stream) = Watcher::new(self.shared.clone(), range, after);
        let closed = self.tasks.cancelled();
        self.tasks.job("etcd-watch", async move {
            closed.run_until_cancelled(watcher.run()).await;
        });
        Ok(stream)
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        if revision == Revision(0) {
            return Ok(());
        }
        self.shared.compact(revision).await
    }

    async fn oldest(&self) -> Result<Revision> {
        self.shared.find_oldest().await
    }

    async fn sync(&self) -> Result<()> {
        Ok(())
    }

    async fn deadlines(&self) -> Result<BTreeMap<Bytes, u64>> {
        let now_ms = u64::try_from(self.shared.clock.now().as_millisecond()).unwrap_or(0);
        self.shared.leases.deadlines(now_ms).await
    }
}

#[cfg(test)]
pub(crate) mod tests;
