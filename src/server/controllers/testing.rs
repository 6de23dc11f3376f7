//! What tests of controllers share: a scripted API and a setup over it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Informers, fake::Fake};
use crate::util::{clock::Clock, rng::Rng, tasks::Tasks};

use super::Setup;

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(60);

/// An API that knows no answer yet, and controllers' needs over it.
pub(super) fn setup() -> (Arc<Fake>, Setup) {
    let (fake, tasks) = (Fake::new(), Tasks::new());
    let client = fake.client();
    let setup = Setup {
        informers: Informers::new(client.clone(), tasks.clone()),
        client,
        tasks,
        clock: Clock::system(),
        rng: Rng::seeded(1),
        ca_pem: "CA".to_owned(),
        authority: None,
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        node_grace: Duration::from_secs(40),
        served: tokio::sync::watch::channel(0).1,
    };
    (fake, setup)
}

/// A list answer.
pub(super) fn list(items: &[Value]) -> Value {
    json!({"metadata": {"resourceVersion": "10"}, "items": items})
}

/// The bodies of the requests that begin with `line`, as soon as there are `count`.
pub(super) async fn requests(fake: &Fake, line: &str, count: usize) -> Vec<Value> {
    let waiting = async {
        loop {
            let seen = fake.seen().into_iter();
            let found: Vec<_> = seen
                .filter(|(seen, _)| seen.starts_with(line))
                .map(|(_, body)| body)
                .collect();
            if found.len() >= count {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let found = tokio::time::timeout(LIMIT, waiting).await;
    found.unwrap_or_else(|_| panic!("no {count} × {line} in {:#?}", fake.seen()))
}
