//! The agent's pods as this API reads them.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus};

use crate::agent::pod::{ContainerInfo, PodInfo, Pods};
use crate::agent::seam::{ContainerView, PodDirectory, PodView, Shown};
use crate::api::object::ObjectKey;

impl PodDirectory for Pods {
    fn find(&self, namespace: &str, name: &str) -> Option<PodView> {
        self.pod(&ObjectKey::new(namespace, name)).map(view)
    }

    fn all(&self) -> Vec<PodView> {
        Pods::all(self).into_iter().map(view).collect()
    }
}

fn view(info: PodInfo) -> PodView {
    let spec = info.pod.spec.as_ref();
    let mut names: Vec<&str> = Vec::new();
    if let Some(spec) = spec {
        names.extend(
            spec.init_containers
                .iter()
                .flatten()
                .map(|c| c.name.as_str()),
        );
        names.extend(spec.containers.iter().map(|c| c.name.as_str()));
        names.extend(
            spec.ephemeral_containers
                .iter()
                .flatten()
                .map(|c| c.name.as_str()),
        );
    }
    let containers = names
        .into_iter()
        .map(|name| container(name, status_of(&info, name), info.containers.get(name)))
        .collect();
    PodView {
        containers,
        network: info.network,
        pod: info.pod.into(),
    }
}

fn status_of<'a>(info: &'a PodInfo, name: &str) -> Option<&'a ContainerStatus> {
    let status = info.pod.status.as_ref()?;
    let lists = [
        &status.init_container_statuses,
        &status.container_statuses,
        &status.ephemeral_container_statuses,
    ];
    lists
        .into_iter()
        .flatten()
        .flatten()
        .find(|status| status.name == name)
}

fn container(
    name: &str,
    status: Option<&ContainerStatus>,
    info: Option<&ContainerInfo>,
) -> ContainerView {
    let current = info.and_then(|info| info.current.as_ref());
    let previous = info.and_then(|info| info.previous.as_ref());
    // What the runtime says is newer than what the status says.
    let shown = match current {
        Some(attempt) if attempt.is_running => Shown::Running,
        _ => shown(status.and_then(|status| status.state.as_ref())),
    };
    // Between two runs the last one's log is shown, and it is also the one before the next.
    let is_between = current.is_some() && matches!(shown, Shown::Waiting(_));
    let before = if is_between { current } else { previous };
    ContainerView {
        name: name.to_owned(),
        shown,
        id: current.map(|attempt| attempt.id.clone()),
        log: current
            .map(|attempt| attempt.log.clone())
            .filter(|log| log.exists()),
        previous_log: before
            .map(|attempt| attempt.log.clone())
            .filter(|log| log.exists()),
    }
}

fn shown(state: Option<&ContainerState>) -> Shown {
    let Some(state) = state else {
        return Shown::Waiting("ContainerCreating".to_owned());
    };
    if state.terminated.is_some() {
        return Shown::Terminated;
    }
    let waiting = state.waiting.as_ref();
    Shown::Waiting(
        waiting
            .and_then(|waiting| waiting.reason.clone())
            .unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::pod::AttemptInfo;
    use k8s_openapi::api::core::v1::ContainerStateWaiting;

    fn attempt(folder: &std::path::Path, number: u32, is_running: bool) -> AttemptInfo {
        let log = folder.join(format!("{number}.log"));
        std::fs::write(&log, "").unwrap();
        AttemptInfo {
            id: number.to_string(),
            is_running,
            log,
        }
    }

    #[test]
    fn between_two_runs_the_last_ones_log_is_shown_and_is_the_previous_too() {
        let folder = tempfile::tempdir().unwrap();
        let info = ContainerInfo {
            current: Some(attempt(folder.path(), 1, false)),
            previous: Some(attempt(folder.path(), 0, false)),
        };
        let status = ContainerStatus {
            state: Some(ContainerState {
                waiting: Some(ContainerStateWaiting {
                    reason: Some("CrashLoopBackOff".to_owned()),
                    message: None,
                }),
                ..ContainerState::default()
            }),
            ..ContainerStatus::default()
        };
        let seen = container("c", Some(&status), Some(&info));
        assert_eq!(seen.shown, Shown::Waiting("CrashLoopBackOff".to_owned()));
        assert_eq!(seen.log, Some(folder.path().join("1.log")));
        assert_eq!(seen.previous_log, seen.log);
        let running = ContainerInfo {
            current: Some(attempt(folder.path(), 1, true)),
            ..info
        };
        let seen = container("c", Some(&status), Some(&running));
        assert_eq!(seen.shown, Shown::Running);
        assert_eq!(seen.previous_log, Some(folder.path().join("0.log")));
    }
}
