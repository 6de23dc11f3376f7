//! Empties namespaces that are being deleted, and lets them go when they are empty.
//!
//! Writes: deletes everything in a terminating namespace, whatever its kind; its
//! `status.conditions`, which say what is left; removes the finalizer `kubernetes` by the
//! `finalize` subresource. As upstream's `pkg/controller/namespace/deletion`.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;
use serde_json::json;

use crate::api::{gvk::Scope, meta, object::ObjectKey};
use crate::client::controller::{Action, Reconcile};
use crate::client::discovery::Served;
use crate::client::{Cache, Client, DeleteParams, ListParams, Propagation, Queue, Result};
use crate::util::{clock::Clock, errors::chain};

use super::{Setup, shared::namespaces};

const WORKERS: usize = 4;
const FINALIZER: &str = "kubernetes";
/// What waits for pods' grace or others' finalizers is looked at again after this time, doubling
/// up to the longest; upstream waits half the longest grace. The end of the last pod wakes at once.
const LOOK_AGAIN_FIRST: Duration = Duration::from_millis(200);
const LOOK_AGAIN_MOST: Duration = Duration::from_secs(15);

struct Namespaces {
    namespaces: Cache<Namespace>,
    client: Client,
    clock: Clock,
    /// The next pause of each namespace that was not empty.
    pauses: Mutex<HashMap<String, Duration>>,
}

/// What a namespace still has.
#[derive(Debug, Default, PartialEq)]
struct Left {
    /// Objects by resource, for instance `pods`.
    objects: BTreeMap<String, usize>,
    /// Objects by finalizer.
    finalizers: BTreeMap<String, usize>,
    /// Discovery that failed.
    undiscovered: Vec<String>,
    /// Deletions that failed.
    failures: Vec<String>,
}

pub(super) fn start(setup: &Setup) {
    let namespaces = setup.informers.cache::<Namespace>();
    let queue = Queue::new();
    namespaces::on_change(&namespaces, &queue);
    let controller = Namespaces {
        namespaces: namespaces.clone(),
        client: setup.client.clone(),
        clock: setup.clock.clone(),
        pauses: Mutex::default(),
    };
    on_last_pod(&setup.informers.cache(), &namespaces, &queue);
    setup.run(controller, queue, WORKERS, async move {
        namespaces.synced().await
    });
}

/// The end of the last pod of a namespace that goes.
fn on_last_pod(pods: &Cache<Pod>, namespaces: &Cache<Namespace>, queue: &Queue<ObjectKey>) {
    let (all, namespaces, queue) = (pods.clone(), namespaces.clone(), queue.clone());
    pods.on_change(move |change| {
        let key = ObjectKey::cluster(&change.key().namespace);
        if change.new.is_some() {
            return;
        }
        let goes = namespaces
            .get(&key)
            .is_some_and(|n| meta::is_terminating(&n.metadata));
        if goes && all.in_namespace(&key.name).is_empty() {
            queue.add(key);
        }
    });
}

impl Reconcile for Namespaces {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "namespace"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let Some(namespace) = self
            .namespaces
            .get(key)
            .filter(|n| meta::is_terminating(&n.metadata))
        else {
            return Ok(Action::Done);
        };
        let finalizers = namespace
            .spec
            .as_ref()
            .and_then(|spec| spec.finalizers.as_deref());
        if !finalizers
            .unwrap_or_default()
            .iter()
            .any(|name| name == FINALIZER)
        {
            return Ok(Action::Done);
        }
        let left = self.delete_content(&key.name).await?;
        self.write_conditions(&namespace, &left).await?;
        if !left.is_nothing() {
            return Ok(Action::After(self.next_pause(&key.name)));
        }
        self.pauses.lock().remove(&key.name);
        self.finalize(&namespace).await?;
        Ok(Action::Done)
    }
}

impl Namespaces {
    fn next_pause(&self, namespace: &str) -> Duration {
        let mut pauses = self.pauses.lock();
        let next = pauses
            .entry(namespace.to_owned())
            .or_insert(LOOK_AGAIN_FIRST);
        let pause = *next;
        *next = (pause * 2).min(LOOK_AGAIN_MOST);
        pause
    }

    /// Deletes everything and says what is left: pods first and, while there are any, only pods, so
    /// that they never run without what they use.
    async fn delete_content(&self, namespace: &str) -> Result<Left> {
        // Anew: a kind defined since may have objects here.
        let resources = self.client.discover().refresh().await?;
        let mut left = Left {
            undiscovered: resources
                .failed
                .iter()
                .map(|(group, why)| format!("{group}: {why}"))
                .collect(),
            ..Left::default()
        };
        let namespaced = resources
            .preferred()
            .filter(|served| served.scope == Scope::Namespaced && served.can(&["list", "delete"]));
        let is_pods = |served: &&Served| {
            served.resource.group.is_empty() && served.resource.resource == "pods"
        };
        let (pods, others): (Vec<_>, Vec<_>) = namespaced.partition(is_pods);
        for served in pods {
            self.delete_resource(served, namespace, &mut left).await?;
        }
        if left.objects.is_empty() {
            for served in others {
                self.delete_resource(served, namespace, &mut left).await?;
            }
        }
        Ok(left)
    }

    /// Deletes all objects of one resource and notes what is left of it.
    async fn delete_resource(
        &self,
        served: &Served,
        namespace: &str,
        left: &mut Left,
    ) -> Result<()> {
        let api = self.client.metadata(&served.resource, namespace);
        let every = ListParams::default();
        match api.list(&every).await {
            Ok(listed) if listed.items.is_empty() => return Ok(()),
            Ok(_) => {}
            Err(error) => {
                let text = format!("{}: {}", served.resource, chain(&error));
                left.failures.push(text);
                return Ok(());
            }
        }
        let params = DeleteParams {
            propagation: Some(Propagation::Background),
            ..DeleteParams::default()
        };
        if let Err(error) = self.delete_all(served, namespace, &params).await {
            let text = format!("{}: {}", served.resource, chain(&error));
            left.failures.push(text);
        }
        // As upstream prints it, with the dot also before an empty group.
        let name = format!("{}.{}", served.resource.resource, served.resource.group);
        for object in api.list(&every).await?.items {
            *left.objects.entry(name.clone()).or_default() += 1;
            for finalizer in object.metadata.finalizers.into_iter().flatten() {
                *left.finalizers.entry(finalizer).or_default() += 1;
            }
        }
        Ok(())
    }

    async fn delete_all(
        &self,
        served: &Served,
        namespace: &str,
        params: &DeleteParams,
    ) -> Result<()> {
        let api = self.client.dynamic(&served.resource, namespace);
        if served.can(&["deletecollection"]) {
            return api.delete_collection(params, &ListParams::default()).await;
        }
        for object in api.list(&ListParams::default()).await?.items {
            match api.delete(object.name(), params).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    async fn write_conditions(&self, namespace: &Namespace, left: &Left) -> Result<()> {
        let before = namespace.status.clone().unwrap_or_default();
        let old = before.conditions.clone().unwrap_or_default();
        let new = conditions(&old, left, self.clock.now());
        if old == new && before.phase.as_deref() == Some("Terminating") {
            return Ok(());
        }
        let mut changed = namespace.clone();
        let status = changed.status.get_or_insert_default();
        status.phase = Some("Terminating".to_owned());
        status.conditions = Some(new);
        let name = meta::name(&namespace.metadata);
        match self
            .client
            .all::<Namespace>()
            .replace_status(name, &changed)
            .await
        {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(()),
        }
    }

    async fn finalize(&self, namespace: &Namespace) -> Result<()> {
        let name = meta::name(&namespace.metadata);
        let finalizers = namespace
            .spec
            .iter()
            .flat_map(|spec| spec.finalizers.iter().flatten());
        let others: Vec<_> = finalizers
            .filter(|finalizer| *finalizer != FINALIZER)
            .collect();
        let body = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "uid": namespace.metadata.uid},
            "spec": {"finalizers": others},
        });
        let path = format!("/api/v1/namespaces/{name}/finalize");
        match self
            .client
            .request_json(Method::PUT, &path, Some(&body))
            .await
        {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(()),
        }
    }
}

impl Left {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// A condition of a terminating namespace: its type, the reason and the text while all is well, and
/// the reason while it is not.
type Kind = (&'static str, &'static str, &'static str, &'static str);

const DISCOVERY: Kind = (
    "NamespaceDeletionDiscoveryFailure",
    "ResourcesDiscovered",
    "All resources successfully discovered",
    "DiscoveryFailed",
);
const PARSING: Kind = (
    "NamespaceDeletionGroupVersionParsingFailure",
    "ParsedGroupVersions",
    "All legacy kube types successfully parsed",
    "GroupVersionParsingFailed",
);
const DELETION: Kind = (
    "NamespaceDeletionContentFailure",
    "ContentDeleted",
    "All content successfully deleted, may be waiting on finalization",
    "ContentDeletionFailed",
);
const CONTENT: Kind = (
    "NamespaceContentRemaining",
    "ContentRemoved",
    "All content successfully removed",
    "SomeResourcesRemain",
);
const FINALIZERS: Kind = (
    "NamespaceFinalizersRemaining",
    "ContentHasNoFinalizers",
    "All content-preserving finalizers finished",
    "SomeFinalizersRemain",
);

/// The conditions of a terminating namespace, with upstream's reasons and texts.
fn conditions(old: &[NamespaceCondition], left: &Left, now: Timestamp) -> Vec<NamespaceCondition> {
    let counted = |counts: &BTreeMap<String, usize>, verb: &str| {
        let parts = counts.iter();
        let parts = parts.map(|(name, count)| format!("{name} {verb} {count} resource instances"));
        parts.collect::<Vec<_>>().join(", ")
    };
    let finalizers = "Some content in the namespace has finalizers remaining: ";
    let objects = "Some resources are remaining: ";
    [
        (DISCOVERY, discovery_text(&left.undiscovered)),
        (PARSING, String::new()),
        (DELETION, left.failures.join(", ")),
        (CONTENT, with_head(objects, counted(&left.objects, "has"))),
        (
            FINALIZERS,
            with_head(finalizers, counted(&left.finalizers, "in")),
        ),
    ]
    .into_iter()
    .map(|(kind, text)| condition(old, kind, text, now))
    .collect()
}

/// `text` says what is wrong; empty where nothing is.
fn condition(
    old: &[NamespaceCondition],
    (kind, good, fine, bad): Kind,
    text: String,
    now: Timestamp,
) -> NamespaceCondition {
    let (status, reason, text) = if text.is_empty() {
        ("False", good, fine.to_owned())
    } else {
        ("True", bad, text)
    };
    let before = old.iter().find(|c| c.type_ == kind && c.status == status);
    let since = before.and_then(|c| c.last_transition_time.clone());
    NamespaceCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(text),
        last_transition_time: since.or(Some(Time(now))),
    }
}

fn discovery_text(failed: &[String]) -> String {
    let head = "Discovery failed for some groups, ";
    let text = format!(
        "{} failing: unable to retrieve the complete list of server APIs: {}",
        failed.len(),
        failed.join(", ")
    );
    if failed.is_empty() {
        String::new()
    } else {
        format!("{head}{text}")
    }
}

fn with_head(head: &str, text: String) -> String {
    if text.is_empty() {
        text
    } else {
        format!("{head}{text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_say_what_is_left_and_keep_their_time() {
        let now = Timestamp::from_second(1_000).unwrap();
        let left = Left {
            objects: [("pods.".to_owned(), 2)].into(),
            finalizers: [("example.com/hold".to_owned(), 1)].into(),
            ..Left::default()
        };
        let first = conditions(&[], &left, now);
        let text = |kind: &str| {
            let found = first.iter().find(|c| c.type_ == kind).unwrap();
            (found.status.as_str(), found.message.clone().unwrap())
        };
        assert_eq!(
            text("NamespaceContentRemaining"),
            (
                "True",
                "Some resources are remaining: pods. has 2 resource instances".to_owned()
            )
        );
        assert_eq!(
            text("NamespaceFinalizersRemaining"),
            (
                "True",
                "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances".to_owned()
            )
        );
        let later = Timestamp::from_second(2_000).unwrap();
        assert_eq!(conditions(&first, &left, later), first);
        let empty = conditions(&first, &Left::default(), later);
        let remaining = empty
            .iter()
            .find(|c| c.type_ == "NamespaceContentRemaining")
            .unwrap();
        assert_eq!(remaining.last_transition_time, Some(Time(later)));
    }
}
