//! A worker takes in what came of its actions.

use super::*;

impl Worker {
    pub(super) fn take(&mut self, outcome: Outcome) {
        let now = self.context.clock.now();
        let retry = restart::step_delay;
        tracing::debug!(pod = %self.name(), outcome = outcome.name(), "done");
        match outcome {
            Outcome::Pinned(Ok(namespaces)) => self.memory.namespaces.succeed(namespaces),
            Outcome::Pinned(Err(why)) => {
                let what = ("CreatePodSandboxError", why);
                self.memory.namespaces.fail(what, retry, now);
            }
            Outcome::Attached(Ok(addresses)) => {
                self.context.write_hosts(&self.pod, &addresses);
                self.addresses.send_replace(addresses.clone());
                self.memory.addresses.succeed(addresses);
            }
            Outcome::Attached(Err(why)) => {
                let what = ("CreatePodSandboxError", why);
                self.memory.addresses.fail(what, retry, now);
            }
            Outcome::Volumes(Ok(refresh_at)) => {
                self.memory.volumes.succeed(());
                self.memory.refresh_at = refresh_at;
            }
            Outcome::Volumes(Err(why)) => self.volumes_failed(why, now),
            Outcome::Image { container, result } => {
                let image = &mut self.container(&container).image;
                match result {
                    Ok(found) => image.succeed(found),
                    Err(what) => image.fail(what, restart::image_delay, now),
                }
            }
            Outcome::Launched {
                container,
                attempt,
                result,
            } => self.launched(&container, attempt, result, now),
            Outcome::Hooked {
                container,
                id,
                result,
            } => {
                let hook = &mut self.container(&container).hook;
                if *hook == Hook::Running(id.clone()) {
                    *hook = result.map_or(Hook::Failed(id), |()| Hook::Over);
                }
            }
            Outcome::Stopped { container, id } => self.stopped(&container, &id),
            Outcome::Removed {
                container,
                id,
                result,
            } => {
                let memory = self.container(&container);
                memory.removing.remove(&id);
                if let Err(error) = result {
                    tracing::warn!(container, id, error, "container not removed, trying again");
                    memory.removing.insert(id.clone());
                    self.remove_later(container, id);
                }
            }
            Outcome::TornDown(Ok(())) => self.memory.teardown.succeed(()),
            Outcome::TornDown(Err(why)) => {
                tracing::warn!(pod = %self.name(), error = why, "pod not taken down, trying again");
                self.memory.teardown.fail(("TearDown", why), retry, now);
            }
            Outcome::Deleted(Ok(())) => self.memory.delete.succeed(()),
            Outcome::Deleted(Err(why)) => self.memory.delete.fail(("Delete", why), retry, now),
            Outcome::Reported(result) => self.reported(result, now),
        }
    }

    pub(super) fn name(&self) -> String {
        let meta = &self.pod.metadata;
        format!(
            "{}/{}",
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default()
        )
    }

    /// Volumes that containers already use stay as they were.
    fn volumes_failed(&mut self, why: String, now: Timestamp) {
        let count = self.memory.volumes.failure.as_ref().map_or(0, |f| f.count);
        let what = ("ContainerCreating", why);
        self.memory.volumes.fail(what, restart::step_delay, now);
        let is_running = self.memory.is_alive();
        if is_running {
            self.memory.volumes.progress = Progress::Done(());
            let again = now.saturating_add(restart::step_delay(count + 1));
            self.memory.refresh_at = again.ok();
        }
    }

    fn launched(
        &mut self,
        container: &str,
        attempt: u32,
        result: Result<String, NotLaunched>,
        now: Timestamp,
    ) {
        self.launches.remove(container);
        let id = act::id_of(&self.pod, container, attempt);
        let spec = container_named(&self.pod, container);
        let image = spec.and_then(|spec| spec.image.clone()).unwrap_or_default();
        let has_hook = spec.is_some_and(|spec| {
            let lifecycle = spec.lifecycle.as_ref();
            lifecycle.is_some_and(|lifecycle| lifecycle.post_start.is_some())
        });
        let memory = self.container(container);
        memory.launch.progress = Progress::Idle;
        match result {
            Ok(id) => {
                memory.launch.failure = None;
                memory.image = Step::default();
                if has_hook {
                    memory.hook = Hook::Running(id.clone());
                    let what = (container.to_owned(), id);
                    let address = self.address();
                    let context = self.context.clone();
                    self.go(context.after_start(self.pod.clone(), what, address));
                }
            }
            Err(NotLaunched::Cancelled) => {}
            Err(NotLaunched::Retry(reason, text)) => {
                memory.launch.fail((reason, text), restart::step_delay, now);
            }
            Err(NotLaunched::StartFailed(text)) => {
                memory.image = Step::default();
                memory.instances.retain(|i| i.id != id);
                memory
                    .instances
                    .push(failed_start(id, attempt, image, text, now));
                self.signals.wake();
            }
        }
    }

    fn stopped(&mut self, container: &str, id: &str) {
        let memory = self.container(container);
        if memory.stopping.as_ref().is_some_and(|(of, _)| of == id) {
            // Whether it has really ended, the next look at the runtime says.
            memory.stopping = None;
        }
    }

    fn remove_later(&mut self, container: String, id: String) {
        let context = self.context.clone();
        self.go(async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            context.remove(container, id).await
        });
    }
}

fn failed_start(id: String, attempt: u32, image: String, text: String, now: Timestamp) -> Instance {
    Instance {
        id,
        attempt,
        image,
        image_name: String::new(),
        image_id: String::new(),
        from_earlier_boot: false,
        created_at: now,
        started_at: None,
        phase: Phase::Exited(Exit {
            code: 128,
            at: now,
            oom_killed: false,
        }),
        start_error: Some(text),
    }
}
