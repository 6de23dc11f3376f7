//! Makes the resources that CustomResourceDefinitions define: follows the definitions, gives them
//! their names, keeps the table of resources, and empties what is being deleted.
//!
//! One task does all of it, one lap a change: names go to who asked first, so laps are never two
//! at once. The table is changed before the status says `Established`: who waits for that finds
//! the resource, in discovery and in OpenAPI too, which are made of the table when they are asked
//! for.
//!
//! Writes: `status` of definitions; deletes objects of a terminating one, then removes the
//! finalizer `customresourcecleanup.apiextensions.k8s.io`.

mod names;
mod resources;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::gvk::GroupVersionResource;
use crate::api::object::Object;
use crate::client::{Client, DeleteParams, DynamicApi, ListParams, Patch};
use crate::server::cacher::Cacher;
use crate::server::registry::{Registry, ResourceDef};
use crate::util::clock::Clock;
use crate::util::errors::chain;
use crate::util::tasks::Tasks;

use names::Taken;

/// Where definitions are stored.
const STORAGE: &str = "customresourcedefinitions.apiextensions.k8s.io";
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// What failed, or waits for others' finalizers, is looked at again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Keeps the resources of definitions.
#[derive(Debug)]
pub struct Definitions {
    cacher: Cacher,
    registry: Arc<Registry>,
    /// The rows of each definition, with what they were made of.
    made: HashMap<String, Made>,
}

#[derive(Debug)]
struct Made {
    of: Value,
    rows: Vec<Arc<ResourceDef>>,
}

impl Definitions {
    /// Puts what is defined already into the table.
    pub fn load(cacher: &Cacher, registry: &Arc<Registry>) -> Self {
        let mut definitions = Self {
            cacher: cacher.clone(),
            registry: Arc::clone(registry),
            made: HashMap::new(),
        };
        definitions.publish(&definitions.all());
        definitions
    }

    /// Follows the definitions until `tasks` end.
    pub fn start(self, client: Client, clock: Clock, tasks: &Tasks) {
        let worker = Worker {
            definitions: self,
            client,
            clock,
        };
        let cancelled = tasks.cancelled();
        tasks.service("custom resources", async move {
            tokio::select! {
                () = cancelled.cancelled() => {}
                () = worker.run() => {}
            }
        });
    }

    /// All definitions, the oldest first.
    fn all(&self) -> Vec<Object> {
        let items = self.cacher.list(STORAGE, "");
        let read = |item: &Arc<crate::server::cacher::Item>| {
            let object = item.object();
            let object = object.map_err(|error| {
                tracing::error!(name = item.name(), error = %chain(&error), "definition is not readable");
            });
            Some((item.created, object.ok()?))
        };
        let mut all: Vec<_> = items.iter().filter_map(read).collect();
        all.sort_by_key(|(created, _)| *created);
        all.into_iter().map(|(_, object)| object).collect()
    }

    /// Makes the table that of these definitions.
    fn publish(&mut self, all: &[Object]) {
        let mut made = HashMap::new();
        let mut has_changed = all.len() != self.made.len();
        for definition in all {
            let of = json!([
                definition.uid(),
                definition.field("spec"),
                definition.field("status")["acceptedNames"],
                resources::is_established(definition),
                definition.is_terminating(),
            ]);
            let kept = self
                .made
                .remove(definition.name())
                .filter(|made| made.of == of);
            has_changed |= kept.is_none();
            let rows = kept.map_or_else(|| resources::rows(definition), |made| made.rows);
            made.insert(definition.name().to_owned(), Made { of, rows });
        }
        self.made = made;
        if !has_changed {
            return;
        }
        let mut names: Vec<&String> = self.made.keys().collect();
        names.sort();
        let rows: Vec<_> = names
            .iter()
            .flat_map(|name| self.made[*name].rows.clone())
            .collect();
        self.registry.update(|table| {
            table.retain(|def| def.rules.custom().is_none());
            table.extend(rows);
        });
    }
}

struct Worker {
    definitions: Definitions,
    client: Client,
    clock: Clock,
}

impl Worker {
    async fn run(mut self) {
        let mut changes = self.definitions.cacher.changes(STORAGE);
        loop {
            changes.borrow_and_update();
            let is_done = self.lap().await;
            if is_done {
                if changes.changed().await.is_err() {
                    return;
                }
            } else {
                // An end of the sender is found on the next lap.
                let _ = tokio::time::timeout(LOOK_AGAIN, changes.changed()).await;
            }
        }
    }

    /// Looks at all definitions once; `false`: something is left to do.
    async fn lap(&mut self) -> bool {
        let mut all = self.definitions.all();
        let settled = self.settle(&mut all);
        self.definitions.publish(&all);
        let mut is_done = true;
        for definition in &settled {
            is_done &= self.write(definition).await;
        }
        for definition in all.iter().filter(|of| of.is_terminating()) {
            let holds = definition
                .at(&["metadata", "finalizers"])
                .and_then(Value::as_array);
            if holds.is_some_and(|list| list.iter().any(|name| name == CLEANUP)) {
                is_done &= self.clean_up(definition).await;
            }
        }
        is_done
    }

    /// Gives every definition the status it should have; the answer are those whose is another.
    fn settle(&self, all: &mut [Object]) -> Vec<Object> {
        let now = self.clock.now();
        let mut changed = Vec::new();
        for at in 0..all.len() {
            let group = all[at].text_at(&["spec", "group"]).to_owned();
            let in_group = |of: &&Object| of.text_at(&["spec", "group"]) == group;
            let others = all.iter().enumerate().filter(|(other, _)| *other != at);
            let taken = Taken::by(others.map(|(_, of)| of).filter(in_group));
            let settled = names::settled(&all[at], &taken, now);
            if settled != all[at] {
                all[at] = settled.clone();
                changed.push(settled);
            }
        }
        changed
    }

    async fn write(&self, definition: &Object) -> bool {
        let written = self
            .api()
            .replace_status(definition.name(), definition)
            .await;
        match written {
            Ok(_) => true,
            // It changed meanwhile, which begins another lap.
            Err(error) if error.is_conflict() || error.is_not_found() => true,
            Err(error) => {
                tracing::warn!(name = definition.name(), error = %chain(&error), "status of a definition was not written");
                false
            }
        }
    }

    fn api(&self) -> DynamicApi {
        let resource =
            GroupVersionResource::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");
        self.client.dynamic(&resource, "")
    }

    /// Deletes the objects of a definition, and lets it go when there are none.
    async fn clean_up(&self, definition: &Object) -> bool {
        let storage = resources::storage(definition);
        let left = || self.definitions.cacher.snapshot(&storage);
        if !left().is_empty() {
            if let Err(error) = self.delete_objects(definition, &storage).await {
                tracing::warn!(name = definition.name(), error = %chain(&error), "objects of a definition were not deleted");
                return false;
            }
            // What has finalizers of its own stays a while.
            return false;
        }
        let finalizers = definition
            .at(&["metadata", "finalizers"])
            .and_then(Value::as_array);
        let rest: Vec<&Value> = finalizers
            .into_iter()
            .flatten()
            .filter(|name| **name != CLEANUP)
            .collect();
        let patch = json!({"metadata": {
            "finalizers": rest, "uid": definition.uid(),
            "resourceVersion": definition.resource_version(),
        }});
        let patched = self
            .api()
            .patch(definition.name(), &Patch::Merge(patch))
            .await;
        match patched {
            Ok(_) => true,
            Err(error) if error.is_not_found() => true,
            Err(error) => {
                tracing::debug!(name = definition.name(), error = %chain(&error), "definition was not let go");
                false
            }
        }
    }

    async fn delete_objects(
        &self,
        definition: &Object,
        storage: &str,
    ) -> crate::client::Result<()> {
        let rows = self.definitions.made.get(definition.name());
        let Some(row) = rows.and_then(|made| made.rows.first()) else {
            return Ok(());
        };
        let items = self.definitions.cacher.list(storage, "");
        let namespaces: BTreeSet<&str> = items.iter().map(|item| item.namespace()).collect();
        for namespace in namespaces {
            let api = self.client.dynamic(&row.gvr, namespace);
            let params = (DeleteParams::default(), ListParams::default());
            api.delete_collection(&params.0, &params.1).await?;
        }
        Ok(())
    }
}
