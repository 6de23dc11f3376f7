//! A containerd of our own, where the machine has none that answers.
//!
//! It runs as a child with configuration, data, state and socket in one folder, is started again
//! when it dies, and is ended with us; its shims, and so every container, live on. A containerd
//! that an orch which was killed left behind is known by the pid file and ended first: a second
//! one could not open the same database.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Error, Result};
use crate::util::backoff::Backoff;
use crate::util::errors::OrLog;
use crate::util::memory;
use crate::util::rng::Rng;
use crate::util::tasks::Tasks;

/// How long containerd may take to answer at start; it repairs its database after a crash.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long it may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A containerd that ran this long was fine: its next death is not a crash loop.
const STEADY: Duration = Duration::from_secs(60);

/// Its log file is renamed at a start when it is longer.
const LOG_BYTES_MAX: u64 = 10 << 20;

/// What we neither use nor want to wait for at start, under the names of 1.6 and of 2.x.
const DISABLED_PLUGINS: [&str; 11] = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.erofs",
    "io.containerd.internal.v1.opt",
    "io.containerd.nri.v1.nri",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.internal.v1.tracing",
];

/// Where and what.
#[derive(Clone, Debug)]
pub struct ManagedConfig {
    /// Folder for everything of it, for instance `/var/lib/orch/agent/containerd`.
    pub dir: PathBuf,
    /// The program, looked up in `PATH` where it has no slash.
    pub program: PathBuf,
}

impl ManagedConfig {
    /// `containerd` from `PATH`, everything in `dir`.
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            program: PathBuf::from("containerd"),
        }
    }

    /// Its socket.
    pub fn address(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    fn config_file(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("containerd.pid")
    }

    fn text(&self) -> String {
        let quoted = |path: &Path| format!("{:?}", path.to_string_lossy());
        let disabled: Vec<String> = DISABLED_PLUGINS.iter().map(|p| format!("{p:?}")).collect();
        format!(
            "# Written by orch at each start.\nversion = 2\nroot = {}\nstate = {}\n\
             disabled_plugins = [{}]\n[grpc]\n  address = {}\n[debug]\n  level = \"warn\"\n",
            quoted(&self.dir.join("root")),
            quoted(&self.dir.join("state")),
            disabled.join(", "),
            quoted(&self.address()),
        )
    }
}

/// A running containerd of ours.
#[derive(Debug)]
pub struct Managed {
    address: PathBuf,
}

impl Managed {
    /// Starts it and waits until it answers. It runs until `tasks` end.
    pub async fn start(config: ManagedConfig, tasks: &Tasks) -> Result<Self> {
        let failed = |error: io::Error| failed(&format!("{}: {error}", config.dir.display()));
        fs::create_dir_all(&config.dir).map_err(failed)?;
        crate::util::fs::write_atomic(&config.config_file(), config.text().as_bytes(), 0o600)
            .map_err(failed)?;
        end_left_behind(&config).await;
        let mut child = spawn(&config)?;
        let address = config.address();
        await_answer(&mut child, &address).await?;
        let cancelled = tasks.cancelled();
        tasks.service("managed containerd", supervise(config, child, cancelled));
        Ok(Self { address })
    }

    /// Its socket.
    pub fn address(&self) -> &Path {
        &self.address
    }
}

fn failed(why: &str) -> Error {
    Error::Failed {
        doing: "start",
        id: "containerd".to_owned(),
        why: why.to_owned(),
    }
}

fn spawn(config: &ManagedConfig) -> Result<Child> {
    let log = open_log(&config.dir.join("containerd.log"))
        .map_err(|error| failed(&format!("its log file: {error}")))?;
    let copy = log
        .try_clone()
        .map_err(|error| failed(&error.to_string()))?;
    let mut command = Command::new(&config.program);
    command
        .arg("--config")
        .arg(config.config_file())
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(copy)
        .current_dir("/")
        // A Ctrl-C at our terminal is for us; we end it in our order.
        .process_group(0);
    let child = memory::with_any_pages(|| command.spawn()).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => failed(&format!(
            "`{}` is not in PATH: install it (Debian: apt install containerd runc) or name a \
                 running one with --containerd",
            config.program.display()
        )),
        _ => failed(&error.to_string()),
    })?;
    if let Some(pid) = child.id() {
        crate::util::fs::write_atomic(&config.pid_file(), pid.to_string().as_bytes(), 0o600)
            .ok_or_log("write containerd's pid file");
    }
    Ok(child)
}

fn open_log(path: &Path) -> io::Result<fs::File> {
    if fs::metadata(path).is_ok_and(|meta| meta.len() > LOG_BYTES_MAX) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

async fn await_answer(child: &mut Child, address: &Path) -> Result<()> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        if tokio::net::UnixStream::connect(address).await.is_ok() {
            return Ok(());
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(failed(&format!(
                "it ended at once ({status}); see its containerd.log"
            )));
        }
        if Instant::now() > deadline {
            return Err(Error::Timeout {
                doing: "start of containerd",
                seconds: START_LIMIT.as_secs(),
            });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Starts it again whenever it dies; ends it when cancelled.
async fn supervise(config: ManagedConfig, mut child: Child, cancelled: CancellationToken) {
    let mut backoff = Backoff::new(
        Duration::from_millis(100),
        Duration::from_secs(10),
        Rng::from_system(),
    );
    loop {
        let started = Instant::now();
        let status = tokio::select! {
            status = child.wait() => status,
            () = cancelled.cancelled() => {
                end(&mut child).await;
                // A pid of nobody's is recognized as such at the next start too.
                let _ = fs::remove_file(config.pid_file());
                return;
            }
        };
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        tracing::warn!(status, "containerd ended, starting it again");
        if started.elapsed() > STEADY {
            backoff.reset();
        }
        child = loop {
            tokio::select! {
                () = tokio::time::sleep(backoff.next_delay()) => {}
                () = cancelled.cancelled() => return,
            }
            if let Some(child) = spawn(&config).ok_or_log("start containerd again") {
                break child;
            }
        };
    }
}

async fn end(child: &mut Child) {
    let Some(pid) = child.id() else {
        return;
    };
    signal(pid, Signal::SIGTERM);
    if tokio::time::timeout(STOP_LIMIT, child.wait())
        .await
        .is_err()
    {
        tracing::warn!("containerd does not end, killing it");
        child.kill().await.ok_or_log("kill containerd");
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        // It may be gone already.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Ends a containerd of this folder that runs without us.
async fn end_left_behind(config: &ManagedConfig) {
    let Some(pid) = fs::read_to_string(config.pid_file())
        .ok()
        .and_then(|t| t.trim().parse().ok())
    else {
        return;
    };
    let ours = || is_ours(pid, &config.config_file());
    if !ours() {
        return;
    }
    tracing::info!(pid, "ending the containerd that an earlier run left behind");
    signal(pid, Signal::SIGTERM);
    let deadline = Instant::now() + STOP_LIMIT;
    while ours() {
        if Instant::now() > deadline {
            signal(pid, Signal::SIGKILL);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether the process runs with this configuration file: a pid alone may be another's by now.
fn is_ours(pid: u32, config_file: &Path) -> bool {
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else {
        return false;
    };
    let name = config_file.to_string_lossy();
    line.split(|byte| *byte == 0)
        .any(|arg| arg == name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_program_is_said_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let config = ManagedConfig {
            dir: folder.path().to_owned(),
            program: PathBuf::from("no-such-containerd"),
        };
        let error = Managed::start(config, &Tasks::new()).await.unwrap_err();
        assert!(
            error.to_string().contains("apt install containerd"),
            "{error}"
        );
    }

    #[test]
    fn another_process_with_the_old_pid_is_left_alone() {
        assert!(!is_ours(
            std::process::id(),
            Path::new("/nowhere/config.toml")
        ));
    }

    #[test]
    fn the_configuration_is_toml_with_everything_in_one_folder() {
        let text = ManagedConfig::new(PathBuf::from("/data/\"x\"")).text();
        assert!(text.contains(r#"root = "/data/\"x\"/root""#), "{text}");
        assert!(text.starts_with("# Written by orch"));
    }
}
