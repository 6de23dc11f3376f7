//! What to apply and what to delete. Pure.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::read::{Complaint, Document, Read};
use super::record::{Entry, Id, Record};
use crate::api::object::Object;

/// What a lap is to do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// In this order.
    pub(super) apply: Vec<Item>,
    /// Objects whose documents are gone.
    pub(super) delete: Vec<(Id, Entry)>,
    /// What is wrong with the documents together.
    pub(super) keep: Vec<Complaint>,
}

/// An object to apply.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) id: Id,
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) hash: u64,
    pub(super) object: Object,
}

/// Compares what the folder says with what came from it before. Without `trust_record` everything
/// is applied again.
pub(super) fn plan(before: &Record, read: &Read, trust_record: bool) -> Plan {
    let mut plan = Plan::default();
    let mut wanted: Vec<Item> = Vec::new();
    for document in &read.documents {
        let item = item(document);
        match wanted.iter().find(|other| other.id.is_same(&item.id)) {
            Some(first) => plan.keep.push(Complaint::new(
                &item.file,
                item.line,
                &format!(
                    "{} is in `{}` already: this one is not applied",
                    item.id, first.file
                ),
            )),
            None => wanted.push(item),
        }
    }
    for (id, entry) in before.objects() {
        let still = wanted.iter().any(|item| item.id.is_same(id));
        if !still && !read.broken.contains(&entry.file) {
            plan.delete.push((id.clone(), entry.clone()));
        }
    }
    let known = |item: &Item| {
        before
            .objects()
            .get(&item.id)
            .is_some_and(|entry| entry.hash == item.hash && entry.file == item.file)
    };
    plan.apply = wanted
        .into_iter()
        .filter(|item| !(trust_record && known(item)))
        .collect();
    // A stable sort: path order stays within each rank.
    plan.apply.sort_by_key(|item| rank(&item.object));
    plan
}

/// Definitions and namespaces come before what needs them.
fn rank(object: &Object) -> u8 {
    match object.kind() {
        "CustomResourceDefinition" => 0,
        "Namespace" => 1,
        _ => 2,
    }
}

fn item(document: &Document) -> Item {
    let mut hasher = DefaultHasher::new();
    // Map keys are ordered, so equal objects have equal texts.
    serde_json::to_string(&document.object.0)
        .unwrap_or_default()
        .hash(&mut hasher);
    Item {
        id: Id::of(&document.object),
        file: document.file.clone(),
        line: document.line,
        hash: hasher.finish(),
        object: document.object.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document(file: &str, kind: &str, name: &str, value: u32) -> Document {
        let object =
            json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "data": value});
        Document {
            file: file.into(),
            line: 1,
            object: Object::from_value(object).unwrap(),
        }
    }

    fn read(documents: Vec<Document>) -> Read {
        Read {
            documents,
            ..Read::default()
        }
    }

    fn applied(read: &Read) -> Record {
        let plan = plan(&Record::default(), read, true);
        Record::from_objects(plan.apply.into_iter().map(|item| {
            (
                item.id,
                Entry {
                    file: item.file,
                    hash: item.hash,
                },
            )
        }))
    }

    #[test]
    fn namespaces_and_definitions_come_first() {
        let read = read(vec![
            document("a", "ConfigMap", "x", 1),
            document("b", "Namespace", "n", 1),
            document("c", "CustomResourceDefinition", "d", 1),
        ]);
        let order: Vec<_> = plan(&Record::default(), &read, true)
            .apply
            .into_iter()
            .map(|item| item.id.kind)
            .collect();
        assert_eq!(
            order,
            ["CustomResourceDefinition", "Namespace", "ConfigMap"]
        );
    }

    #[test]
    fn only_changes_are_applied_and_what_left_is_deleted() {
        let before = applied(&read(vec![
            document("a", "ConfigMap", "x", 1),
            document("a", "ConfigMap", "y", 1),
            document("a", "ConfigMap", "z", 1),
        ]));
        let now = read(vec![
            document("a", "ConfigMap", "x", 1),
            document("a", "ConfigMap", "y", 2),
        ]);
        let found = plan(&before, &now, true);
        assert_eq!(
            found
                .apply
                .iter()
                .map(|i| i.id.name.as_str())
                .collect::<Vec<_>>(),
            ["y"]
        );
        assert_eq!(
            found
                .delete
                .iter()
                .map(|(id, _)| id.name.as_str())
                .collect::<Vec<_>>(),
            ["z"]
        );
        assert_eq!(plan(&before, &now, false).apply.len(), 2);
    }

    #[test]
    fn a_broken_file_deletes_nothing() {
        let before = applied(&read(vec![document("a", "ConfigMap", "x", 1)]));
        let broken = Read {
            broken: vec!["a".into()],
            ..Read::default()
        };
        assert!(plan(&before, &broken, true).delete.is_empty());
        assert_eq!(plan(&before, &Read::default(), true).delete.len(), 1);
    }

    #[test]
    fn an_object_in_two_files_is_applied_once_and_said() {
        let read = read(vec![
            document("a", "ConfigMap", "x", 1),
            document("b", "ConfigMap", "x", 2),
        ]);
        let found = plan(&Record::default(), &read, true);
        assert_eq!(found.apply.len(), 1);
        assert_eq!(
            found.keep[0].to_string(),
            "b:1: ConfigMap x is in `a` already: this one is not applied"
        );
    }
}
