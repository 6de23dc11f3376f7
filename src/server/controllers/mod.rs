//! The controllers: each brings one part of the cluster towards what its objects ask for.
//!
//! Every controller is event-driven: changes of caches put keys in its queue, and a reconcile looks
//! at everything behind a key again. What decides is a pure `plan`; what acts is thin. None polls:
//! timers are deadlines that some object set.

mod bootstrap_token;
mod certificates;
mod cluster_role_aggregation;
mod cron_job;
mod daemon_set;
mod deployment;
mod disruption;
mod endpoint_slice;
mod endpoints;
mod garbage_collector;
mod job;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod pod_gc;
mod replica_set;
mod root_ca;
mod service_account;
mod shared;
mod stateful_set;
mod taint_eviction;
#[cfg(test)]
mod testing;
mod ttl_after_finished;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::client::{
    Client, Informers, Queue, Recorder,
    controller::{self, Reconcile},
};
use crate::util::{clock::Clock, rng::Rng, tasks::Tasks, x509::Authority};

/// Silence after which a node counts as gone (`--node-monitor-grace-period`).
pub const NODE_GRACE: Duration = Duration::from_secs(40);

/// What the controllers need.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Talks to the API with all rights.
    pub client: Client,
    /// Caches shared with others in the process.
    pub informers: Informers,
    /// Where they run.
    pub tasks: Tasks,
    /// Wall clock.
    pub clock: Clock,
    /// For jitter.
    pub rng: Rng,
    /// Pods of the whole cluster.
    pub cluster_cidr: ipnet::Ipv4Net,
    /// The cluster authority's certificate.
    pub ca_pem: String,
    /// Signs what was approved; `None`: nobody signs here.
    pub authority: Option<Arc<Authority>>,
    /// Silence after which a node counts as gone.
    pub node_grace: Duration,
    /// Raised when other resources are served.
    pub served: tokio::sync::watch::Receiver<u64>,
}

/// Every controller.
const ALL: &[fn(&Setup)] = &[
    bootstrap_token::start,
    certificates::start,
    cluster_role_aggregation::start,
    cron_job::start,
    daemon_set::start,
    deployment::start,
    disruption::start,
    endpoint_slice::start,
    endpoints::start,
    garbage_collector::start,
    job::start,
    namespace::start,
    node_ipam::start,
    node_lifecycle::start,
    pod_gc::start,
    replica_set::start,
    root_ca::start,
    service_account::start,
    stateful_set::start,
    taint_eviction::start,
    ttl_after_finished::start,
];

/// Starts every controller.
pub fn start(setup: &Setup) {
    for start in ALL {
        start(setup);
    }
}

impl Setup {
    fn recorder(&self, component: &str) -> Recorder {
        let source = (component, "");
        Recorder::new(self.client.clone(), &self.tasks, self.clock.clone(), source)
    }

    fn run<R: Reconcile>(
        &self,
        controller: R,
        queue: Queue<R::Key>,
        workers: usize,
        ready: impl Future<Output = ()> + Send + 'static,
    ) {
        controller::start(&self.tasks, Arc::new(controller), queue, workers, ready);
    }
}
