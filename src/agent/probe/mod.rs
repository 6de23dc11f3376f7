//! Probes of running containers: startup, liveness, readiness
//! (kubernetes `pkg/kubelet/prober/worker.go`).
//!
//! A container that runs has one task while it has probes. The startup probe comes first, alone;
//! liveness and readiness begin when it has succeeded. The first probe comes `initialDelaySeconds`
//! after the start of the container, the next ones each `periodSeconds`. What they found is a
//! [`Report`]; the pod's worker is woken when it changes, and decides.
//!
//! DEVIATION: upstream starts its periods at the moment it sees the container, so that a probe
//! may come up to a period late; here the delay is kept exactly.

pub(crate) mod grpc;
pub(crate) mod http;
pub(crate) mod tcp;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Probe};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::runtime::{self, Runtime};
use crate::util::{clock::Clock, errors::chain, tasks::Tasks};

/// How probes name themselves to servers.
const USER_AGENT: &str = "kube-probe/1.37";
/// Tries of a probe that could not be carried out.
const TRIES: usize = 3;

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success(String),
    Failure(String),
    /// It could not be carried out: counts neither way.
    Unknown(String),
}

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    /// As events name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// Which probe says that a container is to be restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    Startup,
    Liveness,
}

/// What probes say of a running attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// The container id it is about.
    pub(crate) id: String,
    pub(crate) started: bool,
    pub(crate) ready: bool,
    pub(crate) failed: Option<Failed>,
}

/// A container that runs.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) container: Arc<Container>,
    pub(crate) id: String,
    /// The pod's address.
    pub(crate) address: Option<IpAddr>,
    pub(crate) started_at: Timestamp,
    /// What was known of it before this agent began: an agent that starts anew does not make a
    /// ready container unready.
    pub(crate) was_started: bool,
    pub(crate) was_ready: bool,
}

/// Called with each probe that did not succeed: container, probe, what it found.
pub(crate) type Tell = Arc<dyn Fn(&Container, Kind, &Outcome) + Send + Sync>;
/// Called when a report has changed.
pub(crate) type Wake = Arc<dyn Fn() + Send + Sync>;

/// The probes of one pod.
pub(crate) struct Probes {
    shared: Arc<Shared>,
    tasks: Tasks,
    running: HashMap<String, (String, Tasks)>,
}

struct Shared {
    runtime: Arc<dyn Runtime>,
    clock: Clock,
    tell: Tell,
    wake: Wake,
    reports: Mutex<BTreeMap<String, Report>>,
}

impl Probes {
    pub(crate) fn new(
        runtime: Arc<dyn Runtime>,
        clock: Clock,
        tasks: Tasks,
        (tell, wake): (Tell, Wake),
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                runtime,
                clock,
                tell,
                wake,
                reports: Mutex::default(),
            }),
            tasks,
            running: HashMap::new(),
        }
    }

    /// Probes just these containers from now on.
    pub(crate) fn follow(&mut self, subjects: Vec<Subject>) {
        let ids: Vec<&String> = subjects.iter().map(|subject| &subject.id).collect();
        let shared = &self.shared;
        self.running.retain(|name, (id, tasks)| {
            let stays = ids.contains(&&*id);
            if !stays {
                tasks.cancel();
                shared.reports.lock().remove(name);
            }
            stays
        });
        for subject in subjects {
            if !self.running.contains_key(&subject.container.name) {
                self.start(subject);
            }
        }
    }

    /// What is known of the containers that are followed, by name.
    pub(crate) fn reports(&self) -> BTreeMap<String, Report> {
        self.shared.reports.lock().clone()
    }

    fn start(&mut self, subject: Subject) {
        let container = subject.container.clone();
        let has = |probe: &Option<Probe>| probe.is_some();
        let report = Report {
            id: subject.id.clone(),
            started: !has(&container.startup_probe) || subject.was_started,
            ready: !has(&container.readiness_probe) || subject.was_ready,
            failed: None,
        };
        let name = container.name.clone();
        self.shared.reports.lock().insert(name.clone(), report);
        let tasks = self.tasks.child();
        self.running
            .insert(name, (subject.id.clone(), tasks.clone()));
        let any = has(&container.startup_probe)
            || has(&container.liveness_probe)
            || has(&container.readiness_probe);
        if !any {
            return;
        }
        let shared = self.shared.clone();
        let cancelled = tasks.cancelled();
        tasks.job("probes", async move {
            tokio::select! {
                () = shared.run(&subject) => {}
                () = cancelled.cancelled() => {}
            }
        });
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        for (_, tasks) in self.running.values() {
            tasks.cancel();
        }
    }
}

impl Shared {
    async fn run(&self, subject: &Subject) {
        let container = &subject.container;
        if let Some(probe) = &container.startup_probe
            && !subject.was_started
            && !self.until_started(subject, probe).await
        {
            return;
        }
        let liveness = async {
            if let Some(probe) = &container.liveness_probe {
                self.while_alive(subject, probe).await;
            }
        };
        let readiness = async {
            if let Some(probe) = &container.readiness_probe {
                self.readiness(subject, probe).await;
            }
        };
        tokio::join!(liveness, readiness);
    }

    /// `false`: it never did.
    async fn until_started(&self, subject: &Subject, probe: &Probe) -> bool {
        let mut schedule = Schedule::new(subject, probe, self.clock.now());
        let mut streak = Streak::new(probe);
        loop {
            schedule.next().await;
            match self.once(subject, probe, Kind::Startup, &mut streak).await {
                Some(true) => {
                    self.change(subject, |report| report.started = true);
                    return true;
                }
                Some(false) => {
                    self.change(subject, |report| report.failed = Some(Failed::Startup));
                    return false;
                }
                None => {}
            }
        }
    }

    /// Returns when it has failed too often.
    async fn while_alive(&self, subject: &Subject, probe: &Probe) {
        let mut schedule = Schedule::new(subject, probe, self.clock.now());
        let mut streak = Streak::new(probe);
        loop {
            schedule.next().await;
            let verdict = self.once(subject, probe, Kind::Liveness, &mut streak).await;
            if verdict == Some(false) {
                self.change(subject, |report| report.failed = Some(Failed::Liveness));
                return;
            }
        }
    }

    async fn readiness(&self, subject: &Subject, probe: &Probe) {
        let mut schedule = Schedule::new(subject, probe, self.clock.now());
        let mut streak = Streak::new(probe);
        loop {
            schedule.next().await;
            let verdict = self
                .once(subject, probe, Kind::Readiness, &mut streak)
                .await;
            if let Some(ready) = verdict {
                self.change(subject, |report| report.ready = ready);
            }
        }
    }

    /// Probes once; `Some` when a threshold is reached.
    async fn once(
        &self,
        subject: &Subject,
        probe: &Probe,
        kind: Kind,
        streak: &mut Streak,
    ) -> Option<bool> {
        let mut outcome = Outcome::Unknown(String::new());
        for _ in 0..TRIES {
            outcome = self.carry_out(subject, probe).await;
            if !matches!(outcome, Outcome::Unknown(_)) {
                break;
            }
        }
        if !matches!(outcome, Outcome::Success(_)) {
            (self.tell)(&subject.container, kind, &outcome);
        }
        streak.add(&outcome)
    }

    async fn carry_out(&self, subject: &Subject, probe: &Probe) -> Outcome {
        let timeout = seconds(probe.timeout_seconds, 1);
        if let Some(exec) = &probe.exec {
            let command = exec.command.as_deref().unwrap_or_default();
            return self.exec(&subject.id, command, timeout).await;
        }
        if let Some(action) = &probe.http_get {
            return match http::target(&subject.container, action, subject.address) {
                Ok(target) => http::get(&target, USER_AGENT, timeout).await,
                Err(why) => Outcome::Unknown(why),
            };
        }
        let address = subject.address.map(|address| address.to_string());
        if let Some(action) = &probe.tcp_socket {
            let own = action.host.clone().filter(|host| !host.is_empty());
            return match (
                own.or(address),
                http::port(&subject.container, &action.port),
            ) {
                (Some(host), Ok(port)) => tcp::probe(&host, port, timeout).await,
                (None, _) => Outcome::Unknown("the pod has no address".to_owned()),
                (_, Err(why)) => Outcome::Unknown(why),
            };
        }
        if let Some(action) = &probe.grpc {
            let port = u16::try_from(action.port).unwrap_or(0);
            let service = action.service.as_deref().unwrap_or_default();
            return match address {
                Some(host) => grpc::probe(&host, port, service, timeout).await,
                None => Outcome::Unknown("the pod has no address".to_owned()),
            };
        }
        Outcome::Unknown(format!(
            "missing probe handler for {}",
            subject.container.name
        ))
    }

    async fn exec(&self, id: &str, command: &[String], timeout: Duration) -> Outcome {
        match self.runtime.exec_sync(id, command, timeout).await {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.output).into_owned();
                if output.code == 0 {
                    Outcome::Success(text)
                } else {
                    Outcome::Failure(text)
                }
            }
            Err(runtime::Error::Timeout { .. }) => Outcome::Failure(format!(
                "command timed out: \"{}\" timed out after {timeout:?}",
                command.join(" ")
            )),
            Err(error) => Outcome::Unknown(chain(&error)),
        }
    }

    fn change(&self, subject: &Subject, change: impl Fn(&mut Report)) {
        let changed = {
            let mut reports = self.reports.lock();
            let report = reports.get_mut(&subject.container.name);
            report.is_some_and(|report| {
                let before = report.clone();
                if report.id == subject.id {
                    change(report);
                }
                *report != before
            })
        };
        if changed {
            (self.wake)();
        }
    }
}

fn seconds(value: Option<i32>, default: i32) -> Duration {
    let value = value.unwrap_or(default).max(0);
    Duration::from_secs(u64::from(value.unsigned_abs()))
}

/// When to probe: after the delay, then each period, counted from the first.
struct Schedule {
    next: Instant,
    period: Duration,
}

impl Schedule {
    fn new(subject: &Subject, probe: &Probe, now: Timestamp) -> Self {
        let delay = seconds(probe.initial_delay_seconds, 0);
        let age = now.duration_since(subject.started_at);
        let age = Duration::try_from(age).unwrap_or_default();
        Self {
            next: Instant::now() + delay.saturating_sub(age),
            period: seconds(probe.period_seconds, 10).max(Duration::from_secs(1)),
        }
    }

    async fn next(&mut self) {
        tokio::time::sleep_until(self.next).await;
        // A probe that took longer than a period leaves out the times it missed.
        let now = Instant::now();
        while self.next <= now {
            self.next += self.period;
        }
    }
}

/// Equal outcomes in a row.
struct Streak {
    is_success: bool,
    length: i32,
    successes: i32,
    failures: i32,
}

impl Streak {
    fn new(probe: &Probe) -> Self {
        Self {
            is_success: false,
            length: 0,
            successes: probe.success_threshold.unwrap_or(1).max(1),
            failures: probe.failure_threshold.unwrap_or(3).max(1),
        }
    }

    /// `Some` while the threshold is reached.
    fn add(&mut self, outcome: &Outcome) -> Option<bool> {
        let is_success = match outcome {
            Outcome::Success(_) => true,
            Outcome::Failure(_) => false,
            Outcome::Unknown(_) => return None,
        };
        if is_success != self.is_success {
            self.length = 0;
        }
        self.is_success = is_success;
        self.length += 1;
        let threshold = if is_success {
            self.successes
        } else {
            self.failures
        };
        (self.length >= threshold).then_some(is_success)
    }
}

#[cfg(test)]
mod tests;
