//! The Pods of a Job, made from its template. Pure.

use k8s_openapi::Resource as _;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use crate::api::meta;
use crate::server::controllers::shared::pods;

/// Keeps a Pod until the Job has counted it.
pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Label and annotation with the index.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Annotation: how often the index has failed before this Pod.
pub(super) const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// A host name is a DNS label.
const HOSTNAME_BYTES_MAX: usize = 63;

/// A Pod to be made: which index it is for, and how often that failed, where the Job counts that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// `None` for Jobs without indexes.
    pub(super) index: Option<i32>,
    /// `None` where indexes have no limit of their own.
    pub(super) failures: Option<i32>,
}

/// The Pod.
pub(super) fn pod(job: &Job, wanted: Wanted) -> Pod {
    let reference = meta::controller_ref(Job::API_VERSION, Job::KIND, &job.metadata);
    let template = job.spec.as_ref().map(|spec| spec.template.clone());
    let template = template.unwrap_or_default();
    let mut pod = pods::from_template(&template, &job.metadata, reference);
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|name| name == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    let Some(index) = wanted.index else {
        return pod;
    };
    let text = index.to_string();
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), text.clone());
    if let Some(failures) = wanted.failures {
        annotations.insert(INDEX_FAILURES.to_owned(), failures.to_string());
    }
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(INDEX.to_owned(), text);
    let name = format!("{}-{index}", meta::name(&job.metadata));
    pod.metadata.generate_name = Some(format!("{name}-"));
    if let Some(spec) = &mut pod.spec {
        if name.len() <= HOSTNAME_BYTES_MAX {
            spec.hostname = Some(name);
        }
        let init = spec.init_containers.iter_mut().flatten();
        for container in init.chain(&mut spec.containers) {
            let variables = container.env.get_or_insert_default();
            if !variables.iter().any(|v| v.name == INDEX_VARIABLE) {
                variables.push(index_variable());
            }
        }
    }
    pod
}

fn index_variable() -> EnvVar {
    let field = ObjectFieldSelector {
        field_path: format!("metadata.labels['{INDEX}']"),
        ..ObjectFieldSelector::default()
    };
    EnvVar {
        name: INDEX_VARIABLE.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(field),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

/// The index of a Pod of an indexed Job.
pub(super) fn index_of(pod: &Pod) -> Option<i32> {
    let text = meta::annotation(&pod.metadata, INDEX)?;
    text.parse().ok().filter(|index| *index >= 0)
}

/// How often the Pod's index had failed before it.
pub(super) fn failures_before(pod: &Pod) -> i32 {
    let text = meta::annotation(&pod.metadata, INDEX_FAILURES);
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_of_an_indexed_job_know_their_index() {
        let job: Job = serde_json::from_value(json!({
            "metadata": {"name": "j", "namespace": "n", "uid": "u"},
            "spec": {"completions": 3, "completionMode": "Indexed", "template": {
                "metadata": {"labels": {"job-name": "j"}},
                "spec": {"containers": [{"name": "c"}], "restartPolicy": "Never"}}}}))
        .unwrap();
        let wanted = Wanted {
            index: Some(2),
            failures: Some(1),
        };
        let made = pod(&job, wanted);
        assert_eq!(made.metadata.generate_name.as_deref(), Some("j-2-"));
        assert!(meta::has_finalizer(&made.metadata, FINALIZER));
        assert_eq!(meta::label(&made.metadata, INDEX), Some("2"));
        assert_eq!((index_of(&made), failures_before(&made)), (Some(2), 1));
        let spec = made.spec.unwrap();
        assert_eq!(spec.hostname.as_deref(), Some("j-2"));
        assert_eq!(
            spec.containers[0].env.as_ref().unwrap()[0].name,
            INDEX_VARIABLE
        );
        let plain = pod(
            &job,
            Wanted {
                index: None,
                failures: None,
            },
        );
        assert_eq!(plain.metadata.generate_name.as_deref(), Some("j-"));
        assert_eq!(index_of(&plain), None);
    }
}
