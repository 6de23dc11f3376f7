//! How fast Pods start: from the POST to Ready, with the image present.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use http::Method;
use k8s_openapi::api::core::v1::Pod;
use orch::api::pod::is_ready;
use orch::client::config::load;
use orch::client::https::HttpsTransport;
use orch::client::watch::Event;
use orch::client::{Call, Client, ListParams};
use orch::util::tasks::Tasks;

use crate::table::{Row, Wanted, millis, percentile};

const PODS: &str = "/api/v1/namespaces/default/pods";
const SERIAL: usize = 15;
const AT_ONCE: usize = 20;
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn run(kubeconfig: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(rows(&connect(kubeconfig)));
}

fn connect(kubeconfig: &Path) -> Client {
    let target = load(kubeconfig, None).unwrap();
    // The client's connections end with the process.
    let tasks = Box::leak(Box::new(Tasks::new()));
    Client::new(Arc::new(
        HttpsTransport::new(target.endpoint, tasks).unwrap(),
    ))
}

async fn rows(client: &Client) {
    wait_for_account(client).await;
    // The first one brings the image.
    if start(client, &["bench-first".to_owned()]).await.is_none() {
        println!("Pods: none became Ready within 60 s");
        return remove(client).await;
    }
    let mut times = Vec::new();
    for index in 0..SERIAL {
        let started = start(client, &[format!("bench-serial-{index}")]).await;
        times.extend(started.expect("the Pod becomes Ready"));
    }
    let slowest = millis(percentile(&mut times, 1.0));
    let p50 = millis(percentile(&mut times, 0.5));
    let name = "Pod start, image present, POST to Ready, p50 of 15";
    Row::new(name, (p50, "ms"), Wanted::AtMost(150.0))
        .with(format!("slowest {slowest:.0} ms"))
        .print();
    let names: Vec<_> = (0..AT_ONCE)
        .map(|index| format!("bench-burst-{index}"))
        .collect();
    let burst = start(client, &names).await;
    let mut burst = burst.expect("every Pod becomes Ready");
    let last = percentile(&mut burst, 1.0);
    let name = "20 Pods at once, until the last is Ready";
    Row::new(name, (last.as_secs_f64(), "s"), Wanted::AtMost(2.0)).print();
    remove(client).await;
}

async fn remove(client: &Client) {
    let path = format!("{PODS}?gracePeriodSeconds=0&labelSelector=made-by%3Dbench");
    client.call(Call::new(Method::DELETE, &path)).await.unwrap();
}

async fn wait_for_account(client: &Client) {
    let begun = Instant::now();
    let path = "/api/v1/namespaces/default/serviceaccounts/default";
    while client.call(Call::new(Method::GET, path)).await.is_err() {
        assert!(begun.elapsed() < LIMIT, "no default service account");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Makes the Pods named and waits until all are Ready; the time of each. `None`: too long.
async fn start(client: &Client, names: &[String]) -> Option<Vec<Duration>> {
    let api = client.namespaced::<Pod>("default");
    let listed = api.list(&ListParams::default()).await.unwrap();
    let params = ListParams::default();
    let mut events = api.watch(&params, listed.revision(), 300).await.unwrap();
    let mut begun = HashMap::new();
    for name in names {
        let body = format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","labels":{{"made-by":"bench"}}}},"spec":{{"terminationGracePeriodSeconds":0,"containers":[{{"name":"c","image":"busybox:1.35","command":["sleep","3600"]}}]}}}}"#
        );
        begun.insert(name.clone(), Instant::now());
        client
            .call(Call::json(Method::POST, PODS, body))
            .await
            .unwrap();
    }
    let mut times = Vec::new();
    let waiting = async {
        while times.len() < names.len() {
            let event = events.next().await.expect("the watch goes on").unwrap();
            let (Event::Added(pod) | Event::Modified(pod)) = event else {
                continue;
            };
            let name = pod.metadata.name.clone().unwrap_or_default();
            if is_ready(&pod)
                && let Some(begun) = begun.remove(&name)
            {
                times.push(begun.elapsed());
            }
        }
    };
    let all = tokio::time::timeout(LIMIT, waiting).await;
    all.ok().map(|()| times)
}
