//! What every store must do, as one suite that runs against each of them.
//!
//! A case gets a store that others may have used before, so it names its keys under a prefix of its
//! own and never counts on a revision number.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};

use super::{
    Durability, Error, Event, KeyRange, KeyValue, Precondition, Revision, Store, Txn, WatchItem,
    WatchStream, Write,
};

/// How long anything may take that should happen at once.
const SOON: Duration = Duration::from_secs(20);

/// A store under test.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) prefix: String,
}

type Run = fn(Case) -> BoxFuture<'static, ()>;

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        /// All cases with their names.
        pub(crate) const CASES: &[(&str, Run)] = &[$((stringify!($name), |case| $name(case).boxed())),*];
    };
}

cases![
    a_new_key_is_read_back_with_its_revisions,
    an_update_keeps_when_the_key_was_made,
    preconditions_that_fail_change_nothing_and_tell_what_is_there,
    a_transaction_is_one_revision_for_all_its_keys,
    deleting_what_is_absent_is_not_a_change,
    only_the_newest_state_of_a_key_is_current,
    a_key_written_twice_in_a_transaction_is_refused,
    a_range_is_ordered_limited_and_counts_the_rest,
    a_range_at_an_old_revision_sees_the_old_state,
    the_future_cannot_be_read,
    a_watch_gets_every_change_once_and_in_order,
    a_watch_from_the_past_catches_up_first,
    a_watch_sees_only_its_range,
    a_watch_tells_when_it_has_caught_up,
    a_dropped_wait_loses_nothing,
    two_watches_see_the_same,
    compaction_ends_the_past,
    a_key_with_a_ttl_goes_and_watches_see_it,
    a_rewritten_key_outlives_its_first_ttl,
    relaxed_writes_are_visible_at_once,
    many_writers_never_overwrite_each_other,
    binary_keys_and_empty_values_are_kept,
];

/// Runs the whole suite, one case after the other.
pub(crate) async fn run_all(store: Arc<dyn Store>) {
    for (name, run) in CASES {
        let case = Case {
            store: store.clone(),
            prefix: format!("/{name}/"),
        };
        println!("case {name}");
        let limit = SOON * 3;
        let ran = tokio::time::timeout(limit, run(case)).await;
        assert!(ran.is_ok(), "case {name} did not end within {limit:?}");
    }
}

// === what cases are made of ===

pub(crate) fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Txn {
    Txn {
        writes: vec![Write::Put {
            key: key.into(),
            value: value.into(),
            ttl: None,
        }],
        ..Txn::default()
    }
}

pub(crate) fn put_for(key: impl Into<Bytes>, value: impl Into<Bytes>, ttl: Duration) -> Txn {
    Txn {
        writes: vec![Write::Put {
            key: key.into(),
            value: value.into(),
            ttl: Some(ttl),
        }],
        ..Txn::default()
    }
}

pub(crate) fn delete(key: impl Into<Bytes>) -> Txn {
    Txn {
        writes: vec![Write::Delete { key: key.into() }],
        ..Txn::default()
    }
}

pub(crate) fn on(precondition: Precondition, txn: Txn) -> Txn {
    Txn {
        preconditions: vec![precondition],
        ..txn
    }
}

pub(crate) fn relaxed(txn: Txn) -> Txn {
    Txn {
        durability: Durability::Relaxed,
        ..txn
    }
}

impl Case {
    fn key(&self, name: &str) -> Bytes {
        format!("{}{name}", self.prefix).into()
    }

    fn all(&self) -> KeyRange {
        KeyRange::prefix(self.prefix.clone())
    }

    async fn txn(&self, txn: Txn) -> Revision {
        self.store.txn(txn).await.unwrap()
    }

    async fn put(&self, name: &str, value: &str) -> Revision {
        self.txn(put(self.key(name), value.to_owned())).await
    }

    async fn delete(&self, name: &str) -> Revision {
        self.txn(delete(self.key(name))).await
    }

    async fn get(&self, name: &str) -> Option<KeyValue> {
        self.store.get(&self.key(name)).await.unwrap().0
    }

    async fn watch(&self, after: Revision) -> Watched {
        let stream = self.store.watch(self.all(), after).await.unwrap();
        Watched {
            stream,
            prefix: self.prefix.clone(),
            events: Vec::new().into_iter(),
        }
    }

    async fn now(&self) -> Revision {
        self.store.current().await.unwrap()
    }

    /// `name=value …` of the state at a revision.
    async fn state(&self, at: Option<Revision>) -> String {
        let page = self.store.range(self.all(), at, None).await.unwrap();
        let each = page.items.iter().map(|item| {
            let name = &item.key[self.prefix.len()..];
            let (name, value) = (text(name), text(&item.value));
            format!("{name}={value}")
        });
        each.collect::<Vec<_>>().join(" ")
    }
}

/// A watch read event by event.
pub(crate) struct Watched {
    stream: WatchStream,
    prefix: String,
    events: std::vec::IntoIter<Event>,
}

impl Watched {
    async fn item(&mut self) -> Option<super::Result<WatchItem>> {
        let item = tokio::time::timeout(SOON, self.stream.next()).await;
        item.expect("a watch item within the time")
    }

    async fn event(&mut self) -> Event {
        loop {
            if let Some(event) = self.events.next() {
                return event;
            }
            match self.item().await.expect("the watch goes on").unwrap() {
                WatchItem::Events(events) => self.events = events.into_iter(),
                WatchItem::Progress(_) => {}
            }
        }
    }

    /// The next `count` events as `+name=value` (made), `~` (changed), `-name`.
    async fn read(&mut self, count: usize) -> String {
        let mut read = Vec::new();
        for _ in 0..count {
            read.push(describe(&self.event().await, self.prefix.len()));
        }
        read.join(" ")
    }
}

fn describe(event: &Event, prefix_len: usize) -> String {
    let name = text(&event.key()[prefix_len..]);
    match event {
        Event::Put(item) => {
            let sign = if item.created == item.modified {
                '+'
            } else {
                '~'
            };
            format!("{sign}{name}={}", text(&item.value))
        }
        Event::Delete { .. } => format!("-{name}"),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

// === the cases ===

async fn a_new_key_is_read_back_with_its_revisions(case: Case) {
    let before = case.now().await;
    let made = case.put("a", "1").await;
    assert!(made > before);
    let item = case.get("a").await.unwrap();
    assert_eq!((item.created, item.modified), (made, made));
    assert_eq!(item.value, "1");
    assert_eq!(item.key, case.key("a"));
    assert!(case.now().await >= made);
    assert_eq!(case.get("b").await, None);
}

async fn an_update_keeps_when_the_key_was_made(case: Case) {
    let made = case.put("a", "1").await;
    let changed = case.put("a", "2").await;
    let item = case.get("a").await.unwrap();
    assert_eq!((item.created, item.modified), (made, changed));
    case.delete("a").await;
    let again = case.put("a", "3").await;
    assert_eq!(case.get("a").await.unwrap().created, again);
}

async fn preconditions_that_fail_change_nothing_and_tell_what_is_there(case: Case) {
    let key = case.key("a");
    let absent = Precondition::Absent(key.clone());
    let made = case.txn(on(absent.clone(), put(key.clone(), "1"))).await;
    let conflicts = [
        on(absent, put(key.clone(), "x")),
        on(
            Precondition::ModifiedAt(key.clone(), Revision(made.0 - 1)),
            put(key.clone(), "x"),
        ),
        Txn {
            preconditions: vec![
                Precondition::Absent(case.key("nothing")),
                Precondition::ModifiedAt(key.clone(), Revision(made.0 + 5)),
            ],
            ..delete(key.clone())
        },
    ];
    for txn in conflicts {
        match case.store.txn(txn).await {
            Err(Error::Conflict { key: at, current }) => {
                assert_eq!(at, key);
                assert_eq!(current.unwrap().value, "1");
            }
            other => panic!("not a conflict: {other:?}"),
        }
    }
    let gone = Precondition::ModifiedAt(case.key("nothing"), made);
    match case.store.txn(on(gone, put(key.clone(), "x"))).await {
        Err(Error::Conflict { current: None, .. }) => {}
        other => panic!("not a conflict: {other:?}"),
    }
    assert_eq!(case.state(None).await, "a=1");
    let at = Precondition::ModifiedAt(key.clone(), made);
    case.txn(on(at, delete(key))).await;
    assert_eq!(case.state(None).await, "");
}

async fn a_transaction_is_one_revision_for_all_its_keys(case: Case) {
    case.put("b", "old").await;
    let mut watched = case.watch(case.now().await).await;
    let txn = Txn {
        writes: [
            put(case.key("c"), "1"),
            delete(case.key("b")),
            put(case.key("a"), "2"),
        ]
        .into_iter()
        .flat_map(|txn| txn.writes)
        .collect(),
        ..Txn::default()
    };
    let revision = case.txn(txn).await;
    assert_eq!(case.get("a").await.unwrap().modified, revision);
    assert_eq!(case.get("c").await.unwrap().modified, revision);
    let mut seen = BTreeMap::new();
    for _ in 0..3 {
        let event = watched.event().await;
        assert_eq!(event.revision(), revision);
        seen.insert(event.key().clone(), event);
    }
    assert_eq!(seen.len(), 3);
}

async fn deleting_what_is_absent_is_not_a_change(case: Case) {
    let before = case.put("a", "1").await;
    let answered = case.delete("nothing").await;
    assert_eq!(answered, case.now().await);
    let mut watched = case.watch(before).await;
    case.put("b", "2").await;
    assert_eq!(watched.read(1).await, "+b=2");
}

async fn only_the_newest_state_of_a_key_is_current(case: Case) {
    let key = case.key("a");
    let first = case.put("a", "1").await;
    let second = case.put("a", "2").await;
    assert!(!case.store.is_current(&key, first));
    case.delete("a").await;
    assert!(!case.store.is_current(&key, second));
}

async fn a_key_written_twice_in_a_transaction_is_refused(case: Case) {
    let mut txn = put(case.key("a"), "1");
    txn.writes.extend(put(case.key("a"), "2").writes);
    assert!(matches!(
        case.store.txn(txn).await,
        Err(Error::InvalidTxn(_))
    ));
    let no_key = case.store.txn(put("", "1")).await;
    assert!(matches!(no_key, Err(Error::InvalidTxn(_))));
    assert_eq!(case.state(None).await, "");
}

async fn a_range_is_ordered_limited_and_counts_the_rest(case: Case) {
    for name in ["c", "a", "d", "b"] {
        case.put(name, name).await;
    }
    assert_eq!(case.state(None).await, "a=a b=b c=c d=d");
    let page = case.store.range(case.all(), None, Some(3)).await.unwrap();
    assert_eq!((page.items.len(), page.remaining), (3, 1));
    let rest = KeyRange {
        start: [&case.key("c")[..], b"\0"].concat().into(),
        ..case.all()
    };
    let page = case
        .store
        .range(rest, Some(page.revision), Some(3))
        .await
        .unwrap();
    assert_eq!((page.items.len(), page.remaining), (1, 0));
    let middle = KeyRange {
        start: case.key("b"),
        end: Some(case.key("d")),
    };
    let page = case.store.range(middle, None, None).await.unwrap();
    assert_eq!(page.items.len(), 2);
    let nothing = KeyRange {
        start: case.key("d"),
        end: Some(case.key("b")),
    };
    let page = case.store.range(nothing, None, None).await.unwrap();
    assert_eq!(page.items.len(), 0);
}

async fn a_range_at_an_old_revision_sees_the_old_state(case: Case) {
    let first = case.put("a", "1").await;
    let second = case.put("b", "1").await;
    let third = case.put("a", "2").await;
    let fourth = case.delete("a").await;
    assert_eq!(case.state(Some(first)).await, "a=1");
    assert_eq!(case.state(Some(second)).await, "a=1 b=1");
    assert_eq!(case.state(Some(third)).await, "a=2 b=1");
    assert_eq!(case.state(Some(fourth)).await, "b=1");
}

async fn the_future_cannot_be_read(case: Case) {
    let far = Revision(case.now().await.0 + 1_000_000);
    let read = case.store.range(case.all(), Some(far), None).await;
    assert!(matches!(read, Err(Error::Future { wanted, .. }) if wanted == far));
}

async fn a_watch_gets_every_change_once_and_in_order(case: Case) {
    let mut watched = case.watch(case.now().await).await;
    let mut expected = Vec::new();
    for round in 0..100 {
        let name = format!("k{}", round % 7);
        if round % 5 == 4 {
            if case.get(&name).await.is_some() {
                expected.push((case.delete(&name).await, format!("-{name}")));
            }
        } else {
            let sign = match case.get(&name).await {
                Some(_) => '~',
                None => '+',
            };
            let revision = case.put(&name, &round.to_string()).await;
            expected.push((revision, format!("{sign}{name}={round}")));
        }
    }
    for (revision, text) in expected {
        let event = watched.event().await;
        assert_eq!(describe(&event, case.prefix.len()), text);
        assert_eq!(event.revision(), revision);
    }
}

async fn a_watch_from_the_past_catches_up_first(case: Case) {
    let start = case.now().await;
    case.put("a", "1").await;
    let middle = case.put("a", "2").await;
    case.delete("a").await;
    let mut watched = case.watch(start).await;
    assert_eq!(watched.read(3).await, "+a=1 ~a=2 -a");
    case.put("a", "3").await;
    assert_eq!(watched.read(1).await, "+a=3");
    assert_eq!(case.watch(middle).await.read(2).await, "-a +a=3");
}

async fn a_watch_sees_only_its_range(case: Case) {
    let start = case.now().await;
    let range = KeyRange::prefix(case.key("in/"));
    let stream = case.store.watch(range, start).await.unwrap();
    let mut watched = Watched {
        stream,
        prefix: case.prefix.clone(),
        events: Vec::new().into_iter(),
    };
    case.put("in", "0").await;
    case.put("in/a", "1").await;
    case.put("in0", "2").await;
    case.put("in/b", "3").await;
    assert_eq!(watched.read(2).await, "+in/a=1 +in/b=3");
}

async fn a_watch_tells_when_it_has_caught_up(case: Case) {
    let start = case.now().await;
    case.put("a", "1").await;
    let last = case.put("a", "2").await;
    let mut watched = case.watch(start).await;
    let mut events = 0;
    loop {
        match watched.item().await.unwrap().unwrap() {
            WatchItem::Events(some) => events += some.len(),
            WatchItem::Progress(revision) if revision >= last => break,
            WatchItem::Progress(_) => {}
        }
    }
    assert_eq!(events, 2, "progress comes after the events it covers");
}

async fn a_dropped_wait_loses_nothing(case: Case) {
    let mut watched = case.watch(case.now().await).await;
    for round in 0..20 {
        case.put("a", &round.to_string()).await;
        // Polled once and dropped, as a select does.
        if let Some(Some(Ok(WatchItem::Events(events)))) = watched.stream.next().now_or_never() {
            let left = watched.events.by_ref();
            watched.events = left.chain(events).collect::<Vec<_>>().into_iter();
        }
    }
    let expected: Vec<_> = (1..20).map(|n| format!("~a={n}")).collect();
    assert_eq!(
        watched.read(20).await,
        format!("+a=0 {}", expected.join(" "))
    );
}

async fn two_watches_see_the_same(case: Case) {
    let start = case.now().await;
    let (mut one, mut two) = (case.watch(start).await, case.watch(start).await);
    for round in 0..10 {
        case.put("a", &round.to_string()).await;
    }
    drop(case.watch(start).await);
    assert_eq!(one.read(10).await, two.read(10).await);
}

async fn compaction_ends_the_past(case: Case) {
    let first = case.put("a", "1").await;
    case.put("a", "2").await;
    case.put("gone", "1").await;
    case.delete("gone").await;
    let kept = case.put("b", "1").await;
    case.store.compact(kept).await.unwrap();
    assert_eq!(case.store.oldest().await.unwrap(), kept);
    assert_eq!(case.state(None).await, "a=2 b=1");
    assert_eq!(case.state(Some(kept)).await, "a=2 b=1");
    let read = case.store.range(case.all(), Some(first), None).await;
    assert!(matches!(read, Err(Error::Compacted { wanted, .. }) if wanted == first));
    let watch = case.store.watch(case.all(), first).await;
    let error = match watch {
        Err(error) => error,
        Ok(mut stream) => stream.next().await.unwrap().unwrap_err(),
    };
    assert!(matches!(error, Error::Compacted { .. }), "{error}");
    case.put("b", "2").await;
    assert_eq!(case.watch(kept).await.read(1).await, "~b=2");
    case.store.compact(kept).await.unwrap();
}

async fn a_key_with_a_ttl_goes_and_watches_see_it(case: Case) {
    let mut watched = case.watch(case.now().await).await;
    case.put("stays", "1").await;
    let ttl = Duration::from_secs(1);
    case.txn(put_for(case.key("goes"), "1", ttl)).await;
    assert_eq!(watched.read(3).await, "+stays=1 +goes=1 -goes");
    assert_eq!(case.state(None).await, "stays=1");
}

async fn a_rewritten_key_outlives_its_first_ttl(case: Case) {
    let mut watched = case.watch(case.now().await).await;
    let second = Duration::from_secs(1);
    case.txn(put_for(case.key("a"), "1", second)).await;
    case.txn(put_for(case.key("b"), "1", second)).await;
    case.put("a", "2").await;
    assert_eq!(watched.read(4).await, "+a=1 +b=1 ~a=2 -b");
    assert_eq!(case.state(None).await, "a=2");
}

async fn relaxed_writes_are_visible_at_once(case: Case) {
    let mut watched = case.watch(case.now().await).await;
    let first = case.txn(relaxed(put(case.key("a"), "1"))).await;
    assert_eq!(case.get("a").await.unwrap().modified, first);
    assert_eq!(watched.read(1).await, "+a=1");
    let second = case.put("a", "2").await;
    assert!(second > first);
    case.store.sync().await.unwrap();
    assert_eq!(watched.read(1).await, "~a=2");
}

async fn many_writers_never_overwrite_each_other(case: Case) {
    const WRITERS: usize = 8;
    const ROUNDS: usize = 20;
    case.put("sum", "0").await;
    let add_one = |case: Case| async move {
        loop {
            let item = case.get("sum").await.unwrap();
            let sum: usize = text(&item.value).parse().unwrap();
            let at = Precondition::ModifiedAt(item.key.clone(), item.modified);
            match case
                .store
                .txn(on(at, put(item.key, (sum + 1).to_string())))
                .await
            {
                Ok(_) => return,
                Err(Error::Conflict { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    let writers = (0..WRITERS).map(|_| {
        let case = case.clone();
        async move {
            for _ in 0..ROUNDS {
                add_one(case.clone()).await;
            }
        }
    });
    futures_util::future::join_all(writers).await;
    assert_eq!(case.state(None).await, format!("sum={}", WRITERS * ROUNDS));
}

async fn binary_keys_and_empty_values_are_kept(case: Case) {
    let mut keys: Vec<Bytes> = [&b"\0"[..], b"\xff\xff", b"a\0", b"a\0\0", b"a"]
        .iter()
        .map(|tail| [case.prefix.as_bytes(), tail].concat().into())
        .collect();
    for key in &keys {
        case.txn(put(key.clone(), "")).await;
    }
    keys.sort();
    let page = case.store.range(case.all(), None, None).await.unwrap();
    let found: Vec<_> = page.items.iter().map(|item| item.key.clone()).collect();
    assert_eq!(found, keys);
    assert!(page.items.iter().all(|item| item.value.is_empty()));
}

// === who must pass ===

mod engine {
    use super::*;
    use crate::store::mvcc::{Config, Mvcc};

    #[tokio::test]
    async fn the_engine_in_memory_conforms() {
        run_all(Mvcc::in_memory()).await;
    }

    #[tokio::test]
    async fn the_engine_on_disk_conforms() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::new(folder.path().join("db"));
        let store = Mvcc::open(&config).unwrap();
        run_all(store.clone()).await;
        let before = content(&*store).await;
        store.close().await.unwrap();
        let store = Mvcc::open(&config).unwrap();
        assert_eq!(content(&*store).await, before);
    }

    async fn content(store: &dyn Store) -> Vec<KeyValue> {
        let all = KeyRange::prefix("");
        store.range(all, None, None).await.unwrap().items
    }
}
