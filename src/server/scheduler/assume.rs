//! Pods that are being bound: they count on their node before the API says so, so that the next
//! pod of a burst does not take the same room.
//!
//! A pod is assumed from the decision until the watch shows it bound, or binding failed. After a
//! successful binding the watch always follows, so nothing expires here.

use std::collections::HashMap;
use std::sync::Arc;

use crate::api::object::ObjectKey;

use super::pod::PodInfo;
use super::snapshot::Snapshot;

/// The assumed pods.
#[derive(Debug, Default)]
pub(crate) struct Assumed(HashMap<ObjectKey, String>);

impl Assumed {
    /// The pod counts on `node` from now on.
    pub(crate) fn assume(&mut self, snapshot: &mut Snapshot, pod: &Arc<PodInfo>, node: &str) {
        self.0.insert(pod.key.clone(), pod.uid.clone());
        snapshot.place(pod.clone(), node);
    }

    /// The pod was not bound: it does not count any more. `false` where it was not assumed, for
    /// instance because another pod has its name by now.
    pub(crate) fn forget(&mut self, snapshot: &mut Snapshot, pod: &PodInfo) -> bool {
        if !self.is_assumed(pod) {
            return false;
        }
        self.0.remove(&pod.key);
        snapshot.unplace(&pod.key);
        true
    }

    /// The API shows the pod bound, or gone.
    pub(crate) fn confirm(&mut self, key: &ObjectKey) {
        self.0.remove(key);
    }

    /// Whether this very pod is being bound.
    pub(crate) fn is_assumed(&self, pod: &PodInfo) -> bool {
        self.0.get(&pod.key) == Some(&pod.uid)
    }
}
