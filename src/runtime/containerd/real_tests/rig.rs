//! A containerd for one test, and what is needed to look at it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::runtime::containerd::{Containerd, ContainerdConfig, content, images};
use crate::runtime::managed::{Managed, ManagedConfig};
use crate::runtime::registry::RegistriesConfig;
use crate::runtime::tests::container_spec;
use crate::runtime::{ContainerSpec, Exit, Phase, Runtime};
use crate::util::clock::Clock;
use crate::util::tasks::Tasks;

pub(super) const BUSYBOX: &str = "/bin/busybox";
pub(super) const IMAGE: &str = "registry.test/busybox:1";

/// A containerd of its own, with everything removed at the end.
pub(super) struct Rig {
    pub(super) tasks: Tasks,
    /// Ends containerd's service without ending ours.
    pub(super) containerd_tasks: Tasks,
    pub(super) runtime: Arc<Containerd>,
    pub(super) folder: tempfile::TempDir,
    pub(super) cgroup: String,
}

pub(super) fn missing() -> Option<&'static str> {
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

/// The test executable as log program: it runs `the_log_program` with the arguments of the shim
/// in the environment. SIGTERM, which orch itself takes on its only thread, is ignored: the test
/// harness has several.
pub(super) fn log_program(folder: &Path) -> PathBuf {
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

pub(super) fn config(folder: &Path, address: &Path) -> ContainerdConfig {
    ContainerdConfig {
        address: address.to_owned(),
        // The runtime keeps its state by namespace, not by containerd.
        namespace: folder.file_name().unwrap().to_string_lossy().into_owned(),
        snapshotter: "overlayfs".to_owned(),
        log_program: log_program(folder),
        state_dir: folder.join("state"),
        oci_runtime: String::new(),
        registries: RegistriesConfig::default(),
    }
}

impl Rig {
    pub(super) async fn start() -> Option<Self> {
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

    pub(super) async fn with_image() -> Option<Self> {
        let rig = Self::start().await?;
        let archive = rig.folder.path().join("busybox.tar.gz");
        write_image(&archive, IMAGE);
        rig.runtime.import(&archive).await.unwrap();
        Some(rig)
    }

    pub(super) fn spec(&self, id: &str, command: &str) -> ContainerSpec {
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

    pub(super) fn log(&self, id: &str) -> PathBuf {
        self.folder.path().join("logs").join(id).join("0.log")
    }

    /// What a container has written, without times.
    pub(super) fn lines(&self, id: &str) -> Vec<String> {
        let text = fs::read_to_string(self.log(id)).unwrap_or_default();
        text.lines()
            .map(|line| line.split_once(' ').unwrap().1.to_owned())
            .collect()
    }

    pub(super) async fn run(&self, spec: &ContainerSpec) {
        self.runtime.create(spec).await.unwrap();
        self.runtime.start(&spec.id).await.unwrap();
    }

    pub(super) async fn ended(&self, id: &str) -> Exit {
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
    pub(super) async fn finish(self) {
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
pub(super) fn processes(folder: &str) -> Vec<i32> {
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

pub(super) fn cgroup_roots(cgroup: &str) -> Vec<PathBuf> {
    let root = Path::new(CGROUPS);
    let mut roots = vec![root.join(cgroup.trim_start_matches('/'))];
    for item in fs::read_dir(root).unwrap().flatten() {
        roots.push(item.path().join(cgroup.trim_start_matches('/')));
    }
    roots.retain(|path| path.exists());
    roots
}

pub(super) const CGROUPS: &str = "/sys/fs/cgroup";

pub(super) fn cgroup_pids(cgroup: &str) -> Vec<i32> {
    let mut pids = Vec::new();
    for root in cgroup_roots(cgroup) {
        for item in fs::read_dir(root).unwrap().flatten() {
            let text = fs::read_to_string(item.path().join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        }
    }
    pids
}

pub(super) fn remove_cgroups(cgroup: &str) {
    for root in cgroup_roots(cgroup) {
        for item in fs::read_dir(&root).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(item.path());
        }
        let _ = fs::remove_dir(root);
    }
}

pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 10 s: {what}");
}

pub(super) fn busybox_layer() -> Vec<u8> {
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

pub(super) fn add(to: &mut tar::Builder<impl std::io::Write>, name: &str, data: &[u8], mode: u32) {
    let mut header = tar::Header::new_gnu();
    header.set_size(data.len() as u64);
    header.set_mode(mode);
    to.append_data(&mut header, name, data).unwrap();
}
