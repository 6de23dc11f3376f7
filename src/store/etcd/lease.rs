//! Leases that many keys share, as kube-apiserver does it for Events (`lease_manager.go`): a lease
//! lives a little longer than its keys ask for, and serves all keys that come within that little.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{LeaseClient, LeaseTimeToLiveOptions};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::timed;
use crate::store::Result;

/// A lease is given out for at most this long.
const REUSE_MAX: Duration = Duration::from_secs(60);
/// And for at most this share of the time its keys live.
const REUSE_SHARE: u32 = 20;
/// Keys of one lease; its end removes them all at once.
const KEYS_MAX: usize = 1000;

/// The leases in use, by the seconds their keys ask for.
pub(crate) struct Leases {
    client: LeaseClient,
    by_seconds: Mutex<HashMap<u64, Lease>>,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    id: i64,
    reusable_until: Instant,
    keys: usize,
}

impl Leases {
    pub(crate) fn new(client: LeaseClient) -> Self {
        Self {
            client,
            by_seconds: Mutex::default(),
        }
    }

    /// A lease for a key that is to be kept for `ttl`.
    pub(crate) async fn for_ttl(&self, ttl: Duration) -> Result<i64> {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let now = Instant::now();
        if let Some(lease) = self.by_seconds.lock().get_mut(&seconds)
            && now < lease.reusable_until
            && lease.keys < KEYS_MAX
        {
            lease.keys += 1;
            return Ok(lease.id);
        }
        let reuse = (Duration::from_secs(seconds) / REUSE_SHARE).min(REUSE_MAX);
        let lives = seconds.saturating_add(reuse.as_secs());
        let lives = i64::try_from(lives).unwrap_or(i64::MAX);
        let mut client = self.client.clone();
        let granted = timed("making a lease in etcd", client.grant(lives, None)).await?;
        let lease = Lease {
            id: granted.id(),
            // What is granted counts from when etcd did it, so from before the answer at the latest.
            reusable_until: now + Duration::from_secs(reuse.as_secs()),
            keys: 1,
        };
        let mut by_seconds = self.by_seconds.lock();
        by_seconds.retain(|_, lease| now < lease.reusable_until);
        by_seconds.insert(seconds, lease);
        Ok(lease.id)
    }

    /// One of them is gone: none is used any more.
    pub(crate) fn forget(&self) {
        self.by_seconds.lock().clear();
    }

    /// All keys of all leases with their deadlines on the wall clock.
    pub(crate) async fn deadlines(&self, now_ms: u64) -> Result<BTreeMap<Bytes, u64>> {
        let mut client = self.client.clone();
        let leases = timed("listing leases of etcd", client.leases()).await?;
        let mut deadlines = BTreeMap::new();
        for lease in leases.leases() {
            let options = LeaseTimeToLiveOptions::new().with_keys();
            let asking = client.time_to_live(lease.id(), Some(options));
            let answer = timed("reading a lease of etcd", asking).await?;
            // Negative: it ended meanwhile.
            let Ok(left) = u64::try_from(answer.ttl()) else {
                continue;
            };
            let deadline_ms = now_ms.saturating_add(left.saturating_mul(1000));
            for key in answer.keys() {
                deadlines.insert(Bytes::copy_from_slice(key), deadline_ms);
            }
        }
        Ok(deadlines)
    }
}
