//! The cgroups around pods: one for all, one per class, one per pod.

use std::collections::HashMap;
use std::io;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use crate::agent::sys::cgroup::{Cgroups, Limits};
use crate::api::pod::{self as reading, Qos};
use crate::runtime::Resources;

use super::context::uid;
use super::resources::{class_cgroup, of_pod, shares};

/// Makes and removes them. The class of burstable pods gets the shares its pods ask for together.
pub(crate) struct PodCgroups {
    cgroups: Option<Cgroups>,
    root: String,
    /// Thousandths of a processor each burstable pod asks for.
    burstable: Mutex<HashMap<String, i64>>,
}

impl PodCgroups {
    /// `cgroups` is `None` where there are none to be made (tests, hollow nodes).
    pub(crate) fn new(cgroups: Option<Cgroups>, root: &str) -> Self {
        Self {
            cgroups,
            root: root.to_owned(),
            burstable: Mutex::default(),
        }
    }

    /// Whether this node only pretends to run containers.
    pub(crate) fn is_hollow(&self) -> bool {
        self.cgroups.is_none()
    }

    /// Makes those of all pods and of the classes.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        let Some(cgroups) = &self.cgroups else {
            return Ok(());
        };
        let least = Limits {
            cpu_shares: Some(2),
            ..Limits::default()
        };
        cgroups.set(&self.root, &Limits::default())?;
        cgroups.set(&class_cgroup(&self.root, Qos::BestEffort), &least)?;
        cgroups.set(&class_cgroup(&self.root, Qos::Burstable), &least)
    }

    /// Makes the pod's and sets its limits.
    pub(crate) fn set_up(&self, pod: &Pod) -> io::Result<()> {
        let Some(cgroups) = &self.cgroups else {
            return Ok(());
        };
        if reading::qos(pod) == Qos::Burstable {
            let asked = reading::requests(pod);
            let milli = asked.get("cpu").map_or(0, |q| q.milli_value());
            let before = self.burstable.lock().insert(uid(pod).to_owned(), milli);
            if before != Some(milli) {
                self.weigh_burstable()?;
            }
        }
        cgroups.set(
            &super::resources::cgroup(&self.root, pod),
            &limits(&of_pod(pod)),
        )
    }

    /// Removes the pod's; its processes are gone.
    pub(crate) fn tear_down(&self, uid: &str) -> io::Result<()> {
        let Some(cgroups) = &self.cgroups else {
            return Ok(());
        };
        if self.burstable.lock().remove(uid).is_some() {
            self.weigh_burstable()?;
        }
        for qos in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            cgroups.remove(&format!("{}/pod{uid}", class_cgroup(&self.root, qos)))?;
        }
        Ok(())
    }

    /// The pods that have one.
    pub(crate) fn pods(&self) -> Vec<String> {
        let Some(cgroups) = &self.cgroups else {
            return Vec::new();
        };
        let classes = [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort];
        let folders = classes.map(|qos| cgroups.children(&class_cgroup(&self.root, qos)));
        let names = folders.into_iter().flatten();
        names
            .filter_map(|name| name.strip_prefix("pod").map(str::to_owned))
            .collect()
    }

    /// Moves a process of the agent's own into a pod's cgroup, so that it ends with the pod and
    /// not with the agent.
    pub(crate) fn enter(&self, pod: &Pod, pid: u32) -> io::Result<()> {
        match &self.cgroups {
            Some(cgroups) => {
                let path = super::resources::cgroup(&self.root, pod);
                cgroups.enter(&format!("{path}/holder"), pid)
            }
            None => Ok(()),
        }
    }

    fn weigh_burstable(&self) -> io::Result<()> {
        let Some(cgroups) = &self.cgroups else {
            return Ok(());
        };
        let sum = self.burstable.lock().values().sum();
        let all = Limits {
            cpu_shares: Some(shares(sum)),
            ..Limits::default()
        };
        cgroups.set(&class_cgroup(&self.root, Qos::Burstable), &all)
    }
}

fn limits(resources: &Resources) -> Limits {
    Limits {
        cpu_shares: resources.cpu_shares,
        cpu_quota_us: resources.cpu_quota_us,
        memory_bytes: resources.memory_limit_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::pod::testing::pod;
    use serde_json::json;

    #[test]
    fn pods_have_a_place_each_and_leave_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for name in ["cpu", "memory"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        let cgroups = PodCgroups::new(Some(Cgroups::at(root)), "/k");
        cgroups.prepare().unwrap();
        let container = json!({"name": "a", "resources": {"requests": {"cpu": "500m"}}});
        let pod = pod(json!({"containers": [container]}));
        cgroups.set_up(&pod).unwrap();
        let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
        assert_eq!(read("cpu/k/burstable/cpu.shares"), "512");
        assert_eq!(read("cpu/k/burstable/podu/cpu.shares"), "512");
        assert_eq!(read("cpu/k/besteffort/cpu.shares"), "2");
        assert_eq!(cgroups.pods(), ["u"]);
        // A real cgroup's files vanish with it; here they have to be removed by hand.
        std::fs::remove_file(root.join("cpu/k/burstable/podu/cpu.shares")).unwrap();
        cgroups.tear_down("u").unwrap();
        assert!(cgroups.pods().is_empty());
        assert_eq!(read("cpu/k/burstable/cpu.shares"), "2");
    }
}
