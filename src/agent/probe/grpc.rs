//! The gRPC health protocol: one unary call over HTTP/2 without TLS.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::Outcome;

const SERVING: u64 = 1;
/// Frame header: not compressed, length of the message.
const FRAME_BYTES: usize = 5;

/// Asks whether `service` (may be empty) serves.
pub(crate) async fn probe(host: &str, port: u16, service: &str, timeout: Duration) -> Outcome {
    match tokio::time::timeout(timeout, check(host, port, service)).await {
        Ok(Ok(SERVING)) => Outcome::Success("service healthy".to_owned()),
        Ok(Ok(status)) => Outcome::Failure(format!(
            "service unhealthy (responded with \"{}\")",
            name(status)
        )),
        Ok(Err(why)) => Outcome::Failure(why),
        Err(_) => Outcome::Failure(format!(
            "timeout: failed to connect service \"{host}:{port}\" within {timeout:?}"
        )),
    }
}

fn name(status: u64) -> &'static str {
    match status {
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    }
}

async fn check(host: &str, port: u16, service: &str) -> Result<u64, String> {
    let stream = super::tcp::connect(host, port).await?;
    let text = |error: hyper::Error| format!("error: health rpc failed: {error}");
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(text)?;
    let request = Request::post(format!("http://{host}:{port}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.37")
        .body(Full::new(frame(service)))
        .map_err(|error| error.to_string())?;
    let ask = async {
        let answer = sender.send_request(request).await.map_err(text)?;
        let status = grpc_status(answer.headers());
        let body = answer.into_body().collect().await.map_err(text)?;
        let status = status.or_else(|| grpc_status(body.trailers()?));
        match status.as_deref() {
            Some("0") | None => read_status(&body.to_bytes()),
            Some("12") => Err(
                "error: this server does not implement the grpc health protocol \
                (grpc.health.v1.Health)"
                    .to_owned(),
            ),
            Some(code) => Err(format!(
                "error: health rpc failed: rpc error: code = {code}"
            )),
        }
    };
    tokio::pin!(ask);
    tokio::select! {
        answer = &mut ask => answer,
        // Whatever the connection had read is with the request by now.
        _ = connection => ask.await,
    }
}

fn grpc_status(headers: &http::HeaderMap) -> Option<String> {
    let status = headers.get("grpc-status")?.to_str().ok()?;
    Some(status.to_owned())
}

/// `HealthCheckRequest{service}` with its frame header.
fn frame(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        prost::encoding::encode_varint(service.len() as u64, &mut message);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(FRAME_BYTES + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(&message);
    framed.freeze()
}

/// The status in a framed `HealthCheckResponse`; a message without one says 0.
fn read_status(body: &[u8]) -> Result<u64, String> {
    let message = body
        .get(FRAME_BYTES..)
        .ok_or("error: health rpc failed: the answer is empty")?;
    match message {
        [0x08, rest @ ..] => prost::encoding::decode_varint(&mut &*rest)
            .map_err(|error| format!("error: health rpc failed: {error}")),
        _ => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_framed_and_read() {
        assert_eq!(&frame("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&frame("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(read_status(&[0, 0, 0, 0, 2, 8, 1]), Ok(1));
        assert_eq!(read_status(&[0, 0, 0, 0, 0]), Ok(0));
        assert!(read_status(&[]).is_err());
    }
}
