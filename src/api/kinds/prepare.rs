//! What strategies of several kinds do to an object before it is validated.

use crate::api::object::Object;

/// Create of a kind with a status: the status is the server's.
pub(super) fn drop_status(object: &mut Object) {
    object.0.remove("status");
}

/// Update of a kind with a status: the status has its own path.
pub(super) fn keep_status(new: &mut Object, old: &Object) {
    keep(new, old, "status");
}

/// Update of a status: everything but `status` and `metadata` stays.
pub(super) fn only_status(new: &mut Object, old: &Object) {
    new.0
        .retain(|field, _| field == "status" || old.0.contains_key(field));
    for field in old.0.keys() {
        if !matches!(field.as_str(), "status" | "metadata") {
            keep(new, old, field);
        }
    }
}

/// [`only_status`], and labels stay too.
pub(super) fn only_status_without_labels(new: &mut Object, old: &Object) {
    only_status(new, old);
    keep_meta(new, old, "labels");
}

/// Puts back one top-level field.
pub(super) fn keep(new: &mut Object, old: &Object, field: &str) {
    match old.0.get(field) {
        Some(value) => new.0.insert(field.to_owned(), value.clone()),
        None => new.0.remove(field),
    };
}

/// Puts back one field of `metadata`.
pub(super) fn keep_meta(new: &mut Object, old: &Object, field: &str) {
    let value = old.metadata().and_then(|meta| meta.get(field)).cloned();
    let meta = new.metadata_mut();
    match value {
        Some(value) => meta.insert(field.to_owned(), value),
        None => meta.remove(field),
    };
}
