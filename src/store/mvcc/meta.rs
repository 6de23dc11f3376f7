//! What the backend says about its own content, changed in the same batch as the content.

use super::key_index::Version;
use super::revision::{APPLIED, COMPACTED, FINGERPRINT, LOST, number};
use super::state::Lost;
use crate::store::backend::{Backend, Batch};
use crate::store::{Error, Result, Revision};

/// Written with every batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Everything up to here is in the backend.
    pub(crate) applied: Revision,
    /// From here on the history is whole.
    pub(crate) compacted: Revision,
    /// Revisions that do not count.
    pub(crate) lost: Vec<Lost>,
    /// Of all versions in it.
    pub(crate) fingerprint: Fingerprint,
}

/// A sum over versions that does not depend on their order. A backend that lost some, kept removed
/// ones or mixed two states has another one than it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    sum: u64,
    /// How many versions.
    pub(crate) count: u64,
}

impl Fingerprint {
    /// A version was put in.
    pub(crate) fn add(&mut self, key: &[u8], version: &Version) {
        self.sum = self.sum.wrapping_add(print(key, version));
        self.count = self.count.wrapping_add(1);
    }

    /// A version was removed.
    pub(crate) fn remove(&mut self, key: &[u8], version: &Version) {
        self.sum = self.sum.wrapping_sub(print(key, version));
        self.count = self.count.wrapping_sub(1);
    }
}

/// FNV-1a with murmur's finish: against accidents, not against people.
fn print(key: &[u8], version: &Version) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut eat = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    eat(key);
    eat(&version.modified.0.to_le_bytes());
    eat(&version.created.0.to_le_bytes());
    eat(&version.sub.to_le_bytes());
    eat(&version.crc.to_le_bytes());
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

impl Meta {
    /// Reads it; `None` for a backend nothing was ever put into.
    pub(crate) fn read(backend: &dyn Backend) -> Result<Option<Self>> {
        let Some(applied) = backend.get(APPLIED)? else {
            return Ok(None);
        };
        let rest = (
            backend.get(COMPACTED)?,
            backend.get(LOST)?,
            backend.get(FINGERPRINT)?,
        );
        let (Some(compacted), Some(lost), Some(fingerprint)) = rest else {
            return Err(damaged());
        };
        let numbers = |bytes: &[u8]| bytes.chunks(8).map(number).collect::<Option<Vec<_>>>();
        let read = || {
            let lost = numbers(&lost)?;
            let fingerprint = numbers(&fingerprint)?;
            Some(Self {
                applied: Revision(number(&applied)?),
                compacted: Revision(number(&compacted)?),
                lost: lost
                    .chunks_exact(2)
                    .map(|pair| Lost {
                        after: Revision(pair[0]),
                        until: Revision(pair[1]),
                    })
                    .collect(),
                fingerprint: Fingerprint {
                    sum: *fingerprint.first()?,
                    count: *fingerprint.get(1)?,
                },
            })
        };
        read().map(Some).ok_or_else(damaged)
    }

    /// Adds it to `batch`.
    pub(crate) fn put_into(&self, batch: &mut Batch) {
        let bytes =
            |numbers: &[u64]| -> Vec<u8> { numbers.iter().flat_map(|n| n.to_be_bytes()).collect() };
        let pairs: Vec<u64> = self
            .lost
            .iter()
            .flat_map(|lost| [lost.after.0, lost.until.0])
            .collect();
        batch.put(APPLIED, bytes(&[self.applied.0]));
        batch.put(COMPACTED, bytes(&[self.compacted.0]));
        batch.put(LOST, bytes(&pairs));
        let fingerprint = [self.fingerprint.sum, self.fingerprint.count];
        batch.put(FINGERPRINT, bytes(&fingerprint));
    }
}

fn damaged() -> Error {
    Error::Corrupt {
        path: "database".to_owned(),
        why: "its own records are damaged".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::backend::memory::Memory;

    fn version(modified: u64) -> Version {
        Version {
            modified: Revision(modified),
            created: Revision(1),
            sub: 0,
            crc: 5,
        }
    }

    #[test]
    fn a_fingerprint_depends_on_what_is_there_and_not_on_how_it_came() {
        let (mut one, mut two) = (Fingerprint::default(), Fingerprint::default());
        one.add(b"a", &version(2));
        one.add(b"b", &version(3));
        two.add(b"b", &version(3));
        two.add(b"c", &version(9));
        assert_ne!(one, two);
        two.add(b"a", &version(2));
        two.remove(b"c", &version(9));
        assert_eq!(one, two);
    }

    #[test]
    fn meta_survives_the_backend() {
        let backend = Memory::new();
        assert_eq!(Meta::read(&backend).unwrap(), None);
        let mut meta = Meta {
            applied: Revision(9),
            compacted: Revision(4),
            lost: vec![Lost {
                after: Revision(5),
                until: Revision(7),
            }],
            fingerprint: Fingerprint::default(),
        };
        meta.fingerprint.add(b"a", &version(2));
        let mut batch = Batch::default();
        meta.put_into(&mut batch);
        backend.apply(batch).unwrap();
        assert_eq!(Meta::read(&backend).unwrap(), Some(meta));
        backend.damage(COMPACTED, "x");
        assert!(Meta::read(&backend).is_err());
    }
}
