//! Pods that wait for room on a node that others are leaving for them. They count there for every
//! pod that is not more important, so that nobody takes the room meanwhile.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::api::object::ObjectKey;

use super::pod::PodInfo;

/// The nominations.
#[derive(Debug, Default)]
pub(crate) struct Nominations {
    nodes: HashMap<ObjectKey, Arc<str>>,
    by_node: HashMap<Arc<str>, BTreeMap<ObjectKey, Arc<PodInfo>>>,
}

impl Nominations {
    /// Room is being made for `pod` on `node`, and nowhere else.
    pub(crate) fn set(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.withdraw(&pod.key);
        let node: Arc<str> = node.into();
        self.nodes.insert(pod.key.clone(), node.clone());
        let guests = self.by_node.entry(node).or_default();
        guests.insert(pod.key.clone(), pod);
    }

    /// The pod is placed, gone, or there is no point in waiting.
    pub(crate) fn withdraw(&mut self, key: &ObjectKey) {
        let Some(node) = self.nodes.remove(key) else {
            return;
        };
        if let Some(guests) = self.by_node.get_mut(&node) {
            guests.remove(key);
            if guests.is_empty() {
                self.by_node.remove(&node);
            }
        }
    }

    /// Where a pod is to go.
    pub(crate) fn node_of(&self, key: &ObjectKey) -> Option<&Arc<str>> {
        self.nodes.get(key)
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The pods that are to come to `node`.
    pub(crate) fn on(&self, node: &str) -> impl Iterator<Item = &Arc<PodInfo>> {
        let guests = self.by_node.get(node);
        guests.into_iter().flat_map(BTreeMap::values)
    }

    /// Those of them `pod` has to leave room for.
    pub(crate) fn ahead_of<'a>(
        &'a self,
        pod: &'a PodInfo,
        node: &str,
    ) -> impl Iterator<Item = &'a Arc<PodInfo>> {
        let guests = self.on(node);
        guests.filter(move |guest| guest.priority >= pod.priority && guest.key != pod.key)
    }
}
