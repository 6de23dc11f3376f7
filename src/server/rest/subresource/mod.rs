//! Paths below an object that are posted to: each with rules of its own.

pub(super) mod binding;
pub(super) mod eviction;
pub(super) mod token;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::json;

use crate::api::status::ApiError;
use crate::client::Body;

use super::call::Call;
use super::{Core, render};

/// 201 with `Status: Success`: what is posted here is done, not stored.
fn done(core: &Core, call: &Call) -> Result<Response<Body>, ApiError> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
    });
    let renderer = call.renderer(core);
    let json: Bytes = status.to_string().into();
    let body = render::encode(json, renderer.output.encoding)?;
    Ok(renderer.respond(StatusCode::CREATED, body))
}
