//! Counters, gauges and histograms with labels, and Prometheus' text form of them (0.0.4).
//!
//! Handles are cheap to clone and to raise. Label values must come from bounded sets: every
//! combination that was seen once is kept.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

/// In no label value: neither names nor codes have control characters.
const SEPARATOR: &str = "\u{1f}";

/// All metrics of a process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Mutex<Vec<Family>>>);

/// Counts up. One number for each combination of label values.
#[derive(Clone, Debug)]
pub struct Counters(Arc<Series<AtomicU64>>);

/// Goes up and down.
#[derive(Clone, Debug)]
pub struct Gauges(Arc<Series<AtomicI64>>);

/// Counts observations in buckets.
#[derive(Clone, Debug)]
pub struct Histograms(Arc<Series<Mutex<Buckets>>>);

/// One number that goes up and down, with its label values chosen.
#[derive(Clone, Debug)]
pub struct Gauge(Arc<AtomicI64>);

#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Counters(Counters),
    Gauges(Gauges),
    Histograms(Histograms),
    /// Read when asked for.
    Read {
        is_counter: bool,
        read: fn() -> Option<f64>,
    },
}

#[derive(Debug)]
struct Series<T> {
    labels: &'static [&'static str],
    bounds: &'static [f64],
    /// By label values, joined by [`SEPARATOR`]: one allocation a look-up.
    values: RwLock<BTreeMap<String, Arc<T>>>,
}

#[derive(Debug, Default)]
struct Buckets {
    counts: Vec<u64>,
    sum: f64,
    count: u64,
}

impl Metrics {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A family of counters; `name` ends in `_total`.
    pub fn counters(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Counters {
        let counters = Counters(Arc::new(Series::new(labels, &[])));
        self.add(name, help, Values::Counters(counters.clone()));
        counters
    }

    /// A family of gauges.
    pub fn gauges(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Gauges {
        let gauges = Gauges(Arc::new(Series::new(labels, &[])));
        self.add(name, help, Values::Gauges(gauges.clone()));
        gauges
    }

    /// A family of histograms with upper bounds `bounds`, rising.
    pub fn histograms(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        bounds: &'static [f64],
    ) -> Histograms {
        let histograms = Histograms(Arc::new(Series::new(labels, bounds)));
        self.add(name, help, Values::Histograms(histograms.clone()));
        histograms
    }

    /// What the kernel says of this process, under Prometheus' usual names.
    pub fn add_process(&self) {
        for (name, help, is_counter, read) in process::FAMILIES {
            let (is_counter, read) = (*is_counter, *read);
            self.add(name, help, Values::Read { is_counter, read });
        }
    }

    /// Everything as text.
    pub fn render(&self) -> String {
        let mut out = String::new();
        for family in self.0.lock().iter() {
            family.render(&mut out);
        }
        out
    }

    fn add(&self, name: &'static str, help: &'static str, values: Values) {
        self.0.lock().push(Family { name, help, values });
    }
}

impl Counters {
    /// Adds one.
    pub fn increment(&self, labels: &[&str]) {
        self.0.at(labels).fetch_add(1, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self, labels: &[&str]) -> u64 {
        self.0.at(labels).load(Ordering::Relaxed)
    }
}

impl Gauges {
    /// The one with these label values.
    pub fn with(&self, labels: &[&str]) -> Gauge {
        Gauge(self.0.at(labels))
    }
}

impl Gauge {
    /// Adds to it, or takes away.
    pub fn add(&self, difference: i64) {
        self.0.fetch_add(difference, Ordering::Relaxed);
    }

    /// Sets it.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Histograms {
    /// Counts one observation.
    pub fn observe(&self, labels: &[&str], value: f64) {
        let buckets = self.0.at(labels);
        let mut buckets = buckets.lock();
        let bounds = self.0.bounds;
        buckets.counts.resize(bounds.len(), 0);
        if let Some(at) = bounds.iter().position(|bound| value <= *bound) {
            buckets.counts[at] += 1;
        }
        buckets.sum += value;
        buckets.count += 1;
    }
}

impl<T: Default> Series<T> {
    fn new(labels: &'static [&'static str], bounds: &'static [f64]) -> Self {
        Self {
            labels,
            bounds,
            values: RwLock::default(),
        }
    }

    fn at(&self, labels: &[&str]) -> Arc<T> {
        debug_assert_eq!(labels.len(), self.labels.len());
        let key = labels.join(SEPARATOR);
        if let Some(value) = self.values.read().get(&key) {
            return Arc::clone(value);
        }
        Arc::clone(self.values.write().entry(key).or_default())
    }
}

impl<T> Series<T> {
    /// Calls `print` with the label text (without braces) and the value of each member.
    fn each(&self, mut print: impl FnMut(&str, &T)) {
        for (values, member) in self.values.read().iter() {
            let pairs: Vec<_> = self
                .labels
                .iter()
                .zip(values.split(SEPARATOR))
                .map(|(label, value)| format!("{label}=\"{}\"", escape(value)))
                .collect();
            print(&pairs.join(","), member);
        }
    }
}

impl Family {
    fn render(&self, out: &mut String) {
        let (name, help) = (self.name, self.help);
        let kind = match &self.values {
            Values::Counters(_)
            | Values::Read {
                is_counter: true, ..
            } => "counter",
            Values::Gauges(_) | Values::Read { .. } => "gauge",
            Values::Histograms(_) => "histogram",
        };
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        match &self.values {
            Values::Counters(counters) => counters.0.each(|labels, value| {
                let value = value.load(Ordering::Relaxed);
                let _ = writeln!(out, "{name}{} {value}", braced(labels));
            }),
            Values::Gauges(gauges) => gauges.0.each(|labels, value| {
                let value = value.load(Ordering::Relaxed);
                let _ = writeln!(out, "{name}{} {value}", braced(labels));
            }),
            Values::Histograms(histograms) => histograms.0.each(|labels, value| {
                render_histogram(out, name, labels, histograms.0.bounds, &value.lock());
            }),
            Values::Read { read, .. } => {
                if let Some(value) = read() {
                    let _ = writeln!(out, "{name} {value}");
                }
            }
        }
    }
}

fn render_histogram(out: &mut String, name: &str, labels: &str, bounds: &[f64], value: &Buckets) {
    let before = if labels.is_empty() {
        String::new()
    } else {
        format!("{labels},")
    };
    let mut below = 0;
    for (at, bound) in bounds.iter().enumerate() {
        below += value.counts.get(at).copied().unwrap_or_default();
        let _ = writeln!(out, "{name}_bucket{{{before}le=\"{bound}\"}} {below}");
    }
    let (sum, count, labels) = (value.sum, value.count, braced(labels));
    let _ = writeln!(out, "{name}_bucket{{{before}le=\"+Inf\"}} {count}");
    let _ = writeln!(
        out,
        "{name}_sum{labels} {sum}\n{name}_count{labels} {count}"
    );
}

fn braced(labels: &str) -> String {
    if labels.is_empty() {
        String::new()
    } else {
        format!("{{{labels}}}")
    }
}

fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// Readings of `/proc/self`.
mod process {
    use std::fs;

    type Row = (&'static str, &'static str, bool, fn() -> Option<f64>);

    pub(super) const FAMILIES: &[Row] = &[
        (
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
            true,
            cpu_seconds,
        ),
        (
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            false,
            || memory_bytes("VmRSS:"),
        ),
        (
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
            false,
            || memory_bytes("VmSize:"),
        ),
        (
            "process_open_fds",
            "Number of open file descriptors.",
            false,
            open_files,
        ),
        (
            "process_max_fds",
            "Maximum number of open file descriptors.",
            false,
            max_files,
        ),
        (
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            false,
            start_seconds,
        ),
    ];

    /// The kernel reports times to user space in hundredths, whatever its own tick is.
    const TICKS_A_SECOND: f64 = 100.0;

    /// Fields of `/proc/self/stat` after the command, which may hold spaces; the first is `state`.
    fn stat() -> Option<Vec<String>> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        let (_, rest) = text.rsplit_once(')')?;
        Some(rest.split_whitespace().map(str::to_owned).collect())
    }

    fn cpu_seconds() -> Option<f64> {
        let stat = stat()?;
        let user: f64 = stat.get(11)?.parse().ok()?;
        let system: f64 = stat.get(12)?.parse().ok()?;
        Some((user + system) / TICKS_A_SECOND)
    }

    fn start_seconds() -> Option<f64> {
        let ticks: f64 = stat()?.get(19)?.parse().ok()?;
        let system = fs::read_to_string("/proc/stat").ok()?;
        let boot = system
            .lines()
            .find_map(|line| line.strip_prefix("btime "))?;
        Some(boot.trim().parse::<f64>().ok()? + ticks / TICKS_A_SECOND)
    }

    fn memory_bytes(field: &str) -> Option<f64> {
        let text = fs::read_to_string("/proc/self/status").ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(field))?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
        Some(kib * 1024.0)
    }

    fn open_files() -> Option<f64> {
        let count = fs::read_dir("/proc/self/fd").ok()?.count();
        u32::try_from(count).ok().map(f64::from)
    }

    fn max_files() -> Option<f64> {
        let text = fs::read_to_string("/proc/self/limits").ok()?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"))?;
        line.split_whitespace().next()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let metrics = Metrics::new();
        let requests = metrics.counters("requests_total", "Requests.", &["verb"]);
        requests.increment(&["a\"b"]);
        requests.increment(&["a\"b"]);
        metrics.gauges("inflight", "Now.", &[]).with(&[]).set(-3);
        let took = metrics.histograms("took_seconds", "Time.", &["verb"], &[0.5, 1.0]);
        for value in [0.2, 0.75, 7.0] {
            took.observe(&["get"], value);
        }
        assert_eq!(
            metrics.render(),
            "# HELP requests_total Requests.\n# TYPE requests_total counter\n\
             requests_total{verb=\"a\\\"b\"} 2\n\
             # HELP inflight Now.\n# TYPE inflight gauge\ninflight -3\n\
             # HELP took_seconds Time.\n# TYPE took_seconds histogram\n\
             took_seconds_bucket{verb=\"get\",le=\"0.5\"} 1\n\
             took_seconds_bucket{verb=\"get\",le=\"1\"} 2\n\
             took_seconds_bucket{verb=\"get\",le=\"+Inf\"} 3\n\
             took_seconds_sum{verb=\"get\"} 7.95\ntook_seconds_count{verb=\"get\"} 3\n"
        );
    }

    #[test]
    fn the_process_reads_itself() {
        let metrics = Metrics::new();
        metrics.add_process();
        let text = metrics.render();
        for (name, ..) in process::FAMILIES {
            assert!(text.contains(&format!("\n{name} ")), "{name} in {text}");
        }
    }
}
