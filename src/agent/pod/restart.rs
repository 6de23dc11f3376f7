//! Whether and when a container that ended runs again: restart policies and crash-loop back-off
//! (kubernetes `pkg/kubelet/container/helpers.go`, `client-go/util/flowcontrol/backoff.go`).

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};

/// First delay of a crash loop.
const FIRST: SignedDuration = SignedDuration::from_secs(10);
/// Longest delay of a crash loop.
const MOST: SignedDuration = SignedDuration::from_secs(300);
/// A container that ran this long since its last restart starts with [`FIRST`] again.
const RESET_AFTER: SignedDuration = SignedDuration::from_secs(600);

/// The part a container plays in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container that stays: `restartPolicy: Always`.
    Sidecar,
    /// What the pod is for.
    App,
}

/// Every container of a pod in the order they start, with its role.
pub(crate) fn containers(pod: &Pod) -> impl DoubleEndedIterator<Item = (Role, &Container)> {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_deref());
    let init = init.unwrap_or_default().iter().map(|container| {
        let always = container.restart_policy.as_deref() == Some("Always");
        let role = if always { Role::Sidecar } else { Role::Init };
        (role, container)
    });
    let apps = spec.map(|spec| spec.containers.as_slice());
    init.chain(apps.unwrap_or_default().iter().map(|c| (Role::App, c)))
}

/// Whether a container of this role that ended with `code` is to run again.
pub(crate) fn runs_again(pod: &Pod, role: Role, container: &Container, code: i32) -> bool {
    match role {
        Role::Sidecar => true,
        Role::Init => code != 0 && policy(pod, container) != "Never",
        Role::App => match rule(container, code) {
            Some(restart) => restart,
            None => match policy(pod, container) {
                "Never" => false,
                "OnFailure" => code != 0,
                _ => true,
            },
        },
    }
}

fn policy<'a>(pod: &'a Pod, container: &'a Container) -> &'a str {
    let own = container.restart_policy.as_deref();
    own.or_else(|| pod.spec.as_ref()?.restart_policy.as_deref())
        .unwrap_or("Always")
}

/// What the first rule that fits says (KEP-5307).
fn rule(container: &Container, code: i32) -> Option<bool> {
    let rules = container.restart_policy_rules.as_deref()?;
    let fits = rules.iter().find(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.as_ref().is_some_and(|v| v.contains(&code));
            (codes.operator == "In") == listed
        })
    })?;
    Some(fits.action == "Restart")
}

/// How long a crashing container waits. Made at its first restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CrashLoop {
    delay: SignedDuration,
    /// When it was restarted last.
    restarted_at: Timestamp,
}

impl CrashLoop {
    /// The state after the restart at `now` of a container that had ended at `ended_at`.
    pub(crate) fn after_restart(before: Option<Self>, ended_at: Timestamp, now: Timestamp) -> Self {
        let delay = match before {
            Some(before) if !before.is_over(ended_at) => (before.delay * 2).min(MOST),
            _ => FIRST,
        };
        Self {
            delay,
            restarted_at: now,
        }
    }

    /// What an agent assumes that has just started and finds attempt number `attempt`, which
    /// started at `started_at`: as if each earlier attempt had crashed at once.
    pub(crate) fn recovered(attempt: u32, started_at: Timestamp) -> Option<Self> {
        let doublings = attempt.checked_sub(1)?.min(5);
        Some(Self {
            delay: (FIRST * (1 << doublings)).min(MOST),
            restarted_at: started_at,
        })
    }

    /// How long it waits now.
    pub(crate) fn delay(&self) -> SignedDuration {
        self.delay
    }

    /// When a container that ended at `ended_at` may start again.
    pub(crate) fn may_restart_at(&self, ended_at: Timestamp) -> Timestamp {
        if self.is_over(ended_at) {
            return ended_at;
        }
        ended_at.saturating_add(self.delay).unwrap_or(ended_at)
    }

    fn is_over(&self, ended_at: Timestamp) -> bool {
        ended_at.duration_since(self.restarted_at) > RESET_AFTER
    }
}

/// The delay after `failures` failures in a row of a step that is tried again: 10 s doubling to
/// five minutes, as the kubelet's image back-off.
pub(crate) fn image_delay(failures: u32) -> SignedDuration {
    let doublings = failures.saturating_sub(1).min(5);
    (FIRST * (1 << doublings)).min(MOST)
}

/// The delay after `failures` failures in a row of a local step (network, volumes, creation).
pub(crate) fn step_delay(failures: u32) -> SignedDuration {
    let doublings = failures.saturating_sub(1).min(7);
    SignedDuration::from_millis(500 * (1 << doublings))
}

/// A duration as Go prints it: `10s`, `1m20s`, `5m0s`.
pub(crate) fn go_duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(policy: &str) -> Pod {
        serde_json::from_value(json!({"spec": {"restartPolicy": policy, "containers": []}}))
            .unwrap()
    }

    fn container(fields: serde_json::Value) -> Container {
        let mut value = json!({"name": "c"});
        for (key, field) in fields.as_object().unwrap() {
            value[key] = field.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn restart_policies_decide_by_role_and_exit_code() {
        let plain = container(json!({}));
        let table = [
            ("Always", Role::App, 0, true),
            ("OnFailure", Role::App, 0, false),
            ("OnFailure", Role::App, 1, true),
            ("Never", Role::App, 1, false),
            ("Always", Role::Init, 0, false),
            ("Always", Role::Init, 1, true),
            ("Never", Role::Init, 1, false),
            ("Never", Role::Sidecar, 0, true),
        ];
        for (policy, role, code, again) in table {
            let got = runs_again(&pod(policy), role, &plain, code);
            assert_eq!(got, again, "{policy} {role:?} {code}");
        }
    }

    #[test]
    fn a_container_s_own_policy_and_rules_win() {
        let never = container(json!({"restartPolicy": "Never", "restartPolicyRules": [
            {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}));
        assert!(runs_again(&pod("Always"), Role::App, &never, 42));
        assert!(!runs_again(&pod("Always"), Role::App, &never, 1));
    }

    #[test]
    fn crash_loop_waits_ten_seconds_doubling_to_five_minutes() {
        let mut state = None;
        let mut now = 100;
        let mut delays = vec![];
        for _ in 0..7 {
            let next = CrashLoop::after_restart(state, at(now), at(now));
            let ended = now + 1;
            let again = next.may_restart_at(at(ended));
            delays.push(again.as_second() - ended);
            now = again.as_second();
            state = Some(next);
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_good_minutes_end_a_crash_loop() {
        let first = CrashLoop::after_restart(None, at(0), at(0));
        let second = CrashLoop::after_restart(Some(first), at(5), at(10));
        assert_eq!(second.delay(), SignedDuration::from_secs(20));
        assert_eq!(second.may_restart_at(at(700)), at(700));
        let third = CrashLoop::after_restart(Some(second), at(700), at(700));
        assert_eq!(third.delay(), SignedDuration::from_secs(10));
    }

    #[test]
    fn an_agent_that_starts_anew_goes_on_with_the_loop() {
        assert_eq!(CrashLoop::recovered(0, at(0)), None);
        let third = CrashLoop::recovered(3, at(0)).unwrap();
        assert_eq!(third.delay(), SignedDuration::from_secs(40));
    }

    #[test]
    fn durations_print_as_go_prints_them() {
        let print = |s| go_duration(SignedDuration::from_secs(s));
        assert_eq!([print(10), print(80), print(300)], ["10s", "1m20s", "5m0s"]);
    }
}
