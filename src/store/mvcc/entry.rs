//! What the journal's frames hold.
//!
//! ```text
//! writes  1, at_ms(8), then each write: kind(1) sub(4) revision(8) created(8) deadline_ms(8)
//!         key length(4) value length(4) key value
//! lost    2, after(8), until(8)
//! closed  3
//! ```
//!
//! Numbers are little-endian. A frame's checksum covers all of it.

use bytes::Bytes;

use super::key_index::Version;
use super::revision::Record;
use super::state::{Lost, PendingWrite};
use crate::store::Revision;

const WRITES: u8 = 1;
const LOST: u8 = 2;
const CLOSED: u8 = 3;
const PUT: u8 = 0;
const DELETE: u8 = 1;

/// One frame's meaning.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// A group of transactions, in order.
    Writes(Vec<PendingWrite>),
    /// Revisions that no longer count.
    Lost(Lost),
    /// The store was closed in order: nothing that was given out is missing.
    Closed,
}

/// A group as a frame's payload, into `out`.
pub(crate) fn encode_writes(out: &mut Vec<u8>, at_ms: u64, writes: &[PendingWrite]) {
    out.push(WRITES);
    out.extend_from_slice(&at_ms.to_le_bytes());
    for write in writes {
        let version = &write.record.version;
        let value = write.value.as_deref();
        out.push(value.map_or(DELETE, |_| PUT));
        out.extend_from_slice(&version.sub.to_le_bytes());
        for number in [
            version.modified.0,
            version.created.0,
            write.record.deadline_ms,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for len in [write.key.len(), value.map_or(0, <[u8]>::len)] {
            out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
        }
        out.extend_from_slice(&write.key);
        out.extend_from_slice(value.unwrap_or_default());
    }
}

/// Lost revisions as a frame's payload.
pub(crate) fn encode_lost(lost: Lost) -> Vec<u8> {
    let mut out = vec![LOST];
    out.extend_from_slice(&lost.after.0.to_le_bytes());
    out.extend_from_slice(&lost.until.0.to_le_bytes());
    out
}

/// The end as a frame's payload.
pub(crate) fn encode_closed() -> Vec<u8> {
    vec![CLOSED]
}

/// What a payload means; `None` where this program did not write it.
pub(crate) fn decode(bytes: &[u8]) -> Option<Entry> {
    let mut input = Input(bytes);
    match input.byte()? {
        WRITES => {
            let at_ms = input.number()?;
            let mut writes = Vec::new();
            while !input.0.is_empty() {
                writes.push(decode_write(&mut input, at_ms)?);
            }
            Some(Entry::Writes(writes))
        }
        LOST => Some(Entry::Lost(Lost {
            after: Revision(input.number()?),
            until: Revision(input.number()?),
        })),
        CLOSED => Some(Entry::Closed),
        _ => None,
    }
}

fn decode_write(input: &mut Input<'_>, at_ms: u64) -> Option<PendingWrite> {
    let kind = input.byte()?;
    let sub = input.len()?;
    let modified = Revision(input.number()?);
    let created = Revision(input.number()?);
    let deadline_ms = input.number()?;
    let (key_len, value_len) = (input.len()?, input.len()?);
    let key = Bytes::copy_from_slice(input.take(key_len as usize)?);
    let value = input.take(value_len as usize)?;
    let value = match kind {
        PUT => Some(Bytes::copy_from_slice(value)),
        DELETE => None,
        _ => return None,
    };
    let version = Version {
        modified,
        created,
        sub,
        crc: value.as_deref().map_or(0, crc32fast::hash),
    };
    Some(PendingWrite {
        key,
        record: Record {
            version,
            at_ms,
            deadline_ms,
        },
        value,
    })
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn len(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_survive_their_bytes_and_every_cut_is_refused() {
        let version = Version {
            modified: Revision(5),
            created: Revision(3),
            sub: 1,
            crc: crc32fast::hash(b"value"),
        };
        let record = Record {
            version,
            at_ms: 11,
            deadline_ms: 12,
        };
        let put = PendingWrite {
            key: Bytes::from_static(b"key"),
            record,
            value: Some(Bytes::from_static(b"value")),
        };
        let mut bytes = Vec::new();
        encode_writes(&mut bytes, 11, std::slice::from_ref(&put));
        let Some(Entry::Writes(writes)) = decode(&bytes) else {
            panic!("not decoded");
        };
        assert_eq!(writes.len(), 1);
        assert_eq!((&writes[0].key, &writes[0].value), (&put.key, &put.value));
        assert_eq!(writes[0].record, record);
        for cut in 10..bytes.len() {
            assert!(decode(&bytes[..cut]).is_none(), "cut at {cut}");
        }
        assert!(decode(b"").is_none() && decode(&[9]).is_none());
    }
}
