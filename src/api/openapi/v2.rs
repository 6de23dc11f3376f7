//! OpenAPI v2 (Swagger): one document of all that is served, as JSON and as protobuf, for
//! `kubectl` before 1.27, `helm` and older client libraries.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{Form, Served, gnostic, paths, schemas};

/// Media type of the protobuf form, as clients ask for it.
pub const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// The same as answers spell it: Go cannot parse the other one.
pub const PROTOBUF_ANSWER: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// `GET /openapi/v2` as JSON.
pub fn json(served: &[Served<'_>]) -> Bytes {
    Bytes::from(document(served).to_string())
}

/// `GET /openapi/v2` as protobuf.
pub fn protobuf(served: &[Served<'_>]) -> Bytes {
    gnostic::encode(&document(served))
}

fn document(served: &[Served<'_>]) -> Value {
    let parameters: Map<String, Value> = paths::LIST_PARAMETERS
        .iter()
        .map(|p| (p.0.to_owned(), paths::parameter(*p, "query", Form::V2)))
        .collect();
    json!({
        "swagger": "2.0",
        "info": info(),
        "paths": paths::paths(served, Form::V2),
        "definitions": schemas::definitions(served, Form::V2),
        "parameters": parameters,
        "security": [{"BearerToken": []}],
        "securityDefinitions": {"BearerToken": bearer_token()},
    })
}

pub(super) fn info() -> Value {
    json!({"title": "Kubernetes", "version": "v1.37.0"})
}

pub(super) fn bearer_token() -> Value {
    json!({
        "type": "apiKey", "name": "authorization", "in": "header",
        "description": "Bearer Token authentication",
    })
}
