//! The history of a workload's template, as ControllerRevisions
//! (`k8s.io/kubernetes/pkg/controller/history`).
//!
//! A revision holds the strategic merge patch that puts its template back, so that
//! `kubectl rollout undo` need not know the kind. The newest revision is the template the workload
//! has now; going back to an old one gives that revision the next number instead of making another.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use crate::api::{meta, workload};
use crate::client::{Client, DeleteParams, Patch, Result};

/// On pods: the revision they were made from.
pub(crate) const POD_REVISION: &str = "controller-revision-hash";
/// What is left of the owner's name in a revision's, so that both fit.
const PREFIX_BYTES_MAX: usize = 223;
/// Names tried for one revision before the next look; two in a row are rare enough.
const NAMES_TRIED_MOST: i32 = 16;

/// The owner of a history, and how it labels its revisions.
pub(crate) struct Owner<'a> {
    pub(crate) meta: &'a ObjectMeta,
    pub(crate) reference: OwnerReference,
    pub(crate) template: &'a PodTemplateSpec,
    /// The label of a revision that holds its hash.
    pub(crate) hash_label: &'static str,
    /// `status.collisionCount`.
    pub(crate) collisions: i32,
}

/// Which revision is the one of the template.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Choice {
    /// It is the newest.
    Newest(Arc<ControllerRevision>),
    /// There is one that gets this number now.
    Again(Arc<ControllerRevision>, i64),
    /// There is none; it gets this number.
    New(i64),
}

/// The patch that puts `template` back.
pub(crate) fn data(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_else(|_| json!({}));
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

/// The template a revision holds.
pub(crate) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.0.pointer("/spec/template")?.clone();
    if let Some(fields) = template.as_object_mut() {
        fields.remove("$patch");
    }
    serde_json::from_value(template).ok()
}

/// Oldest first.
pub(crate) fn sort(revisions: &mut [Arc<ControllerRevision>]) {
    revisions.sort_by(|a, b| {
        let key = |r: &ControllerRevision| {
            let created = r.metadata.creation_timestamp.as_ref().map(|t| t.0);
            (number(r), created, meta::name(&r.metadata).to_owned())
        };
        key(a).cmp(&key(b))
    });
}

/// Finds the revision of `template` among `sorted` ones.
pub(crate) fn choose(sorted: &[Arc<ControllerRevision>], template: &PodTemplateSpec) -> Choice {
    let wanted = workload::canonical(&data(template));
    let is_equal = |r: &&Arc<ControllerRevision>| workload::canonical(&r.data.0) == wanted;
    let newest = sorted.last();
    let next = newest.map_or(1, |r| number(r) + 1);
    match (newest, sorted.iter().rfind(is_equal)) {
        (Some(newest), Some(equal)) if newest.metadata.name == equal.metadata.name => {
            Choice::Newest(newest.clone())
        }
        (_, Some(equal)) => Choice::Again(equal.clone(), next),
        (_, None) => Choice::New(next),
    }
}

/// The revisions to delete of `sorted` ones: the oldest beyond `limit`, of those nobody uses.
pub(crate) fn surplus(
    sorted: &[Arc<ControllerRevision>],
    in_use: impl Fn(&ControllerRevision) -> bool,
    limit: i32,
) -> Vec<Arc<ControllerRevision>> {
    let unused: Vec<_> = sorted.iter().filter(|r| !in_use(r)).collect();
    let limit = usize::try_from(limit).unwrap_or(0);
    let count = unused.len().saturating_sub(limit);
    unused.into_iter().take(count).cloned().collect()
}

/// The values of [`POD_REVISION`] on pods.
pub(crate) fn of_pods<'a>(pods: impl IntoIterator<Item = &'a ObjectMeta>) -> HashSet<&'a str> {
    let labels = pods
        .into_iter()
        .filter_map(|pod| meta::label(pod, POD_REVISION));
    labels.collect()
}

/// Makes the choice true. Returns the revision and the count of collisions, which grew where a
/// name was taken.
pub(crate) async fn settle(
    client: &Client,
    owner: &Owner<'_>,
    choice: Choice,
) -> Result<(Arc<ControllerRevision>, i32)> {
    let api = client.namespaced::<ControllerRevision>(meta::namespace(owner.meta));
    let next = match choice {
        Choice::Newest(revision) => return Ok((revision, owner.collisions)),
        Choice::Again(revision, next) => {
            let known = &revision.metadata;
            let patch = Patch::Merge(json!({"revision": next, "metadata":
                {"uid": known.uid, "resourceVersion": known.resource_version}}));
            let raised = api.patch(meta::name(known), &patch).await?;
            return Ok((Arc::new(raised), owner.collisions));
        }
        Choice::New(next) => next,
    };
    let mut collisions = owner.collisions;
    loop {
        let new = revision(owner, next, collisions);
        let error = match api.create(&new).await {
            Ok(created) => return Ok((Arc::new(created), collisions)),
            Err(error) => error,
        };
        if !error.is_already_exists() || collisions - owner.collisions >= NAMES_TRIED_MOST {
            return Err(error);
        }
        // The cache may not show it yet; another owner's of the same name is not ours.
        let taken = api.get(meta::name(&new.metadata)).await?;
        let same = workload::canonical(&taken.data.0) == workload::canonical(&new.data.0);
        if same && meta::is_controlled_by(&taken.metadata, meta::uid(owner.meta)) {
            return Ok((Arc::new(taken), collisions));
        }
        collisions += 1;
    }
}

/// Deletes revisions; what is gone already is no failure.
pub(crate) async fn delete(client: &Client, surplus: &[Arc<ControllerRevision>]) -> Result<()> {
    for revision in surplus {
        let known = &revision.metadata;
        let api = client.namespaced::<ControllerRevision>(meta::namespace(known));
        match api
            .delete(meta::name(known), &DeleteParams::uid(meta::uid(known)))
            .await
        {
            Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn revision(owner: &Owner<'_>, number: i64, collisions: i32) -> ControllerRevision {
    let data = data(owner.template);
    let hash = workload::hash(&data, Some(collisions));
    let template = owner.template.metadata.as_ref();
    let mut labels = template.and_then(|m| m.labels.clone()).unwrap_or_default();
    labels.insert(owner.hash_label.to_owned(), hash.clone());
    let name = meta::name(owner.meta);
    let prefix = name.get(..PREFIX_BYTES_MAX).unwrap_or(name);
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{prefix}-{hash}")),
            namespace: owner.meta.namespace.clone(),
            labels: Some(labels),
            annotations: owner.meta.annotations.clone(),
            owner_references: Some(vec![owner.reference.clone()]),
            ..ObjectMeta::default()
        },
        data: RawExtension(data),
        revision: Some(number),
    }
}

fn number(revision: &ControllerRevision) -> i64 {
    revision.revision.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod_template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({"metadata": {"labels": {"app": "w"}},
            "spec": {"containers": [{"name": "c", "image": image}]}}))
        .unwrap()
    }

    fn known(image: &str, number: i64) -> Arc<ControllerRevision> {
        Arc::new(ControllerRevision {
            metadata: ObjectMeta {
                name: Some(format!("w-{image}")),
                ..ObjectMeta::default()
            },
            data: RawExtension(data(&pod_template(image))),
            revision: Some(number),
        })
    }

    #[test]
    fn a_template_is_the_newest_revision_an_old_one_again_or_a_new_one() {
        let mut revisions = [known("c", 3), known("a", 1), known("b", 2)];
        sort(&mut revisions);
        let choose = |image: &str| choose(&revisions, &pod_template(image));
        assert_eq!(choose("c"), Choice::Newest(known("c", 3)));
        assert_eq!(choose("a"), Choice::Again(known("a", 1), 4));
        assert_eq!(choose("d"), Choice::New(4));
        assert_eq!(super::choose(&[], &pod_template("a")), Choice::New(1));
        assert_eq!(template(&revisions[0]), Some(pod_template("a")));
    }

    #[test]
    fn the_oldest_unused_revisions_beyond_the_limit_go() {
        let revisions: Vec<_> = (1..=5).map(|n| known(&n.to_string(), n)).collect();
        let in_use = |r: &ControllerRevision| [Some(1), Some(5)].contains(&r.revision);
        let numbers = |limit| {
            let gone = surplus(&revisions, in_use, limit);
            gone.iter().map(|r| number(r)).collect::<Vec<_>>()
        };
        assert_eq!(numbers(2), [2]);
        assert_eq!(numbers(0), [2, 3, 4]);
        assert!(numbers(3).is_empty());
    }

    #[test]
    fn a_revision_is_named_by_its_template_and_the_collisions() {
        let name = "x".repeat(250);
        let meta = ObjectMeta {
            name: Some(name),
            ..ObjectMeta::default()
        };
        let template = pod_template("a");
        let owner = Owner {
            meta: &meta,
            reference: OwnerReference::default(),
            template: &template,
            hash_label: POD_REVISION,
            collisions: 0,
        };
        let (first, second) = (revision(&owner, 1, 0), revision(&owner, 1, 1));
        assert_ne!(first.metadata.name, second.metadata.name);
        let hash = meta::label(&first.metadata, POD_REVISION).unwrap();
        let expected = format!("{}-{hash}", "x".repeat(PREFIX_BYTES_MAX));
        assert_eq!(first.metadata.name, Some(expected));
        assert_eq!(meta::label(&first.metadata, "app"), Some("w"));
    }
}
