//! Makes a Job whenever a CronJob is due.
//!
//! Writes: Jobs it controls (creates, deletes); `status` of the CronJob. Never writes a `spec`.
//!
//! A Job's name follows from the time it was due at, so that a time is served once, whatever
//! happens between the creation of the Job and the status that remembers it.

mod plan;
mod schedule;

use k8s_openapi::Resource as _;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::ObjectReference;

use crate::api::{meta, object::ObjectKey};
use crate::client::{
    self, Cache, Client, DeleteParams, Propagation, Queue, Recorder, Result,
    controller::{Action, Reconcile},
};
use crate::util::{clock::Clock, errors::chain};

use super::Setup;
use super::shared::{namespaces, status, wire};

use plan::Plan;

const WORKERS: usize = 5;

struct CronJobs {
    crons: Cache<CronJob>,
    jobs: Cache<Job>,
    client: Client,
    recorder: Recorder,
    clock: Clock,
}

pub(super) fn start(setup: &Setup) {
    let (crons, jobs) = (
        setup.informers.cache::<CronJob>(),
        setup.informers.cache::<Job>(),
    );
    let queue = Queue::new();
    wire::on_own(&crons, &queue);
    wire::on_owned(&jobs, CronJob::KIND, &queue);
    let controller = CronJobs {
        crons: crons.clone(),
        jobs: jobs.clone(),
        client: setup.client.clone(),
        recorder: setup.recorder("cronjob-controller"),
        clock: setup.clock.clone(),
    };
    setup.run(controller, queue, WORKERS, async move {
        crons.synced().await;
        jobs.synced().await;
    });
}

impl Reconcile for CronJobs {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "cron_job"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let Some(cron) = self.crons.get(key) else {
            return Ok(Action::Done);
        };
        let jobs = self.jobs.controlled_by(meta::uid(&cron.metadata));
        let plan = plan::plan(&cron, &jobs, self.clock.now());
        let wake = plan.wake_in.map_or(Action::Done, Action::After);
        self.carry_out(&cron, plan).await?;
        Ok(wake)
    }
}

impl CronJobs {
    async fn carry_out(&self, cron: &CronJob, mut plan: Plan) -> Result<()> {
        let about = client::reference(cron);
        for event in &plan.events {
            match event.is_warning {
                true => self
                    .recorder
                    .warning(&about, event.reason, event.message.clone()),
                false => self
                    .recorder
                    .normal(&about, event.reason, event.message.clone()),
            }
        }
        for job in plan.replace.iter().chain(&plan.forget) {
            self.delete(&about, job).await?;
        }
        if let Some(due) = plan.create
            && let Some(made) = self.create(&about, &plan::job(cron, due)).await?
        {
            let active = plan.status.active.get_or_insert_default();
            active.push(client::reference(&made));
        }
        let patch = status::patch(&cron.metadata, cron.status.as_ref(), &plan.status);
        let Some(patch) = patch else { return Ok(()) };
        let api = self
            .client
            .namespaced::<CronJob>(meta::namespace(&cron.metadata));
        match api.patch_status(meta::name(&cron.metadata), &patch).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    async fn delete(&self, about: &ObjectReference, job: &Job) -> Result<()> {
        let name = meta::name(&job.metadata);
        let api = self
            .client
            .namespaced::<Job>(meta::namespace(&job.metadata));
        let params = DeleteParams {
            propagation: Some(Propagation::Background),
            ..DeleteParams::uid(meta::uid(&job.metadata))
        };
        match api.delete(name, &params).await {
            Ok(()) => {
                let text = format!("Deleted job {name}");
                self.recorder.normal(about, "SuccessfulDelete", text);
                Ok(())
            }
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => {
                let text = format!("Deleted job: {}", chain(&error));
                self.recorder.warning(about, "FailedDelete", text);
                Err(error)
            }
        }
    }

    /// `None`: it was there already.
    async fn create(&self, about: &ObjectReference, job: &Job) -> Result<Option<Job>> {
        let api = self
            .client
            .namespaced::<Job>(meta::namespace(&job.metadata));
        match api.create(job).await {
            Ok(made) => {
                let text = format!("Created job {}", meta::name(&made.metadata));
                self.recorder.normal(about, "SuccessfulCreate", text);
                Ok(Some(made))
            }
            Err(error) if namespaces::is_settled(&error) => Ok(None),
            Err(error) => {
                let text = format!("Error creating job: {}", chain(&error));
                self.recorder.warning(about, "FailedCreate", text);
                Err(error)
            }
        }
    }
}
