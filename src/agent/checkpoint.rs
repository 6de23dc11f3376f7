//! What the agent keeps of its pods on disk: the pod as last seen, in the pod's folder.
//!
//! It is read where the API does not answer after a start (pods go on as they were), and for pods
//! that were deleted while the agent was away (what they had is found and removed). It is written
//! only when something in it changes. A file that is half written or lost costs no more than that.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use crate::util::errors::OrLog;

const FILE: &str = "pod.json";
const TEMPORARY: &str = "pod.json.tmp";

/// The pods on disk.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoints {
    /// A folder per pod, by UID.
    folder: PathBuf,
}

impl Checkpoints {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Keeps `pod`. A failure is logged: the pod runs all the same.
    pub(crate) fn save(&self, pod: &Pod) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        write(&self.folder.join(uid), pod).ok_or_log("keep a pod on disk");
    }

    /// Every pod that has a folder; `None` where its file cannot be read.
    pub(crate) fn load(&self) -> BTreeMap<String, Option<Pod>> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.path().is_dir())
            .map(|entry| {
                let uid = entry.file_name().to_string_lossy().into_owned();
                (uid, read(&entry.path()))
            })
            .collect()
    }
}

/// Whether a newer copy of a pod says something that must be kept.
pub(crate) fn differs(old: &Pod, new: &Pod) -> bool {
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|s| s.phase.clone());
    let (a, b) = (&old.metadata, &new.metadata);
    old.spec != new.spec
        || phase(old) != phase(new)
        || a.labels != b.labels
        || a.annotations != b.annotations
        || a.deletion_timestamp != b.deletion_timestamp
        || a.deletion_grace_period_seconds != b.deletion_grace_period_seconds
}

fn write(folder: &Path, pod: &Pod) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut kept = pod.clone();
    kept.metadata.managed_fields = None;
    let bytes = serde_json::to_vec(&kept)?;
    // Not synced: after a crash of the machine every container is gone anyway.
    fs::write(folder.join(TEMPORARY), bytes)?;
    fs::rename(folder.join(TEMPORARY), folder.join(FILE))
}

fn read(folder: &Path) -> Option<Pod> {
    let bytes = fs::read(folder.join(FILE)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(fields: serde_json::Value) -> Pod {
        let mut value = json!({"metadata": {"uid": "u"}, "spec": {"containers": []}});
        for (key, field) in fields.as_object().unwrap() {
            value[key] = field.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn pods_are_found_again_and_a_broken_file_does_not_hide_one() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(folder.path().to_owned());
        checkpoints.save(&pod(json!({})));
        fs::create_dir(folder.path().join("broken")).unwrap();
        fs::write(folder.path().join("broken").join(FILE), "{").unwrap();
        let found = checkpoints.load();
        assert_eq!(found["u"], Some(pod(json!({}))));
        assert_eq!(found["broken"], None);
    }

    #[test]
    fn a_new_status_is_only_kept_where_the_phase_changed() {
        let one = pod(json!({"status": {"phase": "Running"}}));
        let same = pod(json!({"status": {"phase": "Running", "podIP": "1"}}));
        assert!(!differs(&one, &same));
        assert!(differs(&one, &pod(json!({"status": {"phase": "Failed"}}))));
        let labelled = json!({"metadata": {"uid": "u", "labels": {"a": "b"}}});
        assert!(differs(&one, &pod(labelled)));
    }
}
