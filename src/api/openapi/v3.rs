//! OpenAPI v3: an index, and a document for each group and version.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{Form, Served, fingerprint, paths, schemas};

/// `GET /openapi/v3`: where the documents are, with a fingerprint that changes with them.
pub fn index(served: &[Served<'_>]) -> Bytes {
    let mut paths = Map::new();
    for (group, version) in group_versions(served) {
        let path = path(group, version);
        let hash = fingerprint(&of(served, group, version));
        let url = format!("/openapi/v3/{path}?hash={hash}");
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    bytes(&json!({"paths": paths}))
}

/// `GET /openapi/v3/apis/GROUP/VERSION`; `None` where nothing of it is served.
pub fn document(served: &[Served<'_>], group: &str, version: &str) -> Option<Bytes> {
    let served = of(served, group, version);
    if served.is_empty() {
        return None;
    }
    Some(bytes(&json!({
        "openapi": "3.0.0",
        "info": super::v2::info(),
        "paths": paths::paths(&served, Form::V3),
        "components": {
            "schemas": schemas::definitions(&served, Form::V3),
            "securitySchemes": {"BearerToken": super::v2::bearer_token()},
        },
        "security": [{"BearerToken": []}],
    })))
}

/// The fingerprint that stands in the index for a group and version.
pub fn hash(served: &[Served<'_>], group: &str, version: &str) -> String {
    fingerprint(&of(served, group, version))
}

fn of<'a>(served: &[Served<'a>], group: &str, version: &str) -> Vec<Served<'a>> {
    served
        .iter()
        .filter(|one| one.kind.group == group && one.kind.version == version)
        .cloned()
        .collect()
}

fn group_versions<'s>(served: &'s [Served<'_>]) -> BTreeSet<(&'s str, &'s str)> {
    served
        .iter()
        .map(|one| (one.kind.group.as_str(), one.kind.version.as_str()))
        .collect()
}

/// `api/v1` or `apis/GROUP/VERSION`.
fn path(group: &str, version: &str) -> String {
    match group {
        "" => format!("api/{version}"),
        group => format!("apis/{group}/{version}"),
    }
}

fn bytes(document: &Value) -> Bytes {
    Bytes::from(document.to_string())
}
