//! What makes a pod of a StatefulSet this one and no other: its ordinal, its name, its claims.

use std::sync::Arc;

use k8s_openapi::Resource as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::api::meta;
use crate::server::controllers::shared::{history::POD_REVISION, pods};

/// The pod's own name, for Services of one pod.
pub(super) const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// `spec.ordinals.start`.
pub(super) fn start(set: &StatefulSet) -> usize {
    let ordinals = set.spec.ordinals.as_ref();
    let start = ordinals.and_then(|ordinals| ordinals.start).unwrap_or(0);
    usize::try_from(start).unwrap_or(0)
}

/// The name of the set's pod with this ordinal.
pub(super) fn pod_name(set: &ObjectMeta, ordinal: usize) -> String {
    format!("{}-{ordinal}", meta::name(set))
}

/// The ordinal of a pod of this name in the set; `None` where it is none of the set's names.
pub(super) fn ordinal(set: &ObjectMeta, pod: &str) -> Option<usize> {
    let number = pod.strip_prefix(meta::name(set))?.strip_prefix('-')?;
    let ordinal = number.parse().ok()?;
    (pod_name(set, ordinal) == pod).then_some(ordinal)
}

/// The pod with this ordinal, made of `template`, which is the revision's of this name.
pub(super) fn pod(
    set: &StatefulSet,
    template: &PodTemplateSpec,
    revision: &str,
    ordinal: usize,
) -> Pod {
    let reference =
        meta::controller_ref(StatefulSet::API_VERSION, StatefulSet::KIND, &set.metadata);
    let mut pod = pods::from_template(template, &set.metadata, reference);
    let name = pod_name(&set.metadata, ordinal);
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.extend(own_labels(&name, ordinal));
    labels.insert(POD_REVISION.to_owned(), revision.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    let service = set.spec.service_name.clone();
    spec.subdomain = service.filter(|name| !name.is_empty());
    mount_claims(set, ordinal, spec.volumes.get_or_insert_default());
    pod
}

/// The labels that name a pod.
pub(super) fn own_labels(name: &str, ordinal: usize) -> [(String, String); 2] {
    [
        (POD_NAME.to_owned(), name.to_owned()),
        (POD_INDEX.to_owned(), ordinal.to_string()),
    ]
}

/// The volumes of the claim templates take the place of the template's of the same names.
fn mount_claims(set: &StatefulSet, ordinal: usize, volumes: &mut Vec<Volume>) {
    let own: Vec<_> = templates(set)
        .iter()
        .map(|template| Volume {
            name: meta::name(&template.metadata).to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(set, template, ordinal),
                read_only: Some(false),
            }),
            ..Volume::default()
        })
        .collect();
    volumes.retain(|volume| own.iter().all(|own| own.name != volume.name));
    volumes.splice(0..0, own);
}

/// `spec.volumeClaimTemplates`.
pub(super) fn templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    let templates = set.spec.volume_claim_templates.as_deref();
    templates.unwrap_or_default()
}

fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: usize) -> String {
    let template = meta::name(&template.metadata);
    format!("{template}-{}", pod_name(&set.metadata, ordinal))
}

/// Whether a claim of this name can be one of the set's.
pub(super) fn is_claim_of(set: &StatefulSet, claim: &str) -> bool {
    templates(set).iter().any(|template| {
        let rest = claim.strip_prefix(meta::name(&template.metadata));
        let pod = rest.and_then(|rest| rest.strip_prefix('-'));
        pod.is_some_and(|pod| ordinal(&set.metadata, pod).is_some())
    })
}

/// The claims of the pod with this ordinal.
pub(super) fn claims(set: &StatefulSet, ordinal: usize) -> Vec<PersistentVolumeClaim> {
    let selected = set.spec.selector.match_labels.as_ref();
    templates(set)
        .iter()
        .map(|template| {
            let mut claim = template.clone();
            claim.metadata.name = Some(claim_name(set, template, ordinal));
            claim.metadata.namespace.clone_from(&set.metadata.namespace);
            if let Some(selected) = selected {
                let labels = claim.metadata.labels.get_or_insert_default();
                labels.extend(selected.clone());
            }
            claim.metadata.owner_references = owners(&claim.metadata, set, None);
            claim.status = None;
            claim
        })
        .collect()
}

/// Whether the pod that owned the claim is gone, so that the claim will go too: no pod of this name
/// exists.
pub(super) fn is_stale(claim: &ObjectMeta, pod_name: &str) -> bool {
    let owners = claim.owner_references.iter().flatten();
    owners
        .filter(|owner| owner.kind == Pod::KIND)
        .any(|owner| owner.name == pod_name)
}

/// The owners a claim is to have under the set's retention policy; `None` where it has them, or is
/// controlled by a stranger. `condemned` is its pod where that is scaled down.
pub(super) fn owners(
    claim: &ObjectMeta,
    set: &StatefulSet,
    condemned: Option<&Pod>,
) -> Option<Vec<OwnerReference>> {
    let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
    let deletes = |when: Option<&String>| when.is_some_and(|when| when == "Delete");
    let by_pod = condemned.filter(|_| deletes(policy.and_then(|p| p.when_scaled.as_ref())));
    let by_set = by_pod.is_none() && deletes(policy.and_then(|p| p.when_deleted.as_ref()));
    let is_set = |owner: &OwnerReference| owner.uid == meta::uid(&set.metadata);
    let is_pod = |owner: &OwnerReference| owner.kind == Pod::KIND;
    let known = claim.owner_references.clone().unwrap_or_default();
    let controller = meta::controller_of(claim);
    if controller.is_some_and(|owner| !is_set(owner) && !is_pod(owner)) {
        return None;
    }
    let has_pod = by_pod.map(|pod| known.iter().any(|o| o.uid == meta::uid(&pod.metadata)));
    let pod_fits = has_pod.unwrap_or_else(|| !known.iter().any(is_pod));
    if known.iter().any(is_set) == by_set && pod_fits {
        return None;
    }
    let mut owners = known;
    owners.retain(|owner| !is_set(owner) && !is_pod(owner));
    if by_set {
        let (version, kind) = (StatefulSet::API_VERSION, StatefulSet::KIND);
        owners.push(meta::controller_ref(version, kind, &set.metadata));
    }
    let by_pod = by_pod.map(|pod| meta::controller_ref(Pod::API_VERSION, Pod::KIND, &pod.metadata));
    owners.extend(by_pod);
    Some(owners)
}

/// The claims of a pod as they are, in the order of the templates.
pub(super) fn known_claims(
    set: &StatefulSet,
    ordinal: usize,
    find: &dyn Fn(&str) -> Option<Arc<PersistentVolumeClaim>>,
) -> Vec<Arc<PersistentVolumeClaim>> {
    let names = templates(set).iter();
    names
        .filter_map(|template| find(&claim_name(set, template, ordinal)))
        .collect()
}
