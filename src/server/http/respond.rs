//! Answers: documents, texts, `Status` objects, and the compression of what is large.

use bytes::Bytes;
use futures_util::stream;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, StreamBody};
use serde_json::Value;

use crate::api::codec::protobuf;
use crate::api::status::ApiError;
use crate::client::{Body, body_from};
use crate::util::gzip::{self, Packer};

/// What is smaller is not worth the time (upstream's limit too).
const GZIP_BYTES_MIN: u64 = 128 * 1024;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// `application/json`
pub(crate) const JSON: &str = "application/json";

/// An answer with a body that is at hand.
pub(crate) fn whole(code: StatusCode, media_type: &str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(body_from(body));
    *response.status_mut() = code;
    if let Ok(media_type) = HeaderValue::from_str(media_type) {
        response.headers_mut().insert(CONTENT_TYPE, media_type);
    }
    response
}

/// A JSON document.
pub(crate) fn json(code: StatusCode, value: &Value) -> Response<Body> {
    whole(code, JSON, value.to_string())
}

/// Text for people.
pub(crate) fn text(code: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = whole(code, "text/plain; charset=utf-8", body);
    let nosniff = HeaderValue::from_static("nosniff");
    response
        .headers_mut()
        .insert(X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

/// A failure for a client that prefers protobuf, or JSON.
pub(crate) fn error_for(error: &ApiError, prefers_protobuf: bool) -> Response<Body> {
    let mut response = self::error(error);
    if prefers_protobuf && let Ok(status) = protobuf::write::object(&error.to_status()) {
        let media = HeaderValue::from_static(PROTOBUF);
        response.headers_mut().insert(CONTENT_TYPE, media);
        *response.body_mut() = body_from(status);
    }
    response
}

/// Whether the first thing `Accept` names is Kubernetes' protobuf.
pub(crate) fn prefers_protobuf(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    let first = accept.and_then(|accept| accept.split([',', ';']).next());
    first.is_some_and(|first| first.trim() == PROTOBUF)
}

/// A failure as a `Status` object with its code.
pub(crate) fn error(error: &ApiError) -> Response<Body> {
    let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, &error.to_status());
    let seconds = error
        .details
        .as_ref()
        .and_then(|d| d.get("retryAfterSeconds"));
    if let Some(seconds) = seconds.and_then(Value::as_u64) {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// Compresses a large answer. Streams are left alone.
pub(crate) async fn compressed(response: Response<Body>) -> Response<Body> {
    let is_large = response.body().size_hint().exact() >= Some(GZIP_BYTES_MIN);
    if !is_large || response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let Ok(body) = body.collect().await.map(|body| body.to_bytes()) else {
        return error(&ApiError::internal("the answer broke off"));
    };
    let plain = body.clone();
    match tokio::task::spawn_blocking(move || gzip::pack(&plain)).await {
        Ok(packed) => {
            let coding = HeaderValue::from_static("gzip");
            head.headers.insert(CONTENT_ENCODING, coding);
            head.headers
                .append(VARY, HeaderValue::from_static("Accept-Encoding"));
            head.headers.remove(CONTENT_LENGTH);
            Response::from_parts(head, body_from(packed))
        }
        Err(_) => Response::from_parts(head, body_from(body)),
    }
}

/// Compresses a list that is sent piece by piece, each piece when the client takes it.
pub(crate) fn compressed_stream(response: Response<Body>) -> Response<Body> {
    let is_whole = response.body().size_hint().exact().is_some();
    if is_whole || response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let packed = stream::unfold((body, Some(Packer::default())), packed_frame);
    let coding = HeaderValue::from_static("gzip");
    head.headers.insert(CONTENT_ENCODING, coding);
    head.headers
        .append(VARY, HeaderValue::from_static("Accept-Encoding"));
    Response::from_parts(head, StreamBody::new(packed).boxed_unsync())
}

type Packing = (Body, Option<Packer>);
type PackedFrame = Result<Frame<Bytes>, <Body as http_body::Body>::Error>;

/// The next frame of a body that is compressed; without a packer it is over.
async fn packed_frame((mut body, packer): Packing) -> Option<(PackedFrame, Packing)> {
    let mut packer = packer?;
    loop {
        let frame = match body.frame().await {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Some((Err(error), (body, None))),
            None => return Some((Ok(Frame::data(packer.finish())), (body, None))),
        };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let packed = packer.pack(&data);
        if !packed.is_empty() {
            return Some((Ok(Frame::data(packed)), (body, Some(packer))));
        }
    }
}

/// Whether `Accept-Encoding` names gzip and does not rule it out.
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| {
            let (name, quality) = coding.split_once(';').unwrap_or((coding, ""));
            let is_off = matches!(quality.trim().replace(' ', "").as_str(), "q=0" | "q=0.0");
            matches!(name.trim(), "gzip" | "*") && !is_off
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(encoding: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(encoding))])
    }

    #[tokio::test]
    async fn only_large_answers_are_compressed() {
        let large = "a".repeat(200 * 1024);
        let packed = compressed(text(StatusCode::OK, large.clone())).await;
        assert_eq!(packed.headers()[CONTENT_ENCODING], "gzip");
        let body = packed.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(gzip::unpack(&body).unwrap(), large.as_bytes());
        let plain = compressed(text(StatusCode::OK, "small")).await;
        assert!(!plain.headers().contains_key(CONTENT_ENCODING));
    }

    #[tokio::test]
    async fn a_streamed_list_is_compressed_piece_by_piece() {
        let pieces = (0..50).map(|n| Bytes::from(format!("{{\"piece\":{n}}}").repeat(3000)));
        let pieces: Vec<_> = pieces.collect();
        let frames = pieces.clone().into_iter();
        let frames = stream::iter(frames.map(|piece| Ok(Frame::data(piece))));
        let body: Body = StreamBody::new(frames).boxed_unsync();
        let packed = compressed_stream(Response::new(body));
        assert_eq!(packed.headers()[CONTENT_ENCODING], "gzip");
        let packed = packed.into_body().collect().await.unwrap().to_bytes();
        assert!(packed.len() < pieces.concat().len() / 10);
        assert_eq!(gzip::unpack(&packed).unwrap(), pieces.concat());
        let whole = compressed_stream(text(StatusCode::OK, "whole"));
        assert!(!whole.headers().contains_key(CONTENT_ENCODING));
    }

    #[test]
    fn a_client_says_whether_it_reads_gzip() {
        for (asked, reads) in [("gzip", true), ("deflate, gzip;q=0.5", true), ("*", true)] {
            assert_eq!(accepts_gzip(&asking(asked)), reads, "{asked}");
        }
        for asked in ["", "deflate", "gzip;q=0", "br, gzip; q=0"] {
            assert!(!accepts_gzip(&asking(asked)), "{asked}");
        }
    }

    #[test]
    fn an_error_is_in_protobuf_for_who_prefers_that() {
        let accepting = |text| HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(text))]);
        assert!(prefers_protobuf(&accepting(
            "application/vnd.kubernetes.protobuf,application/json"
        )));
        assert!(!prefers_protobuf(&accepting("application/json")));
        let response = error_for(&ApiError::no_such_path(), true);
        assert_eq!(response.headers()[CONTENT_TYPE], PROTOBUF);
        assert_eq!(response.status(), 404);
    }

    #[test]
    fn an_error_carries_code_reason_and_when_to_retry() {
        let response = error(&ApiError::too_many_requests("busy", 3));
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[RETRY_AFTER], "3");
    }
}
