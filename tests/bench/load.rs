//! Load on the API over TLS and HTTP/2: creates, gets, patches, applies, lists.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::machine::{Usage, mib};
use crate::table::{Cost, Row, Wanted, millis, percentile};
use crate::wire::{Connection, Event, Request, Target};

const NAMESPACES: &str = "/api/v1/namespaces";
pub(crate) const CONFIG_MAPS: &str = "/api/v1/namespaces/bench/configmaps";
/// Kubernetes was measured with as many.
const LISTED: usize = 12_300;
const ONE_BY_ONE: usize = 1_000;
const TOGETHER: usize = LISTED - ONE_BY_ONE;
const GETS: usize = 40_000;
const PATCHES: usize = 10_000;
const APPLIES: usize = 10_000;
/// Objects that are applied, again and again.
const APPLIED: usize = 2_000;
const LISTS: usize = 7;
/// Requests at a time, over as many connections.
const AT_ONCE: usize = 32;
const CONNECTIONS: usize = 4;
/// After a load, until memory is what it stays.
const SETTLE: Duration = Duration::from_secs(3);

/// What is measured.
#[derive(Clone)]
pub(crate) struct Subject {
    pub(crate) target: Target,
    /// The server's process, where it runs here.
    pub(crate) server: Option<i32>,
}

/// Makes the namespace of the load; the connection that did.
pub(crate) fn make_namespace(subject: &Subject) -> Connection {
    let mut one = Connection::open(&subject.target);
    let body = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"bench"}}"#;
    one.call(&Request::post(NAMESPACES, body)).unwrap();
    one
}

pub(crate) fn remove_namespace(one: &mut Connection) {
    let delete = Request {
        method: "DELETE",
        ..Request::get(format!("{NAMESPACES}/bench"))
    };
    one.call(&delete).unwrap();
}

pub(crate) fn run(subject: &Subject, one: &mut Connection, disk: Option<&Path>) {
    let before = subject.server.map(Usage::of);
    one_by_one(subject, one, disk);
    creates(subject);
    if let Some(before) = before {
        memory(subject, &before);
    }
    gets(subject);
    let list = "list of 12,300 ConfigMaps";
    lists(subject, one, "application/json", list, 40.0);
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    lists(subject, one, table, "12,300 ConfigMaps as Table", 60.0);
    patches(subject);
    applies(subject);
}

pub(crate) fn config_map(name: &str, labels: &str, data: char) -> String {
    let data = data.to_string().repeat(1024);
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","labels":{{{labels}}}}},"data":{{"value":"{data}"}}}}"#
    )
}

/// What the disk itself does: the limit of one create after the other.
fn fdatasync(folder: &Path) -> Duration {
    let mut file = tempfile::NamedTempFile::new_in(folder).unwrap();
    let room = vec![0; 1 << 20];
    file.write_all(&room).unwrap();
    file.as_file().sync_all().unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let mut times: Vec<_> = (0..300)
        .map(|_| {
            let begun = Instant::now();
            file.write_all(&[7; 1400]).unwrap();
            file.as_file().sync_data().unwrap();
            begun.elapsed()
        })
        .collect();
    percentile(&mut times, 0.5)
}

fn one_by_one(subject: &Subject, one: &mut Connection, disk: Option<&Path>) {
    let mut times = Vec::with_capacity(ONE_BY_ONE);
    let started = Instant::now();
    let ((), cost) = Cost::of(subject.server, || {
        for index in 0..ONE_BY_ONE {
            let begun = Instant::now();
            let body = config_map(&format!("one-{index}"), "", 'x');
            one.call(&Request::post(CONFIG_MAPS, body)).unwrap();
            times.push(begun.elapsed());
        }
    });
    let per_second = ONE_BY_ONE as f64 / started.elapsed().as_secs_f64();
    let mut beside = format!("p50 {:.2} ms", millis(percentile(&mut times, 0.5)));
    if let Some(folder) = disk {
        let limit = 1.0 / fdatasync(folder).as_secs_f64();
        beside.push_str(&format!("; the disk alone writes and syncs {limit:.0} /s"));
    }
    let name = "creates of 1 KiB ConfigMaps, one at a time";
    Row::new(name, (per_second, "/s"), Wanted::AtLeast(1000.0))
        .cost(&cost, ONE_BY_ONE)
        .with(beside)
        .print();
}

fn creates(subject: &Subject) {
    many(subject, TOGETHER, |index| {
        let body = config_map(&format!("many-{index}"), "", 'x');
        Request::post(CONFIG_MAPS, body)
    })
    .print("creates, 32 at once", 8000.0);
}

fn gets(subject: &Subject) {
    many(subject, GETS, |index| {
        Request::get(format!("{CONFIG_MAPS}/many-{}", index % TOGETHER))
    })
    .print("gets, 32 at once", 15_000.0);
}

fn patches(subject: &Subject) {
    many(subject, PATCHES, |index| Request {
        method: "PATCH",
        content_type: "application/merge-patch+json",
        ..Request::post(
            format!("{CONFIG_MAPS}/many-{}", index % TOGETHER),
            format!(r#"{{"metadata":{{"labels":{{"n":"{index}"}}}}}}"#),
        )
    })
    .print("merge patches, 32 at once", 8000.0);
}

fn applies(subject: &Subject) {
    many(subject, APPLIES, |index| {
        let name = format!("many-{}", index % APPLIED);
        let data = ['a', 'b', 'c', 'd', 'e'][index / APPLIED];
        Request {
            method: "PATCH",
            content_type: "application/apply-patch+yaml",
            ..Request::post(
                format!("{CONFIG_MAPS}/{name}?fieldManager=bench-apply&force=true"),
                config_map(&name, &format!(r#""a":"{index}""#), data),
            )
        }
    })
    .print("server-side applies, 32 at once", 4000.0);
}

fn lists(subject: &Subject, one: &mut Connection, accept: &'static str, name: &str, most: f64) {
    let request = Request {
        accept,
        ..Request::get(CONFIG_MAPS)
    };
    let (mut times, mut bytes) = (Vec::new(), 0);
    let ((), cost) = Cost::of(subject.server, || {
        for _ in 0..LISTS {
            let begun = Instant::now();
            bytes = 0;
            assert!(one.stream(&request, &mut |data| bytes += data.len()));
            times.push(begun.elapsed());
        }
    });
    let p50 = millis(percentile(&mut times, 0.5));
    Row::new(name, (p50, "ms"), Wanted::AtMost(most))
        .cost(&cost, LISTS)
        .with(format!("{:.1} MB", bytes as f64 / 1e6))
        .print();
}

fn memory(subject: &Subject, before: &Usage) {
    std::thread::sleep(SETTLE);
    let Some(after) = subject.server.map(Usage::of) else {
        return;
    };
    let grown = after.rss_bytes.saturating_sub(before.rss_bytes) as f64;
    let each = grown / LISTED as f64 / 1024.0;
    let name = "memory for each stored 1 KiB object";
    Row::new(name, (each, "KiB"), Wanted::AtMost(4.0))
        .with(format!("{:.0} MiB RSS", mib(after.rss_bytes)))
        .print();
}

/// How many requests went.
struct Many {
    count: usize,
    took: Duration,
    times: Vec<Duration>,
    cost: Cost,
}

impl Many {
    fn print(mut self, name: &str, least: f64) {
        let per_second = self.count as f64 / self.took.as_secs_f64();
        let p50 = millis(percentile(&mut self.times, 0.5));
        let p99 = millis(percentile(&mut self.times, 0.99));
        Row::new(name, (per_second, "/s"), Wanted::AtLeast(least))
            .cost(&self.cost, self.count)
            .with(format!("p50 {p50:.1} ms, p99 {p99:.1} ms"))
            .print();
    }
}

/// `count` requests, 32 at a time.
fn many(subject: &Subject, count: usize, request: impl Fn(usize) -> Request + Sync) -> Many {
    let mut connections: Vec<_> = (0..CONNECTIONS)
        .map(|_| Connection::open(&subject.target))
        .collect();
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    let (times, cost) = Cost::of(subject.server, || {
        std::thread::scope(|scope| {
            let threads: Vec<_> = connections
                .iter_mut()
                .map(|connection| scope.spawn(|| pump(connection, (&next, count), &request)))
                .collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect()
        })
    });
    Many {
        count,
        took: started.elapsed(),
        times,
        cost,
    }
}

/// Keeps one connection's share of requests open until there are no more.
fn pump(
    connection: &mut Connection,
    (next, count): (&AtomicUsize, usize),
    request: &impl Fn(usize) -> Request,
) -> Vec<Duration> {
    let mut open: Vec<(u32, Instant)> = Vec::new();
    let mut times = Vec::with_capacity(count / CONNECTIONS * 2);
    let mut refused = Vec::new();
    let mut ready: Option<Request> = None;
    let mut is_over = false;
    loop {
        while open.len() < AT_ONCE / CONNECTIONS && !is_over {
            if ready.is_none() {
                let index = next.fetch_add(1, Ordering::Relaxed);
                is_over = index >= count;
                ready = (!is_over).then(|| request(index));
            }
            match ready.take() {
                Some(request) if connection.has_room(request.body.len()) => {
                    open.push((connection.send(&request), Instant::now()));
                }
                waiting => {
                    ready = waiting;
                    break;
                }
            }
        }
        if open.is_empty() && ready.is_none() {
            return times;
        }
        connection.flush();
        let goes_on = connection.read(&mut |stream, event| match event {
            Event::Status(0 | 2) => {}
            Event::Status(_) => refused.push(stream),
            Event::Data(data) if refused.contains(&stream) => {
                panic!("refused: {}", String::from_utf8_lossy(data))
            }
            Event::Data(_) => {}
            Event::End => {
                if let Some(at) = open.iter().position(|(open, _)| *open == stream) {
                    times.push(open.swap_remove(at).1.elapsed());
                }
            }
        });
        assert!(goes_on, "the server ended the connection");
    }
}
