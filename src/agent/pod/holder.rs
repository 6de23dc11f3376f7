//! The process that holds a process namespace which the containers of a pod share.
//!
//! There is no pause image: the holder is this program's own file, started outside of any
//! container as the first process of a new namespace, with an empty root, in the pod's cgroup. It
//! outlives the agent. Its number and start time lie in the pod's folder, so that it is found
//! again, and not mistaken for a later process of that number.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use k8s_openapi::api::core::v1::Pod;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::agent::sys::process;

use super::context::{Context, uid};

/// The file in a pod's folder: number and start time.
const RECORD: &str = "holder";

impl Context {
    /// The path of the namespace, whose holder is started where it does not run.
    pub(crate) async fn hold_processes(&self, pod: &Pod) -> Result<PathBuf, String> {
        let folder = self.folders.pod(uid(pod));
        if let Some(pid) = holder(&folder) {
            return Ok(path(pid));
        }
        let program = self.config.program.as_ref().ok_or(
            "shareProcessNamespace needs a program to hold the namespace, and none is configured",
        )?;
        let root = folder.join("empty");
        std::fs::create_dir_all(&root).map_err(|error| error.to_string())?;
        let output = tokio::process::Command::new(program)
            .arg(process::HOLD_COMMAND)
            .arg(&root)
            .stdin(Stdio::null())
            .output()
            .await
            .map_err(|error| format!("start {}: {error}", program.display()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let pid: u32 = said.trim().parse().map_err(|_| {
            let why = String::from_utf8_lossy(&output.stderr);
            format!("make a process namespace: {}", why.trim())
        })?;
        if let Err(error) = self.cgroups.enter(pod, pid) {
            tracing::warn!(%error, pid, "the holder of a process namespace has no cgroup");
        }
        let started = process::start_time(pid).unwrap_or_default();
        std::fs::write(folder.join(RECORD), format!("{pid} {started}"))
            .map_err(|error| error.to_string())?;
        Ok(path(pid))
    }

    /// Ends the holder, where there is one.
    pub(crate) async fn release_processes(&self, uid: &str) {
        let folder = self.folders.pod(uid);
        let Some(pid) = holder(&folder) else { return };
        let number = i32::try_from(pid).unwrap_or(i32::MAX);
        // That it is gone already is as well.
        let _ = kill(Pid::from_raw(number), Signal::SIGKILL);
        // Its cgroup can be removed once the kernel has let go of it.
        for _ in 0..50 {
            if process::start_time(pid).is_none() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
}

fn path(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/pid"))
}

/// The holder's number, where it still runs.
fn holder(folder: &Path) -> Option<u32> {
    let record = std::fs::read_to_string(folder.join(RECORD)).ok()?;
    let (pid, started) = record.split_once(' ')?;
    let pid = pid.parse().ok()?;
    (process::start_time(pid)?.to_string() == started).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_another_process_has_by_now_is_not_the_holder() {
        let folder = tempfile::tempdir().unwrap();
        let own = std::process::id();
        let started = process::start_time(own).unwrap();
        let record = folder.path().join(RECORD);
        std::fs::write(&record, format!("{own} {started}")).unwrap();
        assert_eq!(holder(folder.path()), Some(own));
        std::fs::write(&record, format!("{own} 1")).unwrap();
        assert_eq!(holder(folder.path()), None);
    }
}
