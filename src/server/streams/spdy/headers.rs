//! Header blocks of SPDY/3.1: names and values, all blocks of one direction in one zlib stream
//! that starts with a dictionary known to both sides (SPDY draft 3, section 2.6.10).

use std::sync::LazyLock;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Of one block, unpacked. A client names a stream's purpose and port, no more.
const BLOCK_BYTES_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 256;

/// The dictionary: each of these with its length before it as four bytes,
const WORDS: &[&str] = &[
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];
/// and then this.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut dictionary = Vec::new();
    for word in WORDS {
        put(&mut dictionary, word);
    }
    dictionary.extend_from_slice(TAIL.as_bytes());
    dictionary
});

fn put(block: &mut Vec<u8>, text: &str) {
    block.extend_from_slice(&length(text.len()));
    block.extend_from_slice(text.as_bytes());
}

fn length(count: usize) -> [u8; 4] {
    u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes()
}

/// Why a block could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("header block is not of the connection's zlib stream")]
    Inflate,
    #[error("header block cannot be compressed")]
    Deflate,
    #[error("header block is larger than {BLOCK_BYTES_MAX} bytes")]
    TooLarge,
    #[error("header block does not hold the names and values it says")]
    Malformed,
}

/// Names, in lower case, and values of one block.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Headers(pub(super) Vec<(String, String)>);

impl Headers {
    /// The value of `name`, which is in lower case.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    fn parse(block: &[u8]) -> Result<Self, Error> {
        let mut rest = block;
        let count = take_length(&mut rest)?;
        if count > HEADERS_MAX {
            return Err(Error::Malformed);
        }
        let mut headers = Vec::new();
        for _ in 0..count {
            let name = take_text(&mut rest)?.to_ascii_lowercase();
            headers.push((name, take_text(&mut rest)?));
        }
        Ok(Self(headers))
    }

    fn print(&self) -> Vec<u8> {
        let mut block = length(self.0.len()).to_vec();
        for (name, value) in &self.0 {
            put(&mut block, name);
            put(&mut block, value);
        }
        block
    }
}

fn take_length(rest: &mut &[u8]) -> Result<usize, Error> {
    let (length, after) = rest.split_first_chunk::<4>().ok_or(Error::Malformed)?;
    *rest = after;
    usize::try_from(u32::from_be_bytes(*length)).map_err(|_| Error::Malformed)
}

fn take_text(rest: &mut &[u8]) -> Result<String, Error> {
    let length = take_length(rest)?;
    let (text, after) = rest.split_at_checked(length).ok_or(Error::Malformed)?;
    *rest = after;
    String::from_utf8(text.to_vec()).map_err(|_| Error::Malformed)
}

/// Reads the blocks of one direction; every block must pass through, in order.
pub(super) struct Inflater(Decompress);

impl Inflater {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// The next block. After an error the direction cannot be read any more.
    pub(super) fn read(&mut self, mut packed: &[u8]) -> Result<Headers, Error> {
        let mut block = Vec::with_capacity(1024);
        loop {
            let (read, written) = (self.0.total_in(), block.len());
            let status = self
                .0
                .decompress_vec(packed, &mut block, FlushDecompress::Sync);
            let used = usize::try_from(self.0.total_in() - read).unwrap_or(usize::MAX);
            packed = packed.get(used..).ok_or(Error::Inflate)?;
            match status {
                Ok(Status::Ok | Status::BufError) => {}
                Ok(Status::StreamEnd) => return Err(Error::Inflate),
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0
                        .set_dictionary(&DICTIONARY)
                        .map_err(|_| Error::Inflate)?;
                    continue;
                }
                Err(_) => return Err(Error::Inflate),
            }
            if block.len() < block.capacity() {
                if packed.is_empty() || (used == 0 && block.len() == written) {
                    break;
                }
            } else if block.len() >= BLOCK_BYTES_MAX {
                return Err(Error::TooLarge);
            } else {
                block.reserve(block.len());
            }
        }
        Headers::parse(&block)
    }
}

/// Writes the blocks of one direction, in order.
pub(super) struct Deflater(Compress);

impl Deflater {
    pub(super) fn new() -> Result<Self, Error> {
        let mut compress = Compress::new(Compression::fast(), true);
        compress
            .set_dictionary(&DICTIONARY)
            .map_err(|_| Error::Deflate)?;
        Ok(Self(compress))
    }

    pub(super) fn write(&mut self, headers: &Headers) -> Result<Vec<u8>, Error> {
        let block = headers.print();
        let mut rest = block.as_slice();
        let mut packed = Vec::with_capacity(block.len() + 64);
        loop {
            let read = self.0.total_in();
            self.0
                .compress_vec(rest, &mut packed, FlushCompress::Sync)
                .map_err(|_| Error::Deflate)?;
            let used = usize::try_from(self.0.total_in() - read).unwrap_or(usize::MAX);
            rest = rest.get(used..).ok_or(Error::Deflate)?;
            if rest.is_empty() && packed.len() < packed.capacity() {
                return Ok(packed);
            }
            packed.reserve(packed.capacity());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        let owned = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Headers(owned.collect())
    }

    #[test]
    fn the_dictionary_has_the_checksum_of_the_draft() {
        let mut decompress = Decompress::new(true);
        let packed = Deflater::new().unwrap().write(&Headers::default()).unwrap();
        let error = decompress
            .decompress_vec(&packed, &mut Vec::with_capacity(64), FlushDecompress::Sync)
            .unwrap_err();
        assert_eq!(error.needs_dictionary(), Some(0xe3c6_a7c2));
        assert_eq!(DICTIONARY.len(), 1423);
    }

    #[test]
    fn blocks_of_one_direction_share_one_zlib_stream() {
        let (mut deflater, mut inflater) = (Deflater::new().unwrap(), Inflater::new());
        let large = "x".repeat(20_000);
        for sent in [
            headers(&[("streamtype", "data"), ("port", "80")]),
            headers(&[]),
            headers(&[("streamtype", "error"), ("filler", &large)]),
            headers(&[("port", "80")]),
        ] {
            let packed = deflater.write(&sent).unwrap();
            assert_eq!(inflater.read(&packed).unwrap(), sent);
        }
    }

    #[test]
    fn a_block_that_unpacks_to_too_much_is_refused() {
        let mut deflater = Deflater::new().unwrap();
        let packed = deflater
            .write(&headers(&[("filler", &"x".repeat(1_000_000))]))
            .unwrap();
        assert!(packed.len() < 10_000);
        assert!(matches!(
            Inflater::new().read(&packed),
            Err(Error::TooLarge)
        ));
        assert!(Inflater::new().read(b"not zlib").is_err());
    }
}
