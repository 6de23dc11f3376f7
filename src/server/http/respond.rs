//! Answers: documents, texts, `Status` objects, and the compression of what is large.

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use serde_json::Value;

use crate::api::status::ApiError;
use crate::client::{Body, body_from};
use crate::util::gzip;

/// What is smaller is not worth the time (upstream's limit too).
const GZIP_BYTES_MIN: u64 = 128 * 1024;

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
    fn an_error_carries_code_reason_and_when_to_retry() {
        let response = error(&ApiError::too_many_requests("busy", 3));
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[RETRY_AFTER], "3");
    }
}
