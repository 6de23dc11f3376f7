//! Negotiation, and WebSocket clients against the server's side.

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::*;

const EXEC: Wish = Wish::Exec {
    stdin: true,
    stdout: true,
    stderr: true,
    tty: false,
};
const ALL: Exec = Exec {
    stdin: true,
    stdout: true,
    stderr: true,
    tty: false,
};

fn request(headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::builder().header("connection", "keep-alive, Upgrade");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(empty_body()).unwrap()
}

fn websocket_request(protocols: &str) -> Request<Body> {
    request(&[
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-protocol", protocols),
    ])
}

fn answer(mut request: Request<Body>, wish: Wish) -> Result<HeaderMap, ApiError> {
    let (answer, _) = accept(&mut request, wish, &Tasks::new())?;
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    Ok(answer.headers().clone())
}

#[test]
fn the_first_protocol_that_both_know_is_taken() {
    let token = format!("{TOKEN_PROTOCOL}abc");
    let asked = format!("{token}, v9.channel.k8s.io, v5.channel.k8s.io, channel.k8s.io");
    let headers = answer(websocket_request(&asked), EXEC).unwrap();
    assert_eq!(headers[SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io");
    // The example of RFC 6455.
    assert_eq!(
        headers[SEC_WEBSOCKET_ACCEPT],
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    );
    let headers = answer(websocket_request(&token), EXEC).unwrap();
    assert!(!headers.contains_key(SEC_WEBSOCKET_PROTOCOL));
    let refused = answer(websocket_request("SPDY/3.1+portforward.k8s.io"), EXEC);
    assert_eq!(refused.unwrap_err().code, 403);

    let spdy = request(&[
        ("upgrade", "SPDY/3.1"),
        ("x-stream-protocol-version", "v4.channel.k8s.io"),
        ("x-stream-protocol-version", "channel.k8s.io"),
    ]);
    let headers = answer(spdy, EXEC).unwrap();
    assert_eq!(headers[STREAM_PROTOCOL], "v4.channel.k8s.io");
    assert_eq!(headers[UPGRADE], "SPDY/3.1");
}

#[test]
fn requests_without_an_upgrade_or_without_ports_are_bad() {
    let bare = answer(request(&[]), EXEC).unwrap_err();
    assert_eq!(
        (bare.code, bare.message.as_str()),
        (400, "Upgrade request required")
    );
    let old = || websocket_request("v4.channel.k8s.io");
    assert_eq!(
        answer(old(), Wish::Forward { ports: vec![] })
            .unwrap_err()
            .code,
        400
    );
    assert!(answer(old(), Wish::Forward { ports: vec![80] }).is_ok());
    let new = websocket_request("SPDY/3.1+portforward.k8s.io");
    assert!(answer(new, Wish::Forward { ports: vec![] }).is_ok());
}

async fn client() -> (WebSocketStream<DuplexStream>, DuplexStream) {
    let (near, far) = duplex(64 * 1024);
    (
        WebSocketStream::from_raw_socket(near, Role::Client, None).await,
        far,
    )
}

fn protocol(encoding: Encoding, version: u8) -> Protocol {
    Protocol { encoding, version }
}

/// Channel and bytes of all messages, and how it closed.
async fn rest(
    client: &mut WebSocketStream<DuplexStream>,
) -> (Vec<(u8, Vec<u8>)>, Option<CloseCode>) {
    let (mut seen, mut code) = (Vec::<(u8, Vec<u8>)>::new(), None);
    while let Some(Ok(message)) = client.next().await {
        match message {
            Message::Binary(bytes) => match seen.last_mut() {
                Some((channel, all)) if *channel == bytes[0] => all.extend(&bytes[1..]),
                _ => seen.push((bytes[0], bytes[1..].to_vec())),
            },
            Message::Close(frame) => code = frame.map(|frame| frame.code),
            _ => {}
        }
    }
    (seen, code)
}

#[tokio::test]
async fn output_comes_before_the_status_and_the_status_before_the_end() {
    let tasks = Tasks::new();
    let (mut client, far) = client().await;
    let mut session = websocket::exec(far, protocol(Encoding::Binary, 5), ALL, &tasks).await;
    let output = vec![7; 500_000];
    let serving = async {
        let mut typed = Vec::new();
        let mut stdin = session.stdin.take().unwrap();
        stdin.read_to_end(&mut typed).await.unwrap();
        assert_eq!(typed, b"typed");
        assert_eq!(session.resize.recv().await, Some((80, 24)));
        let mut stdout = session.stdout.take().unwrap();
        stdout.write_all(&output).await.unwrap();
        session.finish(exit_code(3)).await;
    };
    let asking = async {
        for message in [
            &b"\x00typed"[..],
            b"\xff\x00",
            b"\x09nobody",
            b"\x04{\"Width\":80,\"Height\":24}",
        ] {
            client
                .send(Message::binary(message.to_vec()))
                .await
                .unwrap();
        }
        rest(&mut client).await
    };
    let ((), (seen, code)) = tokio::join!(serving, asking);
    assert_eq!(seen[0], (1, output.clone()));
    assert_eq!(seen[1].0, 3);
    let status: Value = serde_json::from_slice(&seen[1].1).unwrap();
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!((seen.len(), code), (2, Some(CloseCode::Normal)));
}

#[tokio::test]
async fn a_session_that_is_dropped_does_not_look_like_success() {
    let tasks = Tasks::new();
    let (mut client, far) = client().await;
    drop(websocket::exec(far, protocol(Encoding::Binary, 5), ALL, &tasks).await);
    assert_eq!(rest(&mut client).await.1, Some(CloseCode::Error));
}

#[tokio::test]
async fn older_clients_read_text_in_base64_and_no_status() {
    let tasks = Tasks::new();
    let (mut client, far) = client().await;
    let mut session = websocket::exec(far, protocol(Encoding::Base64, 1), ALL, &tasks).await;
    client.send(Message::text("0aGk=")).await.unwrap();
    let mut typed = [0; 2];
    let mut stdin = session.stdin.take().unwrap();
    stdin.read_exact(&mut typed).await.unwrap();
    assert_eq!(&typed, b"hi");
    let asking = async {
        let mut seen = Vec::new();
        while let Some(Ok(message)) = client.next().await {
            if let Message::Text(text) = message {
                seen.push(text.to_string());
            }
        }
        seen
    };
    let failed = ApiError::bad_request("no").to_status();
    let ((), seen) = tokio::join!(session.finish(failed), asking);
    assert_eq!(seen, ["1", "3bm8="]);
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_by_an_idle_session() {
    let tasks = Tasks::new();
    let (mut client, far) = client().await;
    let session = websocket::exec(far, protocol(Encoding::Binary, 4), ALL, &tasks).await;
    client.close(None).await.unwrap();
    session.closed().await;
    session.finish(success()).await;
}

#[tokio::test]
async fn old_forwarding_has_two_channels_for_each_port() {
    let tasks = Tasks::new();
    let (mut client, far) = client().await;
    let old = protocol(Encoding::Binary, 4);
    let mut session = websocket::forward(far, old, &[80, 0x1234], &tasks).await;
    let (first, second) = (session.next().await.unwrap(), session.next().await.unwrap());
    assert_eq!((first.port, second.port), (80, 0x1234));
    client
        .send(Message::binary(b"\x02GET".to_vec()))
        .await
        .unwrap();
    let serving = async {
        let Forwarded {
            mut data, error, ..
        } = second;
        let mut read = [0; 3];
        data.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"GET");
        data.write_all(b"OK").await.unwrap();
        error.fail("late").await;
        drop((first, data));
        assert!(session.next().await.is_none());
    };
    let ((), (seen, code)) = tokio::join!(serving, rest(&mut client));
    let expected: [(u8, &[u8]); 6] = [
        (0, b"\x50\x00"),
        (1, b"\x50\x00"),
        (2, b"\x34\x12"),
        (3, b"\x34\x12"),
        (2, b"OK"),
        (3, b"late"),
    ];
    assert_eq!(
        seen,
        expected.map(|(channel, bytes)| (channel, bytes.to_vec()))
    );
    assert_eq!(code, Some(CloseCode::Normal));
}

#[tokio::test]
async fn a_tunnel_carries_bytes_and_closes_with_either_side() {
    let tasks = Tasks::new();
    let (mut client, far) = client().await;
    let mut io = websocket::tunnel(far, &tasks).await;
    client.send(Message::binary(b"abc".to_vec())).await.unwrap();
    let mut read = [0; 3];
    io.read_exact(&mut read).await.unwrap();
    io.write_all(&read).await.unwrap();
    let message = client.next().await.unwrap().unwrap();
    assert_eq!(message, Message::binary(b"abc".to_vec()));
    drop(io);
    assert_eq!(rest(&mut client).await.1, Some(CloseCode::Normal));
}
