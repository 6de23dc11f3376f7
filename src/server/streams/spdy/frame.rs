//! Frames of SPDY/3.1 as bytes (SPDY draft 3, section 2.2 and 2.6).

use super::headers::{Deflater, Error as HeaderError, Headers};

pub(super) const HEAD_BYTES: usize = 8;
/// Most bytes of a control frame: headers of a stream, settings.
const CONTROL_BYTES_MAX: usize = 64 * 1024;
const VERSION: u16 = 3;
const CONTROL: u32 = 1 << 31;
pub(super) const FIN: u8 = 1;
const REFUSED_STREAM: u32 = 3;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// Why bytes are no frame.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("frame is of SPDY version {version}, not 3")]
    Version { version: u16 },
    #[error("control frame of {length} bytes is larger than {CONTROL_BYTES_MAX}")]
    TooLarge { length: usize },
    #[error("control frame of type {kind} is too short")]
    TooShort { kind: u16 },
    #[error(transparent)]
    Headers(#[from] HeaderError),
    #[error("stream {stream} is opened out of order")]
    Order { stream: u32 },
}

/// The first eight bytes of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    Data {
        stream: u32,
        fin: bool,
        length: usize,
    },
    Control {
        kind: u16,
        flags: u8,
        length: usize,
    },
}

impl Head {
    pub(super) fn parse(bytes: [u8; HEAD_BYTES]) -> Result<Self, Error> {
        let [a, b, c, d, flags, e, f, g] = bytes;
        let first = u32::from_be_bytes([a, b, c, d]);
        let length = usize::from(e) << 16 | usize::from(f) << 8 | usize::from(g);
        if first & CONTROL == 0 {
            return Ok(Head::Data {
                stream: first,
                fin: flags & FIN != 0,
                length,
            });
        }
        let version = u16::from_be_bytes([a & 0x7f, b]);
        if version != VERSION {
            return Err(Error::Version { version });
        }
        if length > CONTROL_BYTES_MAX {
            return Err(Error::TooLarge { length });
        }
        Ok(Head::Control {
            kind: u16::from_be_bytes([c, d]),
            flags,
            length,
        })
    }
}

/// What a control frame asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Control<'a> {
    Open {
        stream: u32,
        flags: u8,
        block: &'a [u8],
    },
    /// Headers of a stream that is open already: only to be unpacked.
    Headers {
        block: &'a [u8],
        stream: u32,
        fin: bool,
    },
    Reset {
        stream: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// Settings and windows: Kubernetes' SPDY has no flow control.
    Ignore,
}

impl<'a> Control<'a> {
    pub(super) fn parse(kind: u16, flags: u8, payload: &'a [u8]) -> Result<Self, Error> {
        let number = || {
            let bytes = payload.first_chunk::<4>().ok_or(Error::TooShort { kind })?;
            Ok::<_, Error>(u32::from_be_bytes(*bytes) & !CONTROL)
        };
        let after = |count| payload.get(count..).ok_or(Error::TooShort { kind });
        Ok(match kind {
            SYN_STREAM => Control::Open {
                stream: number()?,
                flags,
                block: after(10)?,
            },
            SYN_REPLY | HEADERS => Control::Headers {
                stream: number()?,
                fin: flags & FIN != 0,
                block: after(4)?,
            },
            RST_STREAM => Control::Reset { stream: number()? },
            PING => {
                let bytes = payload.first_chunk::<4>().ok_or(Error::TooShort { kind })?;
                Control::Ping {
                    id: u32::from_be_bytes(*bytes),
                }
            }
            GOAWAY => Control::GoAway,
            SETTINGS | WINDOW_UPDATE => Control::Ignore,
            // The draft: unknown control frames are ignored.
            _ => Control::Ignore,
        })
    }
}

/// The head of a data frame.
pub(super) fn data(stream: u32, flags: u8, length: usize) -> [u8; HEAD_BYTES] {
    let [a, b, c, d] = (stream & !CONTROL).to_be_bytes();
    let [_, e, f, g] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [a, b, c, d, flags, e, f, g]
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let first = CONTROL | u32::from(VERSION) << 16 | u32::from(kind);
    let mut frame = data(0, flags, payload.len()).to_vec();
    frame[..4].copy_from_slice(&first.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// The stream is accepted.
pub(super) fn reply(stream: u32, deflater: &mut Deflater) -> Result<Vec<u8>, HeaderError> {
    let block = deflater.write(&Headers::default())?;
    let payload = [stream.to_be_bytes().as_slice(), &block].concat();
    Ok(control(SYN_REPLY, 0, &payload))
}

/// The stream is not accepted.
pub(super) fn refuse(stream: u32) -> Vec<u8> {
    let payload = [stream.to_be_bytes(), REFUSED_STREAM.to_be_bytes()];
    control(RST_STREAM, 0, payload.as_flattened())
}

/// A ping, or the answer to one.
pub(super) fn ping(id: u32) -> Vec<u8> {
    control(PING, 0, &id.to_be_bytes())
}

/// A stream from the client's side.
#[cfg(test)]
pub(super) fn open(stream: u32, headers: &Headers, deflater: &mut Deflater) -> Vec<u8> {
    let block = deflater.write(headers).unwrap();
    let head = [stream.to_be_bytes(), [0; 4]];
    control(
        SYN_STREAM,
        0,
        &[head.as_flattened(), &[0, 0], &block].concat(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_they_are_written() {
        let head = Head::parse(data(5, FIN, 70_000)).unwrap();
        let expected = Head::Data {
            stream: 5,
            fin: true,
            length: 70_000,
        };
        assert_eq!(head, expected);
        let ping = ping(4);
        let head = Head::parse(*ping.first_chunk().unwrap()).unwrap();
        let expected = Head::Control {
            kind: PING,
            flags: 0,
            length: 4,
        };
        assert_eq!(head, expected);
        let control = Control::parse(PING, 0, &ping[HEAD_BYTES..]).unwrap();
        assert_eq!(control, Control::Ping { id: 4 });
    }

    #[test]
    fn frames_of_other_versions_and_short_ones_are_refused() {
        assert!(matches!(
            Head::parse([0x80, 2, 0, 1, 0, 0, 0, 0]),
            Err(Error::Version { version: 2 })
        ));
        assert!(matches!(
            Head::parse([0x80, 3, 0, 1, 0, 0xff, 0, 0]),
            Err(Error::TooLarge { .. })
        ));
        for kind in [SYN_STREAM, SYN_REPLY, RST_STREAM, PING, HEADERS] {
            assert!(Control::parse(kind, 0, &[0, 0, 0]).is_err());
        }
    }
}
