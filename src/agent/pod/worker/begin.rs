//! A worker begins what was planned.

use jiff::Timestamp;

use super::*;

impl Worker {
    pub(super) fn begin(&mut self, action: &Action, now: Timestamp) {
        let context = self.context.clone();
        let pod = self.pod.clone();
        tracing::debug!(pod = %self.name(), ?action, "begin");
        match action {
            Action::Pin => {
                self.memory.namespaces.begin();
                self.go(context.pin(pod));
            }
            Action::Attach => {
                let namespaces = self.memory.namespaces.done().cloned().unwrap_or_default();
                self.memory.addresses.begin();
                self.go(context.attach(pod, namespaces));
            }
            Action::SetUpVolumes => {
                self.memory.volumes.begin();
                self.go(context.set_up_volumes(pod));
            }
            Action::FindImage { container } => {
                self.container(container).image.begin();
                self.go(context.find_image(pod, container.clone()));
            }
            Action::Launch { container, attempt } => self.launch(container, *attempt, now),
            Action::CancelLaunch { container } => {
                if let Some(cancel) = self.launches.get(container) {
                    cancel.cancel();
                }
            }
            Action::Stop { .. } => self.stop(action, now),
            Action::Hasten { container, kill_at } => {
                if let Some(stop) = self.stops.get(container) {
                    stop.kill_at.send_replace(*kill_at);
                }
                if let Some((_, at)) = &mut self.container(container).stopping {
                    *at = *kill_at;
                }
            }
            Action::Remove { container, id } => {
                self.container(container).removing.insert(id.clone());
                self.go(context.remove(container.clone(), id.clone()));
            }
            Action::TearDown => {
                self.memory.teardown.begin();
                let forgets = self.is_gone || pod.metadata.deletion_timestamp.is_some();
                self.is_forgotten = forgets;
                self.go(context.tear_down(pod, forgets));
            }
            Action::Delete => {
                self.memory.delete.begin();
                self.go(context.delete(pod));
            }
            Action::GiveUp(ended) => {
                let about = reference(&*pod);
                let text = ended.message.clone();
                self.context.recorder.normal(&about, ended.reason, text);
                self.memory.ended = Some(ended.clone());
                self.signals.wake();
            }
        }
    }

    pub(super) fn go(&mut self, action: impl Future<Output = Outcome> + Send + 'static) {
        self.running.push(Box::pin(action));
    }

    pub(super) fn container(&mut self, name: &str) -> &mut ContainerMemory {
        self.memory.containers.entry(name.to_owned()).or_default()
    }

    fn launch(&mut self, container: &str, attempt: u32, now: Timestamp) {
        let memory = self.container(container);
        let Some(image) = memory.image.done().cloned() else {
            return;
        };
        memory.launch.begin();
        let ended = memory.current().and_then(Instance::exit);
        if let Some(ended) = ended {
            memory.crash = Some(CrashLoop::after_restart(memory.crash, ended.at, now));
        }
        let cancel = CancellationToken::new();
        self.launches.insert(container.to_owned(), cancel.clone());
        let namespaces = self.memory.namespaces.done().cloned().unwrap_or_default();
        let launch = Launch {
            pod: self.pod.clone(),
            container: container.to_owned(),
            attempt,
            image,
            namespaces,
            addresses: self.addresses.subscribe(),
            cancel,
        };
        self.go(self.context.clone().launch(launch));
    }

    fn stop(&mut self, action: &Action, now: Timestamp) {
        let Action::Stop {
            container,
            id,
            kill_at,
            why,
        } = action
        else {
            return;
        };
        self.container(container).stopping = Some((id.clone(), *kill_at));
        let (sender, receiver) = watch::channel(*kill_at);
        let ended = CancellationToken::new();
        let stopping = Stopping {
            id: id.clone(),
            kill_at: sender,
            ended: ended.clone(),
        };
        self.stops.insert(container.clone(), stopping);
        let states = self.context.pleg.of_pod(uid(&self.pod));
        let labels = states.iter().find(|state| state.id == *id);
        let signal = labels.and_then(|state| state.labels.get(names::STOP_SIGNAL).cloned());
        let stop = Stop {
            pod: self.pod.clone(),
            container: container.clone(),
            id: id.clone(),
            why: *why,
            has_grace: kill_at.duration_since(now) > jiff::SignedDuration::from_secs(1),
            signal: signal.unwrap_or_default(),
            address: self.address(),
            kill_at: receiver,
            ended,
        };
        self.go(self.context.clone().stop(stop));
    }
}
