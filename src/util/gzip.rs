//! gzip at the fastest level: networks and readers are usually faster than a better one.

use std::io::{self, Read, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

/// Packs what comes piece by piece.
#[derive(Debug)]
pub struct Packer(GzEncoder<Vec<u8>>);

impl Default for Packer {
    fn default() -> Self {
        Self(GzEncoder::new(Vec::new(), Compression::fast()))
    }
}

impl Packer {
    /// Takes a piece and gives what is packed so far, which may be nothing.
    pub fn pack(&mut self, piece: &[u8]) -> Bytes {
        // Writing into memory does not fail.
        let _ = self.0.write_all(piece);
        std::mem::take(self.0.get_mut()).into()
    }

    /// The end.
    pub fn finish(self) -> Bytes {
        self.0.finish().unwrap_or_default().into()
    }
}

/// Packs.
pub fn pack(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 6), Compression::fast());
    // Writing into memory does not fail.
    let _ = encoder.write_all(plain);
    encoder.finish().unwrap_or_default()
}

/// Unpacks what [`pack`] packed: nothing a stranger sent, so without a limit.
pub fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut plain)?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_is_unpacked_and_smaller() {
        let plain = b"abc".repeat(1000);
        let packed = pack(&plain);
        assert!(packed.len() < plain.len() / 10);
        assert_eq!(unpack(&packed).unwrap(), plain);
        assert!(unpack(b"rubbish").is_err());
    }
}
