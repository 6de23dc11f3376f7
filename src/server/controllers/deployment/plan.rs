//! What one reconcile of a Deployment does: pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::Resource as _;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use crate::api::{
    meta,
    workload::{self, TEMPLATE_HASH_LABEL},
};

use super::{most_replicas, rollout, status, wanted, wanted_of};

/// Counts rollouts; on the deployment and each of its sets.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Revisions a set had before, comma-separated.
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// What the deployment asked for when the set was last scaled.
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// The same with what a rollout may have beyond.
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of a deployment that are not copied to its sets.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// What is looked at.
pub(super) struct View<'a> {
    pub(super) deployment: &'a Deployment,
    /// All sets it controls.
    pub(super) sets: &'a [Arc<ReplicaSet>],
    /// Whether a set has pods that have not ended.
    pub(super) has_running_pods: &'a dyn Fn(&ReplicaSet) -> bool,
    pub(super) now: Timestamp,
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Sets annotations of the deployment.
    Annotate { annotations: Value },
    /// Creates the new set.
    Create(Box<ReplicaSet>),
    /// Changes a set, and its replicas from one number to another.
    Update {
        set: Arc<ReplicaSet>,
        change: Value,
        scaled: Option<(i32, i32)>,
    },
    /// Deletes an old set nobody needs.
    Delete(Arc<ReplicaSet>),
}

/// All that one reconcile writes.
#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) status: DeploymentStatus,
    /// A deadline by which something changes by time alone.
    pub(super) look_again: Option<Duration>,
}

/// The sets of a deployment by their part in a rollout.
#[derive(Clone, Debug)]
pub(super) struct Sets {
    pub(super) new: Option<Arc<ReplicaSet>>,
    /// Oldest first.
    pub(super) old: Vec<Arc<ReplicaSet>>,
}

impl Sets {
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(self.new.iter())
    }
}

/// What to do now.
pub(super) fn plan(view: &View<'_>) -> Plan {
    let deployment = view.deployment;
    let sets = sort(deployment, view.sets);
    if meta::is_terminating(&deployment.metadata) {
        return finish(view, &sets, Vec::new());
    }
    let mut steps = Vec::new();
    if let Some(new) = &sets.new {
        let revision = next_revision(&sets);
        steps.extend(describe(deployment, new, revision));
        steps.extend(annotate_revision(deployment, new, revision));
    }
    if is_paused(deployment) || is_scaled(deployment, &sets) {
        steps.extend(rollout::scale(deployment, &sets));
        if is_paused(deployment) {
            steps.extend(clean_up(deployment, &sets));
        }
        return finish(view, &sets, merge(steps));
    }
    let rolling = workload::is_rolling(deployment);
    let waits = !rolling && sets.old.iter().any(|set| (view.has_running_pods)(set));
    let moved = if rolling {
        rollout::roll(deployment, &sets)
    } else {
        rollout::recreate(deployment, &sets, waits)
    };
    let creates = sets.new.is_none() && (rolling || (!waits && wanted_of(&sets.old) == 0));
    if creates {
        let set = new_set(deployment, &sets);
        let revision = set.metadata.annotations.as_ref();
        let revision = revision.and_then(|a| a.get(REVISION)).cloned();
        steps.push(Step::Create(Box::new(set)));
        if meta::annotation(&deployment.metadata, REVISION) != revision.as_deref() {
            let annotations = json!({ REVISION: revision });
            steps.push(Step::Annotate { annotations });
        }
        return finish(view, &sets, steps);
    }
    let rests = moved.is_empty();
    steps.extend(moved);
    let current = status::calculate(deployment, &sets, view.now);
    if rests && status::is_complete(deployment, &current) {
        steps.extend(clean_up(deployment, &sets));
    }
    finish(view, &sets, merge(steps))
}

fn finish(view: &View<'_>, sets: &Sets, steps: Vec<Step>) -> Plan {
    let deployment = view.deployment;
    let created = steps.iter().find_map(|step| match step {
        Step::Create(set) => Some(meta::name(&set.metadata)),
        _ => None,
    });
    let (status, look_again) = status::next(deployment, sets, created, view.now);
    Plan {
        steps,
        status,
        look_again,
    }
}

pub(super) fn is_paused(deployment: &Deployment) -> bool {
    deployment.spec.paused == Some(true)
}

/// The new set is the oldest with the deployment's template.
fn sort(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Sets {
    let mut sorted = sets.to_vec();
    sorted.sort_by(|a, b| {
        let key = |set: &ReplicaSet| {
            let created = set.metadata.creation_timestamp.as_ref().map(|t| t.0);
            (created, meta::name(&set.metadata).to_owned())
        };
        key(a).cmp(&key(b))
    });
    let at = sorted
        .iter()
        .position(|set| has_template(set, &deployment.spec.template));
    let new = at.map(|at| sorted.remove(at));
    Sets { new, old: sorted }
}

/// Whether a set makes pods of this template; the hash label does not count.
pub(super) fn has_template(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let Some(mine) = &set.spec.template else {
        return false;
    };
    without_hash(mine) == without_hash(template)
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(meta) = &mut template.metadata {
        if let Some(labels) = &mut meta.labels {
            labels.remove(TEMPLATE_HASH_LABEL);
        }
        meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
        meta.annotations = meta.annotations.take().filter(|a| !a.is_empty());
    }
    template.metadata = template.metadata.filter(|m| *m != ObjectMeta::default());
    template
}

pub(super) fn revision(set: &ReplicaSet) -> i64 {
    let revision = meta::annotation(&set.metadata, REVISION);
    revision.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The revision of the new set: one more than of any old one, unless it has more already.
fn next_revision(sets: &Sets) -> i64 {
    let most = sets.old.iter().map(|set| revision(set)).max();
    most.unwrap_or(0) + 1
}

/// Brings the new set's annotations and `minReadySeconds` up to date.
fn describe(deployment: &Deployment, new: &Arc<ReplicaSet>, revision: i64) -> Option<Step> {
    let annotations = annotations(deployment, Some(new), revision);
    let old = new.metadata.annotations.clone().unwrap_or_default();
    let changed: BTreeMap<_, _> = annotations
        .into_iter()
        .filter(|(key, value)| old.get(key) != Some(value))
        .collect();
    let min_ready = deployment.spec.min_ready_seconds.unwrap_or(0);
    let mut change = json!({});
    if !changed.is_empty() {
        change["metadata"]["annotations"] = json!(changed);
    }
    if min_ready != new.spec.min_ready_seconds.unwrap_or(0) {
        change["spec"]["minReadySeconds"] = min_ready.into();
    }
    (change != json!({})).then(|| Step::Update {
        set: new.clone(),
        change,
        scaled: None,
    })
}

/// The annotations a deployment gives to its new set.
fn annotations(
    deployment: &Deployment,
    set: Option<&ReplicaSet>,
    next: i64,
) -> BTreeMap<String, String> {
    let mut annotations = deployment.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !NOT_COPIED.contains(&key.as_str()));
    let known = set.map_or(0, revision);
    if known < next {
        annotations.insert(REVISION.to_owned(), next.to_string());
        if known > 0 {
            let history = set.and_then(|s| meta::annotation(&s.metadata, REVISION_HISTORY));
            let history = match history {
                Some(history) if !history.is_empty() => format!("{history},{known}"),
                _ => known.to_string(),
            };
            annotations.insert(REVISION_HISTORY.to_owned(), history);
        }
    }
    if set.is_none() {
        annotations.extend(size_annotations(deployment));
    }
    annotations
}

/// What [`is_scaled`] and proportional scaling compare with.
pub(super) fn size_annotations(deployment: &Deployment) -> [(String, String); 2] {
    let desired = workload::wanted_replicas(deployment).to_string();
    let most = most_replicas(deployment).to_string();
    [(DESIRED.to_owned(), desired), (MAX.to_owned(), most)]
}

/// The deployment carries the revision of its new set.
fn annotate_revision(deployment: &Deployment, new: &ReplicaSet, next: i64) -> Option<Step> {
    let revision = revision(new).max(next).to_string();
    let known = meta::annotation(&deployment.metadata, REVISION);
    (known != Some(&revision)).then(|| Step::Annotate {
        annotations: json!({ REVISION: revision }),
    })
}

/// Whether the deployment's size was changed since its sets were last scaled.
fn is_scaled(deployment: &Deployment, sets: &Sets) -> bool {
    let wanted_now = workload::wanted_replicas(deployment).to_string();
    sets.all().filter(|set| wanted(set) > 0).any(|set| {
        let desired = meta::annotation(&set.metadata, DESIRED);
        desired.is_some_and(|desired| desired != wanted_now)
    })
}

fn new_set(deployment: &Deployment, sets: &Sets) -> ReplicaSet {
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count);
    let hash = workload::template_hash(&deployment.spec.template, collisions);
    let mut template = deployment.spec.template.clone();
    let template_meta = template.metadata.get_or_insert_default();
    let labels = template_meta.labels.get_or_insert_default();
    labels.insert(TEMPLATE_HASH_LABEL.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector = deployment.spec.selector.clone();
    let match_labels = selector.match_labels.get_or_insert_default();
    match_labels.insert(TEMPLATE_HASH_LABEL.to_owned(), hash.clone());
    let owner = meta::controller_ref(
        Deployment::API_VERSION,
        Deployment::KIND,
        &deployment.metadata,
    );
    let replicas = rollout::first_replicas(deployment, sets);
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", meta::name(&deployment.metadata))),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations(deployment, None, next_revision(sets))),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            replicas: i32::try_from(replicas).ok(),
            min_ready_seconds: deployment.spec.min_ready_seconds,
            selector,
            template: Some(template),
        },
        status: None,
    }
}

/// Old sets beyond the history limit that ask for nothing and have nothing.
fn clean_up(deployment: &Deployment, sets: &Sets) -> Vec<Step> {
    let limit = deployment.spec.revision_history_limit.unwrap_or(10);
    let mut old: Vec<_> = sets
        .old
        .iter()
        .filter(|set| !meta::is_terminating(&set.metadata))
        .collect();
    let surplus = old
        .len()
        .saturating_sub(usize::try_from(limit).unwrap_or(0));
    old.sort_by_key(|set| revision(set));
    let unused = old.into_iter().take(surplus).filter(|set| {
        let status = set.status.clone().unwrap_or_default();
        let is_observed = set.metadata.generation <= status.observed_generation;
        wanted(set) == 0 && status.replicas == 0 && is_observed
    });
    unused.map(|set| Step::Delete(set.clone())).collect()
}

/// Two changes of one set become one write: the second would conflict with the first.
fn merge(steps: Vec<Step>) -> Vec<Step> {
    let mut merged: Vec<Step> = Vec::new();
    for step in steps {
        let Step::Update {
            set,
            change,
            scaled,
        } = step
        else {
            merged.push(step);
            continue;
        };
        let same = merged.iter_mut().find_map(|known| match known {
            Step::Update {
                set: known,
                change,
                scaled,
            } if known.metadata.name == set.metadata.name => Some((change, scaled)),
            _ => None,
        });
        match same {
            Some((known, known_scaled)) => {
                join(known, change);
                *known_scaled = known_scaled.or(scaled);
            }
            None => merged.push(Step::Update {
                set,
                change,
                scaled,
            }),
        }
    }
    merged
}

fn join(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (field, value) in from {
                join(into.entry(field).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
