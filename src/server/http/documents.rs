//! Serves discovery: negotiates its form, answers 304 where the client has it already, and builds
//! the documents anew only when the registry changed.

use std::sync::Arc;

use http::header::{ACCEPT, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use parking_lot::Mutex;
use serde_json::json;

use crate::client::{Body, empty_body};
use crate::server::discovery::{Aggregated, Document, Documents};
use crate::server::http::respond;
use crate::server::registry::{Registry, Snapshot};

/// Discovery documents of the present registry.
#[derive(Debug)]
pub(super) struct Discovery {
    registry: Arc<Registry>,
    /// `host:port` for `/api`.
    address: String,
    built: Mutex<Option<(Arc<Snapshot>, Arc<Documents>)>>,
}

impl Discovery {
    pub(super) fn new(registry: Arc<Registry>, address: String) -> Self {
        Self {
            registry,
            address,
            built: Mutex::default(),
        }
    }

    /// Of the registry as it is now.
    pub(super) fn documents(&self) -> Arc<Documents> {
        let snapshot = self.registry.snapshot();
        let mut built = self.built.lock();
        if let Some((of, documents)) = &*built
            && Arc::ptr_eq(of, &snapshot)
        {
            return Arc::clone(documents);
        }
        let documents = Arc::new(Documents::build(&snapshot));
        *built = Some((snapshot, Arc::clone(&documents)));
        documents
    }

    /// Answers a discovery path; `None` where it is none.
    pub(super) fn serve(&self, path: &str, headers: &HeaderMap) -> Option<Response<Body>> {
        let path = match path.trim_end_matches('/') {
            "" => "/",
            trimmed => trimmed,
        };
        let documents = self.documents();
        let is_core = match path {
            "/api" => true,
            "/apis" => false,
            _ => {
                return documents
                    .at(path)
                    .map(|d| document(d, respond::JSON, headers));
            }
        };
        if let Some(form) = aggregated_form(headers) {
            let media_type = format!(
                "application/json;g=apidiscovery.k8s.io;v={};as=APIGroupDiscoveryList",
                form.version()
            );
            let found = documents.aggregated(is_core, form)?;
            return Some(document(found, &media_type, headers));
        }
        if is_core {
            return Some(document(&self.api_versions(), respond::JSON, headers));
        }
        Some(document(documents.groups(), respond::JSON, headers))
    }

    fn api_versions(&self) -> Document {
        Document::of(&json!({
            "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [
                {"clientCIDR": "0.0.0.0/0", "serverAddress": self.address},
            ],
        }))
    }
}

/// A document with its ETag, or 304 to a client that has it.
pub(super) fn document(
    document: &Document,
    media_type: &str,
    headers: &HeaderMap,
) -> Response<Body> {
    let mut response = if has(headers, &document.etag) {
        let mut response = Response::new(empty_body());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        respond::whole(StatusCode::OK, media_type, document.body.clone())
    };
    if let Ok(etag) = HeaderValue::from_str(&document.etag) {
        response.headers_mut().insert(ETAG, etag);
    }
    response
        .headers_mut()
        .insert(VARY, HeaderValue::from_static("Accept"));
    response
}

/// Whether `If-None-Match` names `etag`; weak comparison, as RFC 9110 13.1.2 asks.
pub(super) fn has(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|value| value.trim().trim_start_matches("W/"))
        .any(|value| value == etag || value == "*")
}

/// The first form `Accept` asks for that is the aggregated one; `None` where plain JSON or
/// anything else comes first.
fn aggregated_form(headers: &HeaderMap) -> Option<Aggregated> {
    let accepted = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    for range in accepted {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        let parameters: Vec<_> = parts.filter_map(|p| p.split_once('=')).collect();
        let parameter = |name: &str| {
            let found = parameters.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| *value)
        };
        let is_json = matches!(media_type, "application/json" | "application/*" | "*/*");
        match (parameter("as"), parameter("g"), parameter("v")) {
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), version) if is_json => {
                match version {
                    Some("v2") => return Some(Aggregated::V2),
                    Some("v2beta1") => return Some(Aggregated::V2Beta1),
                    _ => {}
                }
            }
            (None, ..) if is_json => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepting(text: &str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT, text.parse().unwrap())])
    }

    #[test]
    fn the_first_form_that_is_known_is_taken() {
        let aggregated = |v: &str| {
            format!("application/json;g=apidiscovery.k8s.io;v={v};as=APIGroupDiscoveryList")
        };
        let kubectl = format!(
            "{},{},application/json",
            aggregated("v2"),
            aggregated("v2beta1")
        );
        assert_eq!(aggregated_form(&accepting(&kubectl)), Some(Aggregated::V2));
        let newer = format!("{},{}", aggregated("v3"), aggregated("v2beta1"));
        assert_eq!(
            aggregated_form(&accepting(&newer)),
            Some(Aggregated::V2Beta1)
        );
        let plain = format!("application/json,{}", aggregated("v2"));
        assert_eq!(aggregated_form(&accepting(&plain)), None);
        assert_eq!(aggregated_form(&HeaderMap::new()), None);
    }

    #[test]
    fn a_client_that_has_the_document_gets_no_body() {
        let of = Document::of(&json!({}));
        let have = |tag: &str| HeaderMap::from_iter([(IF_NONE_MATCH, tag.parse().unwrap())]);
        let status = |headers: &HeaderMap| document(&of, respond::JSON, headers).status();
        assert_eq!(status(&have(&format!("\"x\", W/{}", of.etag))), 304);
        assert_eq!(status(&have("\"x\"")), 200);
    }
}
