//! Load on the API over TLS and HTTP/2: creates, gets, patches, lists, watches.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use orch::client::config::load;
use orch::client::https::HttpsTransport;
use orch::client::{Call, Client};
use orch::util::tasks::Tasks;

use crate::Row;
use crate::machine::millis;

const CONFIG_MAPS: &str = "/api/v1/namespaces/bench/configmaps";
/// Kubernetes was measured with as many.
const LISTED: usize = 12_300;
const ONE_BY_ONE: usize = 1_000;
const GETS: usize = 30_000;
const PATCHES: usize = 5_000;
const WATCHERS: usize = 50;
const WATCHED_CREATES: usize = 500;
const WORKERS: usize = 32;

pub(crate) fn connect(kubeconfig: &Path) -> Client {
    let target = load(kubeconfig, None).unwrap();
    // The client's connections end with the process.
    let tasks = Box::leak(Box::new(Tasks::new()));
    Client::new(Arc::new(
        HttpsTransport::new(target.endpoint, tasks).unwrap(),
    ))
}

pub(crate) async fn rows(client: &Client) -> Vec<Row> {
    make_namespace(client).await;
    let mut rows = vec![fsync()];
    rows.push(one_by_one(client).await);
    rows.push(creates(client).await);
    rows.push(gets(client).await);
    rows.push(patches(client).await);
    rows.push(
        list(
            client,
            "application/json",
            "list of 12,300 ConfigMaps",
            "≤ 40 ms",
        )
        .await,
    );
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    rows.push(list(client, table, "the same as a Table", "").await);
    rows.push(fan_out(client).await);
    let _ = client
        .call(Call::new(Method::DELETE, "/api/v1/namespaces/bench"))
        .await;
    rows
}

async fn make_namespace(client: &Client) {
    let body = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"bench"}}"#;
    client
        .call(Call::json(Method::POST, "/api/v1/namespaces", body))
        .await
        .unwrap();
    let everything = client.call(Call::new(Method::DELETE, CONFIG_MAPS)).await;
    everything.unwrap();
}

/// What the disk itself does: the limit of one create after the other.
fn fsync() -> Row {
    use std::io::Write;
    let mut file = tempfile::NamedTempFile::new_in(".").unwrap();
    let started = Instant::now();
    for _ in 0..200 {
        file.write_all(&[7; 1400]).unwrap();
        file.as_file().sync_data().unwrap();
    }
    let each = started.elapsed() / 200;
    Row::new(
        "the disk's own write and fdatasync of 1.4 KiB",
        millis(each),
        "",
    )
}

fn config_map(name: &str) -> Bytes {
    let data = "x".repeat(1024);
    let text = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"value":"{data}"}}}}"#
    );
    text.into()
}

async fn one_by_one(client: &Client) -> Row {
    let mut times = Vec::with_capacity(ONE_BY_ONE);
    let started = Instant::now();
    for index in 0..ONE_BY_ONE {
        let begun = Instant::now();
        let body = config_map(&format!("one-{index}"));
        client
            .call(Call::json(Method::POST, CONFIG_MAPS, body))
            .await
            .unwrap();
        times.push(begun.elapsed());
    }
    rate(
        "creates of 1 KiB ConfigMaps, one at a time",
        ONE_BY_ONE,
        started,
        times,
        "≥ 1,000 /s",
    )
}

async fn creates(client: &Client) -> Row {
    let count = LISTED - ONE_BY_ONE;
    many(client, count, |index| {
        (
            Method::POST,
            CONFIG_MAPS.to_owned(),
            Some(config_map(&format!("many-{index}"))),
        )
    })
    .await
    .row("creates, 32 at once", "≥ 8,000 /s")
}

async fn gets(client: &Client) -> Row {
    many(client, GETS, |index| {
        (
            Method::GET,
            format!("{CONFIG_MAPS}/many-{}", index % (LISTED - ONE_BY_ONE)),
            None,
        )
    })
    .await
    .row("gets, 32 at once", "≥ 15,000 /s")
}

async fn patches(client: &Client) -> Row {
    many(client, PATCHES, |index| {
        let body = format!(r#"{{"metadata":{{"labels":{{"n":"{index}"}}}}}}"#);
        (
            Method::PATCH,
            format!("{CONFIG_MAPS}/many-{}", index % 10_000),
            Some(body.into()),
        )
    })
    .await
    .row("merge patches, 32 at once", "")
}

struct Many {
    count: usize,
    started: Instant,
    times: Vec<Duration>,
}

impl Many {
    fn row(self, name: &str, target: &'static str) -> Row {
        rate(name, self.count, self.started, self.times, target)
    }
}

/// `count` requests by 32 workers.
async fn many(
    client: &Client,
    count: usize,
    request: impl Fn(usize) -> (Method, String, Option<Bytes>) + Send + Sync + 'static,
) -> Many {
    let (next, request) = (Arc::new(AtomicUsize::new(0)), Arc::new(request));
    let started = Instant::now();
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (client, next, request) = (client.clone(), next.clone(), request.clone());
            tokio::spawn(async move {
                let mut times = Vec::new();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return times;
                    }
                    let (method, path, body) = request(index);
                    let begun = Instant::now();
                    let call = match body {
                        Some(body) => Call::json(method.clone(), &path, body),
                        None => Call::new(method.clone(), &path),
                    };
                    let call = match method {
                        Method::PATCH => Call {
                            content_type: "application/merge-patch+json",
                            ..call
                        },
                        _ => call,
                    };
                    client.call(call).await.unwrap();
                    times.push(begun.elapsed());
                }
            })
        })
        .collect();
    let mut times = Vec::with_capacity(count);
    for worker in workers {
        times.extend(worker.await.unwrap());
    }
    Many {
        count,
        started,
        times,
    }
}

fn rate(
    name: &str,
    count: usize,
    started: Instant,
    times: Vec<Duration>,
    target: &'static str,
) -> Row {
    let per_second = count as f64 / started.elapsed().as_secs_f64();
    let p50 = percentile(times, 0.5);
    Row::new(
        name,
        format!("{per_second:.0} /s, p50 {}", millis(p50)),
        target,
    )
}

pub(crate) fn percentile(mut times: Vec<Duration>, part: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * part) as usize]
}

async fn list(client: &Client, accept: &'static str, name: &str, target: &'static str) -> Row {
    let mut times = Vec::new();
    let mut bytes = 0;
    for _ in 0..7 {
        let begun = Instant::now();
        let call = Call {
            accept,
            ..Call::new(Method::GET, CONFIG_MAPS)
        };
        bytes = client.call(call).await.unwrap().len();
        times.push(begun.elapsed());
    }
    let size = bytes as f64 / 1e6;
    Row::new(
        name,
        format!("{} ({size:.1} MB)", millis(percentile(times, 0.5))),
        target,
    )
}

/// From the POST to the event, over all watchers.
async fn fan_out(client: &Client) -> Row {
    let path = format!("{CONFIG_MAPS}?watch=1&labelSelector=fan%3Dout");
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let body = client.open(Call::new(Method::GET, &path)).await.unwrap();
        watchers.push(tokio::spawn(watch(body)));
    }
    let mut sent = Vec::with_capacity(WATCHED_CREATES);
    for index in 0..WATCHED_CREATES {
        let body = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"fan-{index}","labels":{{"fan":"out"}}}},"data":{{"v":"{}"}}}}"#,
            "x".repeat(1024)
        );
        sent.push(Instant::now());
        client
            .call(Call::json(Method::POST, CONFIG_MAPS, body))
            .await
            .unwrap();
    }
    let mut times = Vec::new();
    for watcher in watchers {
        let seen = tokio::time::timeout(Duration::from_secs(30), watcher).await;
        let seen = seen.expect("every event arrives").unwrap();
        times.extend(
            seen.iter()
                .zip(&sent)
                .map(|(seen, sent)| seen.saturating_duration_since(*sent)),
        );
    }
    let value = format!(
        "p50 {}, p99 {}",
        millis(percentile(times.clone(), 0.5)),
        millis(percentile(times, 0.99))
    );
    Row::new(
        "watch fan-out, 50 watchers × 500 creates, POST to event",
        value,
        "p50 ≤ 5 ms",
    )
}

/// When each of the events came: one line each.
async fn watch(mut body: orch::client::Body) -> Vec<Instant> {
    let mut seen = Vec::with_capacity(WATCHED_CREATES);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.unwrap().into_data() else {
            continue;
        };
        let lines = data.iter().filter(|byte| **byte == b'\n').count();
        seen.extend(std::iter::repeat_n(Instant::now(), lines));
        if seen.len() >= WATCHED_CREATES {
            break;
        }
    }
    seen
}
