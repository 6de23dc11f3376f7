//! Waiting for a condition, with the last thing seen in the failure's text. No test sleeps for a
//! fixed time.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(50);

/// Looks at `condition` until it gives a value; panics with the last refusal after `limit`.
#[track_caller]
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<T, String>,
) -> T {
    let started = Instant::now();
    loop {
        match condition() {
            Ok(value) => return value,
            Err(seen) if started.elapsed() > limit => {
                panic!("{what}: not within {limit:?}; last seen: {seen}")
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// `Ok` where `holds`, else what was seen.
pub fn ensure(holds: bool, seen: impl std::fmt::Display) -> Result<(), String> {
    if holds { Ok(()) } else { Err(seen.to_string()) }
}

/// Seconds as a duration.
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
