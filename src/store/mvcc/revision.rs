//! How versions are laid out in the backend.
//!
//! ```text
//! i KEY revision(8)      → what is known of the version: `Record`, fixed size
//! v KEY revision(8)      → its value; none for a tombstone
//! m applied              → revision(8) up to which everything is in the backend
//! m compacted            → revision(8) from which on the history is whole
//! m lost                 → pairs of revisions, see `state::Lost`
//! m fingerprint          → sum(8) and count(8) over all of `i`, see `meta::Fingerprint`
//! ```
//!
//! Numbers are big-endian, so that versions of a key sort by revision. The revision has a fixed
//! length at the end, so a key may contain any bytes.

use bytes::Bytes;

use super::key_index::Version;
use crate::store::{KeyRange, Revision};

/// Where `Record`s are.
pub(crate) const INDEX_SPACE: u8 = b'i';
/// Where values are.
pub(crate) const VALUE_SPACE: u8 = b'v';
/// Key of the applied revision.
pub(crate) const APPLIED: &[u8] = b"m applied";
/// Key of the compacted revision.
pub(crate) const COMPACTED: &[u8] = b"m compacted";
/// Key of the lost revisions.
pub(crate) const LOST: &[u8] = b"m lost";
/// Key of the fingerprint.
pub(crate) const FINGERPRINT: &[u8] = b"m fingerprint";

const REVISION_BYTES: usize = 8;
const RECORD_BYTES: usize = 4 + 8 + 8 + 8 + 4;

/// What the backend keeps of a version beside its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The version; `modified` is in the key.
    pub(crate) version: Version,
    /// Wall clock of the transaction.
    pub(crate) at_ms: u64,
    /// Wall clock at which the key expires; 0 for never.
    pub(crate) deadline_ms: u64,
}

impl Record {
    /// Its bytes.
    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(RECORD_BYTES);
        bytes.extend_from_slice(&self.version.sub.to_be_bytes());
        bytes.extend_from_slice(&self.version.created.0.to_be_bytes());
        bytes.extend_from_slice(&self.at_ms.to_be_bytes());
        bytes.extend_from_slice(&self.deadline_ms.to_be_bytes());
        bytes.extend_from_slice(&self.version.crc.to_be_bytes());
        bytes.into()
    }

    /// The record of a version written at `modified`; `None` where these are not its bytes.
    pub(crate) fn decode(modified: Revision, bytes: &[u8]) -> Option<Self> {
        if bytes.len() != RECORD_BYTES {
            return None;
        }
        let version = Version {
            modified,
            created: Revision(number(&bytes[4..12])?),
            sub: u32::from_be_bytes(bytes[..4].try_into().ok()?),
            crc: u32::from_be_bytes(bytes[28..].try_into().ok()?),
        };
        let sane = version.created <= modified && modified > Revision(0);
        sane.then_some(Self {
            version,
            at_ms: number(&bytes[12..20])?,
            deadline_ms: number(&bytes[20..28])?,
        })
    }
}

/// The backend's key for a version in `space`.
pub(crate) fn version_key(space: u8, key: &[u8], modified: Revision) -> Bytes {
    let mut bytes = Vec::with_capacity(1 + key.len() + REVISION_BYTES);
    bytes.push(space);
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(&modified.0.to_be_bytes());
    bytes.into()
}

/// The reverse of [`version_key`], for any space.
pub(crate) fn split_version_key(bytes: &[u8]) -> Option<(&[u8], Revision)> {
    let (key, modified) = bytes.get(1..)?.split_last_chunk::<REVISION_BYTES>()?;
    Some((key, Revision(u64::from_be_bytes(*modified))))
}

/// Everything in `space`.
pub(crate) fn space(space: u8) -> KeyRange {
    KeyRange::prefix(vec![space])
}

/// A revision, or any other number, as the backend keeps it.
pub(crate) fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_a_key_sort_by_revision_and_split_again() {
        let old = version_key(VALUE_SPACE, b"a", Revision(255));
        let new = version_key(VALUE_SPACE, b"a", Revision(256));
        assert!(old < new);
        assert_eq!(split_version_key(&new), Some((&b"a"[..], Revision(256))));
        assert_eq!(split_version_key(b"vshort"), None);
    }

    #[test]
    fn a_record_survives_its_bytes_and_others_are_refused() {
        let record = Record {
            version: Version {
                modified: Revision(9),
                created: Revision(3),
                sub: 1,
                crc: 77,
            },
            at_ms: 5,
            deadline_ms: 6,
        };
        let bytes = record.encode();
        assert_eq!(Record::decode(Revision(9), &bytes), Some(record));
        assert_eq!(
            Record::decode(Revision(2), &bytes),
            None,
            "made after it was written"
        );
        assert_eq!(Record::decode(Revision(9), &bytes[1..]), None);
    }
}
