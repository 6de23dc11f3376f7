//! How an object is stored and served: its JSON is made once, when it is written.
//!
//! A stored value is a format byte, the offset at which `resourceVersion` belongs (four bytes, big
//! endian, counted from the start of the JSON) and the JSON without it. The revision of a write is
//! known only to the store, so it is spliced in when the value is served; the text before and after
//! it is never made again.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Map, Value};

use super::Error;
use crate::api::object::Object;
use crate::store::Revision;

const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 5;
const FIELD: &[u8] = b"\"resourceVersion\":\"";

/// JSON as clients get it, and where its revision lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The whole object.
    pub bytes: Bytes,
    splice: u32,
    revision_len: u8,
}

impl Served {
    /// The same object with another revision: what a DELETED event carries.
    pub fn with_revision(&self, revision: Revision) -> Bytes {
        let start = self.splice as usize + FIELD.len();
        let end = start + usize::from(self.revision_len);
        let digits = decimal(revision);
        let mut bytes = BytesMut::with_capacity(self.bytes.len() + digits.len());
        bytes.put_slice(&self.bytes[..start]);
        bytes.put_slice(digits.as_bytes());
        bytes.put_slice(&self.bytes[end..]);
        bytes.freeze()
    }
}

/// The value to store for `object`. Its `metadata.resourceVersion` is left out.
pub fn encode(object: &Object) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    out.put_u8(FORMAT);
    out.put_u32(0);
    let mut splice = 0;
    out.push(b'{');
    let mut first = true;
    for (field, value) in &object.0 {
        if field == "metadata" {
            continue;
        }
        write_field(&mut out, &mut first, field, value);
    }
    if !first {
        out.push(b',');
    }
    out.extend_from_slice(b"\"metadata\":{");
    splice += out.len() - HEADER_BYTES;
    let mut first = true;
    let empty = Map::new();
    for (field, value) in object.metadata().unwrap_or(&empty) {
        if field != "resourceVersion" {
            write_field(&mut out, &mut first, field, value);
        }
    }
    out.extend_from_slice(b"}}");
    // A body is far below 4 GiB: the HTTP layer limits it.
    out[1..HEADER_BYTES].copy_from_slice(&(splice as u32).to_be_bytes());
    out.into()
}

fn write_field(out: &mut Vec<u8>, first: &mut bool, field: &str, value: &Value) {
    if !std::mem::take(first) {
        out.push(b',');
    }
    // Neither a text nor a JSON value can fail to be written to memory.
    let _ = serde_json::to_writer(&mut *out, field);
    out.push(b':');
    let _ = serde_json::to_writer(&mut *out, value);
}

/// The JSON of a stored value with its revision in it.
pub fn serve(value: &[u8], revision: Revision) -> Result<Served, Error> {
    let (json, splice) = open(value)?;
    let digits = decimal(revision);
    let mut bytes = BytesMut::with_capacity(json.len() + FIELD.len() + digits.len() + 2);
    bytes.put_slice(&json[..splice]);
    bytes.put_slice(FIELD);
    bytes.put_slice(digits.as_bytes());
    bytes.put_u8(b'"');
    if json[splice] != b'}' {
        bytes.put_u8(b',');
    }
    bytes.put_slice(&json[splice..]);
    Ok(Served {
        bytes: bytes.freeze(),
        splice: splice as u32,
        revision_len: digits.len() as u8,
    })
}

/// The object in a stored value, with its revision.
pub fn decode(value: &[u8], revision: Revision) -> Result<Object, Error> {
    let (json, _) = open(value)?;
    let mut object = parse(json)?;
    let version = decimal(revision).into();
    object
        .metadata_mut()
        .insert("resourceVersion".into(), version);
    Ok(object)
}

/// An object from the JSON this module served.
pub fn parse(json: &[u8]) -> Result<Object, Error> {
    let map = serde_json::from_slice(json).map_err(|e| Error::Codec(e.to_string()))?;
    Ok(Object(map))
}

fn open(value: &[u8]) -> Result<(&[u8], usize), Error> {
    let damaged = |what: &str| Error::Codec(what.to_owned());
    let (header, json) = value
        .split_at_checked(HEADER_BYTES)
        .ok_or_else(|| damaged("shorter than its header"))?;
    if header[0] != FORMAT {
        return Err(damaged("unknown format byte"));
    }
    let splice = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
    if splice >= json.len() {
        return Err(damaged("offset behind the end"));
    }
    Ok((json, splice))
}

fn decimal(revision: Revision) -> String {
    revision.0.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    #[test]
    fn the_revision_is_spliced_into_what_was_encoded_once() {
        let stored = encode(&object(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": {"metadata": "x"},
            "metadata": {"name": "a", "resourceVersion": "3", "labels": {"k": "v"}},
        })));
        let served = serve(&stored, Revision(12)).unwrap();
        let read = parse(&served.bytes).unwrap();
        assert_eq!(read.resource_version(), "12");
        assert_eq!(read.text_at(&["data", "metadata"]), "x");
        assert_eq!(decode(&stored, Revision(12)).unwrap(), read);
        let deleted = parse(&served.with_revision(Revision(4711))).unwrap();
        assert_eq!(deleted.resource_version(), "4711");
        assert_eq!(deleted.name(), "a");
    }

    #[test]
    fn empty_metadata_is_served_as_valid_json() {
        let stored = encode(&object(json!({})));
        let served = serve(&stored, Revision(1)).unwrap();
        assert_eq!(
            &served.bytes[..],
            br#"{"metadata":{"resourceVersion":"1"}}"#
        );
    }

    #[test]
    fn rubbish_is_an_error() {
        assert!(serve(b"", Revision(1)).is_err());
        assert!(serve(&[FORMAT, 0, 0, 0, 9, b'{', b'}'], Revision(1)).is_err());
        assert!(serve(&[7, 0, 0, 0, 0, b'{', b'}'], Revision(1)).is_err());
    }
}
