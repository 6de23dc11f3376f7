//! Figures of the server's process: start, memory, processor, disk, size.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::Row;
use crate::support::hosts::Host;
use crate::support::program::Background;

/// How long "idle" is watched.
const IDLE: Duration = Duration::from_secs(60);
/// What starting leaves to do is over by then.
const SETTLE: Duration = Duration::from_secs(10);

/// Starts the server and prints how long it took.
pub(crate) fn started(host: &Host, print: fn(Row)) -> Background {
    let size = std::fs::metadata(crate::support::hosts::orch())
        .unwrap()
        .len();
    print(Row::new(
        "size of the program",
        format!("{:.1} MiB", mib(size)),
        "≤ 35 MiB",
    ));
    // The first start makes keys and certificates; a user starts many times.
    let first = host.start_server(&[]);
    let took = ready(host);
    print(Row::new("very first start to /readyz", millis(took), ""));
    first.terminate(Duration::from_secs(20));
    let server = host.start_server(&[]);
    print(Row::new(
        "start to /readyz",
        millis(ready(host)),
        "≤ 300 ms",
    ));
    server
}

fn ready(host: &Host) -> Duration {
    let started = Instant::now();
    let url = format!("https://{}:6443/readyz", host.address);
    while started.elapsed() < Duration::from_secs(30) {
        if host.run(&["curl", "-sk", "--max-time", "1", &url]).stdout == "ok" {
            return started.elapsed();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("the server was not ready within 30 s")
}

/// Watches the idle server for a minute.
pub(crate) fn idle(server: &Background, print: fn(Row)) {
    std::thread::sleep(SETTLE);
    let before = Usage::of(server.pid());
    std::thread::sleep(IDLE);
    let after = Usage::of(server.pid());
    let cpu = (after.cpu - before.cpu).as_secs_f64() / IDLE.as_secs_f64() * 100.0;
    let written = (after.written_bytes - before.written_bytes) as f64 / 1024.0;
    let rss = format!("{:.1} MiB", mib(after.rss_bytes));
    print(Row::new(
        "idle memory of server with agent (RSS)",
        rss,
        "≤ 60 MiB",
    ));
    print(Row::new(
        "idle processor",
        format!("{cpu:.2} % of a core"),
        "≤ 0.5 %",
    ));
    print(Row::new(
        "disk written in an idle minute",
        format!("{written:.0} KiB"),
        "≤ 64 KiB",
    ));
}

/// Memory after the load.
pub(crate) fn loaded(server: &Background, print: fn(Row)) {
    let usage = Usage::of(server.pid());
    print(Row::new(
        "memory after the load (RSS)",
        format!("{:.1} MiB", mib(usage.rss_bytes)),
        "",
    ));
}

struct Usage {
    cpu: Duration,
    rss_bytes: u64,
    written_bytes: u64,
}

impl Usage {
    fn of(pid: i32) -> Self {
        let proc = Path::new("/proc").join(pid.to_string());
        let stat = std::fs::read_to_string(proc.join("stat")).unwrap();
        let fields: Vec<_> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        let ticks: u64 = [11, 12]
            .iter()
            .map(|at| fields[*at].parse::<u64>().unwrap())
            .sum();
        let text = |file: &str, name: &str| {
            let text = std::fs::read_to_string(proc.join(file)).unwrap();
            let line = text
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap()
                .to_owned();
            line.split_whitespace()
                .nth(1)
                .unwrap()
                .parse::<u64>()
                .unwrap()
        };
        Self {
            // Linux counts processor time in hundredths of a second.
            cpu: Duration::from_millis(ticks * 10),
            rss_bytes: text("status", "VmRSS:") * 1024,
            written_bytes: text("io", "write_bytes:"),
        }
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

pub(crate) fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}
