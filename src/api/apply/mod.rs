//! Server-side apply, and who owns which field of an object.
//!
//! Every write leaves in `metadata.managedFields` which fields its writer set. [`apply`] merges
//! the fields that a writer wants into the live object: it takes ownership of them, refuses to
//! change fields that others own (unless forced), and removes what the writer applied before and
//! no longer does, unless somebody else owns it too. [`track_update`] does the books of every
//! other write: the writer owns what he changed, everyone else loses it.
//!
//! This follows `structured-merge-diff` v4 and `k8s.io/apimachinery/pkg/util/managedfields`.
//!
//! DEVIATION: sets of fields in another API version than the one written are compared as they are;
//! upstream converts the object to that version and compares there. It is the same wherever a
//! field has one name in both.

mod compare;
pub mod fields;
mod last_applied;
mod managed;
mod merge;
mod overlay;
mod read;
mod schema;

use std::sync::LazyLock;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::object::Object;
use super::schema::TypeRef;
use super::status::ApiError;
use compare::Comparison;
use fields::{Path, Set};
use managed::{Id, Managed, Operation};
use schema::Node;

pub use overlay::overlay;
pub use read::read;

/// Who writes, when, to what.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The field manager; empty is printed as `unknown`.
    pub manager: &'a str,
    /// Empty for the main resource.
    pub subresource: &'a str,
    /// Stands in the entry.
    pub now: Timestamp,
    /// Type of the object.
    pub schema: TypeRef<'a>,
    /// What this path does not write, whatever the object says.
    pub reset: Reset,
}

/// Fields that a path never writes (upstream: a strategy's `GetResetFields`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// None.
    Nothing,
    /// The main resource of a kind with a status subresource does not write `status`.
    Status,
    /// The status subresource does not write `spec`.
    Spec,
}

impl Reset {
    /// For a write to `subresource` of a kind with or without a status subresource.
    pub fn of(has_status: bool, subresource: &str) -> Self {
        match subresource {
            "status" => Reset::Spec,
            _ if has_status => Reset::Status,
            _ => Reset::Nothing,
        }
    }

    fn fields(self) -> &'static Set {
        static NOTHING: LazyLock<Set> = LazyLock::new(Set::default);
        static STATUS: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&[&["status"]]));
        static SPEC: LazyLock<Set> = LazyLock::new(|| {
            Set::of_fields(&[
                &["spec"],
                &["metadata", "deletionTimestamp"],
                &["metadata", "ownerReferences"],
            ])
        });
        match self {
            Reset::Nothing => &NOTHING,
            Reset::Status => &STATUS,
            Reset::Spec => &SPEC,
        }
    }
}

/// What nobody owns.
static SYSTEM: LazyLock<Set> = LazyLock::new(|| {
    let mut paths: Vec<&[&str]> = vec![&["apiVersion"], &["kind"], &["metadata"]];
    paths.extend([
        &["metadata", "name"] as &[&str],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "clusterName"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ]);
    Set::of_fields(&paths)
});

/// A field that somebody else owns.
#[derive(Clone, Debug)]
struct Conflict {
    owner: Id,
    path: Path,
}

/// Merges `config` into `live` (`None`: there is no such object yet) as `writer`.
///
/// The answer is the whole object with its new `managedFields`. It equals `live` where nothing
/// changed. A conflict is a 409 with a `FieldManagerConflict` cause for each field, unless
/// `force`.
pub fn apply(
    live: Option<&Object>,
    config: &Object,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Object, ApiError> {
    if config
        .metadata()
        .is_some_and(|meta| meta.contains_key("managedFields"))
    {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let nothing = typed_like(config);
    let base = live.unwrap_or(&nothing);
    if base.api_version() != config.api_version() {
        return Err(ApiError::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {}, expected: {}",
            config.api_version(),
            base.api_version()
        )));
    }
    let mut managed = Managed::of(base);
    if managed.0.is_empty() && live.is_some() {
        managed = before_first_apply(base, writer);
    }
    let is_kubectl = writer.manager == last_applied::KUBECTL;
    let again = is_kubectl.then(|| managed.clone());
    let mut result = merge_config(base, config, managed, writer, force);
    if let (Err(conflicts), Some(managed)) = (&mut result, again)
        && let Some(allowed) = last_applied::allowed(base, writer.schema)
    {
        let allowed = allowed.paths();
        conflicts.retain(|conflict| !allowed.contains(&conflict.path));
        if conflicts.is_empty() {
            result = merge_config(base, config, managed, writer, true);
        }
    }
    let mut object = result.map_err(|conflicts| conflict_error(&conflicts))?;
    if is_kubectl {
        last_applied::refresh(&mut object, config);
    }
    match live {
        Some(live) if differs_in_times_only(live, &object) => Ok(live.clone()),
        _ => Ok(object),
    }
}

/// Does the books of a create (`old` is `None`), an update or a patch: gives `new` its
/// `managedFields`. Call it when `new` is what will be stored, but for what the server itself
/// sets.
///
/// What `new` brings along in `managedFields` counts where it is readable and this is not a
/// subresource: clients may edit the entries; `[{}]` forgets them all.
pub fn track_update(old: Option<&Object>, new: &mut Object, writer: &Writer<'_>) {
    let brought = new.metadata_mut().remove("managedFields");
    let mut managed = entries_to_start_from(old, brought.as_ref(), writer);
    if managed.0.is_empty() && old.is_some() {
        // Nobody tracks this object until somebody applies to it.
        return;
    }
    let node = Node::root(writer.schema);
    let nothing = Map::new();
    let comparison = Comparison::of(node, old.map_or(&nothing, |old| &old.0), &new.0);
    let comparison = own_changes(comparison, writer);
    if !comparison.is_empty() {
        let id = writer.id(new, Operation::Update);
        let changed = comparison.changed();
        // With force there are no conflicts.
        disown(&mut managed, &comparison, None);
        if !changed.is_empty() {
            managed.take(id, changed, writer.now);
        }
        managed.cap();
    }
    managed.store(new);
}

impl Writer<'_> {
    fn id(&self, object: &Object, operation: Operation) -> Id {
        let manager = match self.manager {
            "" => "unknown",
            name => name,
        };
        Id {
            manager: manager.to_owned(),
            operation,
            api_version: object.api_version().to_owned(),
            subresource: self.subresource.to_owned(),
        }
    }
}

/// An object of the same kind with nothing in it.
fn typed_like(config: &Object) -> Object {
    let mut empty = Object::default();
    for field in ["apiVersion", "kind"] {
        if let Some(value) = config.0.get(field) {
            empty.0.insert(field.to_owned(), value.clone());
        }
    }
    empty
}

fn entries_to_start_from(
    old: Option<&Object>,
    brought: Option<&Value>,
    writer: &Writer<'_>,
) -> Managed {
    let stored = || old.map(Managed::of).unwrap_or_default();
    if !writer.subresource.is_empty() {
        return stored();
    }
    if managed::is_reset(brought) {
        return Managed::default();
    }
    let stored_value = old.and_then(|old| old.metadata()?.get("managedFields"));
    if brought == stored_value {
        return stored();
    }
    let brought = Managed::parse(brought);
    if brought.0.is_empty() {
        stored()
    } else {
        brought
    }
}

/// Without what the server sets and what this path does not write.
fn own_changes(comparison: Comparison, writer: &Writer<'_>) -> Comparison {
    let mut comparison = comparison.without(writer.reset.fields());
    for set in [
        &mut comparison.added,
        &mut comparison.modified,
        &mut comparison.removed,
    ] {
        *set = std::mem::take(set).difference(&SYSTEM);
    }
    comparison
}

/// The entry for an object that was written before anybody tracked it.
fn before_first_apply(live: &Object, writer: &Writer<'_>) -> Managed {
    let node = Node::root(writer.schema);
    let comparison = Comparison::of(node, &Map::new(), &live.0);
    let changed = own_changes(comparison, writer).changed();
    let mut managed = Managed::default();
    if !changed.is_empty() {
        let before = Writer {
            manager: "before-first-apply",
            ..*writer
        };
        managed.take(before.id(live, Operation::Update), changed, writer.now);
    }
    managed
}

/// Takes changed and removed fields from everybody but `except`.
fn disown(managed: &mut Managed, comparison: &Comparison, except: Option<&Id>) {
    let gone = comparison.changed().union(comparison.removed.clone());
    for manager in &mut managed.0 {
        let is_writer = except.is_some_and(|id| manager.id.is(id));
        if !is_writer {
            manager.set = std::mem::take(&mut manager.set).difference(&gone);
        }
    }
    managed.drop_empty();
}

fn merge_config(
    live: &Object,
    config: &Object,
    mut managed: Managed,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Object, Vec<Conflict>> {
    let node = Node::root(writer.schema);
    let id = writer.id(config, Operation::Apply);
    let merged = merge::merge_maps(node, &live.0, &config.0);
    let set = schema::fields_of(node, &config.0)
        .recursive_difference(writer.reset.fields())
        .difference(&SYSTEM);
    let last = match managed.find(&id) {
        Some(place) => {
            let manager = &mut managed.0[place];
            manager.id.api_version.clone_from(&id.api_version);
            std::mem::replace(&mut manager.set, set)
        }
        None => {
            let time = None;
            managed.0.push(managed::Manager {
                id: id.clone(),
                time,
                set,
            });
            Set::default()
        }
    };
    let set = match managed.find(&id) {
        Some(place) => &managed.0[place].set,
        None => &last,
    };
    let merged = if last.is_within(set) {
        merged
    } else {
        let sets: Vec<_> = managed.0.iter().map(|manager| &manager.set).collect();
        // What is empty in the configuration may have gone with the last thing in it.
        merge::merge_maps(node, &merge::prune(node, merged, &last, &sets), &config.0)
    };
    let comparison = Comparison::of(node, &live.0, &merged).without(writer.reset.fields());
    if !force {
        let conflicts = conflicts(&managed, &comparison, &id);
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
    }
    disown(&mut managed, &comparison, Some(&id));
    if let Some(place) = managed.find(&id) {
        let manager = &mut managed.0[place];
        if merged == live.0 && manager.set == last && manager.time.is_some() {
            return Ok(Object(merged));
        }
        manager.time = Some(super::time::seconds(writer.now));
    }
    let mut object = Object(merged);
    managed.store(&mut object);
    Ok(object)
}

fn conflicts(managed: &Managed, comparison: &Comparison, writer: &Id) -> Vec<Conflict> {
    let changed = comparison.changed();
    let mut found = Vec::new();
    for manager in &managed.0 {
        if manager.id.is(writer) {
            continue;
        }
        let paths = manager.set.intersection(&changed).paths();
        found.extend(paths.into_iter().map(|path| Conflict {
            owner: manager.id.clone(),
            path,
        }));
    }
    found.sort_by(|one, two| one.owner.manager.cmp(&two.owner.manager));
    found
}

fn conflict_error(conflicts: &[Conflict]) -> ApiError {
    let causes: Vec<_> = conflicts
        .iter()
        .map(|conflict| {
            json!({
                "reason": "FieldManagerConflict",
                "message": format!("conflict with {}", conflict.owner.print()),
                "field": conflict.path.to_string(),
            })
        })
        .collect();
    let message = match conflicts {
        [one] => format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            one.owner.print(),
            one.path
        ),
        many => {
            let mut lines: Vec<String> = Vec::new();
            for (number, conflict) in many.iter().enumerate() {
                if number == 0 || many[number - 1].owner != conflict.owner {
                    lines.push(format!("conflicts with {}:", conflict.owner.print()));
                }
                lines.push(format!("- {}", conflict.path));
            }
            let count = many.len();
            format!("Apply failed with {count} conflicts: {}", lines.join("\n"))
        }
    };
    ApiError {
        details: Some(json!({ "causes": causes })),
        ..ApiError::plain(409, "Conflict", message)
    }
}

/// Whether two objects differ at most in the times of their entries.
fn differs_in_times_only(one: &Object, two: &Object) -> bool {
    let same_but = |one: &Map<String, Value>, two: &Map<String, Value>, field: &str| {
        let others = |map: &'_ Map<String, Value>| map.len() - usize::from(map.contains_key(field));
        let same = |(key, value): (&String, &Value)| key == field || two.get(key) == Some(value);
        others(one) == others(two) && one.iter().all(same)
    };
    let (Some(meta_one), Some(meta_two)) = (one.metadata(), two.metadata()) else {
        return one == two;
    };
    let entries = |meta: &'_ Map<String, Value>| {
        let entries = meta.get("managedFields").and_then(Value::as_array);
        entries.map_or(0, Vec::len)
    };
    let pairs = || {
        let list = |meta| Map::get(meta, "managedFields").and_then(Value::as_array);
        list(meta_one)
            .into_iter()
            .flatten()
            .zip(list(meta_two).into_iter().flatten())
    };
    same_but(&one.0, &two.0, "metadata")
        && same_but(meta_one, meta_two, "managedFields")
        && entries(meta_one) == entries(meta_two)
        && pairs().all(|pair| match pair {
            (Value::Object(one), Value::Object(two)) => same_but(one, two, "time"),
            (one, two) => one == two,
        })
}

#[cfg(test)]
mod tests;
