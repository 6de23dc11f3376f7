//! A worker tells what has become of its pod: events, status.

use super::*;

impl Worker {
    /// Events for containers that have begun to wait.
    pub(super) fn tell_waits(&mut self, now: Timestamp) {
        let mut events = Vec::new();
        for (name, memory) in &self.memory.containers {
            let Some(spec) = container_named(&self.pod, name) else {
                continue;
            };
            let about = || container_reference(&self.pod, spec);
            if let (Some(crash), Some(exit)) =
                (memory.crash, memory.current().and_then(Instance::exit))
                && crash.may_restart_at(exit.at) > now
                && self.memory.ended.is_none()
                && self.told_crash.get(name) != Some(&exit.at)
            {
                self.told_crash.insert(name.clone(), exit.at);
                let meta = &self.pod.metadata;
                let text = format!(
                    "Back-off restarting failed container {name} in pod {}_{}({})",
                    meta.name.as_deref().unwrap_or_default(),
                    meta.namespace.as_deref().unwrap_or_default(),
                    meta.uid.as_deref().unwrap_or_default()
                );
                events.push((about(), "Warning", "BackOff", text));
            }
            let waits = memory.image.failure.as_ref().filter(|failure| {
                let shown = failure.at.saturating_add(plan::PULL_FAILURE_SHOWN);
                failure.reason == "ErrImagePull" && shown.is_ok_and(|shown| shown <= now)
            });
            if let Some(failure) = waits
                && self.told_pull.get(name) != Some(&failure.at)
            {
                self.told_pull.insert(name.clone(), failure.at);
                let image = spec.image.as_deref().unwrap_or_default();
                let text = format!("Back-off pulling image \"{image}\"");
                events.push((about(), "Normal", "BackOff", text));
                events.push((
                    about(),
                    "Warning",
                    "Failed",
                    "Error: ImagePullBackOff".to_owned(),
                ));
            }
        }
        for (about, kind, reason, text) in events {
            match kind {
                "Normal" => self.context.recorder.normal(&about, reason, text),
                _ => self.context.recorder.warning(&about, reason, text),
            }
        }
    }

    /// Works out the status, shows it and has it sent.
    pub(super) fn report(&mut self, now: Timestamp) {
        let facts = NodeFacts {
            addresses: self.context.config.node_ips.clone(),
        };
        let fresh = status(&self.view(now), &facts);
        self.before = fresh;
        self.show();
        self.learn();
        let is_reported = self.before == self.reporting.sent || self.reporting.is_pointless;
        if is_reported && !self.memory.is_reported {
            // This lap's plan did not know yet that nothing is owed to the server any more.
            self.signals.wake();
        }
        self.memory.is_reported = is_reported;
        let waits = self.reporting.retry_at.is_some_and(|at| at > now);
        if self.is_gone || self.memory.is_reported || self.reporting.is_busy || waits {
            return;
        }
        let patch = report::patch(uid(&self.pod), &self.reporting.sent, &self.before);
        let Some(patch) = patch else { return };
        self.reporting.is_busy = true;
        self.reporting.retry_at = None;
        let (pod, sent) = (self.pod.clone(), self.before.clone());
        self.go(self.context.clone().send_status(pod, patch, sent));
    }

    /// Others write a pod's status too (the node lifecycle controller, for a node it takes for
    /// dead): what they wrote is what the server has.
    fn learn(&mut self) {
        let revision = revision_of(&self.pod);
        if self.reporting.is_busy || revision <= self.reporting.revision {
            return;
        }
        self.reporting.revision = revision;
        self.reporting.sent = self.pod.status.clone().unwrap_or_default();
    }

    fn show(&self) {
        let attempts = self.memory.containers.iter().map(|(name, memory)| {
            let of = memory.instances.iter().filter(|i| i.start_error.is_none());
            let list = of.map(|i| Attempt {
                id: i.id.clone(),
                number: i.attempt,
                is_running: i.is_running(),
            });
            (name.clone(), list.collect())
        });
        *self.shown.lock() = Shown {
            status: self.before.clone(),
            attempts: attempts.collect(),
        };
    }

    pub(super) fn reported(&mut self, result: Result<Sent, ReportFailure>, now: Timestamp) {
        self.reporting.is_busy = false;
        match result {
            Ok(sent) => {
                self.reporting.sent = *sent.status;
                self.reporting.revision = sent.revision;
                self.reporting.failures = 0;
            }
            Err(ReportFailure::Gone) => self.reporting.is_pointless = true,
            Err(ReportFailure::Again(why)) => {
                tracing::debug!(pod = %self.name(), error = why, "status not taken, trying again");
                let (first, most) = REPORT_RETRY;
                let delay = first * 2_u32.pow(self.reporting.failures.min(6));
                let delay = jiff::SignedDuration::try_from(delay.min(most)).unwrap_or_default();
                self.reporting.failures += 1;
                self.reporting.retry_at = now.saturating_add(delay).ok();
            }
        }
    }
}

/// Revisions are opaque to clients at large; to this one, a part of orch, they are numbers.
fn revision_of(pod: &Pod) -> u64 {
    let revision = pod.metadata.resource_version.as_deref();
    revision.and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl Context {
    async fn send_status(
        self: Arc<Self>,
        pod: Arc<Pod>,
        patch: serde_json::Value,
        sent: PodStatus,
    ) -> Outcome {
        let meta = &pod.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let api = self.client.namespaced::<Pod>(namespace);
        let name = meta.name.as_deref().unwrap_or_default();
        let result = api.patch_status(name, &Patch::Strategic(patch)).await;
        Outcome::Reported(match result {
            Ok(answer) if answer.metadata.uid == meta.uid => Ok(Sent {
                revision: revision_of(&answer),
                status: Box::new(report::taken(sent, &answer.status.unwrap_or_default())),
            }),
            Ok(_) => Err(ReportFailure::Gone),
            Err(error) if error.is_not_found() => Err(ReportFailure::Gone),
            Err(error) => Err(ReportFailure::Again(chain(&error))),
        })
    }
}
