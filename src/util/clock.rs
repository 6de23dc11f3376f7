//! Wall-clock time as a value that is passed in, so that tests can set it.
//!
//! Monotonic time is `tokio::time::Instant`; this is only for timestamps that people and other
//! machines read. Pure functions take `now: Timestamp` instead of a `Clock`.

use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;

/// Where "now" comes from: the system, or a test that sets it.
#[derive(Clone, Debug, Default)]
pub struct Clock(Source);

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    System,
    Set(Arc<Mutex<Timestamp>>),
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `now` until [`Clock::set`] moves it. Clones share it.
    pub fn fixed(now: Timestamp) -> Self {
        Self(Source::Set(Arc::new(Mutex::new(now))))
    }

    /// The present time.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => Timestamp::now(),
            Source::Set(at) => *at.lock(),
        }
    }

    /// Moves a fixed clock; a system clock is not moved.
    pub fn set(&self, to: Timestamp) {
        if let Source::Set(at) = &self.0 {
            *at.lock() = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_of_a_fixed_clock_move_together() {
        let clock = Clock::fixed(Timestamp::UNIX_EPOCH);
        let other = clock.clone();
        other.set(Timestamp::new(7, 0).unwrap());
        assert_eq!(clock.now().as_second(), 7);
    }
}
