//! Randomness as a value that is passed in: seeded in tests, from the system otherwise.

use std::sync::Arc;

use parking_lot::Mutex;

/// Characters of generated names: no vowels and no look-alikes, as in
/// `k8s.io/apimachinery/pkg/util/rand`.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A source of randomness. Clones share one state.
#[derive(Clone, Debug)]
pub struct Rng(Arc<Mutex<fastrand::Rng>>);

impl Rng {
    /// Seeded from the system.
    pub fn from_system() -> Self {
        Self(Arc::new(Mutex::new(fastrand::Rng::new())))
    }

    /// The same seed gives the same values.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))))
    }

    /// A number in `0..bound`; 0 where `bound` is 0.
    pub fn below(&self, bound: usize) -> usize {
        if bound == 0 {
            0
        } else {
            self.0.lock().usize(..bound)
        }
    }

    /// A number in `0.0..1.0`.
    pub fn fraction(&self) -> f64 {
        self.0.lock().f64()
    }

    /// `len` characters as Kubernetes appends them to a `generateName`.
    pub fn suffix(&self, len: usize) -> String {
        let mut rng = self.0.lock();
        (0..len)
            .map(|_| char::from(SUFFIX_ALPHABET[rng.usize(..SUFFIX_ALPHABET.len())]))
            .collect()
    }

    /// A random (version 4) UUID as the API prints it.
    pub fn uid(&self) -> String {
        let bytes = self.0.lock().u128(..).to_be_bytes();
        uuid::Builder::from_random_bytes(bytes)
            .into_uuid()
            .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_gives_same_names() {
        assert_eq!(Rng::seeded(1).suffix(5), Rng::seeded(1).suffix(5));
        assert_eq!(Rng::seeded(1).uid().len(), 36);
    }
}
