//! The pods of this node, one worker each.
//!
//! *Where pods come from.* The API's pods with this node's name; where the API has not answered
//! some time after a start, the copies on disk, so that a node goes on without its server.
//!
//! *After a start.* What belongs to pods that are no longer in the API (containers, folders,
//! addresses, cgroups) gets a worker too, whose only work is to remove it.

mod act;
mod admission;
mod cgroups;
mod context;
mod env;
mod expand;
mod files;
mod holder;
mod hooks;
mod message;
mod names;
mod plan;
mod report;
mod resources;
mod restart;
mod security;
mod state;
mod status;
#[cfg(test)]
mod testing;
mod translate;
mod worker;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::agent::checkpoint::{Checkpoints, differs};
use crate::api::object::ObjectKey;
use crate::client::{Cache, key_of};
use crate::util::errors::OrLog;

pub(crate) use cgroups::PodCgroups;
pub(crate) use context::{Context, Machine};
pub(crate) use names::{Folders, log_root};

use state::Ended;
use worker::{Attempt, Shown, Wish, Worker};

/// How long after a start the API is waited for before copies on disk are used.
const WAIT_FOR_API: Duration = Duration::from_secs(10);

struct Handle {
    wish: watch::Sender<Wish>,
    shown: Arc<Mutex<Shown>>,
}

/// The pods of this node. Clones share them.
#[derive(Clone)]
pub struct Pods(Arc<Inner>);

struct Inner {
    context: Arc<Context>,
    checkpoints: Checkpoints,
    workers: Mutex<HashMap<String, Handle>>,
}

/// What is known of a pod, for whoever serves its logs and streams.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// As in the API, with the status the agent works with.
    pub pod: Pod,
    /// Its pinned network namespace; `None`: the host's.
    pub network: Option<PathBuf>,
    /// Containers by name.
    pub containers: BTreeMap<String, ContainerInfo>,
}

/// What is known of a container.
#[derive(Clone, Debug)]
pub struct ContainerInfo {
    /// The newest attempt, where there is one.
    pub current: Option<AttemptInfo>,
    /// The attempt before it, where the runtime still has it.
    pub previous: Option<AttemptInfo>,
}

/// One attempt of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptInfo {
    /// Its id in the runtime.
    pub id: String,
    /// Whether its process runs.
    pub is_running: bool,
    /// Its log file in the kubelet's format.
    pub log: PathBuf,
}

impl Pods {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        let checkpoints = Checkpoints::new(context.folders.pods());
        Self(Arc::new(Inner {
            context,
            checkpoints,
            workers: Mutex::default(),
        }))
    }

    /// A pod of this node by namespace and name.
    pub fn pod(&self, key: &ObjectKey) -> Option<PodInfo> {
        let workers = self.0.workers.lock();
        let mut found = workers.values().filter(|handle| {
            let wish = handle.wish.borrow();
            key_of(&wish.pod.metadata) == *key && !wish.is_gone
        });
        found.next().map(|handle| self.info(handle))
    }

    /// Every pod of this node.
    pub fn all(&self) -> Vec<PodInfo> {
        let workers = self.0.workers.lock();
        workers.values().map(|handle| self.info(handle)).collect()
    }

    fn info(&self, handle: &Handle) -> PodInfo {
        let wish = handle.wish.borrow();
        let shown = handle.shown.lock();
        let mut pod = (*wish.pod).clone();
        pod.status = Some(shown.status.clone());
        let folders = &self.0.context.folders;
        let info = |name: &str, attempt: &Attempt| AttemptInfo {
            id: attempt.id.clone(),
            is_running: attempt.is_running,
            log: folders.log(&pod, name, attempt.number),
        };
        let containers = shown.attempts.iter().map(|(name, attempts)| {
            let mut newest = attempts.iter().rev();
            let current = newest.next().map(|attempt| info(name, attempt));
            let previous = newest.next().map(|attempt| info(name, attempt));
            (name.clone(), ContainerInfo { current, previous })
        });
        let containers = containers.collect();
        let spec = pod.spec.as_ref();
        let is_host = spec.is_some_and(|spec| spec.host_network == Some(true));
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let network = (!is_host).then(|| folders.namespaces(uid).join("net"));
        PodInfo {
            pod,
            network,
            containers,
        }
    }

    /// Follows `pods`, the API's pods of this node, until the agent ends.
    pub(crate) async fn run(self, pods: Cache<Pod>) {
        let cancelled = self.0.context.tasks.cancelled();
        cancelled.run_until_cancelled(self.follow(pods)).await;
    }

    async fn follow(&self, pods: Cache<Pod>) {
        // A worker that does not know what runs would start everything anew.
        let mut health = self.0.context.pleg.health();
        if health.wait_for(Result::is_ok).await.is_err() {
            return;
        }
        self.0
            .context
            .cgroups
            .prepare()
            .ok_or_log("make the cgroups of pods");
        if tokio::time::timeout(WAIT_FOR_API, pods.synced())
            .await
            .is_err()
        {
            tracing::warn!("the API does not answer, pods go on as they were last seen");
            self.start_kept();
        }
        let changes = pods.changes();
        pods.synced().await;
        self.remove_leftovers(&pods).await;
        loop {
            for key in changes.next().await {
                self.sync(&key, pods.get(&key));
            }
        }
    }

    fn start_kept(&self) {
        for pod in self.0.checkpoints.load().into_values().flatten() {
            self.wish(Arc::new(pod), false);
        }
    }

    /// Gives what belongs to no pod of the API a worker that removes it.
    async fn remove_leftovers(&self, pods: &Cache<Pod>) {
        let context = &self.0.context;
        let listed: BTreeSet<String> = pods
            .list()
            .iter()
            .filter_map(|pod| pod.metadata.uid.clone())
            .collect();
        let kept = self.0.checkpoints.load();
        let labelled = context.pleg.pods();
        let mut found: BTreeSet<String> = kept.keys().chain(labelled.keys()).cloned().collect();
        match context.network.attached().await {
            Ok(attached) => found.extend(attached.into_iter().map(|(uid, _)| uid)),
            Err(error) => tracing::warn!(%error, "addresses of earlier pods are not known"),
        }
        found.extend(context.cgroups.pods());
        for uid in found.difference(&listed) {
            let pod = kept.get(uid).cloned().flatten();
            let pod = pod.unwrap_or_else(|| unknown(uid, labelled.get(uid)));
            tracing::info!(
                uid,
                "removing what is left of a pod that is no longer in the API"
            );
            self.wish(Arc::new(pod), true);
        }
    }

    fn sync(&self, key: &ObjectKey, pod: Option<Arc<Pod>>) {
        let uid = pod.as_ref().and_then(|pod| pod.metadata.uid.clone());
        let others: Vec<Arc<Pod>> = {
            let workers = self.0.workers.lock();
            let of_key = workers.values().filter_map(|handle| {
                let wish = handle.wish.borrow();
                let is_other = wish.pod.metadata.uid != uid && !wish.is_gone;
                (is_other && key_of(&wish.pod.metadata) == *key).then(|| wish.pod.clone())
            });
            of_key.collect()
        };
        for other in others {
            self.wish(other, true);
        }
        if let Some(pod) = pod {
            self.wish(pod, false);
        }
    }

    /// Tells the pod's worker, which is started where there is none.
    fn wish(&self, pod: Arc<Pod>, is_gone: bool) {
        let uid = context::uid(&pod).to_owned();
        let workers = self.0.workers.lock();
        if let Some(handle) = workers.get(&uid) {
            let is_news = {
                let before = handle.wish.borrow();
                if !is_gone && differs(&before.pod, &pod) {
                    self.0.checkpoints.save(&pod);
                }
                let same = before.pod.metadata.resource_version == pod.metadata.resource_version;
                !same || before.is_gone != is_gone
            };
            if is_news {
                handle.wish.send_modify(|wish| {
                    wish.pod = pod;
                    wish.is_gone |= is_gone;
                });
            }
            return;
        }
        let ended = if is_gone {
            None
        } else {
            self.refusal(&pod, &workers)
        };
        drop(workers);
        if !is_gone {
            self.0.checkpoints.save(&pod);
        }
        self.start(Wish {
            pod,
            is_gone,
            ended,
        });
    }

    fn start(&self, wish: Wish) {
        let uid = context::uid(&wish.pod).to_owned();
        let (sender, receiver) = watch::channel(wish);
        let worker = Worker::new(&self.0.context, receiver);
        let handle = Handle {
            wish: sender,
            shown: worker.shown(),
        };
        self.0.workers.lock().insert(uid.clone(), handle);
        let inner = self.0.clone();
        self.0.context.tasks.job("pod", async move {
            // Also where the worker panics: the next news of the pod starts another one.
            let _forget = Forget { inner, uid };
            worker.run().await;
        });
    }

    /// Why a pod that is new here does not fit; one that has begun stays.
    fn refusal(&self, pod: &Pod, workers: &HashMap<String, Handle>) -> Option<Ended> {
        let context = &self.0.context;
        let status = pod.status.as_ref();
        let has_begun = status.is_some_and(|status| {
            status.start_time.is_some()
                || !matches!(status.phase.as_deref(), None | Some("Pending"))
        });
        if has_begun || pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let others = workers.values().filter_map(|handle| {
            let phase = handle.shown.lock().status.phase.clone();
            let is_over = matches!(phase.as_deref(), Some("Succeeded" | "Failed"));
            (!is_over).then(|| handle.wish.borrow().pod.clone())
        });
        let others: Vec<Arc<Pod>> = others.collect();
        let refused = admission::refusal(pod, &others, &context.machine.allocatable)?;
        let about = crate::client::reference(pod);
        let text = refused.message.clone();
        context.recorder.warning(&about, refused.reason, text);
        Some(refused)
    }
}

/// Takes the worker off the list when it ends.
struct Forget {
    inner: Arc<Inner>,
    uid: String,
}

impl Drop for Forget {
    fn drop(&mut self) {
        self.inner.workers.lock().remove(&self.uid);
    }
}

/// A pod of which only a container's labels, or only its UID, are known.
fn unknown(uid: &str, labels: Option<&BTreeMap<String, String>>) -> Pod {
    let label = |name: &str| labels.and_then(|labels| labels.get(name).cloned());
    let mut pod = Pod::default();
    pod.metadata.uid = Some(uid.to_owned());
    pod.metadata.name = label(names::POD_NAME);
    pod.metadata.namespace = label(names::POD_NAMESPACE);
    pod
}
