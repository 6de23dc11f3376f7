//! How long a failed pod of a set stays on its node before it is replaced: a second, then twice as
//! long each time, as upstream's `failedPodsBackoff`.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(15 * 60);
/// A node that was quiet for so long begins anew.
const FORGOTTEN: Duration = Duration::from_secs(2 * 15 * 60);

/// Notes by the set's uid and the node's name. Old ones are dropped when there is a new one, so
/// there are never more than nodes failed within [`FORGOTTEN`].
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<HashMap<(String, String), Note>>);

#[derive(Debug)]
struct Note {
    last: Instant,
    delay: Duration,
}

impl Failures {
    /// How long to wait yet; `None`: replace it now.
    pub(super) fn hold(&self, set: &str, node: &str) -> Option<Duration> {
        let notes = self.0.lock();
        let note = notes.get(&(set.to_owned(), node.to_owned()))?;
        let left = note.delay.checked_sub(note.last.elapsed())?;
        (!left.is_zero()).then_some(left)
    }

    /// A failed pod is being replaced.
    pub(super) fn note(&self, set: &str, node: &str) {
        let mut notes = self.0.lock();
        notes.retain(|_, note| note.last.elapsed() < FORGOTTEN);
        let now = Instant::now();
        notes
            .entry((set.to_owned(), node.to_owned()))
            .and_modify(|note| {
                note.delay = (note.delay * 2).min(MOST);
                note.last = now;
            })
            .or_insert(Note {
                last: now,
                delay: FIRST,
            });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_wait_doubles_and_is_forgotten() {
        let failures = Failures::default();
        assert_eq!(failures.hold("s", "n"), None);
        failures.note("s", "n");
        assert_eq!(failures.hold("s", "n"), Some(FIRST));
        assert_eq!(failures.hold("s", "other"), None);
        tokio::time::advance(FIRST).await;
        assert_eq!(failures.hold("s", "n"), None);
        failures.note("s", "n");
        assert_eq!(failures.hold("s", "n"), Some(FIRST * 2));
        tokio::time::advance(FORGOTTEN).await;
        failures.note("s", "n");
        assert_eq!(failures.hold("s", "n"), Some(FIRST));
    }
}
