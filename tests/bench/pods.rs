//! How fast Pods start: from the POST to Ready, with the image present.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use http::Method;
use k8s_openapi::api::core::v1::Pod;
use orch::api::pod::is_ready;
use orch::client::watch::Event;
use orch::client::{Call, Client, ListParams};

use crate::Row;
use crate::load::percentile;
use crate::machine::millis;

const PODS: &str = "/api/v1/namespaces/default/pods";
const SERIAL: usize = 15;
const AT_ONCE: usize = 20;
const LIMIT: Duration = Duration::from_secs(120);

pub(crate) async fn rows(client: &Client) -> Vec<Row> {
    wait_for_account(client).await;
    let mut times = Vec::new();
    for index in 0..SERIAL {
        times.extend(start(client, &[format!("serial-{index}")]).await);
    }
    let serial = millis(percentile(times, 0.5));
    let names: Vec<_> = (0..AT_ONCE).map(|index| format!("burst-{index}")).collect();
    let burst = start(client, &names).await;
    let last = burst.iter().max().copied().unwrap_or_default();
    client
        .call(Call::new(
            Method::DELETE,
            &format!("{PODS}?gracePeriodSeconds=0"),
        ))
        .await
        .unwrap();
    vec![
        Row::new(
            "Pod start, image present, POST to Ready, p50 of 15",
            serial,
            "≤ 150 ms",
        ),
        Row::new(
            "20 Pods at once, until the last is Ready",
            millis(last),
            "≤ 2 s",
        ),
    ]
}

async fn wait_for_account(client: &Client) {
    let begun = Instant::now();
    let path = "/api/v1/namespaces/default/serviceaccounts/default";
    while client.call(Call::new(Method::GET, path)).await.is_err() {
        assert!(begun.elapsed() < LIMIT, "no default service account");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Makes the Pods named and waits until all are Ready; the time of each.
async fn start(client: &Client, names: &[String]) -> Vec<Duration> {
    let api = client.namespaced::<Pod>("default");
    let listed = api.list(&ListParams::default()).await.unwrap();
    let params = ListParams::default();
    let mut events = api.watch(&params, listed.revision(), 300).await.unwrap();
    let mut begun = HashMap::new();
    for name in names {
        let body = format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{"terminationGracePeriodSeconds":0,"containers":[{{"name":"c","image":"busybox:1.35","command":["sleep","3600"]}}]}}}}"#
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
    tokio::time::timeout(LIMIT, waiting)
        .await
        .expect("every Pod becomes Ready");
    times
}
