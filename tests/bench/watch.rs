//! Watches: how soon an event is with each of many watchers, and what a watcher costs.

use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::load::{CONFIG_MAPS, Subject, config_map};
use crate::machine::{Usage, mib};
use crate::table::{Cost, Row, Wanted, millis, percentile};
use crate::wire::{Connection, Event, Request};

const WATCHERS: usize = 50;
const CREATES: usize = 500;
const CROWD: usize = 10_000;
const CROWD_WRITES: usize = 20;
/// Upstream's servers allow so many streams on a connection.
const STREAMS: usize = 250;
const LIMIT: Duration = Duration::from_secs(60);

/// What came on all connections so far.
#[derive(Default)]
struct Seen {
    events: Mutex<Vec<Instant>>,
    grown: Condvar,
}

impl Seen {
    fn wait(&self, count: usize) {
        let events = self.events.lock().unwrap();
        let short = |events: &mut Vec<Instant>| events.len() < count;
        let waited = self.grown.wait_timeout_while(events, LIMIT, short).unwrap();
        assert!(
            !waited.1.timed_out(),
            "{} of {count} events",
            waited.0.len()
        );
    }
}

/// Open watches, each connection with its thread.
struct Watches {
    opened: Arc<Seen>,
    seen: Arc<Seen>,
    threads: Vec<JoinHandle<()>>,
    cuts: Vec<Box<dyn FnOnce() + Send>>,
}

impl Watches {
    fn open(subject: &Subject, count: usize, per_connection: usize, path: &str) -> Self {
        let mut watches = Self {
            opened: Arc::default(),
            seen: Arc::default(),
            threads: Vec::new(),
            cuts: Vec::new(),
        };
        for _ in 0..count / per_connection {
            let mut connection = Connection::open(&subject.target);
            assert!(connection.streams_max as usize >= per_connection);
            watches.cuts.push(Box::new(connection.cut()));
            for _ in 0..per_connection {
                connection.send(&Request::get(path));
            }
            connection.flush();
            let (opened, seen) = (Arc::clone(&watches.opened), Arc::clone(&watches.seen));
            let work = move || follow(&mut connection, &opened, &seen);
            watches.threads.push(std::thread::spawn(work));
        }
        watches.opened.wait(count);
        watches
    }

    /// When each event came.
    fn close(self) -> Vec<Instant> {
        self.cuts.into_iter().for_each(|cut| cut());
        for thread in self.threads {
            thread.join().unwrap();
        }
        std::mem::take(&mut *self.seen.events.lock().unwrap())
    }
}

/// Notes when an answer began and when an event came: one line each.
fn follow(connection: &mut Connection, opened: &Seen, seen: &Seen) {
    loop {
        let (mut begun, mut lines) = (0, 0);
        let goes_on = connection.read(&mut |_, event| match event {
            Event::Status(2) => begun += 1,
            Event::Status(class) => panic!("a watch was answered with {class}xx"),
            Event::Data(data) => lines += data.iter().filter(|byte| **byte == b'\n').count(),
            Event::End => {}
        });
        for (count, at) in [(begun, opened), (lines, seen)] {
            if count > 0 {
                let now = std::iter::repeat_n(Instant::now(), count);
                at.events.lock().unwrap().extend(now);
                at.grown.notify_all();
            }
        }
        if !goes_on {
            return;
        }
    }
}

pub(crate) fn run(subject: &Subject) {
    fan_out(subject);
    crowd(subject);
}

/// From the POST to the event, over all watchers.
fn fan_out(subject: &Subject) {
    let path = format!("{CONFIG_MAPS}?watch=1&labelSelector=fan%3Dout");
    let watches = Watches::open(subject, WATCHERS, 5, &path);
    let mut writer = Connection::open(&subject.target);
    let mut sent = Vec::with_capacity(CREATES);
    let ((), cost) = Cost::of(subject.server, || {
        for index in 0..CREATES {
            let body = config_map(&format!("fan-{index}"), r#""fan":"out""#, 'x');
            sent.push(Instant::now());
            writer.call(&Request::post(CONFIG_MAPS, body)).unwrap();
            // What is timed is one write's way, not a queue of writes.
            watches.seen.wait((index + 1) * WATCHERS);
        }
    });
    let mut seen = watches.close();
    seen.sort_unstable();
    let mut times: Vec<_> = seen
        .chunks(WATCHERS)
        .zip(&sent)
        .flat_map(|(seen, sent)| seen.iter().map(|seen| seen.duration_since(*sent)))
        .collect();
    let p50 = millis(percentile(&mut times, 0.5));
    let name = "POST to event, 50 watchers × 500 creates, p50";
    Row::new(name, (p50, "ms"), Wanted::AtMost(5.0))
        .cost(&cost, CREATES)
        .with(format!(
            "p99 {:.1} ms",
            millis(percentile(&mut times, 0.99))
        ))
        .print();
}

/// Ten thousand watchers, and writes that each of them is told.
fn crowd(subject: &Subject) {
    let path = format!("{CONFIG_MAPS}?watch=1&labelSelector=crowd%3Dyes");
    let watches = Watches::open(subject, CROWD, STREAMS, &path);
    let mut writer = Connection::open(&subject.target);
    let mut times = Vec::with_capacity(CROWD_WRITES);
    let ((), cost) = Cost::of(subject.server, || {
        for index in 0..CROWD_WRITES {
            let body = config_map(&format!("crowd-{index}"), r#""crowd":"yes""#, 'x');
            let begun = Instant::now();
            writer.call(&Request::post(CONFIG_MAPS, body)).unwrap();
            watches.seen.wait((index + 1) * CROWD);
            times.push(begun.elapsed());
        }
    });
    let worst = millis(percentile(&mut times, 1.0));
    let name = "a write until 10,000 watchers have it, p50 of 20";
    let p50 = millis(percentile(&mut times, 0.5));
    Row::new(name, (p50, "ms"), Wanted::AtMost(100.0))
        .cost(&cost, CROWD_WRITES)
        .with(format!("slowest {worst:.0} ms"))
        .print();
    if let Some(pid) = subject.server {
        let rss = mib(Usage::of(pid).rss_bytes);
        let name = "memory of the server with 10,000 watchers (RSS)";
        Row::new(name, (rss, "MiB"), Wanted::AtMost(300.0)).print();
    }
    watches.close();
}
