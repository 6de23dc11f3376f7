//! One frame: what is written by one append, with its checksum.
//!
//! ```text
//! 0  magic       4   b"OJF1"
//! 4  crc         4   CRC-32 of everything behind it, payload and padding included, seeded per
//!                    segment, so that a frame of another segment is never taken for one of this
//! 8  length      4   of the payload
//! 12 zero        4
//! 16 revision    8   the newest one in the payload
//! 24 synced      8   offset in the segment up to which all was on disk when this was written
//! 32 payload, padded with zeros to a multiple of 8
//! ```
//!
//! Numbers are little-endian. `synced` is what tells a torn tail from damage: a frame that is found
//! behind a hole proves that the hole was once whole exactly if its `synced` lies behind it.

use std::ops::Range;

use crate::store::Revision;

const MAGIC: &[u8; 4] = b"OJF1";
/// Bytes before the payload.
pub(crate) const HEADER_BYTES: usize = 32;
/// Frames begin at multiples of it.
pub(crate) const ALIGNMENT: usize = 8;

/// Where a frame was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The newest revision in the payload.
    pub(crate) revision: Revision,
    /// Where the payload is.
    pub(crate) payload: Range<usize>,
    /// Where the next frame begins.
    pub(crate) end: usize,
    synced: u64,
}

/// What a segment's bytes hold.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Scan {
    /// In order.
    pub(crate) frames: Vec<Frame>,
    /// Behind the last one.
    pub(crate) end: usize,
    /// What follows.
    pub(crate) tail: Tail,
}

/// What follows the last good frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Nothing was ever written there.
    Empty,
    /// Something that never was completely on disk.
    Torn,
    /// Something that was completely on disk once.
    Damaged,
}

/// Bytes a frame with such a payload takes.
pub(crate) fn frame_len(payload_len: usize) -> usize {
    (HEADER_BYTES + payload_len).next_multiple_of(ALIGNMENT)
}

/// Appends a frame to `out`.
pub(crate) fn encode(
    out: &mut Vec<u8>,
    seed: u32,
    revision: Revision,
    synced: u64,
    payload: &[u8],
) {
    let start = out.len();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[0; 4]);
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&revision.0.to_le_bytes());
    out.extend_from_slice(&synced.to_le_bytes());
    out.extend_from_slice(payload);
    out.resize(start + frame_len(payload.len()), 0);
    let crc = checksum(seed, &out[start + 8..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// Finds the frames of a segment from `start` on.
pub(crate) fn scan(bytes: &[u8], seed: u32, start: usize) -> Scan {
    let mut frames: Vec<Frame> = Vec::new();
    let mut end = start;
    while let Some(frame) = decode(bytes, seed, end) {
        let newest = frames.last().map(|last: &Frame| last.revision);
        if newest.is_some_and(|newest| frame.revision < newest) {
            break;
        }
        end = frame.end;
        frames.push(frame);
    }
    let tail = tail(bytes, seed, end);
    Scan { frames, end, tail }
}

fn tail(bytes: &[u8], seed: u32, end: usize) -> Tail {
    let rest = bytes.get(end..).unwrap_or_default();
    if rest.iter().all(|byte| *byte == 0) {
        return Tail::Empty;
    }
    let proves_damage =
        |at: usize| decode(bytes, seed, at).is_some_and(|frame| frame.synced > end as u64);
    if (end..bytes.len()).step_by(ALIGNMENT).any(proves_damage) {
        Tail::Damaged
    } else {
        Tail::Torn
    }
}

fn decode(bytes: &[u8], seed: u32, start: usize) -> Option<Frame> {
    let header = bytes.get(start..start.checked_add(HEADER_BYTES)?)?;
    if &header[..4] != MAGIC {
        return None;
    }
    let length = u32::from_le_bytes(header[8..12].try_into().ok()?) as usize;
    let end = start.checked_add(frame_len(length))?;
    let checked = bytes.get(start + 8..end)?;
    if checksum(seed, checked).to_le_bytes() != header[4..8] {
        return None;
    }
    Some(Frame {
        revision: Revision(u64::from_le_bytes(header[16..24].try_into().ok()?)),
        payload: start + HEADER_BYTES..start + HEADER_BYTES + length,
        end,
        synced: u64::from_le_bytes(header[24..32].try_into().ok()?),
    })
}

fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u32 = 7;

    /// Three frames, each synced before the next was written, in a segment with room behind.
    fn segment() -> (Vec<u8>, Vec<usize>) {
        let mut bytes = Vec::new();
        let mut starts = Vec::new();
        for (revision, payload) in [(1, &b"one"[..]), (2, b"two and more"), (3, b"")] {
            starts.push(bytes.len());
            let synced = bytes.len() as u64;
            encode(&mut bytes, SEED, Revision(revision), synced, payload);
        }
        starts.push(bytes.len());
        bytes.resize(bytes.len() + 64, 0);
        (bytes, starts)
    }

    fn revisions(scan: &Scan) -> Vec<u64> {
        scan.frames.iter().map(|frame| frame.revision.0).collect()
    }

    #[test]
    fn frames_are_found_again_with_their_payload() {
        let (bytes, starts) = segment();
        let scan = scan(&bytes, SEED, 0);
        assert_eq!(revisions(&scan), [1, 2, 3]);
        assert_eq!(&bytes[scan.frames[1].payload.clone()], b"two and more");
        assert_eq!((scan.end, scan.tail), (starts[3], Tail::Empty));
    }

    #[test]
    fn frames_of_another_segment_are_not_seen() {
        let (bytes, _) = segment();
        let scan = scan(&bytes, SEED + 1, 0);
        assert_eq!((scan.frames.len(), scan.tail), (0, Tail::Torn));
    }

    #[test]
    fn a_cut_anywhere_leaves_the_frames_before_it() {
        let (bytes, starts) = segment();
        for cut in 0..starts[3] {
            let scan = scan(&bytes[..cut], SEED, 0);
            let whole = starts[1..].iter().filter(|end| **end <= cut).count();
            assert_eq!(scan.frames.len(), whole, "cut at {cut}");
            assert_ne!(scan.tail, Tail::Damaged);
        }
    }

    #[test]
    fn every_flipped_bit_before_the_last_frame_is_damage() {
        let (bytes, starts) = segment();
        for at in 0..starts[2] {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x10;
            let found = scan(&bytes, SEED, 0);
            assert_eq!(found.tail, Tail::Damaged, "flipped at {at}");
        }
        let mut last = bytes;
        last[starts[2] + 9] ^= 1;
        assert_eq!(scan(&last, SEED, 0).tail, Tail::Torn);
    }

    #[test]
    fn a_hole_before_a_frame_that_was_not_synced_after_it_is_a_torn_tail() {
        let mut bytes = Vec::new();
        encode(&mut bytes, SEED, Revision(1), 0, b"synced");
        let hole = bytes.len();
        encode(&mut bytes, SEED, Revision(2), hole as u64, b"relaxed, lost");
        encode(&mut bytes, SEED, Revision(3), hole as u64, b"relaxed, kept");
        bytes[hole..hole + 40].fill(0);
        let scan = scan(&bytes, SEED, 0);
        assert_eq!((revisions(&scan), scan.tail), (vec![1], Tail::Torn));
    }
}
