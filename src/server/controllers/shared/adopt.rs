//! Which objects an owner controls: it adopts orphans its selector selects and releases what it
//! does not select any more (`PodControllerRefManager`).

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde_json::json;

use crate::api::{meta, selector::label::Selector};
use crate::client::{Cache, Client, Kind, Patch, Result};

/// Index of objects without a controller, by namespace.
const ORPHANS: &str = "orphans";

/// What is an owner's, and what is to be changed about that.
#[derive(Debug)]
pub(crate) struct Claim<K> {
    /// Controlled, and selected.
    pub(crate) mine: Vec<Arc<K>>,
    /// Controlled by nobody, and selected.
    pub(crate) adopt: Vec<Arc<K>>,
    /// Controlled, and not selected.
    pub(crate) release: Vec<Arc<K>>,
}

/// Makes the index that [`claim`] needs.
pub(crate) fn index_orphans<K: Kind>(cache: &Cache<K>) {
    cache.index(ORPHANS, |object| {
        match meta::controller_of(object.metadata()) {
            Some(_) => Vec::new(),
            None => vec![meta::namespace(object.metadata()).to_owned()],
        }
    });
}

/// The orphans of a namespace.
pub(crate) fn orphans<K: Kind>(cache: &Cache<K>, namespace: &str) -> Vec<Arc<K>> {
    cache.by_index(ORPHANS, namespace)
}

/// What `owner` with `selector` has and wants of `cache`. An owner that is being deleted adopts
/// nothing; nothing that is being deleted is adopted or released.
pub(crate) fn claim<K: Kind>(
    owner: &ObjectMeta,
    selector: &Selector,
    cache: &Cache<K>,
) -> Claim<K> {
    let controlled = cache.controlled_by(meta::uid(owner));
    let orphans = orphans(cache, meta::namespace(owner));
    decide(owner, selector, controlled, orphans)
}

fn decide<K: Kind>(
    owner: &ObjectMeta,
    selector: &Selector,
    controlled: Vec<Arc<K>>,
    orphans: Vec<Arc<K>>,
) -> Claim<K> {
    let selected = |object: &Arc<K>| selector.matches(&object.metadata().labels);
    let ends = |object: &Arc<K>| meta::is_terminating(object.metadata());
    let (mine, foreign): (Vec<_>, Vec<_>) = controlled.into_iter().partition(selected);
    let owner_ends = meta::is_terminating(owner);
    let release = foreign.into_iter().filter(|o| !ends(o) && !owner_ends);
    let adopt = orphans
        .into_iter()
        .filter(|object| !owner_ends && selected(object) && !ends(object));
    Claim {
        mine,
        adopt: adopt.collect(),
        release: release.collect(),
    }
}

/// Carries out the changes of a claim. What is adopted is seen as one's own when the cache shows
/// it. What is gone meanwhile is passed over.
pub(crate) async fn settle<O: Kind, K: Kind>(
    client: &Client,
    owner: &O,
    claim: &Claim<K>,
) -> Result<()> {
    let reference = meta::controller_ref(O::API_VERSION, O::KIND, owner.metadata());
    for object in &claim.adopt {
        let change = json!({"metadata": {"uid": object.metadata().uid,
            "ownerReferences": [reference]}});
        change_owner::<K>(client, object.metadata(), change).await?;
    }
    for object in &claim.release {
        let change = json!({"metadata": {"uid": object.metadata().uid,
            "ownerReferences": [{"$patch": "delete", "uid": reference.uid}]}});
        change_owner::<K>(client, object.metadata(), change).await?;
    }
    Ok(())
}

async fn change_owner<K: Kind>(
    client: &Client,
    object: &ObjectMeta,
    change: serde_json::Value,
) -> Result<()> {
    let api = client.namespaced::<K>(meta::namespace(object));
    match api
        .patch(meta::name(object), &Patch::Strategic(change))
        .await
    {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

/// A `metav1.LabelSelector` of a workload; what cannot be read selects nothing.
pub(crate) fn selector_of(selector: &LabelSelector) -> Selector {
    let value = serde_json::to_value(selector).unwrap_or_default();
    Selector::from_label_selector(&value).unwrap_or_else(|_| Selector::nothing())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;

    fn pod(name: &str, app: &str, ends: bool) -> Arc<Pod> {
        let mut value = json!({"metadata": {"name": name, "labels": {"app": app}}});
        if ends {
            value["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
        pods.iter().map(|pod| meta::name(&pod.metadata)).collect()
    }

    #[test]
    fn selected_orphans_are_adopted_and_strangers_released_unless_they_end() {
        let selector = Selector::parse("app=web").unwrap();
        let controlled = vec![
            pod("a", "web", false),
            pod("b", "db", false),
            pod("c", "db", true),
        ];
        let orphans = vec![
            pod("d", "web", false),
            pod("e", "web", true),
            pod("f", "db", false),
        ];
        let mut owner = ObjectMeta::default();
        let claim = decide(&owner, &selector, controlled.clone(), orphans.clone());
        assert_eq!(names(&claim.mine), ["a"]);
        assert_eq!(names(&claim.release), ["b"]);
        assert_eq!(names(&claim.adopt), ["d"]);
        owner.deletion_timestamp = pod("x", "", true).metadata.deletion_timestamp.clone();
        let claim = decide(&owner, &selector, controlled, orphans);
        assert!(claim.adopt.is_empty() && claim.release.is_empty());
    }
}
