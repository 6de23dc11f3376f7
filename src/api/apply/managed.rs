//! `metadata.managedFields`: one entry for each writer, with the set of fields it owns.

use std::cmp::Ordering;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::fields::Set;
use crate::api::object::Object;
use crate::api::time;

/// More entries of updates than this are joined, oldest first.
const UPDATERS_MAX: usize = 10;
/// The name under which they are joined.
const ANCIENT: &str = "ancient-changes";

/// How a writer wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// Who wrote, as far as one entry is kept apart from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Id {
    pub(super) manager: String,
    pub(super) operation: Operation,
    /// Version of the fields' names. Not part of the identity of appliers.
    pub(super) api_version: String,
    pub(super) subresource: String,
}

/// One entry.
#[derive(Clone, Debug)]
pub(super) struct Manager {
    pub(super) id: Id,
    /// As it is printed.
    pub(super) time: Option<String>,
    pub(super) set: Set,
}

/// All entries of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Managed(pub(super) Vec<Manager>);

impl Id {
    /// Whether both are the same writer.
    pub(super) fn is(&self, other: &Id) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// As conflicts name a writer: `"kubectl" using apps/v1`.
    pub(super) fn print(&self) -> String {
        let mut text = format!("\"{}\"", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource \"{}\"", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }

    fn order(&self, other: &Id) -> Ordering {
        self.manager
            .cmp(&other.manager)
            .then_with(|| self.api_version.cmp(&other.api_version))
            .then_with(|| self.subresource.cmp(&other.subresource))
    }
}

impl Manager {
    fn parse(entry: &Value) -> Option<Self> {
        let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default();
        let operation = match text("operation") {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        if !matches!(text("fieldsType"), "" | "FieldsV1") {
            return None;
        }
        let set = match entry.get("fieldsV1") {
            Some(fields) => Set::parse(fields).ok()?,
            None => Set::default(),
        };
        Some(Manager {
            id: Id {
                manager: text("manager").to_owned(),
                operation,
                api_version: text("apiVersion").to_owned(),
                subresource: text("subresource").to_owned(),
            },
            time: Some(text("time").to_owned()).filter(|time| !time.is_empty()),
            set,
        })
    }

    fn print(&self) -> Value {
        let operation = match self.id.operation {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        };
        let mut entry = Map::new();
        let mut put = |field: &str, value: Value| entry.insert(field.to_owned(), value);
        put("manager", self.id.manager.as_str().into());
        put("operation", operation.into());
        put("apiVersion", self.id.api_version.as_str().into());
        put("fieldsType", "FieldsV1".into());
        put("fieldsV1", self.set.print());
        if let Some(time) = &self.time {
            put("time", time.as_str().into());
        }
        if !self.id.subresource.is_empty() {
            put("subresource", self.id.subresource.as_str().into());
        }
        Value::Object(entry)
    }
}

impl Managed {
    /// From `metadata.managedFields`; nothing where any entry cannot be read.
    pub(super) fn parse(entries: Option<&Value>) -> Self {
        let entries = entries.and_then(Value::as_array);
        let parsed: Option<Vec<_>> = entries.into_iter().flatten().map(Manager::parse).collect();
        Managed(parsed.unwrap_or_default())
    }

    pub(super) fn of(object: &Object) -> Self {
        Self::parse(object.metadata().and_then(|meta| meta.get("managedFields")))
    }

    /// Writes the entries into an object; none: no field.
    pub(super) fn store(mut self, object: &mut Object) {
        if self.0.is_empty() {
            object.metadata_mut().remove("managedFields");
            return;
        }
        self.0.sort_by(|one, two| {
            let (a, b) = (&one.id, &two.id);
            let by_operation = a.operation.cmp(&b.operation);
            let by_time = || one.time.cmp(&two.time);
            by_operation.then_with(by_time).then_with(|| a.order(b))
        });
        let entries = self.0.iter().map(Manager::print).collect();
        object
            .metadata_mut()
            .insert("managedFields".into(), Value::Array(entries));
    }

    pub(super) fn find(&self, id: &Id) -> Option<usize> {
        self.0.iter().position(|manager| manager.id.is(id))
    }

    /// Forgets writers that own nothing.
    pub(super) fn drop_empty(&mut self) {
        self.0.retain(|manager| !manager.set.is_empty());
    }

    /// Adds fields to a writer's set.
    pub(super) fn take(&mut self, id: Id, set: Set, now: Timestamp) {
        let time = Some(time::seconds(now));
        match self.find(&id) {
            Some(place) => {
                let manager = &mut self.0[place];
                manager.set = std::mem::take(&mut manager.set).union(set);
                manager.time = time;
            }
            None => self.0.push(Manager { id, time, set }),
        }
    }

    /// Joins the oldest entries of updates until there are not more than the limit.
    pub(super) fn cap(&mut self) {
        let is_updater = |manager: &Manager| manager.id.operation == Operation::Update;
        let mut count = self.0.iter().filter(|m| is_updater(m)).count();
        if count <= UPDATERS_MAX {
            return;
        }
        let (mut updaters, mut kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(is_updater);
        updaters.sort_by(|one, two| one.time.cmp(&two.time).then_with(|| one.id.order(&two.id)));
        // The oldest of each version waits here for another one to be joined with.
        let mut oldest: Vec<Manager> = Vec::new();
        for manager in updaters {
            let version = &manager.id.api_version;
            let first = oldest.iter_mut().find(|m| m.id.api_version == *version);
            match first {
                Some(first) if count > UPDATERS_MAX => {
                    first.id.manager = ANCIENT.to_owned();
                    first.id.subresource.clear();
                    first.set = std::mem::take(&mut first.set).union(manager.set);
                    first.time = manager.time;
                    count -= 1;
                }
                Some(_) => kept.push(manager),
                None => oldest.push(manager),
            }
        }
        kept.append(&mut oldest);
        self.0 = kept;
    }
}

/// Whether a client asks for all entries to be forgotten: `[{}]`.
pub(super) fn is_reset(entries: Option<&Value>) -> bool {
    entries == Some(&json!([{}]))
}
