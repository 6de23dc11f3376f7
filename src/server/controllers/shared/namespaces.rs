//! What controllers that keep something in every namespace share.

use k8s_openapi::api::core::v1::Namespace;

use crate::api::object::ObjectKey;
use crate::client::{Cache, Error, Queue};

/// Every change of a namespace puts its key in the queue.
pub(crate) fn on_change(namespaces: &Cache<Namespace>, queue: &Queue<ObjectKey>) {
    let queue = queue.clone();
    namespaces.on_change(move |change| queue.add(change.key()));
}

/// Failures of a write into a namespace after which there is nothing more to do: somebody else was
/// faster (their write is an event of its own), or the namespace is gone or going.
pub(crate) fn is_settled(error: &Error) -> bool {
    let is_ending = error.api().is_some_and(|error| {
        error.code == 403 && error.message.contains("because it is being terminated")
    });
    error.is_already_exists() || error.is_conflict() || error.is_not_found() || is_ending
}
