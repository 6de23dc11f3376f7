//! Jittered exponential backoff as a value: the caller asks for the next delay and sleeps itself.

use std::time::Duration;

use super::rng::Rng;

/// Delays that double from `first` to `most`, each shortened by up to a fifth at random so that
/// many clients do not come back at once.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
    rng: Rng,
}

impl Backoff {
    /// Starts at `first`, never waits longer than `most`.
    pub fn new(first: Duration, most: Duration, rng: Rng) -> Self {
        Self {
            first,
            most,
            next: first,
            rng,
        }
    }

    /// The delay before the next try; grows with each call.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (self.next * 2).min(self.most);
        delay.mul_f64(1.0 - 0.2 * self.rng.fraction())
    }

    /// After a success: the next delay is the first one again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_limit_and_reset() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(300), Rng::seeded(1));
        let delays: Vec<_> = (0..4).map(|_| backoff.next_delay()).collect();
        assert!(delays[0] <= ms(100) && delays[0] >= ms(80));
        assert!(delays[1] > ms(150) && delays[3] <= ms(300));
        backoff.reset();
        assert!(backoff.next_delay() <= ms(100));
    }
}
