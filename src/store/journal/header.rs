//! The header of a segment.
//!
//! ```text
//! 0  magic         8   b"ORCHJRNL"
//! 8  version       4
//! 12 crc           4   CRC-32 of everything behind it
//! 16 identity      8   of the journal
//! 24 number        8   of the segment
//! 32 before        8   the newest revision before its first frame
//! 40 previous_end  8   how many bytes of the previous segment count
//! 48 zero         16
//! ```

use crate::store::Revision;

const MAGIC: &[u8; 8] = b"ORCHJRNL";
const VERSION: u32 = 1;
/// Bytes of a header.
pub(crate) const HEADER_BYTES: usize = 64;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Of the journal it belongs to.
    pub(crate) identity: u64,
    /// Its place in it.
    pub(crate) number: u64,
    /// The newest revision before its first frame.
    pub(crate) before: Revision,
    /// How many bytes of the previous segment count; 0 for the first.
    pub(crate) previous_end: u64,
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        for field in [self.identity, self.number, self.before.0, self.previous_end] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.resize(HEADER_BYTES, 0);
        let crc = crc32fast::hash(&bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// What is wrong with it is a text for the message.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() < HEADER_BYTES || &bytes[..8] != MAGIC {
            return Err("it is not a segment of a journal".to_owned());
        }
        let version = u32::from_le_bytes(bytes[8..12].try_into().unwrap_or_default());
        if version != VERSION {
            return Err(format!(
                "its format is {version}, this program knows {VERSION}"
            ));
        }
        if crc32fast::hash(&bytes[16..HEADER_BYTES]).to_le_bytes() != bytes[12..16] {
            return Err("its header is damaged".to_owned());
        }
        let field =
            |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
        Ok(Self {
            identity: field(16),
            number: field(24),
            before: Revision(field(32)),
            previous_end: field(40),
        })
    }

    /// The file's name.
    pub(crate) fn name(&self) -> String {
        Self::name_of(self.number)
    }

    /// The name of the segment with that number.
    pub(crate) fn name_of(number: u64) -> String {
        format!("{number:016x}.journal")
    }

    /// Makes checksums of this segment's frames its own.
    pub(crate) fn seed(&self) -> u32 {
        Self::seed_of(self.identity, self.number)
    }

    /// The seed of the segment with that number.
    pub(crate) fn seed_of(identity: u64, number: u64) -> u32 {
        let bytes = [identity.to_le_bytes(), number.to_le_bytes()].concat();
        crc32fast::hash(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_its_bytes_and_damage_is_told() {
        let header = Header {
            identity: 1,
            number: 2,
            before: Revision(3),
            previous_end: 4,
        };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Ok(header));
        for at in 0..HEADER_BYTES {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert!(Header::decode(&bytes).is_err(), "byte {at}");
        }
    }
}
