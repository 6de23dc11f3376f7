//! The single writer: checks preconditions, assigns revisions, makes a group of transactions
//! durable with one write, and publishes it.
//!
//! Nothing is visible before it is durable: a group is planned beside the index, on top of what is
//! published, and only a group that is in the journal reaches the index. A group that could not be
//! written leaves no trace but the answer `Unavailable`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::Shared;
use super::entry::{encode_closed, encode_lost, encode_writes};
use super::key_index::Version;
use super::revision::Record;
use super::state::{Lost, PendingWrite, State};
use crate::store::journal::Journal;
use crate::store::ttl::Due;
use crate::store::{Durability, Error, KeyValue, Precondition, Result, Revision, Txn, Write};

/// Keys and values of one transaction together. Kubernetes' own limit for a request is 3 MiB.
pub(crate) const TXN_BYTES_MAX: usize = 8 << 20;
/// The buffer for a group keeps this much between groups.
const PAYLOAD_BYTES_KEPT: usize = 64 << 10;
/// Longest key.
const KEY_BYTES_MAX: usize = 16 << 10;

/// So many revisions may have been given out that are not on disk; a synced write comes before more
/// do.
const RELAXED_REVISIONS_MAX: u64 = 4096;
/// So much may be written and not on disk.
const RELAXED_BYTES_MAX: usize = 1 << 20;
/// After a crash so many revisions are left out: more than can have been given out and lost. A group
/// counts fully before it is looked at.
pub(crate) const LOST_REVISIONS: u64 = RELAXED_REVISIONS_MAX + 2 * GROUP_TXNS_MAX as u64;
/// Transactions of one group.
pub(crate) const GROUP_TXNS_MAX: usize = 1024;

/// Makes groups durable and publishes them; there is one.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    journal: Option<Arc<Mutex<Journal>>>,
    /// To be written before anything else.
    lost: Option<Lost>,
    relaxed_revisions: u64,
    /// Nothing was synced since the store was opened. Until then the journal may end with the note
    /// that nothing is missing, which must not stay true of what is given out now.
    is_first: bool,
    payload: Vec<u8>,
}

impl Writer {
    /// Without a journal everything is as durable as it gets.
    pub(crate) fn new(
        shared: Arc<Shared>,
        journal: Option<Arc<Mutex<Journal>>>,
        lost: Option<Lost>,
    ) -> Self {
        Self {
            shared,
            journal,
            lost,
            relaxed_revisions: 0,
            is_first: true,
            payload: Vec::new(),
        }
    }

    /// Carries out `txns` as one group; the answers are in their order.
    pub(crate) fn commit(&mut self, txns: impl Iterator<Item = Txn>) -> Vec<Result<Revision>> {
        let shared = self.shared.clone();
        let before = shared.hub.newest();
        let mut group = Group::new(&shared);
        for txn in txns {
            group.add(txn);
        }
        if group.planned.is_empty() {
            return group.answers;
        }
        // Behind and in trouble: what is taken on now could not be brought anywhere.
        let refused = shared.trouble().filter(|_| shared.is_behind());
        match refused.map_or_else(|| self.make_durable(&group, before), Err) {
            Ok(()) => group.publish(),
            Err(error) => group.fail(&error),
        }
    }

    fn make_durable(&mut self, group: &Group<'_>, before: Revision) -> Result<()> {
        let Some(journal) = &self.journal else {
            return Ok(());
        };
        let mut journal = journal.lock();
        let relaxed_revisions = self.relaxed_revisions + group.last.0 - before.0;
        let is_synced = group.is_synced
            || self.is_first
            || relaxed_revisions > RELAXED_REVISIONS_MAX
            || journal.unsynced_bytes() > RELAXED_BYTES_MAX;
        let durability = match is_synced {
            true => Durability::Synced,
            false => Durability::Relaxed,
        };
        write_lost(&mut journal, &mut self.lost)?;
        self.payload.clear();
        encode_writes(&mut self.payload, group.at_ms, &group.planned);
        journal.append(group.last, &self.payload, durability)?;
        self.payload.shrink_to(PAYLOAD_BYTES_KEPT);
        self.relaxed_revisions = relaxed_revisions;
        if is_synced {
            self.is_first = false;
            self.relaxed_revisions = 0;
            self.shared.set_durable(group.last);
        }
        Ok(())
    }

    /// Returns when everything published is on disk.
    pub(crate) fn sync(&mut self) -> Result<()> {
        if let Some(journal) = &self.journal {
            let mut journal = journal.lock();
            journal.sync()?;
            self.relaxed_revisions = 0;
            self.shared.set_durable(journal.newest());
        }
        Ok(())
    }

    /// Whether something published is not on disk.
    pub(crate) fn has_unsynced(&self) -> bool {
        let journal = self.journal.as_ref();
        journal.is_some_and(|journal| journal.lock().unsynced_bytes() > 0)
    }

    /// Notes that nothing is missing.
    pub(crate) fn close(&mut self) -> Result<()> {
        let Some(journal) = &self.journal else {
            return Ok(());
        };
        let mut journal = journal.lock();
        write_lost(&mut journal, &mut self.lost)?;
        let newest = journal.newest();
        journal.append(newest, &encode_closed(), Durability::Synced)
    }
}

/// Lost revisions are noted when the first later one is, so that opening writes nothing.
fn write_lost(journal: &mut Journal, lost: &mut Option<Lost>) -> Result<()> {
    if let Some(unwritten) = *lost {
        let payload = encode_lost(unwritten);
        journal.append(unwritten.until, &payload, Durability::Relaxed)?;
        *lost = None;
    }
    Ok(())
}

/// Transactions that are written together.
pub(crate) struct Group<'a> {
    shared: &'a Shared,
    last: Revision,
    at_ms: u64,
    planned: Vec<PendingWrite>,
    /// Where in `planned` the newest write of a key is.
    touched: HashMap<Bytes, usize>,
    answers: Vec<Result<Revision>>,
    is_synced: bool,
}

impl<'a> Group<'a> {
    /// An empty group on top of what is published.
    pub(crate) fn new(shared: &'a Shared) -> Self {
        Self {
            last: shared.state.read().current,
            at_ms: shared.now_ms(),
            shared,
            planned: Vec::new(),
            touched: HashMap::new(),
            answers: Vec::new(),
            is_synced: false,
        }
    }

    /// Plans `txn`; its answer is known, but counts only once the group is published.
    pub(crate) fn add(&mut self, txn: Txn) {
        self.is_synced |= txn.durability == Durability::Synced;
        let answer = self.plan(txn);
        self.answers.push(answer);
    }

    fn plan(&mut self, txn: Txn) -> Result<Revision> {
        check_shape(&txn)?;
        for precondition in &txn.preconditions {
            self.check(precondition)?;
        }
        let revision = Revision(self.last.0 + 1);
        let before = self.planned.len();
        for write in txn.writes {
            let sub = u32::try_from(self.planned.len() - before).unwrap_or(u32::MAX);
            if let Some(planned) = self.plan_write(write, revision, sub) {
                self.touched.insert(planned.key.clone(), self.planned.len());
                self.planned.push(planned);
            }
        }
        if self.planned.len() > before {
            self.last = revision;
        }
        Ok(self.last)
    }

    /// `None`: nothing to do, the key to delete is absent.
    fn plan_write(&self, write: Write, modified: Revision, sub: u32) -> Option<PendingWrite> {
        let (key, value, ttl) = match write {
            Write::Put { key, value, ttl } => (key, Some(value), ttl),
            Write::Delete { key } => (key, None, None),
        };
        let present = self.present(&key);
        let created = match (&value, present) {
            (None, None) => return None,
            (None, Some(_)) => Revision(0),
            (Some(_), None) => modified,
            (Some(_), Some(version)) => version.created,
        };
        let version = Version {
            modified,
            created,
            sub,
            crc: value.as_deref().map_or(0, crc32fast::hash),
        };
        let record = Record {
            version,
            at_ms: self.at_ms,
            deadline_ms: ttl.map_or(0, |ttl| self.at_ms.saturating_add(whole_seconds_ms(ttl))),
        };
        let key = match self.touched.get_key_value(&key) {
            Some((known, _)) => known.clone(),
            None => self.shared.state.read().index.intern(&key),
        };
        Some(PendingWrite { key, record, value })
    }

    /// The version of `key` as this group leaves it so far.
    fn present(&self, key: &Bytes) -> Option<Version> {
        match self.touched.get(key) {
            Some(at) => Some(self.planned[*at].record.version).filter(|v| !v.is_tombstone()),
            None => {
                let state = self.shared.state.read();
                state.index.live(key).map(|(_, version)| *version)
            }
        }
    }

    fn check(&self, precondition: &Precondition) -> Result<()> {
        let (key, wanted) = match precondition {
            Precondition::Absent(key) => (key, None),
            Precondition::ModifiedAt(key, revision) => (key, Some(*revision)),
        };
        if self.present(key).map(|version| version.modified) == wanted {
            return Ok(());
        }
        Err(Error::Conflict {
            key: key.clone(),
            current: self.current_item(key)?,
        })
    }

    fn current_item(&self, key: &Bytes) -> Result<Option<KeyValue>> {
        let Some(at) = self.touched.get(key) else {
            return self.shared.get(key).map(|(item, _)| item);
        };
        let write = &self.planned[*at];
        let version = write.record.version;
        Ok(write.value.clone().map(|value| KeyValue {
            key: key.clone(),
            value,
            created: version.created,
            modified: version.modified,
        }))
    }

    /// The group could not be written: what depends on it is not so.
    pub(crate) fn fail(self, error: &Error) -> Vec<Result<Revision>> {
        let failed = |answer| match answer {
            Err(invalid @ Error::InvalidTxn(_)) => Err(invalid),
            _ => Err(error.clone()),
        };
        self.answers.into_iter().map(failed).collect()
    }

    /// The group is durable, as far as it asked to be: makes it visible and gives the answers.
    pub(crate) fn publish(self) -> Vec<Result<Revision>> {
        self.shared.publish(self.planned, self.at_ms);
        self.answers
    }
}

impl Shared {
    /// Makes durable writes visible: to reads, then to watches.
    pub(crate) fn publish(&self, writes: Vec<PendingWrite>, at_ms: u64) {
        self.keep_deadlines(&writes, at_ms);
        let mut state = self.state.write();
        for write in writes {
            state.show(write);
        }
        let current = state.current;
        state.index.mark(current, at_ms, self.limits.spacing_ms());
        drop(state);
        self.hub.publish(current);
    }

    /// Notes which of the keys expire, and which no longer do.
    pub(crate) fn keep_deadlines(&self, writes: &[PendingWrite], now_ms: u64) {
        for write in writes {
            let due = Due {
                key: write.key.clone(),
                modified: write.record.version.modified,
            };
            match write.record.deadline_ms {
                0 => self.deadlines.remove(&due.key),
                deadline_ms => self.keep_deadline(due, deadline_ms, now_ms),
            }
        }
    }

    /// Notes that one key expires.
    pub(crate) fn keep_deadline(&self, due: Due, deadline_ms: u64, now_ms: u64) {
        let left = Duration::from_millis(deadline_ms.saturating_sub(now_ms));
        self.deadlines.set(due, left, deadline_ms);
    }
}

impl State {
    /// Takes a write into index and pending values.
    pub(crate) fn show(&mut self, write: PendingWrite) {
        let version = write.record.version;
        self.current = version.modified;
        self.index.push(write.key.clone(), version);
        self.pending.push(write);
    }
}

fn whole_seconds_ms(ttl: Duration) -> u64 {
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    seconds.saturating_mul(1000)
}

/// What is wrong with `txn` whatever the store holds.
pub(crate) fn check_shape(txn: &Txn) -> Result<()> {
    let mut bytes = 0;
    let mut keys: Vec<&Bytes> = Vec::with_capacity(txn.writes.len());
    for write in &txn.writes {
        let (key, len) = match write {
            Write::Put { key, value, .. } => (key, value.len()),
            Write::Delete { key } => (key, 0),
        };
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(Error::InvalidTxn(format!(
                "key of {} bytes, must have 1 to {KEY_BYTES_MAX}",
                key.len()
            )));
        }
        bytes += key.len() + len;
        keys.push(key);
    }
    if bytes > TXN_BYTES_MAX {
        return Err(Error::InvalidTxn(format!(
            "keys and values have {bytes} bytes, at most {TXN_BYTES_MAX} are possible"
        )));
    }
    keys.sort_unstable();
    match keys.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Error::InvalidTxn(format!(
            "key `{}` is written twice",
            String::from_utf8_lossy(pair[0])
        ))),
        None => Ok(()),
    }
}
