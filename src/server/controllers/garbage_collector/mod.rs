//! Deletes what has lost its owners, and carries out foreground and orphaning deletions.
//!
//! Terms. A *dependent* names *owners* in `metadata.ownerReferences`. An owner is *absent* when
//! no object with its kind, name and uid exists: only then is a dependent collected, and the owner
//! is always looked up in the API, never only in what this controller has seen.
//!
//! The metadata of every resource that can be listed, watched and deleted is followed. Kept are
//! only the edges of the graph, not the objects. Writes: deletes dependents with preconditions on
//! uid and revision; takes owner references and the finalizers `orphan` and `foregroundDeletion`
//! away.

mod graph;
mod plan;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use parking_lot::Mutex;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::api::gvk::{GroupVersionKind, GroupVersionResource, Scope};
use crate::api::{meta, object::ObjectKey};
use crate::client::controller::{Action, Reconcile};
use crate::client::watch::{self, Event, Step as WatchStep};
use crate::client::{
    Client, DeleteParams, Error, ListParams, PartialObjectMetadata, Patch, Queue, Result, key_of,
};
use crate::util::{backoff::Backoff, errors::chain, rng::Rng, tasks::Tasks};

use self::graph::Graph;
use self::plan::{FOREGROUND, ORPHAN, Standing, Step};
use super::Setup;

const WORKERS: usize = 20;
/// First and longest pause before discovery that failed is tried again.
const DISCOVER_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// Never owned, never owners, and many.
const LEFT_OUT: &[&str] = &["events", "leases"];

/// An object and what names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Target {
    resource: usize,
    namespace: String,
    name: String,
    uid: String,
}

/// A unit of work.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// Whether a dependent may stay.
    Dependent(Target),
    /// A deleted owner whose dependents are to stay or to go first.
    Owner(Target),
}

struct Collector {
    client: Client,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    graph: Mutex<Graph>,
    resources: Mutex<Vec<GroupVersionResource>>,
    queue: Queue<Key>,
}

pub(super) fn start(setup: &Setup) {
    let shared = Arc::new(Shared::default());
    let collector = Collector {
        client: setup.client.clone(),
        shared: shared.clone(),
    };
    let queue = shared.queue.clone();
    setup.run(collector, queue, WORKERS, std::future::ready(()));
    let follow = Follow {
        client: setup.client.clone(),
        rng: setup.rng.clone(),
        tasks: setup.tasks.clone(),
        served: setup.served.clone(),
        shared,
    };
    let cancelled = setup.tasks.cancelled();
    setup.tasks.service("garbage-discovery", async move {
        cancelled.run_until_cancelled(follow.run()).await;
    });
}

/// Keeps a watch on each resource there is.
struct Follow {
    client: Client,
    rng: Rng,
    tasks: Tasks,
    served: tokio::sync::watch::Receiver<u64>,
    shared: Arc<Shared>,
}

impl Follow {
    async fn run(mut self) {
        let mut watched: HashMap<GroupVersionResource, CancellationToken> = HashMap::new();
        loop {
            self.served.borrow_and_update();
            let now = self.discover().await;
            watched.retain(|resource, watch| {
                let stays = now.contains(resource);
                if !stays {
                    watch.cancel();
                    // With its resource every object is gone.
                    self.shared.see_list(self.shared.number_of(resource), &[]);
                }
                stays
            });
            for resource in now {
                watched
                    .entry(resource)
                    .or_insert_with_key(|resource| self.start_watch(resource));
            }
            if self.served.changed().await.is_err() {
                // Nobody is left to serve anything else.
                return;
            }
        }
    }

    /// Everything that is collected, once the server says it is all.
    async fn discover(&self) -> Vec<GroupVersionResource> {
        let mut pause = Backoff::new(DISCOVER_AGAIN.0, DISCOVER_AGAIN.1, self.rng.clone());
        let resources = loop {
            match self.client.discover().refresh().await {
                Ok(resources) if resources.failed.is_empty() => break resources,
                Ok(resources) => tracing::debug!(failed = ?resources.failed, "discovery failed"),
                Err(error) => tracing::debug!(error = %chain(&error), "discovery failed"),
            }
            tokio::time::sleep(pause.next_delay()).await;
        };
        let collected = resources
            .preferred()
            .filter(|served| served.can(&["list", "watch", "delete"]))
            .filter(|served| !LEFT_OUT.contains(&served.resource.resource.as_str()));
        collected.map(|served| served.resource.clone()).collect()
    }

    fn start_watch(&self, resource: &GroupVersionResource) -> CancellationToken {
        let number = self.shared.number_of(resource);
        let api = self.client.metadata(resource, "");
        let ends = self.tasks.cancelled().child_token();
        let (shared, rng, cancelled) = (self.shared.clone(), self.rng.clone(), ends.clone());
        self.tasks.service("garbage-watch", async move {
            let every = ListParams::default();
            let watching = watch::run(&api, &every, rng, |step| shared.see(number, step));
            cancelled.run_until_cancelled(watching).await;
        });
        ends
    }
}

impl Shared {
    fn number_of(&self, resource: &GroupVersionResource) -> usize {
        let mut resources = self.resources.lock();
        match resources.iter().position(|known| known == resource) {
            Some(number) => number,
            None => {
                resources.push(resource.clone());
                resources.len() - 1
            }
        }
    }

    fn resource(&self, number: usize) -> Option<GroupVersionResource> {
        self.resources.lock().get(number).cloned()
    }

    fn see(&self, number: usize, step: WatchStep<PartialObjectMetadata>) {
        match step {
            WatchStep::Listed(objects) => self.see_list(number, &objects),
            WatchStep::Changed(Event::Added(object) | Event::Modified(object)) => {
                self.see_object(&target(number, &object.metadata), &object.metadata);
            }
            WatchStep::Changed(Event::Deleted(object)) => {
                self.see_end(&target(number, &object.metadata));
            }
            WatchStep::Changed(Event::Bookmark(_)) => {}
        }
    }

    fn see_list(&self, number: usize, objects: &[PartialObjectMetadata]) {
        let before = self.graph.lock().of_resource(number);
        let now: std::collections::HashSet<_> = objects
            .iter()
            .map(|object| target(number, &object.metadata))
            .collect();
        for gone in before.iter().filter(|target| !now.contains(target)) {
            self.see_end(gone);
        }
        for object in objects {
            self.see_object(&target(number, &object.metadata), &object.metadata);
        }
    }

    fn see_object(&self, target: &Target, meta: &ObjectMeta) {
        let mut graph = self.graph.lock();
        // An owner reference that was taken away may be the last an owner waits for.
        let waiting = graph.waiting_owners(target);
        let has_new_owners = graph.put(target, meta);
        let freed = waiting
            .into_iter()
            .filter(|owner| !graph.blocking(&owner.uid).contains(target));
        let freed: Vec<_> = freed.collect();
        drop(graph);
        if has_new_owners {
            self.queue.add(Key::Dependent(target.clone()));
        }
        for owner in freed {
            self.queue.add(Key::Owner(owner));
        }
        let waits = [ORPHAN, FOREGROUND]
            .iter()
            .any(|name| meta::has_finalizer(meta, name));
        if meta::is_terminating(meta) && waits {
            self.queue.add(Key::Owner(target.clone()));
        }
    }

    /// An object is gone: its dependents may have to follow, and its owners may go on.
    fn see_end(&self, target: &Target) {
        let mut graph = self.graph.lock();
        let dependents = graph.dependents(&target.uid);
        let waiting = graph.waiting_owners(target);
        graph.end(target);
        drop(graph);
        for dependent in dependents {
            self.queue.add(Key::Dependent(dependent));
        }
        for owner in waiting {
            self.queue.add(Key::Owner(owner));
        }
    }
}

impl Reconcile for Collector {
    type Key = Key;

    fn name(&self) -> &'static str {
        "garbage_collector"
    }

    async fn reconcile(&self, key: &Key) -> Result<Action> {
        match key {
            Key::Dependent(target) => self.dependent(target).await,
            Key::Owner(target) => self.owner(target).await,
        }
    }
}

impl Collector {
    /// The object as it is now; `None` where it is gone or another one has its name.
    async fn live(&self, target: &Target) -> Result<Option<ObjectMeta>> {
        let Some(resource) = self.shared.resource(target.resource) else {
            return Ok(None);
        };
        let api = self.client.metadata(&resource, &target.namespace);
        let found = api
            .get_opt(&target.name)
            .await?
            .map(|object| object.metadata);
        Ok(found.filter(|meta| meta::uid(meta) == target.uid))
    }

    async fn dependent(&self, target: &Target) -> Result<Action> {
        let Some(object) = self.live(target).await? else {
            self.shared.graph.lock().remove(target);
            return Ok(Action::Done);
        };
        let waits_itself = meta::has_finalizer(&object, FOREGROUND);
        if meta::is_terminating(&object) && !waits_itself {
            return Ok(Action::Done);
        }
        let references = object.owner_references.clone().unwrap_or_default();
        let mut owners = Vec::with_capacity(references.len());
        for reference in &references {
            owners.push((
                reference,
                self.standing(reference, &target.namespace).await?,
            ));
        }
        let has_dependents = !self.shared.graph.lock().dependents(&target.uid).is_empty();
        match plan::dependent(&object, &owners, has_dependents) {
            Step::Keep => Ok(Action::Done),
            _ if meta::is_terminating(&object) => Ok(Action::Done),
            Step::Release(uids) => self.release(target, &object, &uids).await,
            Step::Delete(propagation) => {
                let params = DeleteParams {
                    propagation: Some(propagation),
                    uid: Some(target.uid.clone()),
                    revision: object.resource_version.clone(),
                    ..DeleteParams::default()
                };
                let Some(api) = self.objects(target) else {
                    return Ok(Action::Done);
                };
                tracing::debug!(%target, "owners are gone, deleting");
                settled(api.delete(&target.name, &params).await)
            }
        }
    }

    async fn standing(&self, owner: &OwnerReference, namespace: &str) -> Result<Standing> {
        let kind = GroupVersionKind::from_api_version(&owner.api_version, &owner.kind);
        let mapped = match self.client.discover().mapping(&kind).await {
            Ok(mapped) => mapped,
            // A kind that is gone for good has no objects; one that is only unreachable is an error
            // of discovery, which `mapping` reports as such.
            Err(error) if error.is_not_found() => return Ok(Standing::Absent),
            Err(error) => return Err(error),
        };
        // An owner in no namespace may own anything; one in a namespace only what is beside it.
        let namespace = match mapped.scope {
            Scope::Cluster => "",
            Scope::Namespaced if namespace.is_empty() => return Ok(Standing::Solid),
            Scope::Namespaced => namespace,
        };
        let api = self.client.metadata(&mapped.resource, namespace);
        let found = api
            .get_opt(&owner.name)
            .await?
            .map(|object| object.metadata);
        Ok(match found.filter(|meta| meta::uid(meta) == owner.uid) {
            None => Standing::Absent,
            Some(live) if meta::is_terminating(&live) && meta::has_finalizer(&live, FOREGROUND) => {
                Standing::Waiting
            }
            Some(_) => Standing::Solid,
        })
    }

    async fn release(
        &self,
        target: &Target,
        object: &ObjectMeta,
        uids: &[String],
    ) -> Result<Action> {
        let Some(api) = self.objects(target) else {
            return Ok(Action::Done);
        };
        let kept: Vec<_> = object
            .owner_references
            .iter()
            .flatten()
            .filter(|owner| !uids.contains(&owner.uid))
            .collect();
        let patch = json!({"metadata": {
            "uid": target.uid, "resourceVersion": object.resource_version, "ownerReferences": kept,
        }});
        settled(
            api.patch(&target.name, &Patch::Merge(patch))
                .await
                .map(|_| ()),
        )
    }

    /// A deleted owner with a finalizer of ours.
    async fn owner(&self, target: &Target) -> Result<Action> {
        let Some(object) = self.live(target).await?.filter(meta::is_terminating) else {
            return Ok(Action::Done);
        };
        if meta::has_finalizer(&object, ORPHAN) {
            let dependents = self.shared.graph.lock().dependents(&target.uid);
            for dependent in dependents {
                self.orphan(&dependent, &target.uid).await?;
            }
            return self.drop_finalizer(target, &object, ORPHAN).await;
        }
        if !meta::has_finalizer(&object, FOREGROUND) {
            return Ok(Action::Done);
        }
        let (all, blocking) = {
            let mut graph = self.shared.graph.lock();
            // From here on the end of a dependent looks at this owner again.
            graph.wait(target);
            (graph.dependents(&target.uid), graph.blocking(&target.uid))
        };
        if blocking.is_empty() {
            return self.drop_finalizer(target, &object, FOREGROUND).await;
        }
        for dependent in all {
            self.shared.queue.add(Key::Dependent(dependent));
        }
        Ok(Action::Done)
    }

    async fn orphan(&self, dependent: &Target, owner_uid: &str) -> Result<()> {
        let Some(object) = self.live(dependent).await? else {
            return Ok(());
        };
        self.release(dependent, &object, &[owner_uid.to_owned()])
            .await?;
        Ok(())
    }

    async fn drop_finalizer(
        &self,
        target: &Target,
        object: &ObjectMeta,
        name: &str,
    ) -> Result<Action> {
        let Some(api) = self.objects(target) else {
            return Ok(Action::Done);
        };
        let kept: Vec<_> = object
            .finalizers
            .iter()
            .flatten()
            .filter(|finalizer| *finalizer != name)
            .collect();
        let patch = json!({"metadata": {
            "uid": target.uid, "resourceVersion": object.resource_version, "finalizers": kept,
        }});
        match api.patch(&target.name, &Patch::Merge(patch)).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(Action::Done),
        }
    }

    fn objects(&self, target: &Target) -> Option<crate::client::DynamicApi> {
        let resource = self.shared.resource(target.resource)?;
        Some(self.client.dynamic(&resource, &target.namespace))
    }
}

/// A conflict means that the object changed: its event comes back as a new key. Gone is gone.
fn settled(result: Result<(), Error>) -> Result<Action> {
    match result {
        Ok(()) => Ok(Action::Done),
        Err(error) if error.is_not_found() => Ok(Action::Done),
        Err(error) => Err(error),
    }
}

fn target(resource: usize, meta: &ObjectMeta) -> Target {
    let ObjectKey { namespace, name } = key_of(meta);
    Target {
        resource,
        namespace,
        name,
        uid: meta::uid(meta).to_owned(),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({})",
            ObjectKey::new(&self.namespace, &self.name),
            self.uid
        )
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Dependent(target) => write!(f, "dependent {target}"),
            Key::Owner(target) => write!(f, "owner {target}"),
        }
    }
}
