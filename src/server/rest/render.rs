//! Objects as the client asked for them: as they are, as rows of a Table, as metadata only; in
//! the version of the request; in JSON, YAML or protobuf.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::api::codec::protobuf::{self, write::ListWriter};
use crate::api::object::Object;
use crate::api::status::ApiError;
use crate::api::table::{Include, ListMeta, TableWriter, partial_metadata};
use crate::client::{Body, body_from};
use crate::server::registry::{ResourceDef, Rules};
use crate::server::storage::codec;

use super::negotiate::{Encoding, Form, Output};

/// Makes answers for one request.
#[derive(Clone, Debug)]
pub(super) struct Renderer {
    pub(super) def: Arc<ResourceDef>,
    pub(super) output: Output,
    /// For the ages in tables.
    pub(super) now: Timestamp,
}

impl Renderer {
    /// Whether objects are served as the bytes that are in the cache.
    pub(super) fn is_plain(&self) -> bool {
        self.output.form == Form::Object && !self.def.is_converted()
    }

    /// One stored object as a whole answer.
    pub(super) fn object(&self, stored: &Bytes) -> Result<Bytes, ApiError> {
        let json = self.item(stored, true)?;
        encode(json, self.output.encoding)
    }

    /// One stored object in the form asked for, as JSON; a Table has its columns where that says so.
    pub(super) fn item(&self, stored: &Bytes, columns: bool) -> Result<Bytes, ApiError> {
        let json = self.versioned(stored)?;
        Ok(match self.output.form {
            Form::Object => json,
            Form::Metadata(version) => partial_metadata(version, metadata(&json)?).into(),
            Form::Table(version) => {
                let row = Row::of(&json)?;
                let meta = ListMeta {
                    resource_version: row.object.resource_version().to_owned(),
                    ..ListMeta::default()
                };
                let columns = columns.then(|| self.def.rules.columns());
                let mut table = TableWriter::new(version, &meta, columns);
                self.push_row(&mut table, version, &json, &row);
                table.finish().into()
            }
        })
    }

    /// Stored objects as the items of a list, or the rows of a Table, with the list around them.
    pub(super) fn list<'a>(
        &self,
        meta: &ListMeta,
        stored: impl Iterator<Item = &'a Bytes>,
    ) -> Result<Bytes, ApiError> {
        match self.output.encoding {
            Encoding::Protobuf => self.protobuf_list(meta, stored),
            encoding => encode(self.json_list(meta, stored)?, encoding),
        }
    }

    fn protobuf_list<'a>(
        &self,
        meta: &ListMeta,
        stored: impl Iterator<Item = &'a Bytes>,
    ) -> Result<Bytes, ApiError> {
        let (api_version, kind) = match self.output.form {
            Form::Metadata(version) => (
                format!("meta.k8s.io/{version}"),
                "PartialObjectMetadataList",
            ),
            _ => (self.def.gvk.api_version(), self.def.list_kind.as_str()),
        };
        let list = ListWriter::new(&api_version, kind, &meta.to_json());
        let mut list = list.map_err(ApiError::internal)?;
        for bytes in stored {
            let item = serde_json::from_slice(&self.item(bytes, false)?);
            let item = item.map_err(ApiError::internal)?;
            list.push(&item).map_err(ApiError::internal)?;
        }
        Ok(list.finish().into())
    }

    fn json_list<'a>(
        &self,
        meta: &ListMeta,
        stored: impl Iterator<Item = &'a Bytes>,
    ) -> Result<Bytes, ApiError> {
        let version = match self.output.form {
            Form::Object => {
                let api_version = self.def.gvk.api_version();
                let head = list_head(&self.def.list_kind, &api_version, meta);
                return joined(head, stored.map(|bytes| self.versioned(bytes)));
            }
            Form::Metadata(version) => {
                let api_version = format!("meta.k8s.io/{version}");
                let head = list_head("PartialObjectMetadataList", &api_version, meta);
                return joined(head, stored.map(|bytes| self.item(bytes, false)));
            }
            Form::Table(version) => version,
        };
        let mut table = TableWriter::new(version, meta, Some(self.def.rules.columns()));
        for bytes in stored {
            let json = self.versioned(bytes)?;
            self.push_row(&mut table, version, &json, &Row::of(&json)?);
        }
        Ok(table.finish().into())
    }

    fn push_row(&self, table: &mut TableWriter, version: &str, json: &Bytes, row: &Row<'_>) {
        let cells = self.def.rules.cells(&row.object, self.now);
        match self.output.include {
            Include::None => table.push(&cells, &[]),
            Include::Metadata => table.push(&cells, &partial_metadata(version, row.metadata)),
            Include::Object => table.push(&cells, json),
        }
    }

    /// The JSON of a stored object in the version of the request.
    fn versioned(&self, stored: &Bytes) -> Result<Bytes, ApiError> {
        if !self.def.is_converted() {
            return Ok(stored.clone());
        }
        let mut object = parse(stored)?;
        from_stored(&self.def, &mut object);
        let bytes = serde_json::to_vec(&object.into_value());
        Ok(bytes.map_err(ApiError::internal)?.into())
    }

    /// An answer with this body.
    pub(super) fn respond(&self, status: StatusCode, body: Bytes) -> Response<Body> {
        respond(status, self.output.encoding, body_from(body))
    }
}

/// Brings an object from its stored version to that of `def`.
pub(super) fn from_stored(def: &ResourceDef, object: &mut Object) {
    match &def.rules {
        Rules::Builtin(kind) if def.is_converted() => {
            (kind.from_storage)(object);
            set_kind(object, &def.gvk.api_version(), &def.gvk.kind);
        }
        Rules::Builtin(_) => {}
        Rules::Custom(custom) => custom.coerce(object),
    }
}

/// Brings an object from the version of `def` to its stored one.
pub(super) fn to_stored(def: &ResourceDef, object: &mut Object) {
    if !def.is_converted() || object.api_version() == def.stored.api_version() {
        return;
    }
    if let Rules::Builtin(kind) = &def.rules {
        (kind.to_storage)(object);
    }
    set_kind(object, &def.stored.api_version(), &def.stored.kind);
}

fn set_kind(object: &mut Object, api_version: &str, kind: &str) {
    object.0.insert("apiVersion".into(), api_version.into());
    object.0.insert("kind".into(), kind.into());
}

/// The beginning of a list, up to its first item.
pub(super) fn list_head(kind: &str, api_version: &str, meta: &ListMeta) -> String {
    let (kind, api_version) = (Value::from(kind), Value::from(api_version));
    let meta = meta.to_json();
    format!("{{\"kind\":{kind},\"apiVersion\":{api_version},\"metadata\":{meta},\"items\":[")
}

fn joined(
    head: String,
    items: impl Iterator<Item = Result<Bytes, ApiError>>,
) -> Result<Bytes, ApiError> {
    let mut list = head.into_bytes();
    for (at, item) in items.enumerate() {
        if at > 0 {
            list.push(b',');
        }
        list.extend_from_slice(&item?);
    }
    list.extend_from_slice(b"]}");
    Ok(list.into())
}

fn parse(json: &[u8]) -> Result<Object, ApiError> {
    codec::parse(json).map_err(|_| ApiError::internal("stored object is not readable"))
}

/// The text of `metadata`, cut out of an object.
fn metadata(json: &[u8]) -> Result<&[u8], ApiError> {
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(borrow)]
        metadata: &'a RawValue,
    }
    let head: Head<'_> = serde_json::from_slice(json).map_err(ApiError::internal)?;
    Ok(head.metadata.get().as_bytes())
}

/// What a row of a Table is made of, read in one pass.
struct Row<'a> {
    /// Without `managedFields`, which no cell shows and which are much of a small object.
    object: Object,
    /// The whole text of `metadata`.
    metadata: &'a [u8],
}

impl<'a> Row<'a> {
    fn of(json: &'a [u8]) -> Result<Self, ApiError> {
        let Parts { object, metadata } =
            serde_json::from_slice(json).map_err(ApiError::internal)?;
        let metadata = metadata.map_or("{}", RawValue::get).as_bytes();
        Ok(Row {
            object: Object(object),
            metadata,
        })
    }
}

struct Parts<'a> {
    object: Map<String, Value>,
    metadata: Option<&'a RawValue>,
}

impl<'de> Deserialize<'de> for Parts<'de> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Parts<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let (mut object, mut metadata) = (Map::new(), None);
                while let Some(field) = map.next_key::<String>()? {
                    if field == "metadata" {
                        let text: &RawValue = map.next_value()?;
                        let Light(fields) =
                            serde_json::from_str(text.get()).map_err(A::Error::custom)?;
                        object.insert(field, Value::Object(fields));
                        metadata = Some(text);
                    } else {
                        object.insert(field, map.next_value()?);
                    }
                }
                Ok(Parts { object, metadata })
            }
        }
        json.deserialize_map(Fields)
    }
}

/// A map without `managedFields`.
struct Light(Map<String, Value>);

impl<'de> Deserialize<'de> for Light {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Light;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Light, A::Error> {
                let mut fields = Map::new();
                while let Some(field) = map.next_key::<String>()? {
                    if field == "managedFields" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        fields.insert(field, map.next_value()?);
                    }
                }
                Ok(Light(fields))
            }
        }
        json.deserialize_map(Fields)
    }
}

/// JSON in another encoding.
pub(super) fn encode(json: Bytes, encoding: Encoding) -> Result<Bytes, ApiError> {
    if encoding == Encoding::Json {
        return Ok(json);
    }
    let value: Value = serde_json::from_slice(&json).map_err(ApiError::internal)?;
    Ok(match encoding {
        Encoding::Json => json,
        Encoding::Protobuf => {
            let object = protobuf::write::object(&value);
            object.map_err(ApiError::internal)?.into()
        }
        Encoding::Pretty => {
            let mut text = serde_json::to_vec_pretty(&value).map_err(ApiError::internal)?;
            text.push(b'\n');
            text.into()
        }
        Encoding::Yaml => serde_yaml::to_string(&value)
            .map_err(ApiError::internal)?
            .into(),
    })
}

/// An answer in `encoding`.
pub(super) fn respond(status: StatusCode, encoding: Encoding, body: Body) -> Response<Body> {
    let media = match encoding {
        Encoding::Json | Encoding::Pretty => "application/json",
        Encoding::Yaml => "application/yaml",
        Encoding::Protobuf => "application/vnd.kubernetes.protobuf",
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_all_but_the_managed_fields_and_carries_all() {
        let metadata = r#"{"name":"a","managedFields":[{"manager":"m"}],"labels":{"k":"v"}}"#;
        let json = format!(r#"{{"kind":"X","data":{{"metadata":"d"}},"metadata":{metadata}}}"#);
        let row = Row::of(json.as_bytes()).unwrap();
        assert_eq!(row.metadata, metadata.as_bytes());
        let shown = serde_json::json!({
            "kind": "X", "data": {"metadata": "d"},
            "metadata": {"name": "a", "labels": {"k": "v"}},
        });
        assert_eq!(row.object.into_value(), shown);
    }
}
