//! One request, taken apart: what it is about, who asks, its query, its body.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;

use crate::api::codec::{self, Expect, MediaType, Mode, protobuf};
use crate::api::object::Object;
use crate::api::options::{FieldValidation, WriteOptions};
use crate::api::schema::{self, TypeRef};
use crate::api::status::ApiError;
use crate::client::Body;
use crate::server::admission::{Attributes, Notes, Operation};
use crate::server::registry::ResourceDef;
use crate::server::request::{RequestInfo, User};
use crate::server::storage::keys;

use super::Core;
use super::negotiate::{self, Encodings, Output};
use super::render::Renderer;

/// Longer bodies are refused, as upstream.
const BODY_BYTES_MAX: usize = 3 << 20;
/// `fieldManager` in bytes, as upstream.
const MANAGER_BYTES_MAX: usize = 128;

/// One request on a resource.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) def: Arc<ResourceDef>,
    pub(super) info: RequestInfo,
    pub(super) user: User,
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    pub(super) output: Output,
    /// What is said beside the answer.
    pub(super) notes: Notes,
}

impl Call {
    /// Takes the request apart; its body is read by who needs it.
    pub(super) fn new(
        def: Arc<ResourceDef>,
        info: RequestInfo,
        user: User,
        request: Request<Body>,
    ) -> Result<(Self, Body), ApiError> {
        let (parts, body) = request.into_parts();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let output = negotiate::output(&parts.headers, &query, || encodings(&def))?;
        let call = Self {
            def,
            info,
            user,
            query,
            headers: parts.headers,
            output,
            notes: Notes::default(),
        };
        Ok((call, body))
    }

    /// Empty for cluster-scoped resources, also for Namespaces themselves.
    pub(super) fn namespace(&self) -> &str {
        if self.def.is_namespaced() {
            &self.info.namespace
        } else {
            ""
        }
    }

    /// What admission is told of a write of the object `name`.
    pub(super) fn attributes<'a>(&'a self, operation: Operation, name: &'a str) -> Attributes<'a> {
        Attributes {
            operation,
            def: &self.def,
            namespace: self.namespace(),
            name,
            subresource: "",
            user: &self.user,
            old: None,
            dry_run: false,
            info: &self.info,
            query: &self.query,
            delete: None,
            notes: &self.notes,
        }
    }

    /// Where the object of the path is stored below its resource.
    pub(super) fn local_key(&self) -> String {
        keys::local(self.namespace(), &self.info.name)
    }

    pub(super) fn renderer(&self, core: &Core) -> Renderer {
        Renderer {
            def: Arc::clone(&self.def),
            output: self.output,
            now: core.clock.now(),
        }
    }

    /// Decodes a body that should be of the resource's own kind.
    pub(super) fn decode(&self, body: &[u8], options: &WriteOptions) -> Result<Object, ApiError> {
        if let Some(custom) = self.def.rules.custom() {
            let mode = mode(options.field_validation);
            let read = custom.decode(body, self.media_type()?, mode, BODY_BYTES_MAX)?;
            self.warn(read.1);
            return Ok(read.0);
        }
        let ty = type_of(&self.def)?;
        self.decode_as(body, ty, options)
    }

    /// Decodes a body that should be of the type `ty`.
    pub(super) fn decode_as(
        &self,
        body: &[u8],
        ty: TypeRef<'_>,
        options: &WriteOptions,
    ) -> Result<Object, ApiError> {
        let expect = Expect {
            ty,
            mode: mode(options.field_validation),
            bytes_max: BODY_BYTES_MAX,
        };
        let (object, warnings) = codec::decode(body, self.media_type()?, &expect)?;
        self.warn(warnings);
        Ok(object)
    }

    /// What the body comes in.
    pub(super) fn media_type(&self) -> Result<MediaType, ApiError> {
        MediaType::of(self.content_type())
            .ok_or_else(|| ApiError::unsupported_media_type(encodings(&self.def).names()))
    }

    /// Empty where there is none.
    pub(super) fn content_type(&self) -> &str {
        let value = self.headers.get(CONTENT_TYPE);
        value.and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    /// Who is recorded in `managedFields`: what the client says, else the start of its user agent.
    pub(super) fn manager(&self, options: &WriteOptions) -> String {
        if !options.field_manager.is_empty() {
            return options.field_manager.clone();
        }
        let agent = self.headers.get(USER_AGENT).and_then(|v| v.to_str().ok());
        let agent = agent.unwrap_or_default();
        let name = agent.split('/').next().unwrap_or_default();
        let printable = name.chars().filter(|c| !c.is_control());
        let mut manager: String = printable.take(MANAGER_BYTES_MAX).collect();
        if manager.is_empty() {
            manager.push_str("unknown");
        }
        manager
    }

    /// Adds to the answer's `Warning` headers.
    pub(super) fn warn(&self, warnings: impl IntoIterator<Item = String>) {
        self.notes.warn(warnings);
    }

    /// Puts the warnings into the headers of the answer.
    pub(super) fn add_warnings(&self, response: &mut Response<Body>) {
        for warning in self.notes.take_warnings() {
            let text = warning.replace('\\', "\\\\").replace('"', "\\\"");
            let text: String = text.chars().filter(|c| !c.is_control()).collect();
            // What cannot be a header is left out: a warning is never worth failing for.
            if let Ok(value) = http::HeaderValue::from_bytes(format!("299 - \"{text}\"").as_bytes())
            {
                response.headers_mut().append("warning", value);
            }
        }
    }
}

/// Reads a whole body.
pub(super) async fn read_body(mut body: Body) -> Result<Bytes, ApiError> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            ApiError::bad_request(format!("unable to read the request's body: {error}"))
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if first.is_empty() && rest.is_empty() {
            // Most bodies come in one piece, which is not copied.
            first = data;
            continue;
        }
        if rest.is_empty() {
            rest.extend_from_slice(&first);
        }
        rest.extend_from_slice(&data);
        if rest.len() > BODY_BYTES_MAX {
            return Err(ApiError::too_large(format!(
                "Request entity too large: limit is {BODY_BYTES_MAX}"
            )));
        }
    }
    Ok(if rest.is_empty() {
        first
    } else {
        rest.freeze()
    })
}

/// The encodings of a resource: those of its kind's type.
fn encodings(def: &ResourceDef) -> Encodings {
    match type_of(def) {
        Ok(ty) if protobuf::write::has_form(ty) => Encodings::All,
        _ => Encodings::Text,
    }
}

/// The type of a resource's objects.
pub(super) fn type_of(def: &ResourceDef) -> Result<TypeRef<'_>, ApiError> {
    let ty = def.ty();
    ty.ok_or_else(|| ApiError::internal(format!("no schema for {}", def.gvk.kind)))
}

/// The type of a name such as `autoscaling.v1.Scale`.
pub(super) fn named_type(name: &str) -> Result<TypeRef<'static>, ApiError> {
    let ty = schema::builtin().get(name);
    ty.ok_or_else(|| ApiError::internal(format!("no schema for {name}")))
}

/// How strictly a body is decoded.
pub(super) fn mode(validation: FieldValidation) -> Mode {
    match validation {
        FieldValidation::Ignore => Mode::Ignore,
        FieldValidation::Warn => Mode::Warn,
        FieldValidation::Strict => Mode::Strict,
    }
}
