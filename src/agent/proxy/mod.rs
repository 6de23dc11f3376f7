//! The service proxy: translates service addresses and node ports to the addresses of pods.
//!
//! Services and EndpointSlices are read whole at each change (a change only wakes), the model is
//! computed, and the difference to what the kernel has is applied as one transaction. Where the
//! kernel refuses a difference (somebody else touched the table), the table is made anew.

pub mod model;
pub mod rules;

#[cfg(test)]
mod tests;

use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use self::rules::{Nets, Rules};
use super::nft;
use crate::client::Informers;
use crate::client::cache::{Cache, Changes};
use crate::util::{backoff::Backoff, rng::Rng, tasks::Tasks};

/// First and longest pause after the kernel refused a ruleset.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// What the proxy needs to know of the cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's name.
    pub node: String,
    /// The cluster's nets.
    pub nets: Nets,
}

/// Keeps the node's service translation as the API says until `tasks` end. What is in the kernel
/// then stays: pods go on reaching services while the agent restarts.
pub fn start(config: Config, informers: &Informers, tasks: &Tasks) {
    let proxy = Proxy {
        config,
        services: informers.cache(),
        slices: informers.cache(),
        applied: None,
    };
    let cancelled = tasks.cancelled();
    tasks.service("service-proxy", async move {
        cancelled.run_until_cancelled(proxy.run()).await;
    });
}

struct Proxy {
    config: Config,
    services: Cache<Service>,
    slices: Cache<EndpointSlice>,
    /// What the kernel has; `None` where that is not known.
    applied: Option<Rules>,
}

impl Proxy {
    async fn run(mut self) {
        let changed = Changes::<()>::default();
        changed.add(());
        let told = changed.clone();
        self.services.on_change(move |_| told.add(()));
        let told = changed.clone();
        self.slices.on_change(move |_| told.add(()));
        self.services.synced().await;
        self.slices.synced().await;
        let mut backoff = Backoff::new(RETRY.0, RETRY.1, Rng::from_system());
        loop {
            changed.next().await;
            match self.sync().await {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    tracing::warn!(%error, "service rules not applied, trying again");
                    self.applied = None;
                    tokio::time::sleep(backoff.next_delay()).await;
                    changed.add(());
                }
            }
        }
    }

    async fn sync(&mut self) -> std::io::Result<()> {
        let (services, slices) = (self.services.list(), self.slices.list());
        let wanted = Rules::of(&model::model(&services, &slices, &self.config.node));
        let text = match &self.applied {
            Some(applied) => wanted.change_from(applied),
            None => wanted.full(self.config.nets),
        };
        if !text.is_empty() {
            nft::apply(&text).await?;
        }
        self.applied = Some(wanted);
        Ok(())
    }
}
