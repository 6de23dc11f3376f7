//! Empties namespaces that are being deleted, and lets them go when they are empty.
//!
//! Writes: deletes everything in a terminating namespace, whatever its kind; its
//! `status.conditions`, which say what is left; removes the finalizer `kubernetes` by the
//! `finalize` subresource. As upstream's `pkg/controller/namespace/deletion`.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use crate::api::{meta, object::ObjectKey};
use crate::client::controller::{Action, Reconcile};
use crate::client::{Cache, Client, DeleteParams, ListParams, Propagation, Queue, Result};
use crate::util::{clock::Clock, errors::chain};

use super::{Setup, shared::namespaces};

const WORKERS: usize = 4;
const FINALIZER: &str = "kubernetes";
/// What waits for pods' grace or others' finalizers is looked at again after this time; upstream
/// waits half the longest grace. The objects' own ends are not watched here.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

struct Namespaces {
    namespaces: Cache<Namespace>,
    client: Client,
    clock: Clock,
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
    };
    setup.run(controller, queue, WORKERS, async move {
        namespaces.synced().await
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
            return Ok(Action::After(LOOK_AGAIN));
        }
        self.finalize(&namespace).await?;
        Ok(Action::Done)
    }
}

impl Namespaces {
    /// Deletes everything and says what is left.
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
        let namespaced = resources.preferred().filter(|served| {
            served.scope == crate::api::gvk::Scope::Namespaced && served.can(&["list", "delete"])
        });
        for served in namespaced {
            let api = self.client.metadata(&served.resource, namespace);
            let params = DeleteParams {
                propagation: Some(Propagation::Background),
                ..DeleteParams::default()
            };
            let every = ListParams::default();
            let listed = match api.list(&every).await {
                Ok(listed) if listed.items.is_empty() => continue,
                Ok(_) => {
                    if let Err(error) = self.delete_all(served, namespace, &params).await {
                        left.failures
                            .push(format!("{}: {}", served.resource, chain(&error)));
                    }
                    api.list(&every).await?
                }
                Err(error) => {
                    left.failures
                        .push(format!("{}: {}", served.resource, chain(&error)));
                    continue;
                }
            };
            for object in listed.items {
                *left.objects.entry(served.resource.to_string()).or_default() += 1;
                for finalizer in object.metadata.finalizers.into_iter().flatten() {
                    *left.finalizers.entry(finalizer).or_default() += 1;
                }
            }
        }
        Ok(left)
    }

    async fn delete_all(
        &self,
        served: &crate::client::discovery::Served,
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

/// The conditions of a terminating namespace, with upstream's reasons and texts.
fn conditions(old: &[NamespaceCondition], left: &Left, now: Timestamp) -> Vec<NamespaceCondition> {
    let counted = |counts: &BTreeMap<String, usize>, noun: &str| {
        let parts = counts
            .iter()
            .map(|(name, count)| format!("{name} has {count} {noun}"));
        parts.collect::<Vec<_>>().join(", ")
    };
    let texts = [
        (
            "NamespaceDeletionDiscoveryFailure",
            (
                "DiscoveryFailed",
                "ResourcesDiscovered",
                "All resources successfully discovered",
            ),
            discovery_text(&left.undiscovered),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            (
                "GroupVersionParsingFailed",
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed",
            ),
            String::new(),
        ),
        (
            "NamespaceDeletionContentFailure",
            (
                "ContentDeletionFailed",
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization",
            ),
            left.failures.join(", "),
        ),
        (
            "NamespaceContentRemaining",
            (
                "SomeResourcesRemain",
                "ContentRemoved",
                "All content successfully removed",
            ),
            with_head(
                "Some resources are remaining: ",
                counted(&left.objects, "resource instances"),
            ),
        ),
        (
            "NamespaceFinalizersRemaining",
            (
                "SomeFinalizersRemain",
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished",
            ),
            with_head(
                "Some content in the namespace has finalizers remaining: ",
                left.finalizers
                    .iter()
                    .map(|(name, count)| format!("{name} in {count} resource instances"))
                    .collect::<Vec<_>>()
                    .join(", "),
            ),
        ),
    ];
    let made = texts.into_iter().map(|(kind, (bad, good, fine), text)| {
        let (status, reason) = if text.is_empty() {
            ("False", good)
        } else {
            ("True", bad)
        };
        let before = old.iter().find(|c| c.type_ == kind);
        let since = before
            .filter(|c| c.status == status)
            .and_then(|c| c.last_transition_time.clone());
        NamespaceCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(if text.is_empty() {
                fine.to_owned()
            } else {
                text
            }),
            last_transition_time: since.or(Some(Time(now))),
        }
    });
    made.collect()
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
            objects: [("pods".to_owned(), 2)].into(),
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
                "Some resources are remaining: pods has 2 resource instances".to_owned()
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
