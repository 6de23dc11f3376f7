//! The way from client-side to server-side apply: `kubectl apply` without `--server-side` keeps
//! what it applied in an annotation. What that says is kubectl's own, so kubectl's server-side
//! apply takes it over without a conflict, and the annotation is kept up to date, so that there is
//! a way back.

use serde_json::Value;

use super::compare::Comparison;
use super::fields::Set;
use super::schema::{Node, fields_of};
use crate::api::codec;
use crate::api::object::{Object, child_mut};
use crate::api::schema::TypeRef;

/// The only field manager this is done for.
pub(super) const KUBECTL: &str = "kubectl";
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Limit of all annotations of an object together, as upstream.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// The fields that were applied client-side and still have the value they were applied with.
/// `None` where nothing was.
pub(super) fn allowed(live: &Object, ty: TypeRef<'_>) -> Option<Set> {
    let annotation = annotation(live)?;
    let applied: Value = serde_json::from_str(annotation).ok()?;
    let applied = codec::prune(&applied, ty);
    if applied.api_version() != live.api_version() {
        return None;
    }
    let node = Node::root(ty);
    let differs = Comparison::of(node, &live.0, &applied.0);
    Some(
        fields_of(node, &applied.0)
            .difference(&differs.modified)
            .difference(&differs.added)
            .difference(&differs.removed),
    )
}

/// Writes what is applied now into the annotation, where there is one.
pub(super) fn refresh(object: &mut Object, config: &Object) {
    if annotation(object).is_none() {
        return;
    }
    let mut config = config.clone();
    let annotations = child_mut(config.metadata_mut(), "annotations");
    annotations.remove(ANNOTATION);
    if annotations.is_empty() {
        config.metadata_mut().remove("annotations");
    }
    let text = format!("{}\n", config.into_value());
    let annotations = child_mut(object.metadata_mut(), "annotations");
    let others: usize = annotations
        .iter()
        .filter(|(key, _)| *key != ANNOTATION)
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum();
    if others + ANNOTATION.len() + text.len() > ANNOTATIONS_BYTES_MAX {
        annotations.remove(ANNOTATION);
    } else {
        annotations.insert(ANNOTATION.to_owned(), text.into());
    }
}

fn annotation(object: &Object) -> Option<&str> {
    let text = object.text_at(&["metadata", "annotations", ANNOTATION]);
    (!text.is_empty()).then_some(text)
}
