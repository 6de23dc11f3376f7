//! One at a time per key: pulls of a blob, unpacks of a layer, changes to a container.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

type Gate = Arc<tokio::sync::Mutex<()>>;

/// Gates by key; a gate that nobody waits at is forgotten.
#[derive(Default)]
pub(super) struct Turns {
    gates: Mutex<HashMap<String, Gate>>,
}

/// Holds the key until dropped.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    key: String,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits until nobody else holds `key`.
    pub(super) async fn turn(&self, key: &str) -> Turn<'_> {
        let gate = self.gates.lock().entry(key.to_owned()).or_default().clone();
        // Made before the wait, so that a caller who gives up also cleans up.
        let mut turn = Turn {
            turns: self,
            key: key.to_owned(),
            guard: None,
        };
        turn.guard = Some(gate.lock_owned().await);
        turn
    }

    /// Whether somebody holds `key` now.
    pub(super) fn is_taken(&self, key: &str) -> bool {
        self.gates.lock().contains_key(key)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.guard = None;
        let mut gates = self.turns.gates.lock();
        // 1: only the map has it.
        if gates
            .get(&self.key)
            .is_some_and(|gate| Arc::strong_count(gate) == 1)
        {
            gates.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_waits_for_the_first_and_nothing_is_kept() {
        let turns = Turns::default();
        let first = turns.turn("a").await;
        let mut second = Box::pin(turns.turn("a"));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(turns.turn("b").await);
        drop(first);
        drop(second.await);
        assert!(!turns.is_taken("a") && !turns.is_taken("b"));
    }
}
