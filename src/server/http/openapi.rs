//! Serves OpenAPI documents: `/openapi/v2`, `/openapi/v3` and below.

use std::sync::Arc;

use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, LOCATION, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri};

use crate::api::openapi::v2;
use crate::api::status::ApiError;
use crate::client::{Body, body_from, empty_body};
use crate::server::http::{documents, respond};
use crate::server::openapi::{Document, OpenApi, Wanted};
use crate::util::gzip;

const V3_PREFIX: &str = "/openapi/v3/";

/// Answers an OpenAPI path; `None` where it is none.
pub(super) async fn serve(
    openapi: &Arc<OpenApi>,
    uri: &Uri,
    headers: &HeaderMap,
) -> Option<Result<Response<Body>, ApiError>> {
    let (wanted, media_type) = match wanted(uri.path(), headers)? {
        Ok(wanted) => wanted,
        Err(error) => return Some(Err(error)),
    };
    let made = {
        let openapi = Arc::clone(openapi);
        let wanted = wanted.clone();
        tokio::task::spawn_blocking(move || openapi.document(&wanted)).await
    };
    let document = match made {
        Ok(document) => document?,
        Err(error) => return Some(Err(ApiError::internal(error))),
    };
    match asked_hash(uri.query().unwrap_or_default()) {
        Some(hash) if !document.hash.is_empty() && hash != document.hash => {
            Some(Ok(moved(uri.path(), &document.hash)))
        }
        hash => {
            let is_fixed = hash.is_some() && !document.hash.is_empty();
            Some(answer(&document, media_type, is_fixed, headers))
        }
    }
}

type Choice = (Wanted, &'static str);

fn wanted(path: &str, headers: &HeaderMap) -> Option<Result<Choice, ApiError>> {
    let path = path.trim_end_matches('/');
    if path == "/openapi/v2" {
        return Some(v2_form(headers));
    }
    let wanted = if path == "/openapi/v3" {
        Wanted::Index
    } else {
        let parts: Vec<_> = path.strip_prefix(V3_PREFIX)?.split('/').collect();
        match parts[..] {
            ["api", version] => Wanted::Group(String::new(), version.to_owned()),
            ["apis", group, version] => Wanted::Group(group.to_owned(), version.to_owned()),
            _ => return None,
        }
    };
    Some(json_only(headers).map(|media_type| (wanted, media_type)))
}

/// JSON or protobuf, whichever `Accept` names first.
fn v2_form(headers: &HeaderMap) -> Result<Choice, ApiError> {
    for media_type in accepted(headers) {
        if media_type == v2::PROTOBUF || media_type == v2::PROTOBUF_ANSWER {
            return Ok((Wanted::V2Protobuf, v2::PROTOBUF_ANSWER));
        }
        if is_json(&media_type) {
            return Ok((Wanted::V2Json, respond::JSON));
        }
    }
    if accepted(headers).next().is_none() {
        return Ok((Wanted::V2Json, respond::JSON));
    }
    Err(ApiError::not_acceptable(&[respond::JSON, v2::PROTOBUF]))
}

fn json_only(headers: &HeaderMap) -> Result<&'static str, ApiError> {
    let mut accepted = accepted(headers).peekable();
    if accepted.peek().is_none() || accepted.any(|media_type| is_json(&media_type)) {
        return Ok(respond::JSON);
    }
    Err(ApiError::not_acceptable(&[respond::JSON]))
}

fn is_json(media_type: &str) -> bool {
    matches!(media_type, "application/json" | "application/*" | "*/*")
}

fn accepted(headers: &HeaderMap) -> impl Iterator<Item = String> {
    headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|range| range.split(';').next())
        .map(|range| range.trim().to_ascii_lowercase())
        .filter(|range| !range.is_empty())
}

fn asked_hash(query: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes())
        .find(|(key, _)| key == "hash")
        .map(|(_, value)| value.into_owned())
}

/// To the URL that the document has now.
fn moved(path: &str, hash: &str) -> Response<Body> {
    let mut response = Response::new(empty_body());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(&format!("{path}?hash={hash}")) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

fn answer(
    document: &Document,
    media_type: &'static str,
    is_fixed: bool,
    headers: &HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let mut response = Response::new(empty_body());
    if documents::has(headers, &document.etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else if respond::accepts_gzip(headers) {
        *response.body_mut() = body_from(document.packed.clone());
        let gzip = HeaderValue::from_static("gzip");
        response.headers_mut().insert(CONTENT_ENCODING, gzip);
    } else {
        let plain = gzip::unpack(&document.packed).map_err(ApiError::internal)?;
        *response.body_mut() = body_from(plain);
    }
    let head = response.headers_mut();
    head.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    head.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    if let Ok(etag) = HeaderValue::from_str(&document.etag) {
        head.insert(ETAG, etag);
    }
    if is_fixed {
        let forever = HeaderValue::from_static("public, immutable");
        head.insert(CACHE_CONTROL, forever);
    }
    Ok(response)
}
