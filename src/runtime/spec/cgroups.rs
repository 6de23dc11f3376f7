//! Limits of a container's cgroup. runc turns the v1 terms used here into v2's where it must.

use super::oci::{Cpu, DeviceRule, LinuxResources, Memory, Pids};
use super::{Facts, devices};
use crate::runtime::{ContainerSpec, Resources};

/// The limits alone, as an update of a running container wants them.
pub(crate) fn resources(wanted: &Resources, swap_accounting: bool) -> LinuxResources {
    let cpu = Cpu {
        shares: wanted.cpu_shares,
        quota: wanted.cpu_quota_us,
        period: wanted.cpu_period_us,
        cpus: wanted.cpuset_cpus.clone(),
    };
    LinuxResources {
        devices: Vec::new(),
        // No swap beyond the memory limit, as the kubelet has it (NoSwap).
        memory: wanted.memory_limit_bytes.map(|limit| Memory {
            limit,
            swap: swap_accounting.then_some(limit),
        }),
        cpu: (cpu != Cpu::default()).then_some(cpu),
        pids: wanted.pids_limit.map(|limit| Pids { limit }),
    }
}

/// The limits and which devices may be used.
pub(super) fn with_devices(container: &ContainerSpec, facts: &Facts) -> LinuxResources {
    let mut all = resources(&container.resources, facts.swap_accounting);
    all.devices.push(DeviceRule {
        allow: container.security.privileged,
        access: "rwm".to_owned(),
        ..DeviceRule::default()
    });
    if !container.security.privileged {
        all.devices.extend(facts.devices.iter().map(devices::rule));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_limits_that_are_asked_for_are_written() {
        let wanted = Resources {
            memory_limit_bytes: Some(64),
            ..Resources::default()
        };
        let json = serde_json::to_string(&resources(&wanted, true)).unwrap();
        assert_eq!(json, r#"{"memory":{"limit":64,"swap":64}}"#);
        let json = serde_json::to_string(&resources(&Resources::default(), true)).unwrap();
        assert_eq!(json, "{}");
    }
}
