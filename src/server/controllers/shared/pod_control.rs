//! Pods created and deleted in an owner's name, with its expectations and the events users know
//! (`k8s.io/kubernetes/pkg/controller.RealPodControl`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::stream::{self, StreamExt};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};

use crate::api::meta;
use crate::client::{Api, Client, DeleteParams, Error, Recorder, Result};
use crate::util::errors::chain;

use super::{expectations::Expectations, pods};

/// Deletions at a time: enough to share syncs of the journal.
const DELETIONS_AT_A_TIME: usize = 64;

/// Creates and deletes for owners of one kind.
pub(crate) struct PodControl {
    pub(crate) client: Client,
    pub(crate) recorder: Recorder,
    pub(crate) expectations: Arc<Expectations>,
}

impl PodControl {
    /// Creates `count` pods for the owner `about`; `make` is given their numbers.
    pub(crate) async fn create(
        &self,
        about: &ObjectReference,
        count: usize,
        make: impl Fn(usize) -> Pod,
    ) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let uid = about.uid.as_deref().unwrap_or_default();
        let api = self.api(about);
        self.expectations.expect_creations(uid, count);
        let (tried, make) = (&AtomicUsize::new(0), &make);
        let (_, result) = pods::in_growing_batches(count, || {
            let pod = make(tried.fetch_add(1, Ordering::Relaxed));
            let api = &api;
            async move { self.create_one(api, about, &pod).await }
        })
        .await;
        for _ in tried.load(Ordering::Relaxed)..count {
            self.expectations.created(uid);
        }
        result
    }

    async fn create_one(&self, api: &Api<Pod>, about: &ObjectReference, pod: &Pod) -> Result<()> {
        match api.create(pod).await {
            Ok(pod) => {
                let text = format!("Created pod: {}", meta::name(&pod.metadata));
                self.recorder.normal(about, "SuccessfulCreate", text);
                Ok(())
            }
            Err(error) => {
                let uid = about.uid.as_deref().unwrap_or_default();
                self.expectations.created(uid);
                if !is_namespace_ending(&error) {
                    let text = format!("Error creating: {}", chain(&error));
                    self.recorder.warning(about, "FailedCreate", text);
                }
                Err(error)
            }
        }
    }

    /// Deletes pods of the owner `about`; tries all of them, and returns the first failure.
    pub(crate) async fn delete(&self, about: &ObjectReference, doomed: &[Arc<Pod>]) -> Result<()> {
        if doomed.is_empty() {
            return Ok(());
        }
        let uid = about.uid.as_deref().unwrap_or_default();
        let api = &self.api(about);
        let uids = doomed.iter().map(|pod| meta::uid(&pod.metadata).to_owned());
        self.expectations.expect_deletions(uid, uids);
        let results: Vec<Result<()>> = stream::iter(doomed.to_vec())
            .map(|pod| async move { self.delete_one(api, about, &pod).await })
            .buffer_unordered(DELETIONS_AT_A_TIME)
            .collect()
            .await;
        results.into_iter().collect()
    }

    async fn delete_one(&self, api: &Api<Pod>, about: &ObjectReference, pod: &Pod) -> Result<()> {
        let (name, pod_uid) = (meta::name(&pod.metadata), meta::uid(&pod.metadata));
        match api.delete(name, &DeleteParams::uid(pod_uid)).await {
            Ok(()) => {
                let text = format!("Deleted pod: {name}");
                self.recorder.normal(about, "SuccessfulDelete", text);
                Ok(())
            }
            Err(error) => {
                let uid = about.uid.as_deref().unwrap_or_default();
                self.expectations.deleted(uid, pod_uid);
                // Gone, or another pod has the name: it is not ours any more.
                if error.is_not_found() || error.is_conflict() {
                    return Ok(());
                }
                let text = format!("Error deleting: {}", chain(&error));
                self.recorder.warning(about, "FailedDelete", text);
                Err(error)
            }
        }
    }

    fn api(&self, about: &ObjectReference) -> Api<Pod> {
        let namespace = about.namespace.as_deref().unwrap_or_default();
        self.client.namespaced(namespace)
    }
}

/// Pods of a namespace that goes are refused, and nobody needs to be told.
fn is_namespace_ending(error: &Error) -> bool {
    let details = error.api().and_then(|error| error.details.as_ref());
    let causes = details.and_then(|details| details["causes"].as_array());
    causes
        .into_iter()
        .flatten()
        .any(|cause| cause["reason"] == "NamespaceTerminating")
}
