//! PersistentVolume: a piece of storage that a claim can have.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::pod::update::differences;
use super::resource_name as resource;
use super::volume;
use crate::api::gvk::Scope;
use crate::api::kinds::defaults::{child, set, text as set_text};
use crate::api::kinds::{Column, KindDef, Subresource, cells, prepare, rows};
use crate::api::object::{Object, child_mut};
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, entries, is_set, list, pod_spec, text};

pub(crate) const DEF: KindDef = KindDef {
    kind: "PersistentVolume",
    plural: "persistentvolumes",
    singular: "persistentvolume",
    short_names: &["pv"],
    scope: Scope::Cluster,
    subresources: SUBRESOURCES,
    schema: "core.v1.PersistentVolume",
    storage: "persistentvolumes",
    columns: COLUMNS,
    cells: row,
    fields: |volume| vec![("name", volume.name().to_owned())],
    default,
    prepare_create,
    prepare_update: prepare::keep_status,
    validate,
    validate_update,
    ..KindDef::BASE
};

const SUBRESOURCES: &[Subresource] = &[rows::item("status", ("", "v1", "PersistentVolume"))];

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string(
        "Capacity",
        "capacity is the description of the persistent volume's resources and capacity. More \
         info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#capacity",
    ),
    rows::string(
        "Access Modes",
        "accessModes contains all ways the volume can be mounted. More info: \
         https://kubernetes.io/docs/concepts/storage/persistent-volumes#access-modes",
    ),
    rows::string(
        "Reclaim Policy",
        "persistentVolumeReclaimPolicy defines what happens to a persistent volume when released \
         from its claim. Valid options are Retain (default for manually created \
         PersistentVolumes), Delete (default for dynamically provisioned PersistentVolumes), and \
         Recycle (deprecated). Recycle must be supported by the volume plugin underlying this \
         PersistentVolume. More info: \
         https://kubernetes.io/docs/concepts/storage/persistent-volumes#reclaiming",
    ),
    rows::string(
        "Status",
        "phase indicates if a volume is available, bound to a claim, or released by a claim. More \
         info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#phase",
    ),
    rows::string(
        "Claim",
        "claimRef is part of a bi-directional binding between PersistentVolume and \
         PersistentVolumeClaim. Expected to be non-nil when bound. claim.VolumeName is the \
         authoritative bind between PV and PVC. More info: \
         https://kubernetes.io/docs/concepts/storage/persistent-volumes#binding",
    ),
    rows::string(
        "StorageClass",
        "storageClassName is the name of StorageClass to which this persistent volume belongs. \
         Empty value means that this volume does not belong to any StorageClass.",
    ),
    rows::string(
        "VolumeAttributesClass",
        "Name of VolumeAttributesClass to which this persistent volume belongs. Empty value is \
         not allowed. When this field is not set, it indicates that this volume does not belong \
         to any VolumeAttributesClass.",
    ),
    rows::string(
        "Reason",
        "reason is a brief CamelCase string that describes any failure and is meant for machine \
         parsing and tidy display in the CLI.",
    ),
    rows::AGE,
    rows::wide(
        "VolumeMode",
        "volumeMode defines if a volume is intended to be used with a formatted filesystem or to \
         remain in raw block state. Value of Filesystem is implied when not included in spec.",
    ),
];

fn row(volume: &Object, now: Timestamp) -> Vec<Value> {
    let spec = volume.field("spec");
    let claim = &spec["claimRef"];
    let claim = match claim.is_object() {
        true => format!("{}/{}", text(&claim["namespace"]), text(&claim["name"])),
        false => String::new(),
    };
    vec![
        cells::name(volume),
        resource::printed(&spec["capacity"]["storage"]).into(),
        volume::short_modes(&spec["accessModes"]).into(),
        text(&spec["persistentVolumeReclaimPolicy"]).into(),
        volume::phase(volume).into(),
        claim.into(),
        volume::class(volume).into(),
        volume::or_unset(volume, "volumeAttributesClassName"),
        volume.text_at(&["status", "reason"]).into(),
        cells::age(volume, now),
        volume::or_unset(volume, "volumeMode"),
    ]
}

fn default(volume: &mut Object) {
    set_text(child_mut(&mut volume.0, "status"), "phase", "Pending");
    let spec = child_mut(&mut volume.0, "spec");
    set_text(spec, "persistentVolumeReclaimPolicy", "Retain");
    set(spec, "volumeMode", "Filesystem");
    if let Some(source) = child(spec, "hostPath") {
        set(source, "type", "");
    }
    if let Some(source) = child(spec, "iscsi") {
        set_text(source, "iscsiInterface", "default");
    }
    if let Some(source) = child(spec, "rbd") {
        set_text(source, "pool", "rbd");
        set_text(source, "user", "admin");
        set_text(source, "keyring", "/etc/ceph/keyring");
    }
}

fn prepare_create(volume: &mut Object) {
    let created = volume.field("metadata")["creationTimestamp"].clone();
    let mut status = json!({"phase": "Pending"});
    if !created.is_null() {
        status["lastPhaseTransitionTime"] = created;
    }
    volume.0.insert("status".to_owned(), status);
}

const SPEC: Path<'static> = Path::root("spec");
const POLICIES: [&str; 3] = ["Delete", "Recycle", "Retain"];

/// The fields of `spec` that each are a kind of storage.
const SOURCES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

fn validate(volume: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = volume.field("spec");
    let modes_path = SPEC.field("accessModes");
    if list(&spec["accessModes"]).is_empty() {
        errors.required(&modes_path, "");
    }
    volume::access_modes(&mut errors, &spec["accessModes"], &modes_path);
    capacity(&mut errors, &spec["capacity"]);
    let policy = text(&spec["persistentVolumeReclaimPolicy"]);
    let policy_path = SPEC.field("persistentVolumeReclaimPolicy");
    if !policy.is_empty() && !POLICIES.contains(&policy) {
        errors.not_supported(&policy_path, policy, &POLICIES);
    }
    node_affinity(&mut errors, spec);
    sources(&mut errors, spec);
    let host_path = text(&spec["hostPath"]["path"]);
    let is_root = !host_path.is_empty() && host_path.chars().all(|c| c == '/');
    if is_root && policy == "Recycle" {
        errors.forbidden(
            &policy_path,
            "may not be 'recycle' for a hostPath mount of '/'",
        );
    }
    volume::class_names(&mut errors, spec, &SPEC);
    volume::volume_mode(&mut errors, spec, &SPEC);
    errors.into_vec()
}

fn capacity(errors: &mut Errors, capacity: &Value) {
    let path = SPEC.field("capacity");
    let count = entries(capacity).count();
    if count == 0 {
        errors.required(&path, "");
    }
    if capacity["storage"].is_null() || count > 1 {
        errors.push(FieldError::not_supported(&path, capacity, &["storage"]));
    }
    volume::capacity(errors, capacity, &path);
}

fn node_affinity(errors: &mut Errors, spec: &Value) {
    let affinity = &spec["nodeAffinity"];
    if affinity.is_null() {
        return;
    }
    let path = SPEC.field("nodeAffinity");
    let path = path.field("required");
    match affinity["required"].is_object() {
        true => pod_spec::node_selector(errors, &affinity["required"], &path),
        false => errors.required(&path, "must specify required node constraints"),
    }
}

fn sources(errors: &mut Errors, spec: &Value) {
    let given = SOURCES.iter().filter(|source| !spec[**source].is_null());
    let mut count = 0;
    for source in given {
        let path = SPEC.field(source);
        count += 1;
        if count > 1 {
            errors.forbidden(&path, "may not specify more than 1 volume type");
            continue;
        }
        let value = &spec[*source];
        match *source {
            "hostPath" => pod_spec::host_path(errors, value, &path),
            "nfs" => pod_spec::nfs(errors, value, &path),
            "local" => local(errors, spec, &path),
            "csi" => csi(errors, value, &path),
            "iscsi" => required(errors, value, &path, &["targetPortal", "iqn"]),
            _ => {}
        }
    }
    if count == 0 {
        errors.required(&SPEC, "must specify a volume type");
    }
}

fn required(errors: &mut Errors, source: &Value, path: &Path<'_>, fields: &[&str]) {
    for field in fields {
        if !is_set(&source[*field]) {
            errors.required(&path.field(field), "");
        }
    }
}

fn local(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let at = text(&spec["local"]["path"]);
    match at {
        "" => errors.required(&path.field("path"), ""),
        at => pod_spec::no_backsteps(errors, at, &path.field("path")),
    }
    if spec["nodeAffinity"].is_null() {
        let why = "Local volume requires node affinity";
        errors.required(&SPEC.field("nodeAffinity"), why);
    }
}

fn csi(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    required(errors, source, path, &["driver", "volumeHandle"]);
    for secret in [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ] {
        if source[secret].is_object() {
            required(
                errors,
                &source[secret],
                &path.field(secret),
                &["name", "namespace"],
            );
        }
    }
}

fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    errors.extend(validate(new));
    let (spec, was) = (new.field("spec"), old.field("spec"));
    let source = |spec: &Value| {
        let mut source = Value::Object(Default::default());
        for field in SOURCES.iter().filter(|field| !spec[**field].is_null()) {
            source[*field] = spec[*field].clone();
        }
        if source["csi"].is_object() && was["csi"]["controllerExpandSecretRef"].is_null() {
            source["csi"]["controllerExpandSecretRef"] = Value::Null;
        }
        source
    };
    let (now, before) = (source(spec), source(was));
    if now != before {
        let why = format!(
            "spec.persistentvolumesource is immutable after creation\n{}",
            differences(&now, &before)
        );
        errors.forbidden(&SPEC.field("persistentvolumesource"), &why);
    }
    let mode = Path::root("volumeMode");
    errors.immutable(&mode, &spec["volumeMode"], &was["volumeMode"]);
    if !was["nodeAffinity"].is_null() {
        let path = Path::root("nodeAffinity");
        errors.immutable(&path, &spec["nodeAffinity"], &was["nodeAffinity"]);
    }
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(change: impl Fn(&mut Value)) -> Object {
        let mut value = json!({
            "metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"],
                     "hostPath": {"path": "/data"}}});
        change(&mut value);
        let mut volume = Object::from_value(value).unwrap();
        prepare_create(&mut volume);
        default(&mut volume);
        volume
    }

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_smallest_volume_is_filled_in_and_printed() {
        let volume = volume(|_| {});
        assert_eq!(texts(&validate(&volume)), [""; 0]);
        assert_eq!(
            volume.field("spec")["persistentVolumeReclaimPolicy"],
            "Retain"
        );
        let row = row(&volume, Timestamp::UNIX_EPOCH);
        assert_eq!(
            row[1..5],
            [
                json!("5Gi"),
                json!("RWO,RWX"),
                json!("Retain"),
                json!("Pending")
            ]
        );
        assert_eq!(
            (&row[7], &row[10]),
            (&json!("<unset>"), &json!("Filesystem"))
        );
    }

    #[test]
    fn each_rule_has_its_words() {
        let wrong = volume(|v| {
            v["spec"] = json!({"capacity": {"cpu": "0"}, "accessModes": ["x", "ReadWriteOncePod"],
                "persistentVolumeReclaimPolicy": "Keep", "local": {"path": "/a/../b"}, "nfs": {}})
        });
        assert_eq!(
            texts(&validate(&wrong)),
            [
                "spec.accessModes: Unsupported value: \"x\": supported values: \"ReadOnlyMany\", \
                 \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
                "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
                "spec.capacity: Unsupported value: {\"cpu\":\"0\"}: supported values: \"storage\"",
                "spec.capacity[cpu]: Invalid value: \"0\": must be greater than zero",
                "spec.persistentVolumeReclaimPolicy: Unsupported value: \"Keep\": supported \
                 values: \"Delete\", \"Recycle\", \"Retain\"",
                "spec.nfs.server: Required value",
                "spec.nfs.path: Required value",
                "spec.local: Forbidden: may not specify more than 1 volume type",
            ]
        );
        let local = volume(|v| {
            v["spec"]["hostPath"] = Value::Null;
            v["spec"]["local"] = json!({"path": "/a"});
        });
        assert_eq!(
            texts(&validate(&local)),
            ["spec.nodeAffinity: Required value: Local volume requires node affinity"]
        );
    }

    #[test]
    fn the_storage_behind_a_volume_stays() {
        let other = volume(|v| v["spec"]["hostPath"]["path"] = "/other".into());
        let wrong = texts(&validate_update(&other, &volume(|_| {})));
        assert!(
            wrong[0].starts_with(
                "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable"
            ),
            "{wrong:?}"
        );
    }
}
