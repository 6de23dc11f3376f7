//! Figures of the server's process: start, memory, processor, disk, size; and kubectl's way to it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::hosts::{Host, orch};
use crate::support::program::{Background, run};
use crate::table::{Row, Wanted, millis, percentile};
use crate::wire::{Connection, Request, Target};

/// How long "idle" is watched.
const IDLE: Duration = Duration::from_secs(60);
/// What starting leaves to do is over by then.
const SETTLE: Duration = Duration::from_secs(15);
const START_LIMIT: Duration = Duration::from_secs(30);
const STARTS: usize = 5;
const KUBECTLS: usize = 11;

/// Starts the server, some times, and tells how long it took.
pub(crate) fn started(host: &Host) -> Background {
    let size = std::fs::metadata(orch()).unwrap().len();
    let name = "size of the program";
    Row::new(name, (mib(size), "MiB"), Wanted::AtMost(35.0)).print();
    // The first start makes keys and certificates; a user starts many times.
    let (mut server, first) = start(host);
    let name = "very first start to /readyz";
    Row::new(name, (millis(first), "ms"), Wanted::Anything).print();
    let mut times = Vec::new();
    for _ in 0..STARTS {
        server.terminate(START_LIMIT);
        let (again, took) = start(host);
        server = again;
        times.push(took);
    }
    let worst = millis(percentile(&mut times, 1.0));
    let p50 = millis(percentile(&mut times, 0.5));
    let name = "start to /readyz, p50 of 5";
    Row::new(name, (p50, "ms"), Wanted::AtMost(300.0))
        .with(format!("slowest {worst:.0} ms"))
        .print();
    server
}

fn start(host: &Host) -> (Background, Duration) {
    let mut command = host.server("info");
    let started = Instant::now();
    let server = Background::start(&mut command, &host.log());
    host.enter(|| {
        let address = format!("{}:6443", host.address);
        while started.elapsed() < START_LIMIT {
            if std::net::TcpStream::connect(&address).is_ok() && is_ready(host) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("not ready within 30 s: {}", server.log_tail())
    });
    (server, started.elapsed())
}

fn is_ready(host: &Host) -> bool {
    // Who listens has written its kubeconfig; a first start may be a moment behind.
    if !host.kubeconfig().exists() {
        return false;
    }
    let mut connection = Connection::open(&Target::of(&host.kubeconfig()));
    let ready = connection.call(&Request::get("/readyz"));
    ready.is_ok_and(|body| body == b"ok")
}

/// Watches the idle server for a minute.
pub(crate) fn idle(pid: i32) {
    std::thread::sleep(SETTLE);
    let before = Usage::of(pid);
    std::thread::sleep(IDLE);
    let after = Usage::of(pid);
    let cpu = (after.cpu - before.cpu).as_secs_f64() / IDLE.as_secs_f64() * 100.0;
    let written = (after.written_bytes - before.written_bytes) as f64 / 1024.0;
    let rss = mib(after.rss_bytes);
    let name = "idle memory of server with agent (RSS)";
    Row::new(name, (rss, "MiB"), Wanted::AtMost(60.0)).print();
    let name = "idle processor, of a core";
    Row::new(name, (cpu, "%"), Wanted::AtMost(0.5)).print();
    let name = "disk written in an idle minute";
    Row::new(name, (written, "KiB"), Wanted::AtMost(64.0)).print();
}

/// The whole program against an idle server; its discovery cache is warm, as a user's is.
pub(crate) fn kubectl(kubeconfig: &Path, cache: &Path) {
    if run(Command::new("sh").args(["-c", "command -v kubectl"])).ok {
        let mut times: Vec<_> = (0..=KUBECTLS)
            .map(|_| {
                let begun = Instant::now();
                let mut command = Command::new("kubectl");
                command.arg("--kubeconfig").arg(kubeconfig);
                command.arg("--cache-dir").arg(cache);
                run(command.args(["get", "pods"])).expect_ok();
                begun.elapsed()
            })
            .skip(1)
            .collect();
        let begun = Instant::now();
        run(Command::new("kubectl").args(["version", "--client"])).expect_ok();
        let alone = millis(begun.elapsed());
        let p50 = millis(percentile(&mut times, 0.5));
        let name = "kubectl get pods, the whole program, p50 of 11";
        Row::new(name, (p50, "ms"), Wanted::AtMost(60.0))
            .with(format!("kubectl version --client alone {alone:.0} ms"))
            .print();
    }
}

/// Memory after the load.
pub(crate) fn loaded(pid: i32) {
    let rss = mib(Usage::of(pid).rss_bytes);
    let name = "memory after all of this (RSS)";
    Row::new(name, (rss, "MiB"), Wanted::Anything).print();
}

/// What a process has used.
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    pub(crate) rss_bytes: u64,
    written_bytes: u64,
}

impl Usage {
    pub(crate) fn of(pid: i32) -> Self {
        let proc = Path::new("/proc").join(pid.to_string());
        let read = |file: &str| std::fs::read_to_string(proc.join(file)).unwrap();
        let stat = read("stat");
        let fields = stat.rsplit(')').next().unwrap();
        let fields: Vec<_> = fields.split_whitespace().collect();
        let tick = |at: usize| fields[at].parse::<u64>().unwrap();
        let number = |file: &str, name: &str| {
            let text = read(file);
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            let number = line.split_whitespace().nth(1).unwrap();
            number.parse::<u64>().unwrap()
        };
        Self {
            // Linux counts processor time in hundredths of a second.
            cpu: Duration::from_millis((tick(11) + tick(12)) * 10),
            rss_bytes: number("status", "VmRSS:") * 1024,
            written_bytes: number("io", "write_bytes:"),
        }
    }
}

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
