//! Placed pods, grouped by what selectors see of them: namespace, labels, whether they are being
//! deleted, and what they themselves say of other pods. Pods of one template are one group, so
//! that counting the pods a selector selects costs one match for each template and one step for
//! each node with such pods, however many pods there are.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::pod::PodInfo;

/// All groups.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    groups: HashMap<Arc<str>, Group>,
    by_namespace: HashMap<String, BTreeSet<Arc<str>>>,
    /// Those whose pods say something of other pods.
    with_affinity: BTreeSet<Arc<str>>,
}

/// Pods that are alike.
#[derive(Debug)]
pub(crate) struct Group {
    /// One of them; stands for all in what the group is made by.
    pub(crate) sample: Arc<PodInfo>,
    /// Node → how many of them are there.
    pub(crate) nodes: HashMap<Arc<str>, i64>,
}

/// The name of a pod's group.
pub(crate) fn of(pod: &Pod) -> Arc<str> {
    let meta = &pod.metadata;
    let mut name = meta.namespace.clone().unwrap_or_default();
    if meta.deletion_timestamp.is_some() {
        name.push('!');
    }
    for (key, value) in meta.labels.iter().flatten() {
        // Neither can hold these signs; writing to a String cannot fail.
        let _ = write!(name, ",{key}={value}");
    }
    let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref());
    let speaks = affinity.map(|a| (&a.pod_affinity, &a.pod_anti_affinity));
    if let Some(speaks) = speaks.filter(|(near, far)| near.is_some() || far.is_some()) {
        name.push('|');
        // These types always have a JSON form.
        name.push_str(&serde_json::to_string(&speaks).unwrap_or_default());
    }
    name.into()
}

impl Groups {
    /// The pod is on `node`.
    pub(super) fn add(&mut self, pod: &Arc<PodInfo>, node: &Arc<str>) {
        let group = self.groups.entry(pod.group.clone()).or_insert_with(|| {
            let names = self.by_namespace.entry(pod.key.namespace.clone());
            names.or_default().insert(pod.group.clone());
            if pod.affinity.is_some() {
                self.with_affinity.insert(pod.group.clone());
            }
            Group {
                sample: pod.clone(),
                nodes: HashMap::new(),
            }
        });
        *group.nodes.entry(node.clone()).or_default() += 1;
    }

    /// The pod is not on `node` any more.
    pub(super) fn remove(&mut self, pod: &PodInfo, node: &Arc<str>) {
        let Some(group) = self.groups.get_mut(&pod.group) else {
            return;
        };
        if let Some(count) = group.nodes.get_mut(node) {
            *count -= 1;
            if *count == 0 {
                group.nodes.remove(node);
            }
        }
        if !group.nodes.is_empty() {
            return;
        }
        self.groups.remove(&pod.group);
        self.with_affinity.remove(&pod.group);
        if let Some(names) = self.by_namespace.get_mut(&pod.key.namespace) {
            names.remove(&pod.group);
            if names.is_empty() {
                self.by_namespace.remove(&pod.key.namespace);
            }
        }
    }

    /// Every group.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Group> {
        self.groups.values()
    }

    /// The groups of a namespace.
    pub(crate) fn within(&self, namespace: &str) -> impl Iterator<Item = &Group> {
        let names = self.by_namespace.get(namespace).into_iter().flatten();
        names.filter_map(|name| self.groups.get(name))
    }

    /// The groups whose pods say something of other pods.
    pub(crate) fn with_affinity(&self) -> impl Iterator<Item = &Group> {
        let names = self.with_affinity.iter();
        names.filter_map(|name| self.groups.get(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::scheduler::testing::pod;

    #[test]
    fn pods_of_one_template_are_one_group_that_goes_with_the_last() {
        let (mut groups, node): (_, Arc<str>) = (Groups::default(), "n".into());
        let pods: Vec<_> = ["a", "b"].map(|n| pod(n).label("app", "w").info()).into();
        let other = pod("c").label("app", "x").info();
        for pod in pods.iter().chain([&other]) {
            groups.add(pod, &node);
        }
        assert_eq!(groups.within("default").count(), 2);
        let counts = groups.all().map(|g| g.nodes[&node]).max();
        assert_eq!(counts, Some(2));
        for pod in &pods {
            groups.remove(pod, &node);
        }
        assert_eq!(groups.all().count(), 1);
        assert_eq!(groups.with_affinity().count(), 0);
    }
}
