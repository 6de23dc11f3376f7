//! Tests against a real containerd and runc. They need root, `containerd`, `runc` and a static
//! busybox, and say so and pass where one is missing.
//!
//! The log program is the test executable itself: cargo's test harness ignores unknown arguments
//! only as filters, so a small script stands between (see [`log_program`]).

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::runtime::managed::{Managed, ManagedConfig};
use crate::runtime::tests::container_spec;
use crate::runtime::{Exit, Phase};

const BUSYBOX: &str = "/bin/busybox";
pub(super) const IMAGE: &str = "registry.test/busybox:1";

/// A containerd of its own, with everything removed at the end.
struct Rig {
    tasks: Tasks,
    /// Ends containerd's service without ending ours.
    containerd_tasks: Tasks,
    runtime: Arc<Containerd>,
    folder: tempfile::TempDir,
    cgroup: String,
}

fn missing() -> Option<&'static str> {
    let has = |name: &str| {
        std::env::var("PATH")
            .unwrap_or_default()
            .split(':')
            .any(|dir| Path::new(dir).join(name).exists())
    };
    if !nix::unistd::Uid::effective().is_root() {
        Some("root")
    } else if !has("containerd") || !has("runc") {
        Some("containerd and runc")
    } else if !Path::new(BUSYBOX).exists() {
        Some("busybox-static")
    } else {
        None
    }
}

/// The test executable as log program: it runs [`the_log_program`] with the arguments of the shim
/// in the environment. SIGTERM, which orch itself takes on its only thread, is ignored: the test
/// harness has several.
fn log_program(folder: &Path) -> PathBuf {
    let path = folder.join("log-program");
    let test = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\ntrap '' TERM\nexport ORCH_TEST_LOG_ARGS=\"$2\"\nexec {} runtime::containerd::real_tests::the_log_program \
         --exact --quiet --nocapture --test-threads=1 >/dev/null 2>&1\n",
        test.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Not a test: the body of the log program, see [`log_program`].
#[test]
fn the_log_program() {
    if let Ok(args) = std::env::var("ORCH_TEST_LOG_ARGS") {
        crate::runtime::log::main(&args);
    }
}

fn config(folder: &Path, address: &Path) -> ContainerdConfig {
    ContainerdConfig {
        address: address.to_owned(),
        // The runtime keeps its state by namespace, not by containerd.
        namespace: folder.file_name().unwrap().to_string_lossy().into_owned(),
        snapshotter: "overlayfs".to_owned(),
        log_program: log_program(folder),
        state_dir: folder.join("state"),
        oci_runtime: String::new(),
    }
}

impl Rig {
    async fn start() -> Option<Self> {
        if let Some(missing) = missing() {
            println!("not run: needs {missing}");
            return None;
        }
        let folder = tempfile::Builder::new()
            .prefix("orch-rt-")
            .tempdir_in("/tmp")
            .unwrap();
        let tasks = Tasks::new();
        let containerd_tasks = Tasks::new();
        let managed = Managed::start(
            ManagedConfig::new(folder.path().join("c")),
            &containerd_tasks,
        )
        .await
        .unwrap();
        let runtime = Containerd::connect(
            config(folder.path(), managed.address()),
            Clock::system(),
            &tasks,
        )
        .await
        .unwrap();
        Some(Self {
            cgroup: format!("/orch-test-{}", uuid::Uuid::new_v4().simple()),
            tasks,
            containerd_tasks,
            runtime,
            folder,
        })
    }

    async fn with_image() -> Option<Self> {
        let rig = Self::start().await?;
        let archive = rig.folder.path().join("busybox.tar.gz");
        write_image(&archive, IMAGE);
        rig.runtime.import(&archive).await.unwrap();
        Some(rig)
    }

    fn spec(&self, id: &str, command: &str) -> ContainerSpec {
        ContainerSpec {
            args: vec!["/bin/sh".to_owned(), "-c".to_owned(), command.to_owned()],
            cgroup: format!("{}/{id}", self.cgroup),
            log: self.log(id),
            network: crate::runtime::Namespace::Private,
            ipc: crate::runtime::Namespace::Private,
            uts: crate::runtime::Namespace::Private,
            security: crate::runtime::Security {
                seccomp_default: true,
                ..Default::default()
            },
            ..container_spec(id, IMAGE)
        }
    }

    fn log(&self, id: &str) -> PathBuf {
        self.folder.path().join("logs").join(id).join("0.log")
    }

    /// What a container has written, without times.
    fn lines(&self, id: &str) -> Vec<String> {
        let text = fs::read_to_string(self.log(id)).unwrap_or_default();
        text.lines()
            .map(|line| line.split_once(' ').unwrap().1.to_owned())
            .collect()
    }

    async fn run(&self, spec: &ContainerSpec) {
        self.runtime.create(spec).await.unwrap();
        self.runtime.start(&spec.id).await.unwrap();
    }

    async fn ended(&self, id: &str) -> Exit {
        let mut events = self.runtime.events();
        let wait = async {
            loop {
                let state = self.runtime.container(id).await.unwrap().unwrap();
                if let Phase::Exited(exit) = state.phase {
                    return exit;
                }
                events.recv().await.unwrap();
            }
        };
        let exit = tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .expect("it should end");
        let folder = self.runtime.records.folder_of(id);
        eventually("the log is written", || {
            crate::runtime::log::is_drained(&folder)
        })
        .await;
        exit
    }

    /// Removes every container, ends containerd, and looks for what is left.
    async fn finish(self) {
        for container in self.runtime.containers().await.unwrap() {
            self.runtime.remove(&container.id).await.unwrap();
        }
        self.runtime.remove_image(IMAGE).await.unwrap();
        assert!(self.runtime.images().await.unwrap().is_empty());
        let request = self.runtime.link.request(
            containerd_client::services::v1::snapshots::ListSnapshotsRequest {
                snapshotter: "overlayfs".to_owned(),
                filters: Vec::new(),
            },
        );
        let mut list = self
            .runtime
            .link
            .snapshots()
            .list(request)
            .await
            .unwrap()
            .into_inner();
        while let Some(part) = list.message().await.unwrap() {
            let names: Vec<_> = part.info.into_iter().map(|info| info.name).collect();
            assert!(names.is_empty(), "snapshots are left: {names:?}");
        }
        let request = self
            .runtime
            .link
            .request(containerd_client::services::v1::ListRequest::default());
        let leases = self
            .runtime
            .link
            .leases()
            .list(request)
            .await
            .unwrap()
            .into_inner()
            .leases;
        assert!(leases.is_empty(), "leases are left: {leases:?}");
        assert!(self.runtime.records.left_folders().is_empty());
        self.tasks.shutdown(Duration::from_secs(10)).await;
        self.containerd_tasks
            .shutdown(Duration::from_secs(10))
            .await;
        let folder = self.folder.path().to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let left: Vec<_> = mounts
            .lines()
            .filter(|line| line.contains(&folder))
            .collect();
        assert!(left.is_empty(), "mounts are left: {left:?}");
        eventually("no process of this test is left", || {
            processes(&folder).is_empty()
        })
        .await;
        remove_cgroups(&self.cgroup);
    }
}

impl Drop for Rig {
    /// Also when a test failed: ends what it started, by pid.
    fn drop(&mut self) {
        let folder = self.folder.path().to_string_lossy().into_owned();
        for _ in 0..3 {
            for pid in processes(&folder) {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
        }
        for pid in cgroup_pids(&self.cgroup) {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for target in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
            if target.starts_with(&folder) {
                let _ = nix::mount::umount2(target, nix::mount::MntFlags::MNT_DETACH);
            }
        }
        remove_cgroups(&self.cgroup);
    }
}

/// Processes whose command line or environment names the folder; never ourselves.
fn processes(folder: &str) -> Vec<i32> {
    let own = i32::try_from(std::process::id()).unwrap();
    let names = |pid: i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mut all = line;
        all.extend(environment);
        String::from_utf8_lossy(&all).contains(folder)
    };
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|item| item.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != own && names(*pid))
        .collect()
}

fn cgroup_roots(cgroup: &str) -> Vec<PathBuf> {
    let root = Path::new(CGROUPS);
    let mut roots = vec![root.join(cgroup.trim_start_matches('/'))];
    for item in fs::read_dir(root).unwrap().flatten() {
        roots.push(item.path().join(cgroup.trim_start_matches('/')));
    }
    roots.retain(|path| path.exists());
    roots
}

const CGROUPS: &str = "/sys/fs/cgroup";

fn cgroup_pids(cgroup: &str) -> Vec<i32> {
    let mut pids = Vec::new();
    for root in cgroup_roots(cgroup) {
        for item in fs::read_dir(root).unwrap().flatten() {
            let text = fs::read_to_string(item.path().join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        }
    }
    pids
}

fn remove_cgroups(cgroup: &str) {
    for root in cgroup_roots(cgroup) {
        for item in fs::read_dir(&root).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(item.path());
        }
        let _ = fs::remove_dir(root);
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 10 s: {what}");
}

fn busybox_layer() -> Vec<u8> {
    let applets = [
        "sh", "cat", "echo", "sleep", "id", "env", "true", "yes", "head", "dd", "tty", "stty",
        "pwd", "kill", "ls", "mount", "seq",
    ];
    let mut layer = tar::Builder::new(Vec::new());
    add(
        &mut layer,
        "bin/busybox",
        &fs::read(BUSYBOX).unwrap(),
        0o755,
    );
    for applet in applets {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        layer
            .append_link(&mut header, format!("bin/{applet}"), "busybox")
            .unwrap();
    }
    layer.into_inner().unwrap()
}

/// An OCI archive of busybox with two users.
pub(super) fn write_image(path: &Path, name: &str) {
    let layer = busybox_layer();
    let mut second = tar::Builder::new(Vec::new());
    add(
        &mut second,
        "etc/passwd",
        b"root:x:0:0::/root:/bin/sh\nweb:x:101:102::/:/bin/sh\n",
        0o644,
    );
    add(
        &mut second,
        "etc/group",
        b"root:x:0:\nweb:x:102:\nextra:x:33:web\n",
        0o644,
    );
    let second = second.into_inner().unwrap();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&layer).unwrap();
    let packed = packed.finish().unwrap();
    let digest = content::digest_of;
    let config = serde_json::json!({
        "architecture": images::host_architecture(), "os": "linux",
        "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin", "FROM=image"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer), digest(&second)]},
    })
    .to_string()
    .into_bytes();
    let kind = "application/vnd.oci.image";
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": format!("{kind}.manifest.v1+json"),
        "config": {"mediaType": format!("{kind}.config.v1+json"), "digest": digest(&config), "size": config.len()},
        "layers": [
            {"mediaType": format!("{kind}.layer.v1.tar+gzip"), "digest": digest(&packed), "size": packed.len()},
            {"mediaType": format!("{kind}.layer.v1.tar"), "digest": digest(&second), "size": second.len()},
        ],
    })
    .to_string()
    .into_bytes();
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": format!("{kind}.manifest.v1+json"), "digest": digest(&manifest), "size": manifest.len(),
            "annotations": {"io.containerd.image.name": name},
        }],
    })
    .to_string();
    let file =
        flate2::write::GzEncoder::new(fs::File::create(path).unwrap(), flate2::Compression::fast());
    let mut archive = tar::Builder::new(file);
    add(
        &mut archive,
        "oci-layout",
        br#"{"imageLayoutVersion":"1.0.0"}"#,
        0o644,
    );
    for blob in [&packed, &second, &config, &manifest] {
        let name = format!("blobs/{}", digest(blob).replace(':', "/"));
        add(&mut archive, &name, blob, 0o644);
    }
    add(&mut archive, "index.json", index.as_bytes(), 0o644);
    archive.into_inner().unwrap().finish().unwrap();
}

fn add(to: &mut tar::Builder<impl std::io::Write>, name: &str, data: &[u8], mode: u32) {
    let mut header = tar::Header::new_gnu();
    header.set_size(data.len() as u64);
    header.set_mode(mode);
    to.append_data(&mut header, name, data).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn real_an_image_is_imported_once_and_containers_run_from_it() {
    let Some(rig) = Rig::with_image().await else {
        return;
    };
    let runtime = &rig.runtime;
    let image = runtime.image(IMAGE).await.unwrap().unwrap();
    assert!(image.pinned);
    assert_eq!(image.config.env, ["PATH=/bin", "FROM=image"]);
    assert_eq!(
        runtime.image(&image.id).await.unwrap().unwrap().id,
        image.id
    );
    assert_eq!(
        runtime.image(&image.names[1]).await.unwrap().unwrap().id,
        image.id
    );
    assert!(
        runtime
            .image("registry.test/other")
            .await
            .unwrap()
            .is_none()
    );
    let again = runtime
        .import(&rig.folder.path().join("busybox.tar.gz"))
        .await
        .unwrap();
    assert_eq!(again[0].id, image.id);

    let mut spec = rig.spec("a", "id; echo err >&2; env; pwd; exit 7");
    spec.security.user = Some(101);
    spec.env = vec!["OWN=1".to_owned()];
    spec.labels = BTreeMap::from([("k".to_owned(), "v".repeat(5000))]);
    runtime.create(&spec).await.unwrap();
    let created = runtime.container("a").await.unwrap().unwrap();
    assert_eq!((created.phase, created.started_at), (Phase::Created, None));
    assert!(matches!(
        runtime.create(&spec).await,
        Err(Error::AlreadyExists { .. })
    ));
    runtime.start("a").await.unwrap();
    let exit = rig.ended("a").await;
    assert_eq!((exit.code, exit.oom_killed), (7, false));
    let lines = rig.lines("a");
    let has = |line: &str| assert!(lines.iter().any(|l| l == line), "{line} in {lines:?}");
    has("stdout F uid=101(web) gid=102(web) groups=33(extra),102(web)");
    has("stderr F err");
    has("stdout F FROM=image");
    has("stdout F OWN=1");
    has("stdout F /");
    let state = runtime.container("a").await.unwrap().unwrap();
    assert!(state.started_at.is_some());
    assert_eq!(state.labels, spec.labels);
    runtime.remove("a").await.unwrap();
    runtime.remove("a").await.unwrap();
    assert!(runtime.container("a").await.unwrap().is_none());
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real_a_program_that_is_not_there_is_told_and_leaves_nothing() {
    let Some(rig) = Rig::with_image().await else {
        return;
    };
    let mut spec = rig.spec("a", "");
    spec.args = vec!["/no/such".to_owned()];
    let error = rig.runtime.create(&spec).await.unwrap_err();
    assert!(
        error.to_string().contains("no such file or directory"),
        "{error}"
    );
    assert!(rig.runtime.container("a").await.unwrap().is_none());
    assert!(!rig.runtime.has_snapshot("a").await.unwrap());
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real_commands_run_in_a_container_with_streams_and_limits() {
    let Some(rig) = Rig::with_image().await else {
        return;
    };
    let runtime = &rig.runtime;
    rig.run(&rig.spec("a", "sleep 1000")).await;
    let args = |command: &str| vec!["sh".to_owned(), "-c".to_owned(), command.to_owned()];
    let limit = Duration::from_secs(10);
    let output = runtime
        .exec_sync("a", &args("echo out; echo err >&2; exit 3"), limit)
        .await
        .unwrap();
    assert_eq!(output.code, 3);
    assert_eq!(output.output.len(), 8);
    let output = runtime
        .exec_sync("a", &args("yes | head -c 100000"), limit)
        .await
        .unwrap();
    assert_eq!((output.code, output.output.len()), (0, 16384));
    let late = runtime
        .exec_sync("a", &args("sleep 100"), Duration::from_millis(300))
        .await;
    assert!(matches!(late, Err(Error::Timeout { .. })), "{late:?}");
    let error = runtime
        .exec_sync("a", &["nope".to_owned()], limit)
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("executable file not found in $PATH"),
        "{error}"
    );
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real_streams_of_a_command_carry_everything_and_end() {
    let Some(rig) = Rig::with_image().await else {
        return;
    };
    let runtime = &rig.runtime;
    rig.run(&rig.spec("a", "sleep 1000")).await;
    let args = |command: &str| vec!["sh".to_owned(), "-c".to_owned(), command.to_owned()];
    let mut process = runtime
        .exec(&ExecSpec {
            container: "a".to_owned(),
            args: args("cat; echo done >&2; exit 5"),
            tty: false,
            stdin: true,
        })
        .await
        .unwrap();
    let sent = vec![b'x'; 300_000];
    let mut stdin = process.stdin.take().unwrap();
    let data = sent.clone();
    let writing = async move {
        stdin.write_all(&data).await.unwrap();
        drop(stdin);
    };
    let mut got = Vec::new();
    let mut stdout = process.stdout.take().unwrap();
    let (_, read) = tokio::join!(writing, stdout.read_to_end(&mut got));
    read.unwrap();
    assert_eq!(got.len(), sent.len());
    let mut err = String::new();
    process
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut err)
        .await
        .unwrap();
    assert_eq!(err, "done\n");
    assert_eq!(
        *process.exit.wait_for(Option::is_some).await.unwrap(),
        Some(5)
    );

    let stats = runtime.stats("a").await.unwrap().unwrap();
    assert!(stats.memory_usage_bytes > 0 && stats.pids >= 1, "{stats:?}");
    runtime.signal("a", libc::SIGKILL, false).await.unwrap();
    assert_eq!(rig.ended("a").await.code, 137);
    assert!(runtime.stats("a").await.unwrap().is_none());
    eventually("the streams' folders are removed", || {
        fs::read_dir(rig.folder.path().join("state/exec"))
            .unwrap()
            .count()
            == 0
    })
    .await;
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real_a_terminal_has_a_size_and_can_be_attached_to() {
    let Some(rig) = Rig::with_image().await else {
        return;
    };
    let mut spec = rig.spec(
        "a",
        "echo ready; while read line; do stty size; echo got $line; done",
    );
    spec.tty = true;
    spec.stdin = true;
    rig.run(&spec).await;
    let mut process = rig.runtime.attach("a").await.unwrap();
    process.resize.send((101, 33)).await.unwrap();
    eventually("it started", || !rig.lines("a").is_empty()).await;
    let mut stdin = process.stdin.take().unwrap();
    let mut stdout = process.stdout.take().unwrap();
    let mut seen = String::new();
    // The size is set by a task of its own; ask until it is there.
    for _ in 0..100 {
        stdin.write_all(b"hello\n").await.unwrap();
        let mut buffer = [0; 1000];
        let count = stdout.read(&mut buffer).await.unwrap();
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        if seen.contains("33 101") && seen.contains("got hello") {
            break;
        }
    }
    assert!(seen.contains("33 101"), "{seen}");
    drop(stdin);
    let mut exec = rig
        .runtime
        .exec(&ExecSpec {
            container: "a".to_owned(),
            args: vec!["tty".to_owned()],
            tty: true,
            stdin: false,
        })
        .await
        .unwrap();
    let mut text = String::new();
    exec.stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .await
        .unwrap();
    assert!(text.starts_with("/dev/pts/"), "{text}");
    let logged = rig.lines("a").join("\n");
    assert!(logged.contains("stdout F got hello"), "{logged}");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real_standard_input_without_a_terminal_ends_with_its_client_where_asked() {
    let Some(rig) = Rig::with_image().await else {
        return;
    };
    let mut spec = rig.spec("a", "cat; echo end; exit 4");
    spec.stdin = true;
    spec.stdin_once = true;
    rig.run(&spec).await;
    let mut process = rig.runtime.attach("a").await.unwrap();
    let mut stdin = process.stdin.take().unwrap();
    stdin.write_all(b"one\ntwo\n").await.unwrap();
    drop(stdin);
    let mut seen = String::new();
    process
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut seen)
        .await
        .unwrap();
    assert_eq!(seen, "one\ntwo\nend\n");
    assert_eq!(
        *process.exit.wait_for(Option::is_some).await.unwrap(),
        Some(4)
    );
    rig.ended("a").await;
    assert_eq!(
        rig.lines("a"),
        ["stdout F one", "stdout F two", "stdout F end"]
    );
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real_a_container_over_its_memory_limit_is_killed_and_it_is_said_so() {
    let Some(rig) = Rig::with_image().await else {
        return;
    };
    let mut spec = rig.spec(
        "a",
        "dd if=/dev/zero of=/dev/null bs=200M count=1; echo not reached $?; exit 1",
    );
    spec.args = [
        "/bin/dd",
        "if=/dev/zero",
        "of=/dev/null",
        "bs=200M",
        "count=1",
    ]
    .map(str::to_owned)
    .to_vec();
    spec.resources.memory_limit_bytes = Some(20 << 20);
    rig.run(&spec).await;
    let exit = rig.ended("a").await;
    assert_eq!((exit.code, exit.oom_killed), (137, true));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real_containers_live_on_when_containerd_or_the_agent_is_killed() {
    let Some(rig) = Rig::with_image().await else {
        return;
    };
    rig.run(&rig.spec("a", "for i in $(seq 1000); do echo $i; sleep 0.02; done"))
        .await;
    rig.run(&rig.spec("b", "sleep 0.5; exit 9")).await;
    let before = rig.runtime.container("a").await.unwrap().unwrap();
    let mut events = rig.runtime.events();
    let pid: i32 = fs::read_to_string(rig.folder.path().join("c/containerd.pid"))
        .unwrap()
        .parse()
        .unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    let resync = async { while events.recv().await != Some(RuntimeEvent::Resync) {} };
    tokio::time::timeout(Duration::from_secs(20), resync)
        .await
        .expect("a resync");
    assert_eq!(rig.runtime.container("a").await.unwrap().unwrap(), before);
    assert_eq!(rig.ended("b").await.code, 9);
    let limit = Duration::from_secs(10);
    let output = rig
        .runtime
        .exec_sync("a", &["echo".to_owned(), "x".to_owned()], limit)
        .await
        .unwrap();
    assert_eq!(output.output, b"x\n");

    // Another agent, as after a restart of ours, sees the same.
    let tasks = Tasks::new();
    let address = rig.folder.path().join("c/containerd.sock");
    let second = Containerd::connect(config(rig.folder.path(), &address), Clock::system(), &tasks)
        .await
        .unwrap();
    assert_eq!(second.container("a").await.unwrap().unwrap(), before);
    assert!(matches!(
        second.container("b").await.unwrap().unwrap().phase,
        Phase::Exited(Exit { code: 9, .. })
    ));
    tasks.shutdown(limit).await;
    rig.runtime.signal("a", libc::SIGKILL, false).await.unwrap();
    rig.ended("a").await;
    let lines = rig.lines("a");
    let expected: Vec<_> = (1..=lines.len())
        .map(|number| format!("stdout F {number}"))
        .collect();
    assert_eq!(lines, expected, "the log has no hole");
    rig.finish().await;
}
