//! Who owns whom: only objects that name owners are kept, and who is named. Pure.

use std::collections::{HashMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::Target;

/// The owners of every object that has some, and the dependents of every owner.
#[derive(Debug, Default)]
pub(super) struct Graph {
    dependents_of: HashMap<String, HashSet<Target>>,
    owners_of: HashMap<Target, Vec<Owner>>,
    /// Owners that wait for their dependents to go first, by uid.
    waiting: HashMap<String, Target>,
}

/// What of an owner reference is needed to walk the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    uid: String,
    blocks: bool,
}

impl Graph {
    /// Notes an object as it is now; `true` where its owners are new or changed.
    pub(super) fn put(&mut self, target: &Target, meta: &ObjectMeta) -> bool {
        let owners: Vec<Owner> = meta.owner_references.iter().flatten().map(owner).collect();
        if self
            .owners_of
            .get(target)
            .is_some_and(|known| *known == owners)
        {
            return false;
        }
        self.remove(target);
        if owners.is_empty() {
            return false;
        }
        for owner in &owners {
            self.dependents_of
                .entry(owner.uid.clone())
                .or_default()
                .insert(target.clone());
        }
        self.owners_of.insert(target.clone(), owners);
        true
    }

    /// Notes that an owner waits for its dependents to go first.
    pub(super) fn wait(&mut self, owner: &Target) {
        self.waiting.insert(owner.uid.clone(), owner.clone());
    }

    /// Those owners of an object that wait.
    pub(super) fn waiting_owners(&self, target: &Target) -> Vec<Target> {
        let owners = self.owners_of.get(target).into_iter().flatten();
        let waiting = owners.filter_map(|owner| self.waiting.get(&owner.uid).cloned());
        waiting.collect()
    }

    /// Forgets an object that is gone.
    pub(super) fn end(&mut self, target: &Target) {
        self.waiting.remove(&target.uid);
        self.remove(target);
    }

    /// Forgets the edges of an object.
    pub(super) fn remove(&mut self, target: &Target) {
        for owner in self.owners_of.remove(target).unwrap_or_default() {
            if let Some(dependents) = self.dependents_of.get_mut(&owner.uid) {
                dependents.remove(target);
                if dependents.is_empty() {
                    self.dependents_of.remove(&owner.uid);
                }
            }
        }
    }

    /// The objects that name `uid` as an owner.
    pub(super) fn dependents(&self, uid: &str) -> Vec<Target> {
        self.dependents_of
            .get(uid)
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }

    /// Those of them that keep it from going in the foreground.
    pub(super) fn blocking(&self, uid: &str) -> Vec<Target> {
        let blocks = |target: &Target| {
            let owners = self.owners_of.get(target).into_iter().flatten();
            owners
                .into_iter()
                .any(|owner| owner.uid == uid && owner.blocks)
        };
        self.dependents(uid)
            .into_iter()
            .filter(|target| blocks(target))
            .collect()
    }

    /// The objects of resource number `resource` that are known, to find those a new list lacks.
    pub(super) fn of_resource(&self, resource: usize) -> Vec<Target> {
        self.owners_of
            .keys()
            .filter(|target| target.resource == resource)
            .cloned()
            .collect()
    }
}

fn owner(reference: &OwnerReference) -> Owner {
    Owner {
        uid: reference.uid.clone(),
        blocks: reference.block_owner_deletion == Some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn target(name: &str) -> Target {
        Target {
            resource: 0,
            namespace: "d".into(),
            name: name.into(),
            uid: format!("u-{name}"),
        }
    }

    fn meta(owners: &[(&str, bool)]) -> ObjectMeta {
        let owners: Vec<_> = owners
            .iter()
            .map(|(uid, blocks)| {
                json!({"apiVersion": "v1", "kind": "X", "name": uid, "uid": uid, "blockOwnerDeletion": blocks})
            })
            .collect();
        serde_json::from_value(json!({"ownerReferences": owners})).unwrap()
    }

    #[test]
    fn the_owners_that_wait_for_a_dependent_are_known_until_they_end() {
        let mut graph = Graph::default();
        graph.put(&target("a"), &meta(&[("u-o", true), ("u-p", true)]));
        assert!(graph.waiting_owners(&target("a")).is_empty());
        graph.wait(&target("o"));
        assert_eq!(graph.waiting_owners(&target("a")), [target("o")]);
        graph.end(&target("o"));
        graph.end(&target("a"));
        assert!(graph.waiting.is_empty() && graph.owners_of.is_empty());
    }

    #[test]
    fn dependents_follow_changes_of_owners() {
        let mut graph = Graph::default();
        assert!(graph.put(&target("a"), &meta(&[("o1", true), ("o2", false)])));
        assert!(!graph.put(&target("a"), &meta(&[("o1", true), ("o2", false)])));
        assert!(graph.put(&target("b"), &meta(&[("o1", false)])));
        assert_eq!(graph.dependents("o1").len(), 2);
        assert_eq!(graph.blocking("o1"), [target("a")]);
        assert!(graph.put(&target("a"), &meta(&[("o2", false)])));
        assert_eq!(graph.dependents("o1"), [target("b")]);
        graph.remove(&target("b"));
        assert!(graph.dependents("o1").is_empty());
        assert!(!graph.put(&target("a"), &meta(&[])));
        assert!(graph.dependents_of.is_empty() && graph.owners_of.is_empty());
    }
}
