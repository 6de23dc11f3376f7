//! Hosts: network namespaces joined by a bridge in one more, as in the notes' practice. They have
//! no route out, so nothing a test sends leaves the machine. Everything a cluster leaves behind
//! (processes, cgroups, mounts, namespaces, files) is removed when it is dropped, also by a panic.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::program::{Background, Ran, run, sh, signal, tail};
use super::wait::{ensure, eventually, secs};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Hosts on one network.
pub struct Network {
    id: String,
    folder: PathBuf,
    hosts: Vec<String>,
}

/// One host.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name, also its node's.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Its folder: data dir, logs, kubeconfig.
    pub folder: PathBuf,
    namespace: String,
    cgroup: String,
}

impl Network {
    /// An empty network.
    pub fn new() -> Self {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("ot{}{count}", std::process::id());
        let folder = std::env::temp_dir().join(format!("orch-test-{id}"));
        fs::create_dir_all(&folder).unwrap();
        let network = Self {
            id,
            folder,
            hosts: Vec::new(),
        };
        let switch = network.switch();
        sh(&["ip", "netns", "add", &switch]);
        sh(&["ip", "-n", &switch, "link", "add", "br0", "type", "bridge"]);
        sh(&["ip", "-n", &switch, "link", "set", "br0", "up"]);
        network
    }

    fn switch(&self) -> String {
        format!("{}-sw", self.id)
    }

    /// Adds a host `name` with `address` in 192.168.1.0/24.
    pub fn host(&mut self, name: &str, address: &str) -> Host {
        let namespace = format!("{}-{name}", self.id);
        self.hosts.push(namespace.clone());
        let switch = self.switch();
        let port = format!("p{}", self.hosts.len());
        sh(&["ip", "netns", "add", &namespace]);
        sh(&["ip", "-n", &namespace, "link", "set", "lo", "up"]);
        sh(&[
            "ip", "-n", &namespace, "link", "add", "eth0", "type", "veth", "peer", "name", &port,
            "netns", &switch,
        ]);
        sh(&[
            "ip", "-n", &switch, "link", "set", &port, "master", "br0", "up",
        ]);
        sh(&[
            "ip",
            "-n",
            &namespace,
            "addr",
            "add",
            &format!("{address}/24"),
            "dev",
            "eth0",
        ]);
        sh(&["ip", "-n", &namespace, "link", "set", "eth0", "up"]);
        let folder = self.folder.join(name);
        fs::create_dir_all(&folder).unwrap();
        Host {
            name: name.to_owned(),
            address: address.to_owned(),
            folder,
            cgroup: format!("/{namespace}"),
            namespace,
        }
    }

    /// Processes of the network's hosts and their containers that run `program`.
    pub fn processes_named(&self, program: &str) -> Vec<i32> {
        let name = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        self.processes()
            .into_iter()
            .filter(|pid| name(pid).trim() == program)
            .collect()
    }

    fn processes(&self) -> Vec<i32> {
        processes_of(&self.hosts)
    }
}

/// Processes in the network namespaces of hosts and in their Pods' control groups.
fn processes_of(hosts: &[String]) -> Vec<i32> {
    let inode = |host: &String| fs::metadata(format!("/run/netns/{host}")).map(|m| m.ino());
    let networks: HashSet<_> = hosts.iter().flat_map(inode).collect();
    let marks: Vec<_> = hosts.iter().map(|host| format!("/{host}/")).collect();
    let own = i32::try_from(std::process::id()).unwrap();
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| *pid != own)
        .filter(|pid| {
            let network = fs::metadata(format!("/proc/{pid}/ns/net")).map(|m| m.ino());
            let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            network.is_ok_and(|inode| networks.contains(&inode))
                || marks.iter().any(|mark| cgroups.contains(mark.as_str()))
        })
        .collect()
}

impl Drop for Network {
    fn drop(&mut self) {
        if std::env::var_os("ORCH_TEST_KEEP").is_some() {
            println!("kept: {}", self.folder.display());
            return;
        }
        for _ in 0..50 {
            let processes = self.processes();
            if processes.is_empty() {
                break;
            }
            for pid in processes {
                signal(pid, libc::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        for mount in mounts_below(&self.folder).into_iter().rev() {
            let _ = nix::mount::umount2(mount.as_str(), nix::mount::MntFlags::MNT_DETACH);
        }
        for host in &self.hosts {
            remove_cgroups(host);
            // Also the namespaces of hosts whose making failed half-way.
            let _ = run(Command::new("ip").args(["netns", "del", host]));
        }
        let _ = run(Command::new("ip").args(["netns", "del", &self.switch()]));
        let _ = fs::remove_dir_all(&self.folder);
        let records = self
            .folder
            .to_string_lossy()
            .trim_matches('/')
            .replace('/', "-");
        for entry in fs::read_dir("/run/orch").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&records) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

impl Host {
    /// Kills everything on this host at once, as a power cut does: orch, containerd, containers.
    pub fn power_off(&self) {
        eventually("everything on the host is dead", secs(10), || {
            let left = processes_of(std::slice::from_ref(&self.namespace));
            for pid in &left {
                signal(*pid, libc::SIGKILL);
            }
            ensure(left.is_empty(), format!("{left:?}"))
        });
    }

    /// Processes on this host (not in its Pods) that run `program`.
    pub fn processes_named(&self, program: &str) -> Vec<i32> {
        let name = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let all = processes_of(std::slice::from_ref(&self.namespace));
        all.into_iter()
            .filter(|pid| name(pid).trim() == program)
            .collect()
    }

    /// Runs one of orch's commands on this host, for its own cluster.
    pub fn orch(&self, words: &[&str]) -> Ran {
        let mut command = self.command(orch());
        command.args(words).env("KUBECONFIG", self.kubeconfig());
        run(&mut command)
    }

    /// A command that runs on this host.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.namespace))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs a program on this host to its end.
    pub fn run(&self, words: &[&str]) -> Ran {
        run(self.command(words[0]).args(&words[1..]))
    }

    /// The data dir.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The log of its orch process.
    pub fn log(&self) -> PathBuf {
        self.folder.join("orch.log")
    }

    /// Runs `work` on a thread that is on this host, as are the threads and programs it starts.
    #[allow(
        dead_code,
        reason = "tests run programs on a host; the bench does not only"
    )]
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = fs::File::open(format!("/run/netns/{}", self.namespace)).unwrap();
        let enter = || {
            nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(enter).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// The flags every orch process of a test needs: several nodes share this machine.
    fn node_flags(&self, log_level: &str) -> Vec<String> {
        let flag = |name: &str, value: &str| format!("--{name}={value}");
        vec![
            flag("data-dir", &self.data().to_string_lossy()),
            flag("node-name", &self.name),
            flag("cgroup-root", &self.cgroup),
            flag("containerd", "managed"),
            // A test is not about how full this machine's disk is.
            flag("eviction-hard", "memory.available<10Mi,nodefs.available<1%"),
            flag("log-level", log_level),
        ]
    }

    /// Starts `orch server`.
    pub fn start_server(&self, more: &[&str]) -> Background {
        let mut command = self.server("info,orch=debug");
        Background::start(command.args(more), &self.log())
    }

    /// The command of `orch server`.
    pub fn server(&self, log_level: &str) -> Command {
        self.load_images();
        let mut command = self.command(orch());
        command.arg("server").args(self.node_flags(log_level));
        command.arg(format!(
            "--write-kubeconfig={}",
            self.kubeconfig().display()
        ));
        command
    }

    /// Starts `orch agent` for `server` with `token`.
    pub fn start_agent(&self, server: &Host, token: &str, more: &[&str]) -> Background {
        self.load_images();
        let mut command = self.command(orch());
        command
            .arg("agent")
            .args(self.node_flags("info,orch=debug"))
            .args(more);
        command
            .arg(format!("--join=https://{}:6443", server.address))
            .arg("--token")
            .arg(token);
        Background::start(&mut command, &self.log())
    }

    /// Puts the test images into the images folder.
    fn load_images(&self) {
        let folder = self.data().join("agent/images");
        fs::create_dir_all(&folder).unwrap();
        for image in ["nginx.tar", "busybox.tar"] {
            let target = folder.join(image);
            if !target.exists() {
                fs::hard_link(images().join(image), &target)
                    .or_else(|_| fs::copy(images().join(image), &target).map(|_| ()))
                    .unwrap();
            }
        }
    }

    /// The administrator's kubeconfig (on a server).
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig.yaml")
    }

    /// Runs kubectl on this host.
    pub fn kubectl(&self, words: &[&str]) -> Ran {
        let mut command = self.command("kubectl");
        command
            .arg(format!("--kubeconfig={}", self.kubeconfig().display()))
            .args(words);
        run(&mut command)
    }

    /// Applies a manifest by standard kubectl.
    #[track_caller]
    pub fn apply(&self, manifest: &str) {
        let file = self.folder.join("apply.yaml");
        fs::write(&file, manifest).unwrap();
        self.kubectl(&["apply", "-f", &file.to_string_lossy()])
            .expect_ok();
    }

    /// Waits until the API server says it is ready.
    #[track_caller]
    pub fn wait_ready(&self) {
        eventually("API server ready", secs(20), || {
            let seen = self.kubectl(&["get", "--raw", "/readyz"]);
            ensure(
                seen.stdout == "ok",
                format!("{seen:?}\n{}", tail(&self.log())),
            )
        });
    }

    /// Waits until so many nodes are Ready.
    #[track_caller]
    pub fn wait_nodes(&self, count: usize) {
        eventually("nodes Ready", secs(30), || {
            let seen = self.kubectl(&["get", "nodes", "--no-headers"]);
            let ready = seen
                .stdout
                .lines()
                .filter(|line| line.contains(" Ready "))
                .count();
            ensure(ready == count, format!("{}{}", seen.stdout, seen.stderr))
        });
    }

    /// The server's token.
    pub fn token(&self) -> String {
        fs::read_to_string(self.data().join("server/token"))
            .unwrap()
            .trim()
            .to_owned()
    }

    /// What an HTTP GET from this host gives.
    pub fn get(&self, url: &str) -> Ran {
        self.run(&["curl", "-sS", "--max-time", "5", url])
    }
}

/// The program under test.
pub fn orch() -> &'static str {
    env!("CARGO_BIN_EXE_orch")
}

/// The folder of the images made from Debian's packages; made by the first test that needs it.
fn images() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("images");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/images/build.sh");
    static MADE: std::sync::Once = std::sync::Once::new();
    MADE.call_once(|| {
        sh(&["bash", script, &target.to_string_lossy()]);
    });
    target
}

/// Mount points below a folder, outermost first.
fn mounts_below(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = text.lines().filter_map(|line| line.split(' ').nth(1));
    points
        .filter(|point| Path::new(point).starts_with(folder))
        .map(str::to_owned)
        .collect()
}

/// Removes `name` and what is below it from every cgroup hierarchy.
fn remove_cgroups(name: &str) {
    let mut roots = vec![PathBuf::from("/sys/fs/cgroup").join(name)];
    for entry in fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten()
    {
        roots.push(entry.path().join(name));
    }
    for root in roots.into_iter().filter(|root| root.is_dir()) {
        remove_cgroup(&root);
    }
}

fn remove_cgroup(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    // A busy group is reported by the leak check of the test that made it.
    let _ = fs::remove_dir(folder);
}
