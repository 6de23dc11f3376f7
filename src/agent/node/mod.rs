//! The node as the API knows it: how the machine joins, its Node object, its heartbeat.
//!
//! Writes: the Node's labels and taints when it registers; all of `Node.status`; the Lease of the
//! same name in `kube-node-lease`. Never `Node.spec` afterwards: that is the administrator's and
//! the controllers'.

mod lease;
pub mod register;
mod resources;
mod status;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;
use tokio::sync::watch;

use self::status::Observed;
use super::config::Config;
use crate::client::{Client, Patch, Result};
use crate::runtime::{Runtime, Version};
use crate::util::{backoff::Backoff, clock::Clock, errors::chain, rng::Rng, tasks::Tasks};

/// How often the machine is looked at; the status is written only when it differs.
const LOOK: Duration = Duration::from_secs(10);
/// The status is written at least this often (the kubelet's `nodeStatusReportFrequency`).
const REPORT: Duration = Duration::from_secs(300);
/// Images change rarely and are many: they are listed in every so many looks.
const LOOKS_PER_IMAGE_LIST: u64 = 6;
/// First and longest pause before the API is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(7));

/// What the node part is made of.
pub(crate) struct Parts {
    /// The agent's configuration.
    pub(crate) config: Arc<Config>,
    /// With the node's own identity.
    pub(crate) client: Client,
    /// For its version and images.
    pub(crate) runtime: Arc<dyn Runtime>,
    /// Whether the runtime answers, or why not.
    pub(crate) runtime_health: watch::Receiver<std::result::Result<(), String>>,
    /// Whether pods can be given addresses.
    pub(crate) network_ready: watch::Receiver<bool>,
    /// Wall clock.
    pub(crate) clock: Clock,
}

/// Registers the node and keeps its status and heartbeat until `tasks` end.
pub(crate) fn start(parts: Parts, tasks: &Tasks) {
    let lease = lease::Heartbeat::new(&parts.config.node_name, &parts.client, &parts.clock);
    let cancelled = tasks.cancelled();
    tasks.service("node-status", async move {
        cancelled.run_until_cancelled(parts.run()).await;
    });
    let cancelled = tasks.cancelled();
    tasks.service("node-lease", async move {
        cancelled.run_until_cancelled(lease.run()).await;
    });
}

impl Parts {
    async fn run(mut self) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1, Rng::from_system());
        while let Err(error) = self.register().await {
            tracing::warn!(error = %chain(&error), "node not registered, trying again");
            tokio::time::sleep(backoff.next_delay()).await;
        }
        let mut version = Version::default();
        let mut images = Vec::new();
        let mut written: Option<(status::Status, tokio::time::Instant)> = None;
        let mut looks = 0_u64;
        loop {
            if version.version.is_empty() {
                // A runtime that does not answer is in the conditions.
                version = self.runtime.version().await.unwrap_or_default();
            }
            if looks.is_multiple_of(LOOKS_PER_IMAGE_LIST) {
                images = self.runtime.images().await.unwrap_or(images);
            }
            looks += 1;
            let observed = self.observe(&version, &images);
            let before = written.as_ref().map(|(status, _)| status);
            let status = status::status(&self.config, &observed, before, self.clock.now());
            let due = written
                .as_ref()
                .is_none_or(|(_, at)| at.elapsed() >= REPORT);
            if due || before.is_none_or(|before| status.differs_from(before)) {
                match self.write(&status).await {
                    Ok(()) => {
                        written = Some((status, tokio::time::Instant::now()));
                        backoff.reset();
                    }
                    Err(error) => {
                        tracing::warn!(error = %chain(&error), "node status not written");
                        tokio::time::sleep(backoff.next_delay()).await;
                        continue;
                    }
                }
            }
            self.wait().await;
        }
    }

    /// Until the next look, or until something is known to have changed.
    async fn wait(&mut self) {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            Ok(()) = self.network_ready.changed() => {}
            Ok(()) = self.runtime_health.changed() => {}
        }
    }

    fn observe<'a>(
        &self,
        version: &'a Version,
        images: &'a [crate::runtime::Image],
    ) -> Observed<'a> {
        Observed {
            machine: resources::read(&self.config.data_dir),
            runtime: version,
            images,
            runtime_problem: self.runtime_health.borrow().clone().err(),
            network_ready: *self.network_ready.borrow(),
        }
    }

    /// Makes the Node, or brings the labels of the one there is up to date.
    async fn register(&self) -> Result<()> {
        let labels = status::labels(&self.config);
        let node = Node {
            metadata: ObjectMeta {
                name: Some(self.config.node_name.clone()),
                labels: Some(labels.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                taints: (!self.config.taints.is_empty()).then(|| self.config.taints.clone()),
                ..NodeSpec::default()
            }),
            status: None,
        };
        let api = self.client.all::<Node>();
        match api.create(&node).await {
            Err(error) if error.is_already_exists() => {
                let patch = json!({"metadata": {"labels": labels}});
                api.patch(&self.config.node_name, &Patch::Strategic(patch))
                    .await
                    .map(|_| ())
            }
            other => other.map(|_| ()),
        }
    }

    async fn write(&self, status: &status::Status) -> Result<()> {
        let patch = json!({"status": status.0});
        let api = self.client.all::<Node>();
        api.patch_status(&self.config.node_name, &Patch::Strategic(patch))
            .await
            .map(|_| ())
    }
}
