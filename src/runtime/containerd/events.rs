//! Containerd's events: they keep what we know of containers right, and wake the readers.
//!
//! Subscribing does not answer before the first event comes, so a marker of our own is published
//! until it is seen. Only then is everything listed: no event can fall between the two.

use std::sync::Arc;
use std::time::Duration;

use containerd_client::events::{TaskExit, TaskOom, TaskStart};
use containerd_client::services::v1::{
    DeleteTaskRequest, ListContainersRequest, ListTasksRequest, PublishRequest, SubscribeRequest,
};
use containerd_client::types::Envelope;
use containerd_client::types::v1::{Process, Status as TaskStatus};
use jiff::Timestamp;
use prost::Message;
use tokio::sync::oneshot;
use tonic::Streaming;

use super::Containerd;
use super::channel::{LONG, SHORT, Step, error, gone_is_fine};
use super::containers::{DETAILS, MANAGED_LABEL};
use super::records::{Details, Entry, Life};
use crate::runtime::{Error, Exit, Phase, Result, RuntimeEvent};
use crate::util::backoff::Backoff;
use crate::util::errors::{OrLog, chain};
use crate::util::rng::Rng;
use crate::util::tasks::Tasks;

const MARKER_TOPIC: &str = "/orch/connected";

/// Exit code of a container whose end nobody saw; CRI's.
const UNKNOWN_EXIT_CODE: i32 = 255;

/// Subscribes, lists, and goes on following in a task. Fails where the first listing fails.
pub(super) async fn follow(containerd: &Arc<Containerd>, tasks: &Tasks) -> Result<()> {
    let (ready, first) = oneshot::channel();
    let containerd = containerd.clone();
    let ended = tasks.cancelled();
    tasks.service("containerd events", async move {
        let run = containerd.follow_for_ever(ready);
        tokio::select! {
            () = run => {}
            () = ended.cancelled() => {}
        }
    });
    first.await.unwrap_or_else(|_| {
        Err(Error::Unavailable {
            doing: "follow events",
            why: "the program ends".to_owned(),
        })
    })
}

impl Containerd {
    async fn follow_for_ever(self: &Arc<Self>, ready: oneshot::Sender<Result<()>>) {
        let mut ready = Some(ready);
        let mut backoff = Backoff::new(
            Duration::from_millis(50),
            Duration::from_secs(2),
            Rng::seeded(u64::from(std::process::id())),
        );
        loop {
            let lost = match self.subscribe().await {
                Ok(events) => {
                    backoff.reset();
                    self.follow_once(events, &mut ready).await
                }
                Err(error) => error,
            };
            if let Some(ready) = ready.take() {
                // The caller gives up on the first failure; so do we.
                let _ = ready.send(Err(lost));
                return;
            }
            tracing::warn!(error = %chain(&lost), "containerd is not reached, trying again");
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// Lists and then follows until the stream ends; gives why.
    async fn follow_once(
        self: &Arc<Self>,
        mut events: Streaming<Envelope>,
        ready: &mut Option<oneshot::Sender<Result<()>>>,
    ) -> Error {
        if let Err(error) = self.resync().await {
            return error;
        }
        match ready.take() {
            Some(ready) => {
                // The caller may have gone; the task is ended by its group then.
                let _ = ready.send(Ok(()));
            }
            None => self.hub.publish(&RuntimeEvent::Resync),
        }
        let step = Step::container("follow events of", "containerd");
        loop {
            match events.message().await {
                Ok(Some(envelope)) => self.take_event(&envelope).await,
                Ok(None) => {
                    return Error::Unavailable {
                        doing: step.doing,
                        why: "the stream ended".to_owned(),
                    };
                }
                Err(status) => return error(step, &status),
            }
        }
    }

    async fn subscribe(&self) -> Result<Streaming<Envelope>> {
        let namespace = &self.config.namespace;
        let filters = [
            "/tasks/exit",
            "/tasks/oom",
            "/tasks/start",
            "/containers/delete",
            MARKER_TOPIC,
        ]
        .iter()
        .map(|topic| format!("namespace==\"{namespace}\",topic==\"{topic}\""))
        .collect();
        let mut client = self.link.events();
        let opening = client.subscribe(self.link.request(SubscribeRequest { filters }));
        tokio::pin!(opening);
        let step = Step::container("follow events of", "containerd");
        let deadline = tokio::time::Instant::now() + SHORT;
        let stream = loop {
            tokio::select! {
                opened = &mut opening => {
                    break opened.map_err(|status| error(step, &status))?.into_inner();
                }
                () = tokio::time::sleep(Duration::from_millis(5)) => self.publish_marker().await?,
            }
            if tokio::time::Instant::now() > deadline {
                return Err(Error::Timeout {
                    doing: step.doing,
                    seconds: SHORT.as_secs(),
                });
            }
        };
        Ok(stream)
    }

    async fn publish_marker(&self) -> Result<()> {
        let request = self.link.request(PublishRequest {
            topic: MARKER_TOPIC.to_owned(),
            event: Some(prost_types::Any {
                type_url: "containerd.events.TaskOOM".to_owned(),
                value: TaskOom::default().encode_to_vec(),
            }),
        });
        let step = Step::container("publish an event to", "containerd");
        self.link
            .run(step, self.link.events().publish(request))
            .await
    }

    async fn take_event(self: &Arc<Self>, envelope: &Envelope) {
        let Some(event) = &envelope.event else {
            return;
        };
        match envelope.topic.as_str() {
            "/tasks/exit" => {
                if let Ok(exit) = TaskExit::decode(event.value.as_slice())
                    && exit.id == exit.container_id
                {
                    let at = exit.exited_at.map_or_else(|| self.clock.now(), timestamp);
                    let code = i32::try_from(exit.exit_status).unwrap_or(UNKNOWN_EXIT_CODE);
                    self.ended(&exit.container_id, code, at);
                }
            }
            "/tasks/oom" => {
                if let Ok(oom) = TaskOom::decode(event.value.as_slice()) {
                    self.hub.container(&oom.container_id);
                }
            }
            "/tasks/start" => {
                if let Ok(start) = TaskStart::decode(event.value.as_slice()) {
                    self.records.change(&start.container_id, |entry| {
                        if entry.phase == Phase::Created {
                            entry.phase = Phase::Running { pid: start.pid };
                        }
                    });
                }
            }
            _ => {
                // A deletion: ours has forgotten the container before; another's has not.
                if let Ok(deleted) =
                    containerd_client::events::ContainerDelete::decode(event.value.as_slice())
                    && !self.changing.is_taken(&deleted.id)
                    && self.records.get(&deleted.id).is_some()
                {
                    self.records
                        .remove(&deleted.id)
                        .ok_or_log("forget a container");
                    self.hub.container(&deleted.id);
                }
            }
        }
    }

    /// A container's process ended: notes it, tells readers, and lets the shim go in a job.
    pub(super) fn ended(self: &Arc<Self>, id: &str, code: i32, at: Timestamp) {
        self.note_end(id, code, at);
        let containerd = self.clone();
        let id = id.to_owned();
        self.jobs.job("release task", async move {
            let _turn = containerd.changing.turn(&id).await;
            containerd
                .delete_task(&id)
                .await
                .ok_or_log("release the task of a container");
        });
    }

    /// Writes down an end, once.
    pub(super) fn note_end(&self, id: &str, code: i32, at: Timestamp) {
        let Some(entry) = self.records.get(id) else {
            return;
        };
        if matches!(entry.phase, Phase::Exited(_)) {
            return;
        }
        let exit = Exit {
            code,
            at,
            // The cgroup is still there: it goes with the task.
            oom_killed: self.host.oom_killed(&entry.details.cgroup),
        };
        let life = Life {
            started_at: entry.started_at,
            exit_code: Some(code),
            exited_at: Some(at),
            oom_killed: exit.oom_killed,
        };
        self.records
            .write_life(id, &life)
            .ok_or_log("write down the end of a container");
        self.records
            .change(id, |entry| entry.phase = Phase::Exited(exit));
        self.hub.container(id);
    }

    pub(super) async fn delete_task(&self, id: &str) -> Result<()> {
        let request = self.link.request(DeleteTaskRequest {
            container_id: id.to_owned(),
        });
        let step = Step::container("delete the task of", id).limit(LONG);
        gone_is_fine(
            self.link
                .run(step, self.link.tasks().delete(request))
                .await
                .map(|_| ()),
        )
    }

    /// Lists every container and task and makes the memory say the same.
    async fn resync(self: &Arc<Self>) -> Result<()> {
        let step = Step::container("list", "containers");
        let request = self.link.request(ListContainersRequest {
            filters: vec![format!("labels.\"{MANAGED_LABEL}\"==true")],
        });
        let containers = self
            .link
            .run(step, self.link.containers().list(request))
            .await?
            .containers;
        let request = self.link.request(ListTasksRequest::default());
        let tasks = self
            .link
            .run(step, self.link.tasks().list(request))
            .await?
            .tasks;
        let mut gone = self.records.ids();
        for container in &containers {
            gone.retain(|id| *id != container.id);
            if self.changing.is_taken(&container.id) {
                continue;
            }
            let details: Details = container
                .extensions
                .get(DETAILS)
                .and_then(|any| serde_json::from_slice(&any.value).ok())
                .unwrap_or_default();
            let created_at = container
                .created_at
                .map_or(Timestamp::UNIX_EPOCH, timestamp);
            let task = tasks.iter().find(|task| task.id == container.id);
            self.take_listed(&container.id, details, created_at, task);
        }
        gone.retain(|id| !self.changing.is_taken(id));
        for id in gone {
            self.records.remove(&id).ok_or_log("forget a container");
        }
        for id in self.records.left_folders() {
            if !self.changing.is_taken(&id) {
                self.records
                    .remove(&id)
                    .ok_or_log("remove a container's folder");
            }
        }
        Ok(())
    }

    fn take_listed(
        self: &Arc<Self>,
        id: &str,
        details: Details,
        created_at: Timestamp,
        task: Option<&Process>,
    ) {
        let life = self.records.life(id);
        let mut entry = Entry {
            details,
            created_at,
            started_at: life.started_at,
            phase: Phase::Unknown,
        };
        if let Some(exit) = life.exit() {
            entry.phase = Phase::Exited(exit);
            self.records.insert(id, entry);
            if task.is_some() {
                self.release(id);
            }
            return;
        }
        let Some(task) = task else {
            let started = life.started_at.is_some();
            self.records.insert(id, entry);
            if started {
                self.note_end(id, UNKNOWN_EXIT_CODE, self.clock.now());
            }
            return;
        };
        match task.status() {
            TaskStatus::Created => entry.phase = Phase::Created,
            TaskStatus::Running | TaskStatus::Paused | TaskStatus::Pausing => {
                entry.phase = Phase::Running { pid: task.pid };
                entry.started_at = entry.started_at.or(Some(created_at));
            }
            TaskStatus::Stopped => {
                entry.started_at = entry.started_at.or(Some(created_at));
                self.records.insert(id, entry);
                let at = task.exited_at.map_or_else(|| self.clock.now(), timestamp);
                self.ended(
                    id,
                    i32::try_from(task.exit_status).unwrap_or(UNKNOWN_EXIT_CODE),
                    at,
                );
                return;
            }
            TaskStatus::Unknown => {}
        }
        let runs = matches!(entry.phase, Phase::Running { .. });
        self.records.insert(id, entry);
        if runs {
            self.restore_log(id);
        }
    }

    fn release(self: &Arc<Self>, id: &str) {
        let containerd = self.clone();
        let id = id.to_owned();
        self.jobs.job("release task", async move {
            let _turn = containerd.changing.turn(&id).await;
            containerd
                .delete_task(&id)
                .await
                .ok_or_log("release the task of a container");
        });
    }
}

/// Containerd's time as ours.
pub(super) fn timestamp(time: prost_types::Timestamp) -> Timestamp {
    Timestamp::new(time.seconds, time.nanos).unwrap_or(Timestamp::UNIX_EPOCH)
}
