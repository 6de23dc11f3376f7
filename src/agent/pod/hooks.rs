//! Hooks of a container's life and its end: after the start, before the stop, SIGTERM, SIGKILL
//! (kubernetes `pkg/kubelet/lifecycle`, `pkg/kubelet/kuberuntime/kuberuntime_container.go`).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use nix::sys::signal::Signal;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::agent::probe::{Failed, http};
use crate::runtime;
use crate::util::errors::chain;

use super::act::Outcome;
use super::context::{Context, container_named, container_reference};
use super::plan::Why;

const USER_AGENT: &str = "kube-lifecycle/1.37";
/// A hook after the start may take as long as it likes; it ends with its container.
const HOOK_LIMIT: Duration = Duration::from_secs(24 * 3600);
const HTTP_LIMIT: Duration = Duration::from_secs(30);
/// What is left for SIGTERM even where the hook before it took all the time.
const TERM_LEAST: SignedDuration = SignedDuration::from_secs(2);
/// A process that outlives SIGKILL (it waits for a disk) is killed again this often.
const KILL_AGAIN: Duration = Duration::from_secs(10);

/// A stop under way: when to kill, and the news that it has ended.
#[derive(Clone)]
pub(crate) struct Stop {
    pub(crate) pod: Arc<Pod>,
    pub(crate) container: String,
    pub(crate) id: String,
    pub(crate) why: Why,
    /// Whether there was time for an orderly end when the stop began.
    pub(crate) has_grace: bool,
    /// The stop signal its image or pod names; empty: SIGTERM.
    pub(crate) signal: String,
    pub(crate) address: Option<IpAddr>,
    pub(crate) kill_at: watch::Receiver<Timestamp>,
    pub(crate) ended: CancellationToken,
}

impl Context {
    /// Runs the hook after a start.
    pub(crate) async fn after_start(
        self: Arc<Self>,
        pod: Arc<Pod>,
        (container, id): (String, String),
        address: Option<IpAddr>,
    ) -> Outcome {
        let result = match container_named(&pod, &container) {
            Some(spec) => {
                let hook = spec.lifecycle.as_ref().and_then(|l| l.post_start.as_ref());
                let result = match hook {
                    Some(hook) => self.hook(spec, hook, (&id, address), HOOK_LIMIT).await,
                    None => Ok(()),
                };
                if let Err(why) = &result {
                    let about = container_reference(&pod, spec);
                    let text = format!("PostStartHook failed: {why}");
                    self.recorder.warning(&about, "FailedPostStartHook", text);
                }
                result
            }
            None => Ok(()),
        };
        Outcome::Hooked {
            container,
            id,
            result,
        }
    }

    async fn hook(
        &self,
        container: &Container,
        hook: &LifecycleHandler,
        (id, address): (&str, Option<IpAddr>),
        limit: Duration,
    ) -> Result<(), String> {
        if let Some(exec) = &hook.exec {
            let command = exec.command.as_deref().unwrap_or_default();
            let ended = self.runtime.exec_sync(id, command, limit).await;
            return match ended {
                Ok(output) if output.code == 0 => Ok(()),
                Ok(output) => Err(format!(
                    "command '{}' exited with {}: {}",
                    command.join(" "),
                    output.code,
                    String::from_utf8_lossy(&output.output)
                )),
                Err(error) => Err(chain(&error)),
            };
        }
        if let Some(action) = &hook.http_get {
            let target = http::target(container, action, address)?;
            // Any answer will do.
            let asked = http::fetch(&target, USER_AGENT, limit.min(HTTP_LIMIT)).await;
            return asked.map(drop);
        }
        if let Some(sleep) = &hook.sleep {
            let seconds = u64::try_from(sleep.seconds).unwrap_or(0);
            tokio::time::sleep(Duration::from_secs(seconds).min(limit)).await;
        }
        Ok(())
    }

    /// Stops a container: its hook, its signal, and SIGKILL when the time is over.
    pub(crate) async fn stop(self: Arc<Self>, stop: Stop) -> Outcome {
        let spec = container_named(&stop.pod, &stop.container).cloned();
        let spec = spec.unwrap_or_else(|| Container {
            name: stop.container.clone(),
            ..Container::default()
        });
        let about = container_reference(&stop.pod, &spec);
        self.recorder
            .normal(&about, "Killing", killing_text(&spec.name, stop.why));
        self.before_stop(&stop, &spec).await;
        self.end(&stop).await;
        Outcome::Stopped {
            container: stop.container,
            id: stop.id,
        }
    }

    async fn before_stop(&self, stop: &Stop, spec: &Container) {
        let hook = spec.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref());
        let Some(hook) = hook else { return };
        let limit = self.until(*stop.kill_at.borrow());
        if limit.is_zero() {
            return;
        }
        let failed = tokio::select! {
            result = self.hook(spec, hook, (&stop.id, stop.address), limit) => result.err(),
            () = self.kill_time(stop.kill_at.clone()) => {
                Some("the grace period is over".to_owned())
            }
            () = stop.ended.cancelled() => None,
        };
        if let Some(why) = failed {
            let about = container_reference(&stop.pod, spec);
            let text = format!("PreStopHook failed: {why}");
            self.recorder.warning(&about, "FailedPreStopHook", text);
        }
    }

    async fn end(&self, stop: &Stop) {
        let term = signal_number(&stop.signal);
        let least = self.clock.now().saturating_add(TERM_LEAST);
        let least = least.unwrap_or(Timestamp::MAX);
        if !self.send(&stop.id, term, false).await {
            return;
        }
        // Who had no time left when its signal came, because its hook took it, gets a little.
        let is_late = *stop.kill_at.borrow() < least && stop.has_grace;
        let time = async {
            if is_late {
                tokio::time::sleep(self.until(least)).await;
            } else {
                self.kill_time(stop.kill_at.clone()).await;
            }
        };
        tokio::select! {
            () = time => {}
            () = stop.ended.cancelled() => return,
        }
        loop {
            if !self.send(&stop.id, Signal::SIGKILL as i32, true).await {
                return;
            }
            let ended = stop.ended.cancelled();
            if tokio::time::timeout(KILL_AGAIN, ended).await.is_ok() {
                return;
            }
        }
    }

    /// `false`: there is no such process any more.
    async fn send(&self, id: &str, signal: i32, all: bool) -> bool {
        match self.runtime.signal(id, signal, all).await {
            Ok(()) => true,
            Err(error) => {
                self.pleg.refresh(id).await;
                let is_gone = error.is_not_found();
                if !is_gone {
                    tracing::debug!(id, signal, error = %chain(&error), "signal not sent");
                }
                !is_gone && !matches!(error, runtime::Error::Failed { .. })
            }
        }
    }

    /// Resolves at the time to kill, also when that is moved meanwhile.
    async fn kill_time(&self, mut kill_at: watch::Receiver<Timestamp>) {
        loop {
            let left = self.until(*kill_at.borrow_and_update());
            tokio::select! {
                () = tokio::time::sleep(left) => return,
                changed = kill_at.changed() => {
                    if changed.is_err() {
                        tokio::time::sleep(left).await;
                        return;
                    }
                }
            }
        }
    }

    fn until(&self, at: Timestamp) -> Duration {
        Duration::try_from(at.duration_since(self.clock.now())).unwrap_or_default()
    }
}

fn killing_text(name: &str, why: Why) -> String {
    match why {
        Why::Ending => format!("Stopping container {name}"),
        Why::Changed => format!("Container {name} definition changed, will be restarted"),
        Why::Probe(Failed::Liveness) => {
            format!("Container {name} failed liveness probe, will be restarted")
        }
        Why::Probe(Failed::Startup) => {
            format!("Container {name} failed startup probe, will be restarted")
        }
        Why::Hook => format!("Container {name} failed its PostStartHook, will be restarted"),
    }
}

/// The number of a signal by name (with or without `SIG`) or number.
fn signal_number(text: &str) -> i32 {
    let term = Signal::SIGTERM as i32;
    if text.is_empty() {
        return term;
    }
    if let Ok(number) = text.parse() {
        return number;
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    if let Some(offset) = name.strip_prefix("SIGRTMIN+") {
        return offset.parse::<i32>().map_or(term, |offset| 34 + offset);
    }
    name.parse::<Signal>().map_or(term, |signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        let table = [
            ("", 15),
            ("SIGQUIT", 3),
            ("quit", 3),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("nonsense", 15),
        ];
        for (text, number) in table {
            assert_eq!(signal_number(text), number, "{text}");
        }
    }
}
