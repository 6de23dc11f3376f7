//! Bytes to objects, per media type, checked against the type they should have.
//!
//! One pass over the text makes the object as JSON and does what decoding into a Go struct does
//! upstream: fields the type does not know are left out (and reported, or refused), `null` is the
//! same as absent, a value of the wrong type is an error that names the field, times and
//! quantities are written in their one canonical form. Error texts are upstream's
//! (`k8s.io/apiserver/pkg/endpoints/handlers`, `sigs.k8s.io/json`).
//!
//! JSON nests at most 128 deep, as `serde_json` has it.

pub mod protobuf;
mod scalar;
mod typed;
pub mod yaml;

use serde::de::DeserializeSeed;
use serde_json::Value;

use super::gvk::GroupVersionKind;
use super::object::Object;
use super::schema::TypeRef;
use super::status::{ApiError, FieldError};

pub use typed::Problems;

/// What bodies come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaType {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

impl MediaType {
    /// From a `Content-Type`, parameters ignored; an absent one means JSON.
    pub fn of(content_type: &str) -> Option<Self> {
        let bare = content_type.split(';').next().unwrap_or_default().trim();
        match bare.to_ascii_lowercase().as_str() {
            "" | "application/json" => Some(MediaType::Json),
            "application/yaml" | "application/x-yaml" | "text/yaml" => Some(MediaType::Yaml),
            "application/vnd.kubernetes.protobuf" => Some(MediaType::Protobuf),
            _ => None,
        }
    }
}

/// What becomes of unknown and duplicate fields (`fieldValidation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// They are an error.
    Strict,
    /// They are dropped, with a warning each.
    #[default]
    Warn,
    /// They are dropped.
    Ignore,
}

impl Mode {
    /// From the query parameter; empty means the default, `Warn`.
    pub fn of(parameter: &str) -> Option<Self> {
        match parameter {
            "Strict" => Some(Mode::Strict),
            "" | "Warn" => Some(Mode::Warn),
            "Ignore" => Some(Mode::Ignore),
            _ => None,
        }
    }
}

/// How a body is to be read.
#[derive(Clone, Copy, Debug)]
pub struct Expect<'a> {
    /// The type it should have.
    pub ty: TypeRef<'a>,
    /// What becomes of unknown and duplicate fields.
    pub mode: Mode,
    /// A longer body is refused.
    pub bytes_max: usize,
}

/// Decodes the body of a create or update. The second part of the answer are warnings.
///
/// An object that does not say its `apiVersion` and `kind` gets those of the type.
pub fn decode(
    body: &[u8],
    media: MediaType,
    expect: &Expect<'_>,
) -> Result<(Object, Vec<String>), ApiError> {
    if body.len() > expect.bytes_max {
        let limit = expect.bytes_max;
        return Err(ApiError::too_large(format!(
            "Request entity too large: limit is {limit}"
        )));
    }
    let mut problems = Problems::new(expect.mode != Mode::Ignore);
    let read = match media {
        MediaType::Json => json(body, expect.ty, &mut problems),
        MediaType::Yaml => yaml::typed(body, expect.ty, &mut problems),
        MediaType::Protobuf => protobuf::read(body, expect.ty).and_then(|value| {
            let seed = typed::Root::new(expect.ty, &mut problems);
            seed.deserialize(&value).map_err(|error| error.to_string())
        }),
    };
    let mut object = read.map_err(|text| unreadable(body, expect.ty, &text))?;
    let kind = check_kind(&mut object, expect.ty)?;
    let refuse = |text: &str| {
        Err(ApiError::bad_request(cannot_be(
            kind.as_ref(),
            expect.ty,
            text,
        )))
    };
    if let Some(text) = problems.mismatch {
        return refuse(&text);
    }
    if expect.mode == Mode::Strict && !problems.strict.is_empty() {
        let all = problems.strict.join(", ");
        return refuse(&format!("strict decoding error: {all}"));
    }
    Ok((object, problems.strict))
}

/// What [`check_patched`] says of the patch itself.
#[derive(Debug)]
pub struct Patched {
    /// The object the patch made.
    pub object: Value,
    /// Fields the patch names twice, a text each.
    pub duplicates: Vec<String>,
    /// The patch as messages show it.
    pub shown: String,
}

impl From<Value> for Patched {
    /// What no client's patch made.
    fn from(object: Value) -> Self {
        Self {
            shown: object.to_string(),
            duplicates: Vec::new(),
            object,
        }
    }
}

/// Checks an object that a patch made: as [`decode`], with the texts that upstream has for
/// patches.
pub fn check_patched(
    patch: Patched,
    ty: TypeRef<'_>,
    mode: Mode,
) -> Result<(Object, Vec<String>), ApiError> {
    let mut problems = Problems::new(mode != Mode::Ignore);
    let refuse = |text: &str| {
        let field = FieldError::invalid("patch", &Value::from(patch.shown.as_str()), text);
        Err(ApiError::invalid("", "", "", &[field]))
    };
    let seed = typed::Root::new(ty, &mut problems);
    let object = match seed.deserialize(&patch.object) {
        Ok(object) => object,
        Err(error) => return refuse(&error.to_string()),
    };
    if let Some(text) = &problems.mismatch {
        return refuse(text);
    }
    if mode == Mode::Ignore {
        return Ok((object, Vec::new()));
    }
    let mut strict = patch.duplicates.clone();
    strict.append(&mut problems.strict);
    if mode == Mode::Strict && !strict.is_empty() {
        let all = strict.join(", ");
        return refuse(&format!("strict decoding error: {all}"));
    }
    Ok((object, strict))
}

/// Drops what the type does not know and normalizes the rest; for objects that did not come from
/// a client just now. Values of a wrong type are dropped as well.
pub fn prune(value: &Value, ty: TypeRef<'_>) -> Object {
    let mut problems = Problems::new(false);
    let seed = typed::Root::new(ty, &mut problems);
    seed.deserialize(value).unwrap_or_default()
}

/// Reads JSON or YAML, whichever it is, along a type.
pub(crate) fn read_any(body: &[u8], ty: TypeRef<'_>) -> Result<(Object, Problems), String> {
    if body.trim_ascii_start().starts_with(b"{") {
        let mut problems = Problems::new(true);
        if let Ok(object) = json(body, ty, &mut problems) {
            return Ok((object, problems));
        }
    }
    let mut problems = Problems::new(true);
    yaml::typed(body, ty, &mut problems).map(|object| (object, problems))
}

/// The same text as it stands; `null` where it cannot be read.
pub(crate) fn value_of_any(body: &[u8]) -> Value {
    let json = serde_json::from_slice(body).ok();
    let yaml = || yaml::value(std::str::from_utf8(body).ok()?).ok();
    json.or_else(yaml).unwrap_or_default()
}

fn json(body: &[u8], ty: TypeRef<'_>, problems: &mut Problems) -> Result<Object, String> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let object = typed::Root::new(ty, problems)
        .deserialize(&mut reader)
        .and_then(|object| reader.end().map(|()| object));
    object.map_err(|error| format!("couldn't get version/kind; json parse error: {error}"))
}

/// The body is no JSON or YAML object at all.
fn unreadable(body: &[u8], ty: TypeRef<'_>, text: &str) -> ApiError {
    const SHOWN_BYTES_MAX: usize = 30;
    let shown: String = body
        .iter()
        .take(SHOWN_BYTES_MAX)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let more = if body.len() > SHOWN_BYTES_MAX {
        " ..."
    } else {
        ""
    };
    let name = ty.ty().go_name();
    ApiError::bad_request(format!(
        "the object provided is unrecognized (must be of type {name}): {text} ({shown}{more})"
    ))
}

/// Compares `apiVersion` and `kind` with those of the type, fills in what is absent, and says
/// which kind the object is of. Types that are no kind of their own (`DeleteOptions`) are served
/// in every group and take any.
pub(crate) fn check_kind(
    object: &mut Object,
    ty: TypeRef<'_>,
) -> Result<Option<GroupVersionKind>, ApiError> {
    let Some(expected) = ty.kind() else {
        return Ok(None);
    };
    if object.api_version().is_empty() {
        object
            .0
            .insert("apiVersion".into(), expected.api_version().into());
    }
    if object.kind().is_empty() {
        object
            .0
            .insert("kind".into(), expected.kind.as_str().into());
    }
    let kind = GroupVersionKind::from_api_version(object.api_version(), object.kind());
    if ty.ty().kinds.contains(&kind) {
        return Ok(Some(kind));
    }
    if kind.kind == expected.kind {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({})",
            kind.api_version(),
            expected.api_version()
        )));
    }
    let text = format!(
        "converting ({}.{}) to ({}.{}): unknown conversion",
        kind.version, kind.kind, expected.version, expected.kind
    );
    Err(ApiError::bad_request(cannot_be(Some(&kind), ty, &text)))
}

/// `Deployment in version "v1" cannot be handled as a Deployment: …`
fn cannot_be(kind: Option<&GroupVersionKind>, ty: TypeRef<'_>, text: &str) -> String {
    let name = ty.ty().go_name();
    let (of, version) = match kind {
        Some(kind) => (kind.kind.as_str(), kind.version.as_str()),
        None => (name, "v1"),
    };
    format!("{of} in version \"{version}\" cannot be handled as a {name}: {text}")
}

#[cfg(test)]
mod tests;
