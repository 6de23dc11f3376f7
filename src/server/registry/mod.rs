//! The table of what is served: one [`ResourceDef`] a resource and version, built-in or added while
//! the server runs. Readers take a [`Snapshot`], which never changes under them.
//!
//! Terms. Versions of one resource that share a `storage` folder are the same objects; the first of
//! them in the table is the *stored form*, and objects of the others are converted at the edge.

mod rules;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::api::gvk::{GroupVersionKind, GroupVersionResource, Scope};
use crate::api::kinds::{self, KindDef};
use crate::api::schema::{self, TypeRef};

pub use rules::{FieldsOf, Rules};

/// A path below an object with rules of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubresourceDef {
    /// For instance `status`.
    pub name: String,
    /// Kind of its bodies.
    pub gvk: GroupVersionKind,
    /// As discovery lists them.
    pub verbs: Vec<String>,
}

/// One resource in one version.
#[derive(Clone, Debug)]
pub struct ResourceDef {
    /// What a URL names.
    pub gvr: GroupVersionResource,
    /// What its objects say of themselves.
    pub gvk: GroupVersionKind,
    /// For instance `PodList`.
    pub list_kind: String,
    /// For instance `pod`.
    pub singular: String,
    /// For instance `po`.
    pub short_names: Vec<String>,
    /// For instance `all`.
    pub categories: Vec<String>,
    /// Whether objects live in a namespace.
    pub scope: Scope,
    /// What is served, as discovery lists it.
    pub verbs: Vec<String>,
    /// Paths below an object.
    pub subresources: Vec<SubresourceDef>,
    /// Name of the type in the schema table.
    pub schema: String,
    /// Folder of the store; empty where nothing is stored (TokenReview …).
    pub storage: String,
    /// Kind of the stored form; the same as `gvk` for most.
    pub stored: GroupVersionKind,
    /// How its objects are defaulted, validated, printed.
    pub rules: Rules,
}

impl ResourceDef {
    /// Whether objects live in a namespace.
    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Whether stored objects are not served as they are: they are of another version, or may
    /// have been stored under an earlier schema.
    pub fn is_converted(&self) -> bool {
        self.gvk != self.stored || self.rules.custom().is_some()
    }

    /// The type of its objects.
    pub fn ty(&self) -> Option<TypeRef<'_>> {
        match &self.rules {
            Rules::Builtin(_) => schema::builtin().get(&self.schema),
            Rules::Custom(custom) => custom.merged(),
        }
    }

    /// Whether `verb` is served.
    pub fn serves(&self, verb: &str) -> bool {
        self.verbs.iter().any(|served| served == verb)
    }

    /// The path `name` below an object, where there is one.
    pub fn subresource(&self, name: &str) -> Option<&SubresourceDef> {
        self.subresources.iter().find(|sub| sub.name == name)
    }

    fn builtin(kind: &'static KindDef, stored: &'static KindDef) -> Self {
        Self {
            gvr: GroupVersionResource::new(kind.group, kind.version, kind.plural),
            gvk: GroupVersionKind::new(kind.group, kind.version, kind.kind),
            list_kind: format!("{}List", kind.kind),
            singular: kind.singular.to_owned(),
            short_names: owned(kind.short_names),
            categories: owned(kind.categories),
            scope: kind.scope,
            verbs: owned(kind.verbs),
            subresources: kind
                .subresources
                .iter()
                .map(|sub| SubresourceDef {
                    name: sub.name.to_owned(),
                    gvk: GroupVersionKind::new(sub.group, sub.version, sub.kind),
                    verbs: owned(sub.verbs),
                })
                .collect(),
            schema: kind.schema.to_owned(),
            storage: kind.storage.to_owned(),
            stored: GroupVersionKind::new(stored.group, stored.version, stored.kind),
            rules: Rules::Builtin(kind),
        }
    }
}

/// The table at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    resources: Vec<Arc<ResourceDef>>,
    by_plural: HashMap<String, Vec<usize>>,
    stored: HashMap<String, usize>,
}

impl Snapshot {
    fn new(resources: Vec<Arc<ResourceDef>>) -> Self {
        let mut by_plural: HashMap<String, Vec<usize>> = HashMap::new();
        let mut stored = HashMap::new();
        for (at, def) in resources.iter().enumerate() {
            by_plural
                .entry(def.gvr.resource.clone())
                .or_default()
                .push(at);
            if !def.storage.is_empty() {
                stored.entry(def.storage.clone()).or_insert(at);
            }
        }
        Self {
            resources,
            by_plural,
            stored,
        }
    }

    /// Everything, in the order of the table.
    pub fn resources(&self) -> &[Arc<ResourceDef>] {
        &self.resources
    }

    /// The resource a URL names.
    pub fn find(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<ResourceDef>> {
        self.by_plural
            .get(resource)?
            .iter()
            .map(|at| &self.resources[*at])
            .find(|def| def.gvr.group == group && def.gvr.version == version)
    }

    /// The resource whose objects are of a kind.
    pub fn find_kind(&self, kind: &GroupVersionKind) -> Option<&Arc<ResourceDef>> {
        self.resources.iter().find(|def| def.gvk == *kind)
    }

    /// The stored form of a storage folder.
    pub fn stored(&self, storage: &str) -> Option<&Arc<ResourceDef>> {
        self.stored.get(storage).map(|at| &self.resources[*at])
    }
}

/// The table, and who is told when it changes.
#[derive(Debug)]
pub struct Registry {
    snapshot: ArcSwap<Snapshot>,
    /// Held while a new snapshot is made, so that two changes do not lose one.
    writing: Mutex<()>,
    generation: watch::Sender<u64>,
}

impl Registry {
    /// The built-in kinds.
    pub fn builtin() -> Self {
        Self::of(kinds::all())
    }

    /// A table of the given kinds; the first of those that share a storage is its stored form.
    pub fn of(kinds: &'static [KindDef]) -> Self {
        let stored_form = |kind: &'static KindDef| {
            let same = |other: &&KindDef| !kind.storage.is_empty() && other.storage == kind.storage;
            kinds.iter().find(same).unwrap_or(kind)
        };
        let defs = kinds
            .iter()
            .map(|kind| Arc::new(ResourceDef::builtin(kind, stored_form(kind))))
            .collect();
        Self {
            snapshot: ArcSwap::from_pointee(Snapshot::new(defs)),
            writing: Mutex::new(()),
            generation: watch::Sender::new(0),
        }
    }

    /// The table now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Raised with every change of the table.
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Replaces the table by what `change` makes of it.
    pub fn update(&self, change: impl FnOnce(&mut Vec<Arc<ResourceDef>>)) {
        let _writing = self.writing.lock();
        let mut resources = self.snapshot.load().resources.clone();
        change(&mut resources);
        self.snapshot.store(Arc::new(Snapshot::new(resources)));
        self.generation.send_modify(|generation| *generation += 1);
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_one_resource_share_the_stored_form() {
        let snapshot = Registry::builtin().snapshot();
        let events = snapshot.find("events.k8s.io", "v1", "events").unwrap();
        assert!(events.is_converted());
        assert_eq!(events.stored, GroupVersionKind::new("", "v1", "Event"));
        assert!(!snapshot.find("", "v1", "pods").unwrap().is_converted());
        assert!(snapshot.find("apps", "v1", "pods").is_none());
        let virtuals = snapshot.resources().iter().filter(|d| d.storage.is_empty());
        assert!(virtuals.clone().count() > 1 && virtuals.clone().all(|d| !d.is_converted()));
    }

    #[test]
    fn a_change_of_the_table_is_told_and_old_snapshots_stay() {
        let registry = Registry::builtin();
        let (before, generation) = (registry.snapshot(), registry.generation());
        registry.update(Vec::clear);
        assert!(generation.has_changed().unwrap());
        assert!(registry.snapshot().resources().is_empty() && !before.resources().is_empty());
    }
}
