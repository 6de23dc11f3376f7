//! A small client against the server's side.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::frame::{Head, open};
use super::*;
use crate::server::streams::channels::{exit_code, success};

/// What a client sends and reads, frame by frame.
struct Client {
    io: DuplexStream,
    deflater: Deflater,
    inflater: Inflater,
}

#[derive(Debug, PartialEq)]
enum Seen {
    Data(u32, Vec<u8>),
    End(u32),
    Reply(u32),
    Refused(u32),
    Ping(u32),
}

impl Client {
    fn new() -> (Self, DuplexStream) {
        let (io, far) = duplex(1024 * 1024);
        let client = Self {
            io,
            deflater: Deflater::new().unwrap(),
            inflater: Inflater::new(),
        };
        (client, far)
    }

    async fn open(&mut self, stream: u32, headers: &[(&str, &str)]) {
        let owned = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let frame = open(stream, &Headers(owned.collect()), &mut self.deflater);
        self.io.write_all(&frame).await.unwrap();
    }

    async fn data(&mut self, stream: u32, flags: u8, bytes: &[u8]) {
        let head = frame::data(stream, flags, bytes.len());
        self.io.write_all(&[&head, bytes].concat()).await.unwrap();
    }

    async fn see(&mut self) -> Seen {
        let mut head = [0; frame::HEAD_BYTES];
        self.io.read_exact(&mut head).await.unwrap();
        let (kind, flags, length) = match Head::parse(head).unwrap() {
            Head::Data {
                stream,
                fin,
                length,
            } => {
                let mut bytes = vec![0; length];
                self.io.read_exact(&mut bytes).await.unwrap();
                return match fin {
                    true => Seen::End(stream),
                    false => Seen::Data(stream, bytes),
                };
            }
            Head::Control {
                kind,
                flags,
                length,
            } => (kind, flags, length),
        };
        let mut payload = vec![0; length];
        self.io.read_exact(&mut payload).await.unwrap();
        match Control::parse(kind, flags, &payload).unwrap() {
            Control::Headers { block, stream, .. } => {
                assert_eq!(self.inflater.read(block).unwrap(), Headers::default());
                Seen::Reply(stream)
            }
            Control::Reset { stream } => Seen::Refused(stream),
            Control::Ping { id } => Seen::Ping(id),
            other => panic!("unexpected {other:?}"),
        }
    }

    /// All bytes of `stream` up to its end.
    async fn whole(&mut self, stream: u32) -> Vec<u8> {
        let mut whole = Vec::new();
        loop {
            match self.see().await {
                Seen::Data(of, bytes) if of == stream => whole.extend(bytes),
                Seen::End(of) if of == stream => return whole,
                other => panic!("unexpected {other:?}"),
            }
        }
    }
}

const ALL: Exec = Exec {
    stdin: true,
    stdout: true,
    stderr: false,
    tty: true,
};

async fn exec_of(client: &mut Client, far: DuplexStream, tasks: &Tasks) -> ExecSession {
    for (stream, kind) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "resize")] {
        client.open(stream, &[("streamtype", kind)]).await;
    }
    let session = exec(far, Protocol { version: 4 }, ALL, tasks)
        .await
        .unwrap();
    for stream in [1, 3, 5, 7] {
        assert_eq!(client.see().await, Seen::Reply(stream));
    }
    session
}

#[tokio::test]
async fn a_command_reads_input_writes_output_and_ends_with_its_code() {
    let tasks = Tasks::new();
    let (mut client, far) = Client::new();
    let mut session = exec_of(&mut client, far, &tasks).await;
    client.data(7, 0, b"{\"Width\":80,\"Height\":24}\n").await;
    assert_eq!(session.resize.recv().await, Some((80, 24)));
    client.data(3, 0, b"typed").await;
    client.data(3, frame::FIN, b"").await;
    let mut typed = String::new();
    let mut stdin = session.stdin.take().unwrap();
    stdin.read_to_string(&mut typed).await.unwrap();
    assert_eq!(typed, "typed");

    let output = vec![b'x'; 300_000];
    let mut stdout = session.stdout.take().unwrap();
    stdout.write_all(&output).await.unwrap();
    stdout.shutdown().await.unwrap();
    assert_eq!(client.whole(5).await, output);
    drop(stdin);
    assert_eq!(client.see().await, Seen::End(3));
    let finish = session.finish(exit_code(7));
    let reading = async {
        let status: serde_json::Value = serde_json::from_slice(&client.whole(1).await).unwrap();
        assert_eq!(status["details"]["causes"][0]["message"], "7");
        assert_eq!(client.see().await, Seen::End(7));
        drop(client);
    };
    tokio::join!(finish, reading);
}

#[tokio::test]
async fn a_client_that_leaves_ends_input_and_output() {
    let tasks = Tasks::new();
    let (mut client, far) = Client::new();
    let mut session = exec_of(&mut client, far, &tasks).await;
    drop(client);
    session.closed().await;
    let mut rest = Vec::new();
    session
        .stdin
        .take()
        .unwrap()
        .read_to_end(&mut rest)
        .await
        .unwrap();
    assert!(rest.is_empty());
    let written = session.stdout.take().unwrap().write_all(b"x").await;
    assert_eq!(written.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    session.finish(success()).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_opens_too_few_streams_is_given_up() {
    let tasks = Tasks::new();
    let (mut client, far) = Client::new();
    client.open(1, &[("streamtype", "error")]).await;
    let opened = exec(far, Protocol { version: 4 }, ALL, &tasks).await;
    assert!(matches!(opened, Err(Error::Timeout)));
}

#[tokio::test]
async fn connections_are_pairs_of_streams_with_one_request_id() {
    let tasks = Tasks::new();
    let (mut client, far) = Client::new();
    let mut session = forward(far, &tasks).unwrap();
    for (stream, kind, request) in [(1, "error", "0"), (3, "error", "1"), (5, "data", "0")] {
        let headers = [("streamtype", kind), ("port", "80"), ("requestid", request)];
        client.open(stream, &headers).await;
        assert_eq!(client.see().await, Seen::Reply(stream));
    }
    let mut forwarded = session.next().await.unwrap();
    assert_eq!(forwarded.port, 80);
    client.data(5, 0, b"GET").await;
    let mut read = [0; 3];
    forwarded.data.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"GET");
    forwarded.data.write_all(b"OK").await.unwrap();
    assert_eq!(client.see().await, Seen::Data(5, b"OK".to_vec()));
    forwarded.error.fail("no listener").await;
    assert_eq!(client.whole(1).await, b"no listener");
    drop(forwarded.data);
    assert_eq!(client.see().await, Seen::End(5));

    let headers = [("streamtype", "data"), ("port", "81"), ("requestid", "1")];
    client.open(7, &headers).await;
    assert_eq!(session.next().await.unwrap().port, 81);
    drop(client);
    assert!(session.next().await.is_none());
}

#[tokio::test]
async fn a_reset_stream_takes_no_more_bytes() {
    let tasks = Tasks::new();
    let (mut client, far) = Client::new();
    let mut session = forward(far, &tasks).unwrap();
    client
        .open(1, &[("streamtype", "error"), ("port", "80")])
        .await;
    client
        .open(3, &[("streamtype", "data"), ("port", "80")])
        .await;
    let mut forwarded = session.next().await.unwrap();
    client.io.write_all(&frame::refuse(3)).await.unwrap();
    let mut rest = Vec::new();
    forwarded.data.read_to_end(&mut rest).await.unwrap();
    while forwarded.data.write_all(b"x").await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn pings_are_answered_and_late_streams_refused() {
    let tasks = Tasks::new();
    let (mut client, far) = Client::new();
    let session = exec_of(&mut client, far, &tasks).await;
    client.io.write_all(&frame::ping(9)).await.unwrap();
    assert_eq!(client.see().await, Seen::Ping(9));
    client.open(9, &[("streamtype", "stdout")]).await;
    assert_eq!(client.see().await, Seen::Refused(9));
    // Numbers must grow: this ends the connection.
    client.open(9, &[("streamtype", "stdout")]).await;
    session.closed().await;
}
