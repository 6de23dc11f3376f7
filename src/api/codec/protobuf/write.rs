//! JSON objects → the `application/vnd.kubernetes.protobuf` that Go clients read.
//!
//! What JSON leaves out is left out here, too: Go's decoder gives it the same zero value.
//!
//! DEVIATION: fields newer than the table (Kubernetes 1.35) are not written, and kinds that are not
//! in it have no form ([`has_form`]): they are answered in JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::{DEPTH_MAX, MAGIC, NUMBERS};
use crate::api::gvk::GroupVersionKind;
use crate::api::schema::{self, Shape, TypeRef};
use crate::api::time;

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;

const OBJECT_META: &str = "meta.v1.ObjectMeta";
const LIST_META: &str = "meta.v1.ListMeta";

/// Whether objects of the type can be written.
pub fn has_form(ty: TypeRef<'_>) -> bool {
    std::ptr::eq(ty.schemas(), schema::builtin()) && NUMBERS.contains_key(&*ty.ty().name)
}

/// An object with its envelope. Its kind must have a form.
pub fn object(value: &Value) -> Result<Vec<u8>, String> {
    let object = value.as_object().ok_or("not an object")?;
    let mut raw = Vec::with_capacity(512);
    raw_object(&mut raw, object)?;
    Ok(envelope(
        text(object, "apiVersion"),
        text(object, "kind"),
        &raw,
    ))
}

/// An event of a watch with the length it has in the stream; `object` has its envelope.
pub fn frame(event: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.len() + 32);
    out.extend_from_slice(&[0; 4]);
    bytes(&mut out, 1, event.as_bytes());
    nested(&mut out, 2, |out| bytes(out, 1, object));
    // Far below 4 GiB: objects are limited by the size of a request.
    let length = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

/// A list being written, item by item.
#[derive(Debug)]
pub struct ListWriter {
    api_version: String,
    kind: String,
    raw: Vec<u8>,
}

impl ListWriter {
    /// Begins a list with its `metadata`.
    pub fn new(api_version: &str, kind: &str, meta: &Value) -> Result<Self, String> {
        let mut raw = Vec::with_capacity(4096);
        let empty = Map::new();
        let meta = meta.as_object().unwrap_or(&empty);
        let ty = named(LIST_META)?;
        nested(&mut raw, 1, |out| message(out, LIST_META, ty, meta, 0))?;
        let (api_version, kind) = (api_version.to_owned(), kind.to_owned());
        Ok(Self {
            api_version,
            kind,
            raw,
        })
    }

    /// Adds an item, an object with its kind.
    pub fn push(&mut self, item: &Value) -> Result<(), String> {
        let item = item.as_object().ok_or("not an object")?;
        nested(&mut self.raw, 2, |out| raw_object(out, item))
    }

    /// Ends the list.
    pub fn finish(self) -> Vec<u8> {
        envelope(&self.api_version, &self.kind, &self.raw)
    }
}

fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + 64);
    out.extend_from_slice(MAGIC);
    nested(&mut out, 1, |out| {
        bytes(out, 1, api_version.as_bytes());
        bytes(out, 2, kind.as_bytes());
    });
    bytes(&mut out, 2, raw);
    out
}

/// The message of an object, whose type is that of its kind.
fn raw_object(out: &mut Vec<u8>, object: &Map<String, Value>) -> Result<(), String> {
    let (api_version, kind) = (text(object, "apiVersion"), text(object, "kind"));
    if kind == "PartialObjectMetadata" {
        return match object.get("metadata").and_then(Value::as_object) {
            Some(meta) => {
                let ty = named(OBJECT_META)?;
                nested(out, 1, |out| message(out, OBJECT_META, ty, meta, 0))
            }
            None => Ok(()),
        };
    }
    let of = GroupVersionKind::from_api_version(api_version, kind);
    let ty = schema::type_for(&of).filter(|ty| has_form(*ty));
    let ty = ty.ok_or_else(|| format!("{api_version} {kind} has no protobuf form"))?;
    message(out, &ty.ty().name, ty, object, 0)
}

fn named(name: &str) -> Result<TypeRef<'static>, String> {
    let ty = schema::builtin().get(name);
    ty.ok_or_else(|| format!("no schema for {name}"))
}

fn text<'a>(object: &'a Map<String, Value>, field: &str) -> &'a str {
    object
        .get(field)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Writes the fields of `ty` that the message `name` has the numbers of.
fn message(
    out: &mut Vec<u8>,
    name: &str,
    ty: TypeRef<'_>,
    object: &Map<String, Value>,
    depth: usize,
) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!("messages are nested more than {DEPTH_MAX} deep"));
    }
    for (number, field) in NUMBERS.get(name).map(Vec::as_slice).unwrap_or_default() {
        if let Some(embedded) = field.strip_prefix('~') {
            let before = out.len();
            nested(out, *number, |out| {
                message(out, embedded, ty, object, depth + 1)
            })?;
            // Nothing but tag and length: none of its fields is set.
            if out.last() == Some(&0) && out.len() == before + tag_len(*number) + 1 {
                out.truncate(before);
            }
            continue;
        }
        let (Some(value), Some(known)) = (object.get(*field), ty.field(field)) else {
            continue;
        };
        put(out, *number, (&known.shape, ty), (value, depth))
            .map_err(|why| format!("{name}.{field}: {why}"))?;
    }
    Ok(())
}

fn put(
    out: &mut Vec<u8>,
    number: u32,
    (shape, ty): (&Shape, TypeRef<'_>),
    (value, depth): (&Value, usize),
) -> Result<(), String> {
    match (shape, value) {
        (_, Value::Null) => Ok(()),
        (Shape::List(list), Value::Array(items)) => items
            .iter()
            .try_for_each(|item| one(out, number, (&list.items, ty), (item, depth))),
        (Shape::Map { values, .. }, Value::Object(entries)) => {
            entries.iter().try_for_each(|(key, item)| {
                nested(out, number, |out| {
                    bytes(out, 1, key.as_bytes());
                    one(out, 2, (values, ty), (item, depth))
                })
            })
        }
        _ => one(out, number, (shape, ty), (value, depth)),
    }
}

fn one(
    out: &mut Vec<u8>,
    number: u32,
    (shape, ty): (&Shape, TypeRef<'_>),
    (value, depth): (&Value, usize),
) -> Result<(), String> {
    match (shape, value) {
        (Shape::String, Value::String(text)) => bytes(out, number, text.as_bytes()),
        (Shape::Int32 | Shape::Int64, Value::Number(n)) => {
            let n = n.as_i64().ok_or("not a whole number")?;
            integer(out, number, n);
        }
        (Shape::Bool, Value::Bool(flag)) => integer(out, number, i64::from(*flag)),
        (Shape::Float, Value::Number(n)) => {
            tag(out, number, FIXED64);
            out.extend_from_slice(&n.as_f64().unwrap_or_default().to_le_bytes());
        }
        (Shape::Bytes, Value::String(text)) => {
            let decoded = STANDARD.decode(text).map_err(|error| error.to_string())?;
            bytes(out, number, &decoded);
        }
        (Shape::Quantity, Value::String(text)) => {
            nested(out, number, |out| bytes(out, 1, text.as_bytes()));
        }
        (Shape::Quantity, Value::Number(n)) => {
            nested(out, number, |out| bytes(out, 1, n.to_string().as_bytes()));
        }
        (Shape::IntOrString, Value::Number(n)) => nested(out, number, |out| {
            integer(out, 1, 0);
            integer(out, 2, n.as_i64().unwrap_or_default());
        }),
        (Shape::IntOrString, Value::String(text)) => nested(out, number, |out| {
            integer(out, 1, 1);
            bytes(out, 3, text.as_bytes());
        }),
        (Shape::Time | Shape::MicroTime, Value::String(text)) => {
            let at = time::parse(text).ok_or("not a time")?;
            nested(out, number, |out| {
                integer(out, 1, at.as_second());
                integer(out, 2, i64::from(at.subsec_nanosecond()));
            });
        }
        (Shape::Any | Shape::Free, value) => {
            nested(out, number, |out| {
                bytes(out, 1, value.to_string().as_bytes())
            });
        }
        (Shape::Object { .. }, Value::Object(object)) => {
            let inner = ty.follow(shape).ok_or("a type is missing")?;
            let name = &inner.ty().name;
            return nested(out, number, |out| {
                message(out, name, inner, object, depth + 1)
            });
        }
        // The values of a map that are lists have a message of their own (`ExtraValue`).
        (Shape::List(_), value) => {
            return nested(out, number, |out| put(out, 1, (shape, ty), (value, depth)));
        }
        (_, Value::Null) => {}
        _ => return Err("the value is of another type".to_owned()),
    }
    Ok(())
}

/// A message within a message: its length is known, and put in place, when it is written.
fn nested<T>(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    tag(out, number, BYTES);
    let start = out.len();
    out.push(0);
    let written = write(out);
    let length = out.len() - start - 1;
    if length < 0x80 {
        out[start] = u8::try_from(length).unwrap_or_default();
    } else {
        let mut prefix = Vec::with_capacity(5);
        varint(&mut prefix, length as u64);
        out.splice(start..=start, prefix);
    }
    written
}

fn bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    tag(out, number, BYTES);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn integer(out: &mut Vec<u8>, number: u32, value: i64) {
    tag(out, number, VARINT);
    varint(out, value.cast_unsigned());
}

fn tag(out: &mut Vec<u8>, number: u32, wire: u32) {
    varint(out, u64::from(number << 3 | wire));
}

fn tag_len(number: u32) -> usize {
    let mut tag_bytes = Vec::with_capacity(5);
    tag(&mut tag_bytes, number, BYTES);
    tag_bytes.len()
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Written and read again, it is the same, but for what is written in another way.
    fn there_and_back(value: &Value) -> Value {
        let of = GroupVersionKind::from_api_version(
            value["apiVersion"].as_str().unwrap(),
            value["kind"].as_str().unwrap(),
        );
        let ty = schema::type_for(&of).unwrap();
        super::super::read(&object(value).unwrap(), ty).unwrap()
    }

    #[test]
    fn objects_come_back_as_they_were() {
        for value in [
            json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "p", "namespace": "d", "labels": {"a": "b"},
                    "creationTimestamp": "2026-01-02T03:04:05Z", "generation": 3,
                    "managedFields": [{"manager": "m", "operation": "Apply", "apiVersion": "v1",
                        "time": "2026-01-02T03:04:05Z", "fieldsType": "FieldsV1",
                        "fieldsV1": {"f:spec": {"f:x": {}}}}],
                    "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet",
                        "name": "r", "uid": "u", "controller": true}]},
                "spec": {"containers": [{"name": "c", "image": "i",
                        "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
                        "livenessProbe": {"httpGet": {"port": "web", "path": "/"},
                            "periodSeconds": 10},
                        "readinessProbe": {"tcpSocket": {"port": 8080}},
                        "env": [{"name": "A", "valueFrom": {"secretKeyRef":
                            {"name": "s", "key": "k", "optional": false}}}],
                        "securityContext": {"runAsUser": 0, "privileged": false}}],
                    "volumes": [{"name": "v", "configMap": {"name": "cm", "defaultMode": 420}},
                        {"name": "e", "emptyDir": {}}],
                    "tolerations": [{"key": "k", "tolerationSeconds": -1}],
                    "terminationGracePeriodSeconds": 0},
                "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}],
                    "containerStatuses": [{"name": "c", "restartCount": 300, "started": true,
                        "state": {"running": {"startedAt": "2026-01-02T03:04:05Z"}}}]}}),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
                "data": {"k": "AAECAw=="}, "type": "Opaque", "immutable": false}),
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": "l"}, "spec": {"holderIdentity": "n",
                    "leaseDurationSeconds": 40, "renewTime": "2026-01-02T03:04:05.678901Z"}}),
            json!({"apiVersion": "apps/v1", "kind": "ControllerRevision",
                "metadata": {"name": "r"}, "data": {"spec": {"any": [1, "x"]}}, "revision": 4}),
            json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
                "metadata": {"name": "c"}, "spec": {"request": "AAEC", "signerName": "s/x",
                    "extra": {"scopes": ["a", "b"], "one": ["c"]}}}),
        ] {
            assert_eq!(there_and_back(&value), value, "{value}");
        }
    }

    #[test]
    fn a_status_carries_code_and_causes() {
        let status = json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "code": 410,
            "status": "Failure", "reason": "Expired", "message": "m",
            "details": {"name": "n", "causes": [{"field": "f", "message": "w", "reason": "r"}]}});
        assert_eq!(there_and_back(&status), status);
    }

    #[test]
    fn lists_and_metadata_are_written_item_by_item() {
        let meta = json!({"resourceVersion": "9", "remainingItemCount": 4});
        let item = |kind: &str, version: &str| json!({"apiVersion": version, "kind": kind, "metadata": {"name": "a"}});
        let mut list = ListWriter::new("v1", "ConfigMapList", &meta).unwrap();
        list.push(&item("ConfigMap", "v1")).unwrap();
        let ty = schema::builtin().get("core.v1.ConfigMapList").unwrap();
        let read = super::super::read(&list.finish(), ty).unwrap();
        assert_eq!(read["metadata"], meta);
        assert_eq!(read["items"][0]["metadata"]["name"], "a");
        let kind = "PartialObjectMetadataList";
        let mut list = ListWriter::new("meta.k8s.io/v1", kind, &meta).unwrap();
        let version = "meta.k8s.io/v1";
        list.push(&item("PartialObjectMetadata", version)).unwrap();
        assert!(list.finish().starts_with(b"k8s\0"));
        let mut list = ListWriter::new("v1", "FooList", &meta).unwrap();
        assert!(list.push(&item("Foo", "v1")).is_err());
    }

    #[test]
    fn an_event_is_framed_by_its_length() {
        let framed = frame("ADDED", b"xyz");
        assert_eq!(framed, b"\0\0\0\x0e\x0a\x05ADDED\x12\x05\x0a\x03xyz");
    }

    /// Kinds of version `v1` that are served in JSON only: newer than the table, of another
    /// program (`apiextensions-apiserver`), or both.
    const WITHOUT: &[&str] = &[
        "admissionregistration.v1.MutatingAdmissionPolicy",
        "admissionregistration.v1.MutatingAdmissionPolicyBinding",
        "apiextensions.v1.CustomResourceDefinition",
        "certificates.v1.ClusterTrustBundle",
        "certificates.v1.PodCertificateRequest",
        "resource.v1.DeviceClass",
        "resource.v1.DeviceTaintRule",
        "resource.v1.ResourceClaim",
        "resource.v1.ResourceClaimTemplate",
        "resource.v1.ResourceSlice",
        "storagemigration.v1.StorageVersionMigration",
    ];

    #[test]
    fn all_other_kinds_have_a_form() {
        let types = schema::builtin().types().iter();
        let of_v1 = types.filter(|ty| ty.kinds.iter().any(|kind| kind.version == "v1"));
        let without: Vec<_> = of_v1
            .map(|ty| &*ty.name)
            .filter(|name| !name.ends_with("List") && !NUMBERS.contains_key(name))
            .collect();
        assert_eq!(without, WITHOUT);
    }
}
