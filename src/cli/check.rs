//! `orch check`: can this machine run orch? One line a thing, each that fails with what to do.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::anyhow;

use super::args::CheckArgs;
use super::{Failure, output};
use crate::util::clock::Clock;

/// When this program was written, at the earliest: a clock before that is wrong.
const WRITTEN: i64 = 1_790_000_000;

/// What was found of one thing.
enum Finding {
    Good(String),
    /// orch runs, but something will not work.
    Doubtful(String, String),
    /// orch does not run: what is wrong and what to do.
    Bad(String, String),
}

/// Runs the command.
pub(crate) fn run(args: &CheckArgs) -> Result<(), Failure> {
    let findings = [
        ("privileges", privileges()),
        ("kernel", kernel()),
        ("cgroups", cgroups()),
        ("overlayfs", file_system("overlay")),
        ("namespaces", namespaces()),
        ("containerd", containerd(&args.containerd)),
        (
            "OCI runtime",
            program(&["runc", "crun"], "apt-get install runc"),
        ),
        ("nftables", program(&["nft"], "apt-get install nftables")),
        ("API port", tcp_port(args.https_listen_port)),
        ("overlay port", udp_port(8472)),
        ("clock", clock()),
    ];
    let mut failed = 0;
    for (name, finding) in findings {
        let (mark, text, hint) = match finding {
            Finding::Good(text) => ("ok  ", text, None),
            Finding::Doubtful(text, hint) => ("warn", text, Some(hint)),
            Finding::Bad(text, hint) => {
                failed += 1;
                ("FAIL", text, Some(hint))
            }
        };
        output::line(format_args!("{mark}  {name:<13} {text}"));
        if let Some(hint) = hint {
            output::line(format_args!("      {:<13} → {hint}", ""));
        }
    }
    match failed {
        0 => Ok(()),
        1 => Err(anyhow!("1 check failed").into()),
        more => Err(anyhow!("{more} checks failed").into()),
    }
}

fn privileges() -> Finding {
    match nix::unistd::geteuid().as_raw() {
        0 => Finding::Good("root".to_owned()),
        uid => Finding::Bad(format!("user {uid}"), "run as root".to_owned()),
    }
}

fn kernel() -> Finding {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim().to_owned();
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (5, 4) {
        return Finding::Good(release);
    }
    Finding::Bad(
        release,
        "Linux 5.4 or newer is needed: upgrade the kernel".to_owned(),
    )
}

fn cgroups() -> Finding {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return needed_controllers("v2", &read("/sys/fs/cgroup/cgroup.controllers"));
    }
    let mounted: Vec<_> = ["cpu", "memory", "pids"]
        .into_iter()
        .filter(|name| Path::new("/sys/fs/cgroup").join(name).is_dir())
        .collect();
    needed_controllers("v1", &mounted.join(" "))
}

fn needed_controllers(version: &str, found: &str) -> Finding {
    let words: Vec<_> = found.split_whitespace().collect();
    let missing: Vec<_> = ["cpu", "memory", "pids"]
        .into_iter()
        .filter(|name| !words.contains(name))
        .collect();
    if missing.is_empty() {
        return Finding::Good(format!("{version}: cpu memory pids"));
    }
    let hint = "enable them: kernel parameter `cgroup_enable=memory`, or mount /sys/fs/cgroup";
    Finding::Bad(
        format!("{version}: {} missing", missing.join(", ")),
        hint.to_owned(),
    )
}

fn file_system(name: &str) -> Finding {
    let known = read("/proc/filesystems");
    if known.split_whitespace().any(|word| word == name) {
        return Finding::Good("known to the kernel".to_owned());
    }
    Finding::Doubtful(
        "not loaded".to_owned(),
        format!("modprobe {name}, or use --snapshotter=native"),
    )
}

fn namespaces() -> Finding {
    let missing: Vec<_> = ["net", "ipc", "uts", "pid", "mnt"]
        .into_iter()
        .filter(|name| !Path::new("/proc/self/ns").join(name).exists())
        .collect();
    if missing.is_empty() {
        return Finding::Good("net ipc uts pid mnt".to_owned());
    }
    Finding::Bad(
        format!("{} missing", missing.join(", ")),
        "use a kernel with namespaces".to_owned(),
    )
}

fn containerd(socket: &Path) -> Finding {
    if UnixStream::connect(socket).is_ok() {
        return Finding::Good(format!("answers at {}", socket.display()));
    }
    match on_path("containerd") {
        Some(path) => Finding::Good(format!("{path}: orch will run it itself")),
        None => Finding::Bad(
            "not found".to_owned(),
            "apt-get install containerd".to_owned(),
        ),
    }
}

fn program(names: &[&str], hint: &str) -> Finding {
    match names.iter().find_map(|name| on_path(name)) {
        Some(path) => Finding::Good(path),
        None => Finding::Bad(format!("{} not found", names.join(" or ")), hint.to_owned()),
    }
}

fn on_path(name: &str) -> Option<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/sbin"]);
    let found = folders
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.is_file());
    found.map(|path| path.to_string_lossy().into_owned())
}

fn tcp_port(port: u16) -> Finding {
    match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
        Ok(_) => Finding::Good(format!("{port}/tcp is free")),
        Err(error) => taken(&format!("{port}/tcp"), &error),
    }
}

fn udp_port(port: u16) -> Finding {
    match UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)) {
        Ok(_) => Finding::Good(format!("{port}/udp is free")),
        Err(error) => taken(&format!("{port}/udp"), &error),
    }
}

fn taken(port: &str, error: &std::io::Error) -> Finding {
    let hint = "another program (or orch itself, which then is fine) has it: see `ss -lnp`";
    Finding::Doubtful(format!("{port}: {error}"), hint.to_owned())
}

fn clock() -> Finding {
    let now = Clock::system().now();
    if now.as_second() > WRITTEN {
        return Finding::Good(now.strftime("%F %T UTC").to_string());
    }
    Finding::Bad(
        format!("{now} is in the past"),
        "set the clock (timedatectl set-ntp true): certificates would not be valid".to_owned(),
    )
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
