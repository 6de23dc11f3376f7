//! `application/vnd.kubernetes.protobuf` bodies → the JSON they stand for; [`write`](mod@write)
//! is the way back.
//!
//! A body is `k8s\0` and a `runtime.Unknown`: the kind, and the object's message. Field numbers are
//! a table (`schema/field_numbers.tsv`, Kubernetes 1.35's; fields that are newer are skipped like
//! any field a server does not know), types are the schema's own. Go structs that are embedded
//! without a JSON name of their own are messages in between: the table names them with `~`.
//!
//! Protobuf always carries Go's plain values and carries pointers only when they are set. What is
//! zero and no pointer is left out, as JSON's `omitempty` does; [`POINTERS`] are the numbers and
//! switches that are pointers, where zero is a value.

pub mod write;

use std::collections::HashMap;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::api::schema::{Shape, TypeRef};
use crate::api::time;

/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";
/// Deeper messages are refused; the deepest built-in type has about twenty.
const DEPTH_MAX: usize = 64;
/// Numbers, named by type, of the fields of every built-in type.
const TABLE: &str = include_str!("../../schema/field_numbers.tsv");

/// Numbers and switches that are pointers in Go.
const POINTERS: &[&str] = &[
    "activeDeadlineSeconds",
    "allocateLoadBalancerNodePorts",
    "allowPrivilegeEscalation",
    "allowVolumeExpansion",
    "automountServiceAccountToken",
    "averageUtilization",
    "backoffLimit",
    "backoffLimitPerIndex",
    "blockOwnerDeletion",
    "collisionCount",
    "completions",
    "controller",
    "defaultMode",
    "deletionGracePeriodSeconds",
    "enableServiceLinks",
    "endPort",
    "expirationSeconds",
    "failedJobsHistoryLimit",
    "fsGroup",
    "gracePeriodSeconds",
    "hostUsers",
    "immutable",
    "leaseDurationSeconds",
    "leaseTransitions",
    "manualSelector",
    "maxFailedIndexes",
    "minDomains",
    "minReplicas",
    "mode",
    "optional",
    "orphanDependents",
    "parallelism",
    "partition",
    "preemptionPolicy",
    "privileged",
    "progressDeadlineSeconds",
    "readOnlyRootFilesystem",
    "ready",
    "replicas",
    "revisionHistoryLimit",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "serving",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "stabilizationWindowSeconds",
    "startingDeadlineSeconds",
    "started",
    "successfulJobsHistoryLimit",
    "suspend",
    "terminating",
    "terminationGracePeriodSeconds",
    "tolerationSeconds",
    "ttlSecondsAfterFinished",
];

type Numbers = HashMap<&'static str, Vec<(u32, &'static str)>>;

static NUMBERS: LazyLock<Numbers> = LazyLock::new(|| {
    let mut numbers = Numbers::new();
    for line in TABLE.lines().skip(1) {
        let mut cells = line.split('\t');
        let (Some(name), Some(number), Some(field)) = (cells.next(), cells.next(), cells.next())
        else {
            continue;
        };
        if let Ok(number) = number.parse() {
            numbers.entry(name).or_default().push((number, field));
        }
    }
    numbers
});

/// A value as it stands on the wire.
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// The object in `body`, a type of `ty`. `apiVersion` and `kind` are those the body names.
pub(super) fn read(body: &[u8], ty: TypeRef<'_>) -> Result<Value, String> {
    let unknown = body
        .strip_prefix(MAGIC)
        .ok_or("the body does not begin with `k8s\\0`")?;
    let mut object = Map::new();
    let mut raw: &[u8] = &[];
    for field in fields(unknown) {
        match field? {
            (1, Wire::Bytes(type_meta)) => type_meta_into(type_meta, &mut object)?,
            (2, Wire::Bytes(bytes)) => raw = bytes,
            (3, Wire::Bytes(encoding)) if !encoding.is_empty() => {
                return Err("encoded contents are not supported".to_owned());
            }
            _ => {}
        }
    }
    message(&ty.ty().name, ty, raw, &mut object, 0)?;
    Ok(Value::Object(object))
}

fn type_meta_into(bytes: &[u8], object: &mut Map<String, Value>) -> Result<(), String> {
    for field in fields(bytes) {
        let (name, value) = match field? {
            (1, Wire::Bytes(value)) => ("apiVersion", value),
            (2, Wire::Bytes(value)) => ("kind", value),
            _ => continue,
        };
        if !value.is_empty() {
            object.insert(name.to_owned(), text(value)?);
        }
    }
    Ok(())
}

/// Reads the message that `name` has the numbers of into the fields of `ty`.
fn message(
    name: &str,
    ty: TypeRef<'_>,
    bytes: &[u8],
    object: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!("messages are nested more than {DEPTH_MAX} deep"));
    }
    let numbers = NUMBERS.get(name).map(Vec::as_slice).unwrap_or_default();
    for field in fields(bytes) {
        let (number, wire) = field?;
        let Some((_, field)) = numbers.iter().find(|(known, _)| *known == number) else {
            continue;
        };
        if let Some(embedded) = field.strip_prefix('~') {
            if let Wire::Bytes(inner) = wire {
                message(embedded, ty, inner, object, depth + 1)?;
            }
            continue;
        }
        let Some(known) = ty.field(field) else {
            continue;
        };
        let wrong = |why: String| format!("{name}.{field}: {why}");
        put(field, (&known.shape, ty), wire, (object, depth)).map_err(wrong)?;
    }
    Ok(())
}

fn put(
    field: &str,
    (shape, ty): (&Shape, TypeRef<'_>),
    wire: Wire<'_>,
    (object, depth): (&mut Map<String, Value>, usize),
) -> Result<(), String> {
    match shape {
        Shape::List(list) => {
            let slot = object
                .entry(field)
                .or_insert_with(|| Value::Array(Vec::new()));
            if let (Some(items), Some(item)) =
                (slot.as_array_mut(), value(&list.items, ty, wire, depth)?)
            {
                items.push(item);
            }
        }
        Shape::Map { values, .. } => {
            let Wire::Bytes(entry) = wire else {
                return Err("a map entry is expected".into());
            };
            let (key, item) = map_entry(values, ty, entry, depth)?;
            let slot = object
                .entry(field)
                .or_insert_with(|| Value::Object(Map::new()));
            if let Some(map) = slot.as_object_mut() {
                map.insert(key, item);
            }
        }
        _ => {
            if let Some(value) = value(shape, ty, wire, depth)?
                && (!is_zero(&value) || POINTERS.contains(&field))
            {
                object.insert(field.to_owned(), value);
            }
        }
    }
    Ok(())
}

fn map_entry(
    values: &Shape,
    ty: TypeRef<'_>,
    entry: &[u8],
    depth: usize,
) -> Result<(String, Value), String> {
    let mut key = String::new();
    let mut item = None;
    for field in fields(entry) {
        match field? {
            (1, Wire::Bytes(bytes)) => {
                key = std::str::from_utf8(bytes)
                    .map_err(|e| e.to_string())?
                    .to_owned();
            }
            (2, wire) => item = value(values, ty, wire, depth)?,
            _ => {}
        }
    }
    // An entry without a value has the zero value of its type.
    let zero = match values {
        Shape::Object { .. } | Shape::Map { .. } => Value::Object(Map::new()),
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::Int32 | Shape::Int64 | Shape::Float => Value::from(0),
        Shape::Bool => Value::Bool(false),
        _ => Value::from(""),
    };
    Ok((key, item.unwrap_or(zero)))
}

/// `None`: the zero time, which JSON writes as null.
fn value(
    shape: &Shape,
    ty: TypeRef<'_>,
    wire: Wire<'_>,
    depth: usize,
) -> Result<Option<Value>, String> {
    let made = match (shape, wire) {
        (Shape::String, Wire::Bytes(bytes)) => text(bytes)?,
        // Go's int32 is sign-extended to 64 bits on the wire.
        (Shape::Int32 | Shape::Int64, Wire::Varint(number)) => Value::from(number.cast_signed()),
        (Shape::Bool, Wire::Varint(number)) => Value::Bool(number != 0),
        (Shape::Float, Wire::Fixed64(bits)) => Value::from(f64::from_bits(bits)),
        (Shape::Float, Wire::Fixed32(bits)) => Value::from(f32::from_bits(bits)),
        (Shape::Bytes, Wire::Bytes(bytes)) => Value::from(STANDARD.encode(bytes)),
        (Shape::Quantity, Wire::Bytes(bytes)) => first_text(bytes)?,
        (Shape::IntOrString, Wire::Bytes(bytes)) => int_or_string(bytes)?,
        (Shape::Time, Wire::Bytes(bytes)) => return timestamp(bytes, time::seconds),
        (Shape::MicroTime, Wire::Bytes(bytes)) => return timestamp(bytes, time::micros),
        (Shape::Any | Shape::Free, Wire::Bytes(bytes)) => embedded(bytes)?,
        (Shape::Object { .. }, Wire::Bytes(bytes)) => {
            let Some(inner) = ty.follow(shape) else {
                return Ok(None);
            };
            let mut object = Map::new();
            message(&inner.ty().name, inner, bytes, &mut object, depth + 1)?;
            Value::Object(object)
        }
        // The values of a map that are lists have a message of their own (`ExtraValue`).
        (Shape::List(list), Wire::Bytes(bytes)) => {
            let mut items = Vec::new();
            for field in fields(bytes) {
                if let (1, wire) = field? {
                    items.extend(value(&list.items, ty, wire, depth)?);
                }
            }
            Value::Array(items)
        }
        _ => return Err("the value is of another type".to_owned()),
    };
    Ok(Some(made))
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn text(bytes: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    Ok(Value::from(text))
}

/// `Quantity { string = 1 }`
fn first_text(bytes: &[u8]) -> Result<Value, String> {
    for field in fields(bytes) {
        if let (1, Wire::Bytes(value)) = field? {
            return text(value);
        }
    }
    Ok(Value::from("0"))
}

/// `IntOrString { type = 1, intVal = 2, strVal = 3 }`
fn int_or_string(bytes: &[u8]) -> Result<Value, String> {
    let (mut is_text, mut number, mut string) = (false, 0_i64, Value::from(""));
    for field in fields(bytes) {
        match field? {
            (1, Wire::Varint(kind)) => is_text = kind == 1,
            (2, Wire::Varint(value)) => number = value.cast_signed(),
            (3, Wire::Bytes(value)) => string = text(value)?,
            _ => {}
        }
    }
    Ok(if is_text { string } else { Value::from(number) })
}

/// `Time { seconds = 1, nanos = 2 }`
fn timestamp(bytes: &[u8], print: fn(Timestamp) -> String) -> Result<Option<Value>, String> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0_i64, 0_i32);
    for field in fields(bytes) {
        match field? {
            (1, Wire::Varint(value)) => seconds = value.cast_signed(),
            (2, Wire::Varint(value)) => nanos = i32::try_from(value).unwrap_or(0),
            _ => {}
        }
    }
    let at = Timestamp::new(seconds, nanos).map_err(|error| error.to_string())?;
    Ok(Some(Value::from(print(at))))
}

/// JSON in a message with one field (`RawExtension`, `FieldsV1`, `JSON`).
fn embedded(bytes: &[u8]) -> Result<Value, String> {
    for field in fields(bytes) {
        if let (1, Wire::Bytes(raw)) = field? {
            return serde_json::from_slice(raw).map_err(|error| error.to_string());
        }
    }
    Ok(Value::Object(Map::new()))
}

/// The fields of a message with their numbers; ends after the first that is broken.
fn fields(bytes: &[u8]) -> impl Iterator<Item = Result<(u32, Wire<'_>), String>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = next_field(&mut rest);
        if field.is_err() {
            rest = &[];
        }
        Some(field)
    })
}

fn next_field<'a>(rest: &mut &'a [u8]) -> Result<(u32, Wire<'a>), String> {
    let key = varint(rest)?;
    let number = u32::try_from(key >> 3).map_err(|_| "a field number is too large")?;
    let wire = match key & 7 {
        0 => Wire::Varint(varint(rest)?),
        1 => Wire::Fixed64(u64::from_le_bytes(fixed(rest)?)),
        2 => {
            let length = usize::try_from(varint(rest)?).map_err(|_| "a length is too large")?;
            let (value, after) = rest
                .split_at_checked(length)
                .ok_or("a field is longer than the message")?;
            *rest = after;
            Wire::Bytes(value)
        }
        5 => Wire::Fixed32(u32::from_le_bytes(fixed(rest)?)),
        other => return Err(format!("wire type {other} is not used")),
    };
    Ok((number, wire))
}

fn fixed<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], String> {
    let (value, after) = rest
        .split_first_chunk::<N>()
        .ok_or("the message is cut short")?;
    *rest = after;
    Ok(*value)
}

fn varint(rest: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first().ok_or("the message is cut short")?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number is longer than 64 bits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::schema::builtin;
    use serde_json::json;

    fn field(number: u8, value: &[u8]) -> Vec<u8> {
        let key = u16::from(number) << 3 | 2;
        let mut bytes = match u8::try_from(key) {
            Ok(key) if key < 0x80 => vec![key],
            _ => vec![(key & 0x7f) as u8 | 0x80, (key >> 7) as u8],
        };
        bytes.push(u8::try_from(value.len()).unwrap());
        bytes.extend(value);
        bytes
    }

    fn body(kind: (&str, &str), raw: &[u8]) -> Vec<u8> {
        let meta = [field(1, kind.0.as_bytes()), field(2, kind.1.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &meta), field(2, raw)].concat()
    }

    #[test]
    fn a_namespace_as_client_go_sends_it() {
        // metadata{name, generateName "", creationTimestamp {}, labels{a: b}}, spec{}, status{phase ""}
        let label = [field(1, b"a"), field(2, b"b")].concat();
        let meta = [
            field(1, b"t1"),
            field(2, b""),
            field(8, b""),
            field(11, &label),
        ]
        .concat();
        let raw = [field(1, &meta), field(2, b""), field(3, &field(1, b""))].concat();
        let ty = builtin().get("core.v1.Namespace").unwrap();
        assert_eq!(
            read(&body(("v1", "Namespace"), &raw), ty).unwrap(),
            json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": "t1", "labels": {"a": "b"}}, "spec": {}, "status": {},
            })
        );
    }

    #[test]
    fn embedded_structs_pointers_and_special_types() {
        // spec{volumes[{name, volumeSource{configMap{localObjectReference{name}}}}],
        //      containers[{name, ports[{containerPort 80}], securityContext{runAsUser 0}}], hostNetwork false}
        let config_map = field(19, &field(1, &field(1, b"cm")));
        let volume = [field(1, b"v"), field(2, &config_map)].concat();
        let port = [3 << 3, 80];
        let context = [4 << 3, 0];
        let container = [field(1, b"c"), field(6, &port), field(15, &context)].concat();
        let spec = [field(1, &volume), field(2, &container), vec![11 << 3, 0]].concat();
        let ty = builtin().get("core.v1.Pod").unwrap();
        let pod = read(&body(("v1", "Pod"), &field(2, &spec)), ty).unwrap();
        assert_eq!(
            pod["spec"],
            json!({
                "volumes": [{"name": "v", "configMap": {"name": "cm"}}],
                "containers": [{"name": "c", "ports": [{"containerPort": 80}],
                    "securityContext": {"runAsUser": 0}}],
            })
        );
    }

    #[test]
    fn rubbish_is_an_error_and_never_a_panic() {
        let ty = builtin().get("core.v1.Pod").unwrap();
        let good = body(("v1", "Pod"), &field(1, &field(1, b"name")));
        for end in 0..good.len() {
            let _ = read(&good[..end], ty);
        }
        for byte in 0..=u8::MAX {
            let mut bad = good.clone();
            let at = usize::from(byte) % bad.len();
            bad[at] = byte;
            let _ = read(&bad, ty);
        }
        assert!(read(b"{}", ty).unwrap_err().contains("k8s"));
        let overlong = body(("v1", "Pod"), &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert!(read(&overlong, ty).unwrap_err().contains("longer"));
    }
}
