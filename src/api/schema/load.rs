//! Reads the asset: two zstd frames, in each one line of JSON.
//!
//! A type is `{"n": name, "f": fields, "a": atomic, "k": [[group, version, kind]]}`, a field
//! `[name, shape, {"p": patch strategy, "m": merge key, "r": required, "v": by value,
//! "d": default}]` with the last part left out where it is empty. The text form of a shape is
//! described at [`shape`].

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde_json::Value;

use super::{Field, List, ListKind, PatchRule, Rest, Schemas, Shape, Type, TypeId};
use crate::api::gvk::GroupVersionKind;

static ASSET: &[u8] = include_bytes!("builtin.json.zst");

/// The asset as it is packed.
pub(super) fn asset() -> &'static [u8] {
    ASSET
}

#[derive(Deserialize)]
struct TypeRow<'a> {
    n: &'a str,
    #[serde(borrow)]
    f: Vec<FieldRow<'a>>,
    #[serde(default)]
    a: bool,
    #[serde(default)]
    k: Vec<[&'a str; 3]>,
}

struct FieldRow<'a> {
    name: &'a str,
    shape: &'a str,
    more: More<'a>,
}

impl<'de: 'a, 'a> Deserialize<'de> for FieldRow<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(FieldRowVisitor)
    }
}

struct FieldRowVisitor;

impl<'de> Visitor<'de> for FieldRowVisitor {
    type Value = FieldRow<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name, a shape and perhaps more")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<FieldRow<'de>, A::Error> {
        let missing = || A::Error::custom("a field without name or shape");
        Ok(FieldRow {
            name: seq.next_element()?.ok_or_else(missing)?,
            shape: seq.next_element()?.ok_or_else(missing)?,
            more: seq.next_element()?.unwrap_or_default(),
        })
    }
}

#[derive(Default, Deserialize)]
struct More<'a> {
    #[serde(default)]
    p: &'a str,
    #[serde(default)]
    m: &'a str,
    #[serde(default)]
    r: bool,
    #[serde(default)]
    v: bool,
    d: Option<Value>,
}

/// The text of one part of the asset; empty where the asset is damaged, which a test excludes.
pub(super) fn part(number: usize) -> Vec<u8> {
    let mut rest = ASSET;
    for _ in 0..number {
        let size = zstd::zstd_safe::find_frame_compressed_size(rest).unwrap_or(rest.len());
        rest = &rest[size.min(rest.len())..];
    }
    let size = zstd::zstd_safe::find_frame_compressed_size(rest).unwrap_or(0);
    zstd::decode_all(&rest[..size.min(rest.len())]).unwrap_or_default()
}

/// The structure of the built-in types.
pub(super) fn builtin() -> Schemas {
    let line = part(0);
    let rows: Vec<TypeRow<'_>> =
        serde_json::from_slice(&line).expect("the asset is part of the program and tested");
    Schemas::new(rows.into_iter().map(made).collect())
}

fn made(row: TypeRow<'_>) -> Type {
    Type {
        name: row.n.into(),
        atomic: row.a,
        fields: row.f.into_iter().map(field).collect(),
        rest: Rest::Unknown,
        kinds: row
            .k
            .iter()
            .map(|[group, version, kind]| GroupVersionKind::new(group, version, kind))
            .collect(),
    }
}

fn field(row: FieldRow<'_>) -> Field {
    let FieldRow {
        name,
        shape: text,
        more,
    } = row;
    let patch = PatchRule {
        merge: more.p.split(',').any(|s| s == "merge"),
        retain_keys: more.p.split(',').any(|s| s == "retainKeys"),
        replace: more.p.split(',').any(|s| s == "replace"),
        key: (!more.m.is_empty()).then(|| more.m.into()),
    };
    Field {
        name: name.into(),
        shape: shape(text),
        patch,
        required: more.r,
        by_value: more.v,
        default: more.d.map(Box::new),
    }
}

/// The text form of a shape: a letter; `#number` for a struct, `!#number` for one that is atomic
/// here; `[item`, `[=item`, `[:key,key:item` for lists that are atomic, sets and maps; `{value`,
/// `!{value` for maps; `(one|other)`.
fn shape(text: &str) -> Shape {
    let (atomic, text) = match text.strip_prefix('!') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let Some(head) = text.chars().next() else {
        return Shape::Any;
    };
    let rest = &text[head.len_utf8()..];
    match head {
        's' => Shape::String,
        'i' => Shape::Int32,
        'l' => Shape::Int64,
        'd' => Shape::Float,
        'b' => Shape::Bool,
        'x' => Shape::IntOrString,
        'q' => Shape::Quantity,
        't' => Shape::Time,
        'm' => Shape::MicroTime,
        'y' => Shape::Bytes,
        '#' => Shape::Object {
            ty: TypeId(rest.parse().unwrap_or(u32::MAX)),
            atomic,
        },
        '{' => Shape::Map {
            values: Box::new(shape(rest)),
            atomic,
        },
        '[' => Shape::List(Box::new(list(rest))),
        '(' => Shape::OneOf(rest.trim_end_matches(')').split('|').map(shape).collect()),
        _ => Shape::Any,
    }
}

fn list(text: &str) -> List {
    if let Some(items) = text.strip_prefix('=') {
        return List {
            items: shape(items),
            kind: ListKind::Set,
        };
    }
    if let Some((keys, items)) = text.strip_prefix(':').and_then(|t| t.split_once(':')) {
        return List {
            items: shape(items),
            kind: ListKind::Map(keys.split(',').map(Into::into).collect()),
        };
    }
    List {
        items: shape(text),
        kind: ListKind::Atomic,
    }
}
