//! Claims and Ingresses that name no class get the default one: the newest of those marked so
//! (`plugin/pkg/admission/storage/storageclass/setdefault`, `…/network/defaultingressclass`).

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::api::object::{Object, child_mut};
use crate::api::status::ApiError;
use crate::server::cacher::Item;

use super::compiled::Compiled;
use super::{Attributes, Lookup, Operation, Plugin};

/// Where classes are and how they are named by what uses them.
struct Sort {
    storages: &'static [&'static str],
    /// Group and resource of what gets a class.
    of: (&'static str, &'static str),
    /// Marks the default; any of them.
    marks: &'static [&'static str],
    field: &'static str,
    /// The annotation that came before the field.
    annotation: &'static str,
}

const STORAGE: Sort = Sort {
    storages: &["storageclasses.storage.k8s.io"],
    of: ("", "persistentvolumeclaims"),
    marks: &[
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
    ],
    field: "storageClassName",
    annotation: "volume.beta.kubernetes.io/storage-class",
};
const INGRESS: Sort = Sort {
    storages: &["ingressclasses.networking.k8s.io"],
    of: ("networking.k8s.io", "ingresses"),
    marks: &["ingressclass.kubernetes.io/is-default-class"],
    field: "ingressClassName",
    annotation: "kubernetes.io/ingress.class",
};

pub(super) struct DefaultClass {
    sort: Sort,
    default: Compiled<Option<String>>,
}

impl DefaultClass {
    /// DefaultStorageClass.
    pub(super) fn of_storage(lookup: &Lookup) -> Self {
        Self {
            default: Compiled::new(lookup, STORAGE.storages, |all| newest(all, STORAGE.marks)),
            sort: STORAGE,
        }
    }

    /// DefaultIngressClass.
    pub(super) fn of_ingress(lookup: &Lookup) -> Self {
        Self {
            default: Compiled::new(lookup, INGRESS.storages, |all| newest(all, INGRESS.marks)),
            sort: INGRESS,
        }
    }
}

#[async_trait]
impl Plugin for DefaultClass {
    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        let gvr = &attributes.def.gvr;
        attributes.operation == Operation::Create
            && attributes.subresource.is_empty()
            && (gvr.group.as_str(), gvr.resource.as_str()) == self.sort.of
    }

    async fn mutate(
        &self,
        _attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), ApiError> {
        let is_named = object.at(&["spec", self.sort.field]).is_some()
            || object
                .at(&["metadata", "annotations", self.sort.annotation])
                .is_some();
        if !is_named && let Some(default) = &*self.default.get() {
            let spec = child_mut(&mut object.0, "spec");
            spec.insert(self.sort.field.into(), default.as_str().into());
        }
        Ok(())
    }
}

/// The newest class with a mark; of several made in one second the first by name.
fn newest(objects: &[Vec<Arc<Item>>], marks: &[&str]) -> Option<String> {
    let objects = objects.iter().flatten();
    let objects = objects.filter_map(|item| item.object().ok());
    pick(objects.collect(), marks)
}

fn pick(mut classes: Vec<Object>, marks: &[&str]) -> Option<String> {
    classes.retain(|class| {
        let is_marked = |mark: &&str| class.at(&["metadata", "annotations", mark]);
        marks
            .iter()
            .any(|mark| is_marked(mark).and_then(Value::as_str) == Some("true"))
    });
    let made = |class: &Object| class.meta("creationTimestamp").to_owned();
    classes.sort_by(|a, b| made(b).cmp(&made(a)).then_with(|| a.name().cmp(b.name())));
    classes.first().map(|class| class.name().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_newest_marked_class_is_the_default() {
        let class = |name: &str, made: &str, mark: &str| {
            Object::from_value(json!({"metadata": {
                "name": name, "creationTimestamp": made,
                "annotations": {"storageclass.kubernetes.io/is-default-class": mark},
            }}))
            .unwrap()
        };
        let classes = vec![
            class("old", "2026-01-01T00:00:00Z", "true"),
            class("b", "2026-01-02T00:00:00Z", "true"),
            class("a", "2026-01-02T00:00:00Z", "true"),
            class("newer", "2026-01-03T00:00:00Z", "false"),
        ];
        assert_eq!(pick(classes, STORAGE.marks).as_deref(), Some("a"));
        assert_eq!(pick(Vec::new(), STORAGE.marks), None);
    }
}
