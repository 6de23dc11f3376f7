//! A small HTTP/2 client over TLS for load: blocking, one thread a connection, many requests at
//! once on it.
//!
//! The load runs on the same processors as the server it measures, so a request must cost it next
//! to nothing: headers are written without compression or state, of an answer only the class of
//! its status and its bytes are looked at, and what arrives in one read is handled as one batch.

use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::Arc;

use orch::client::config::load;
use orch::util::tls;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

/// The largest window there is: servers never wait for us.
const WINDOW_BYTES: u32 = (1 << 31) - 1;
/// What HTTP/2 gives before anybody says something else.
const WINDOW_BYTES_DEFAULT: i64 = 65_535;
/// The connection's window is filled up after so much.
const REFILL_BYTES: u32 = 1 << 29;
const FRAME_HEAD_BYTES: usize = 9;
/// rustls reads 4 KiB at a time; a system call brings more.
const READ_BYTES: usize = 256 << 10;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// An API server and who we are to it.
#[derive(Clone)]
pub(crate) struct Target {
    address: String,
    name: ServerName<'static>,
    authorization: Option<String>,
    prefix: String,
    tls: Arc<ClientConfig>,
}

impl Target {
    pub(crate) fn of(kubeconfig: &Path) -> Self {
        let endpoint = load(kubeconfig, None).unwrap().endpoint;
        let mut tls = tls::client(&endpoint.trust, endpoint.identity.as_ref()).unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let address = endpoint.servers[0].clone();
        let host = address.rsplit_once(':').unwrap().0;
        let host = host.trim_matches(['[', ']']);
        let name = endpoint.server_name.unwrap_or_else(|| host.to_owned());
        Self {
            name: ServerName::try_from(name).unwrap(),
            address,
            authorization: endpoint.token.map(|token| format!("Bearer {token}")),
            prefix: endpoint.path_prefix,
            tls: Arc::new(tls),
        }
    }
}

/// One request.
#[derive(Clone, Default)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) accept: &'static str,
    /// Type of the body.
    pub(crate) content_type: &'static str,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self {
            method: "GET",
            path: path.into(),
            accept: "application/json",
            ..Self::default()
        }
    }

    pub(crate) fn post(path: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self {
            method: "POST",
            content_type: "application/json",
            body: body.into(),
            ..Self::get(path)
        }
    }
}

/// What came on a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event<'a> {
    /// The first digit of the status.
    Status(u8),
    Data(&'a [u8]),
    End,
}

/// One connection. A server that breaks the protocol, or ends it, ends the program.
pub(crate) struct Connection {
    target: Target,
    socket: TcpStream,
    /// The same socket.
    reader: BufReader<TcpStream>,
    tls: ClientConnection,
    /// Frames to be written.
    out: Vec<u8>,
    /// What was read and is not a whole frame yet.
    input: Vec<u8>,
    next_stream: u32,
    window: i64,
    received: u32,
    /// Streams the server allows at a time.
    pub(crate) streams_max: u32,
}

impl Connection {
    pub(crate) fn open(target: &Target) -> Self {
        let socket = TcpStream::connect(&target.address)
            .unwrap_or_else(|error| panic!("connect to {}: {error}", target.address));
        socket.set_nodelay(true).unwrap();
        let tls = ClientConnection::new(Arc::clone(&target.tls), target.name.clone()).unwrap();
        let mut connection = Self {
            target: target.clone(),
            reader: BufReader::with_capacity(READ_BYTES, socket.try_clone().unwrap()),
            socket,
            tls,
            out: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            input: Vec::new(),
            next_stream: 1,
            window: WINDOW_BYTES_DEFAULT,
            received: 0,
            streams_max: 100,
        };
        connection.shake_hands();
        // No header table, no pushes, no limit of ours on a stream.
        let mut settings = Vec::new();
        for (setting, value) in [(1_u16, 0_u32), (2, 0), (4, WINDOW_BYTES)] {
            settings.extend(setting.to_be_bytes());
            settings.extend(value.to_be_bytes());
        }
        connection.frame(SETTINGS, 0, 0, &settings);
        connection.refill(WINDOW_BYTES - WINDOW_BYTES_DEFAULT as u32);
        connection.flush();
        // The server's settings come first.
        connection.read(&mut |_, _| {});
        connection
    }

    /// Cuts the connection from another thread.
    pub(crate) fn cut(&self) -> impl FnOnce() + Send + 'static {
        let socket = self.socket.try_clone().unwrap();
        move || {
            // The server may have been first.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Whether the server takes a body of `len` bytes now.
    pub(crate) fn has_room(&self, len: usize) -> bool {
        self.window >= len as i64
    }

    /// Adds a request to what is written next; the number of its stream.
    pub(crate) fn send(&mut self, request: &Request) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        let block = self.headers(request);
        let ends = if request.body.is_empty() {
            END_STREAM
        } else {
            0
        };
        self.frame(HEADERS, END_HEADERS | ends, stream, &block);
        if ends == 0 {
            self.window -= request.body.len() as i64;
            self.frame(DATA, END_STREAM, stream, &request.body);
        }
        stream
    }

    /// Every field as a literal that is not remembered (RFC 7541, 6.2.2).
    fn headers(&self, request: &Request) -> Vec<u8> {
        let mut block = Vec::with_capacity(256);
        let path = format!("{}{}", self.target.prefix, request.path);
        let mut field = |name: &str, value: &str| {
            block.push(0);
            for text in [name, value] {
                length(&mut block, text.len());
                block.extend(text.as_bytes());
            }
        };
        field(":method", request.method);
        field(":scheme", "https");
        field(":authority", &self.target.address);
        field(":path", &path);
        field("user-agent", "bench/1");
        field("accept", request.accept);
        if !request.content_type.is_empty() {
            field("content-type", request.content_type);
        }
        if let Some(authorization) = &self.target.authorization {
            field("authorization", authorization);
        }
        block
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.out.extend(&(payload.len() as u32).to_be_bytes()[1..]);
        self.out.extend([kind, flags]);
        self.out.extend(stream.to_be_bytes());
        self.out.extend(payload);
    }

    fn refill(&mut self, bytes: u32) {
        self.frame(WINDOW_UPDATE, 0, 0, &bytes.to_be_bytes());
    }

    /// Writes what was added.
    pub(crate) fn flush(&mut self) {
        let out = std::mem::take(&mut self.out);
        let mut rest = &out[..];
        while !rest.is_empty() {
            let taken = self.tls.writer().write(rest).unwrap();
            rest = &rest[taken..];
            while self.tls.wants_write() {
                self.tls.write_tls(&mut self.socket).unwrap();
            }
        }
    }

    fn shake_hands(&mut self) {
        while self.tls.is_handshaking() {
            while self.tls.wants_write() {
                self.tls.write_tls(&mut self.socket).unwrap();
            }
            if self.tls.wants_read() {
                let count = self.tls.read_tls(&mut self.reader).unwrap();
                assert!(count > 0, "the server ended the handshake");
                self.tls.process_new_packets().expect("TLS begins");
            }
        }
    }

    /// Waits for bytes and shows what whole frames say. `false`: the connection is over.
    pub(crate) fn read(&mut self, visit: &mut dyn FnMut(u32, Event<'_>)) -> bool {
        let mut frames = 0;
        while frames == 0 {
            let mut state = self.tls.process_new_packets().expect("TLS goes on");
            if state.plaintext_bytes_to_read() == 0 {
                if !matches!(self.tls.read_tls(&mut self.reader), Ok(1..)) {
                    return false;
                }
                state = self.tls.process_new_packets().expect("TLS goes on");
            }
            let before = self.input.len();
            self.input
                .resize(before + state.plaintext_bytes_to_read(), 0);
            self.tls
                .reader()
                .read_exact(&mut self.input[before..])
                .unwrap();
            frames = self.frames(visit);
        }
        if !self.out.is_empty() {
            self.flush();
        }
        true
    }

    fn frames(&mut self, visit: &mut dyn FnMut(u32, Event<'_>)) -> usize {
        let input = std::mem::take(&mut self.input);
        let (mut at, mut count) = (0, 0);
        while let Some(head) = input.get(at..at + FRAME_HEAD_BYTES) {
            let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & (u32::MAX >> 1);
            let (kind, flags) = (head[3], head[4]);
            let Some(payload) = input.get(at + FRAME_HEAD_BYTES..at + FRAME_HEAD_BYTES + len)
            else {
                break;
            };
            self.take((kind, flags, stream), payload, visit);
            at += FRAME_HEAD_BYTES + len;
            count += 1;
        }
        self.input = input;
        self.input.drain(..at);
        count
    }

    fn take(
        &mut self,
        (kind, flags, stream): (u8, u8, u32),
        payload: &[u8],
        visit: &mut dyn FnMut(u32, Event<'_>),
    ) {
        match kind {
            DATA => {
                self.received += payload.len() as u32;
                if self.received >= REFILL_BYTES {
                    self.refill(self.received);
                    self.received = 0;
                }
                visit(stream, Event::Data(content(flags, payload)));
            }
            HEADERS => visit(stream, Event::Status(status_class(content(flags, payload)))),
            RST_STREAM => panic!("the server reset a stream: {payload:?}"),
            GOAWAY => panic!("the server ends the connection: {payload:?}"),
            SETTINGS if flags & ACK == 0 => {
                for setting in payload.chunks_exact(6) {
                    let value =
                        u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
                    if setting[..2] == [0, 3] {
                        self.streams_max = value;
                    }
                }
                self.frame(SETTINGS, ACK, 0, &[]);
            }
            PING if flags & ACK == 0 => self.frame(PING, ACK, 0, payload),
            WINDOW_UPDATE if stream == 0 => {
                let bytes = [payload[0], payload[1], payload[2], payload[3]];
                self.window += i64::from(u32::from_be_bytes(bytes));
            }
            CONTINUATION => {}
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            visit(stream, Event::End);
        }
    }

    /// One request and its whole answer.
    pub(crate) fn call(&mut self, request: &Request) -> Result<Vec<u8>, String> {
        let mut body = Vec::new();
        if self.stream(request, &mut |data| body.extend_from_slice(data)) {
            return Ok(body);
        }
        Err(String::from_utf8_lossy(&body).into_owned())
    }

    /// One request; its answer is shown as it comes. Whether it was done.
    pub(crate) fn stream(&mut self, request: &Request, visit: &mut dyn FnMut(&[u8])) -> bool {
        let wanted = self.send(request);
        self.flush();
        let (mut class, mut is_over) = (0, false);
        while !is_over {
            let goes_on = self.read(&mut |stream, event| match event {
                _ if stream != wanted => {}
                // Trailers have none.
                Event::Status(0) => {}
                Event::Status(status) => class = status,
                Event::Data(data) => visit(data),
                Event::End => is_over = true,
            });
            assert!(goes_on, "the server ended the connection");
        }
        class == 2
    }
}

/// Without padding and priority.
fn content(flags: u8, payload: &[u8]) -> &[u8] {
    let (mut start, mut end) = (0, payload.len());
    if flags & PADDED != 0 {
        start = 1;
        end -= usize::from(payload[0]);
    }
    // DATA has no such flag.
    if flags & PRIORITY != 0 {
        start += 5;
    }
    &payload[start..end]
}

/// A length with a prefix of seven bits (RFC 7541, 5.1).
fn length(out: &mut Vec<u8>, len: usize) {
    let Some(mut rest) = len.checked_sub(127) else {
        out.push(len as u8);
        return;
    };
    out.push(127);
    while rest >= 128 {
        out.push(rest as u8 | 128);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// The first digit of `:status`, which is the first field; 0 where there is none (trailers).
fn status_class(block: &[u8]) -> u8 {
    // The notice that the header table is empty, where the server gives one.
    let block = match block {
        [first, rest @ ..] if first & 0xe0 == 0x20 => rest,
        block => block,
    };
    match block {
        [0x88..=0x8a, ..] => 2,
        [0x8b, ..] => 3,
        [0x8c | 0x8d, ..] => 4,
        [0x8e, ..] => 5,
        [0x08 | 0x18 | 0x48, len, first, ..] if len & 128 == 0 => first - b'0',
        // Huffman: five bits for 0 to 2, six for the rest.
        [0x08 | 0x18 | 0x48, _, first, ..] => match first >> 3 {
            digit @ 0..=2 => digit,
            _ => (first >> 2) - 0x19 + 3,
        },
        _ => 0,
    }
}
