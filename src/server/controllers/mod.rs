//! The controllers: each brings one part of the cluster towards what its objects ask for.
//!
//! Every controller is event-driven: changes of caches put keys in its queue, and a reconcile looks
//! at everything behind a key again. What decides is a pure `plan`; what acts is thin. None polls:
//! timers are deadlines that some object set.

mod deployment;
mod garbage_collector;
mod namespace;
mod node_ipam;
mod pod_gc;
mod replica_set;
mod root_ca;
mod service_account;
mod shared;

use std::future::Future;
use std::sync::Arc;

use crate::client::{
    Client, Informers, Queue, Recorder,
    controller::{self, Reconcile},
};
use crate::util::{clock::Clock, rng::Rng, tasks::Tasks};

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
}

/// Starts every controller.
pub fn start(setup: &Setup) {
    deployment::start(setup);
    replica_set::start(setup);
    garbage_collector::start(setup);
    namespace::start(setup);
    node_ipam::start(setup);
    pod_gc::start(setup);
    root_ca::start(setup);
    service_account::start(setup);
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
