//! The table: what was measured beside what is wanted, and what it cost.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};

use crate::machine::Usage;

/// A line of the table.
pub(crate) struct Row {
    name: String,
    value: f64,
    unit: &'static str,
    /// Behind the value.
    more: String,
    wanted: Wanted,
    cost: String,
}

/// What a figure is to be.
#[derive(Clone, Copy)]
pub(crate) enum Wanted {
    /// It is only told.
    Anything,
    AtMost(f64),
    AtLeast(f64),
}

impl Row {
    pub(crate) fn new(name: &str, (value, unit): (f64, &'static str), wanted: Wanted) -> Self {
        Self {
            name: name.to_owned(),
            value,
            unit,
            more: String::new(),
            wanted,
            cost: String::new(),
        }
    }

    pub(crate) fn with(self, more: String) -> Self {
        Self { more, ..self }
    }

    /// What each of `count` operations took of the processors.
    pub(crate) fn cost(self, cost: &Cost, count: usize) -> Self {
        let cost = cost.print(count);
        Self { cost, ..self }
    }

    pub(crate) fn print(&self) {
        let (wanted, verdict) = match self.wanted {
            Wanted::Anything => (String::new(), ""),
            Wanted::AtMost(most) => (
                format!("≤ {} {}", number(most), self.unit),
                verdict(self.value <= most),
            ),
            Wanted::AtLeast(least) => (
                format!("≥ {} {}", number(least), self.unit),
                verdict(self.value >= least),
            ),
        };
        let value = format!("{} {}", number(self.value), self.unit);
        let (name, more, cost) = (&self.name, &self.more, &self.cost);
        let line = format!("{name:<55} {value:>13}  {wanted:<14} {verdict:<7} {cost:<36} {more}");
        println!("{}", line.trim_end());
    }
}

/// The head of the table.
pub(crate) fn print_head() {
    let cost = "processor: server, load";
    println!(
        "{:<55} {:>13}  {:<14} {:<7} {cost:<36} beside it",
        "figure", "measured", "wanted", ""
    );
}

fn verdict(is_reached: bool) -> &'static str {
    if is_reached { "reached" } else { "short" }
}

/// Large numbers with commas, small ones with two places.
fn number(value: f64) -> String {
    if value < 100.0 {
        let text = format!("{value:.2}");
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

pub(crate) fn percentile(times: &mut [Duration], part: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * part) as usize]
}

/// Processor time of the server (where its process is known) and of this program.
pub(crate) struct Cost {
    server: Option<Duration>,
    load: Duration,
}

impl Cost {
    /// Of what `work` makes both do.
    pub(crate) fn of<T>(server: Option<i32>, work: impl FnOnce() -> T) -> (T, Self) {
        let at = || (server.map(|pid| Usage::of(pid).cpu), own());
        let before = at();
        let done = work();
        let after = at();
        let server = after.0.zip(before.0).map(|(after, before)| after - before);
        let load = after.1 - before.1;
        (done, Self { server, load })
    }

    fn print(&self, count: usize) -> String {
        let each = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
        let load = each(self.load);
        match self.server.map(each) {
            Some(server) => {
                let share = load / (load + server) * 100.0;
                format!("{server:.0} µs, {load:.0} µs ({share:.0} % of both)")
            }
            None => format!("-, {load:.0} µs"),
        }
    }
}

fn own() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| Duration::from_micros(time.tv_sec() as u64 * 1_000_000 + time.tv_usec() as u64))
        .sum()
}
