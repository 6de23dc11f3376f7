//! What is known of the types of objects: fields, how lists and maps merge, keys, defaults.
//!
//! Decoding, patches, server-side apply and OpenAPI documents all read the same table. The table
//! of the built-in kinds is an asset of the program (`builtin.json.zst`, written by
//! `examples/gen_schemas.rs`); a custom resource gets a [`Schemas`] of its own of the same shape.
//!
//! The asset has two parts. The structure is decoded at the first use and kept: some hundred KiB.
//! The descriptions are far bigger and are decoded only while an OpenAPI document is built
//! ([`docs`](mod@docs)), then dropped.

pub mod check;
pub mod default;
mod docs;
mod load;
pub mod prune;
pub mod structural;
pub mod validate;

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use serde_json::Value;

use super::gvk::GroupVersionKind;

pub use docs::{Docs, docs};

/// A set of types that refer to each other by number.
#[derive(Debug, Default)]
pub struct Schemas {
    types: Vec<Type>,
    by_name: HashMap<Box<str>, TypeId>,
    by_kind: HashMap<GroupVersionKind, TypeId>,
}

/// Number of a type in its [`Schemas`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TypeId(u32);

/// A struct: what JSON calls an object with known fields.
#[derive(Debug, Default)]
pub struct Type {
    /// For instance `core.v1.Pod`.
    pub name: Box<str>,
    /// Whether values of this type are owned and replaced as a whole wherever a field does not
    /// say otherwise.
    pub atomic: bool,
    /// In the order of their names.
    pub fields: Box<[Field]>,
    /// What happens to fields that are not listed.
    pub rest: Rest,
    /// The kinds whose objects are of this type; empty for parts of objects.
    pub kinds: Box<[GroupVersionKind]>,
}

/// What a struct does with fields it does not name.
#[derive(Debug, Default)]
pub enum Rest {
    /// They are unknown, and dropped.
    #[default]
    Unknown,
    /// They are kept as they are (`x-kubernetes-preserve-unknown-fields`).
    Keep,
    /// They are the entries of a map beside the named fields (`additionalProperties`).
    Values(Shape),
}

/// One field of a [`Type`].
#[derive(Debug)]
pub struct Field {
    /// As in JSON.
    pub name: Box<str>,
    /// Its type.
    pub shape: Shape,
    /// How a strategic merge patch treats it.
    pub patch: PatchRule,
    /// Whether an object without it is wrong.
    pub required: bool,
    /// Whether it is a struct by value in Go, so that even an empty object has it. Decides, as
    /// upstream, whether managed fields name the field itself.
    pub by_value: bool,
    /// What an absent value means.
    pub default: Option<Box<Value>>,
}

/// `x-kubernetes-patch-strategy` and `-merge-key`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatchRule {
    /// Lists are merged, by `key` or by value.
    pub merge: bool,
    /// `$retainKeys` is understood.
    pub retain_keys: bool,
    /// Maps are replaced instead of merged.
    pub replace: bool,
    /// The field that tells items of a list apart.
    pub key: Option<Box<str>>,
}

/// A type as a field, an item or a map's value has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Text.
    String,
    /// A whole number of 32 bits.
    Int32,
    /// A whole number of 64 bits.
    Int64,
    /// Any number.
    Float,
    /// `true` or `false`.
    Bool,
    /// A whole number of 32 bits, or a text.
    IntOrString,
    /// A quantity: text, or a number that is made one.
    Quantity,
    /// RFC 3339 to the second.
    Time,
    /// RFC 3339 to the microsecond.
    MicroTime,
    /// Base64.
    Bytes,
    /// Anything, owned and replaced as a whole.
    Any,
    /// Anything, merged by what it looks like.
    Free,
    /// A struct.
    Object {
        /// Which.
        ty: TypeId,
        /// Owned and replaced as a whole.
        atomic: bool,
    },
    /// An array.
    List(Box<List>),
    /// A map from text.
    Map {
        /// Type of the values.
        values: Box<Shape>,
        /// Owned and replaced as a whole.
        atomic: bool,
    },
    /// The first that fits the kind of JSON value.
    OneOf(Box<[Shape]>),
}

/// An array's items and how it merges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// Type of each item.
    pub items: Shape,
    /// `x-kubernetes-list-type`
    pub kind: ListKind,
}

/// How an array merges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// Replaced as a whole.
    Atomic,
    /// Items are distinct values.
    Set,
    /// Items are told apart by these fields, in the order of their names.
    Map(Box<[Box<str>]>),
}

/// A type together with the table it refers into.
#[derive(Clone, Copy)]
pub struct TypeRef<'a> {
    schemas: &'a Schemas,
    ty: &'a Type,
}

static BUILTIN: LazyLock<Schemas> = LazyLock::new(load::builtin);

/// The types of the built-in kinds.
pub fn builtin() -> &'static Schemas {
    &BUILTIN
}

/// The packed form of the table; changes whenever anything in it does.
pub(crate) fn asset() -> &'static [u8] {
    load::asset()
}

/// The type of a built-in kind.
pub fn type_for(kind: &GroupVersionKind) -> Option<TypeRef<'static>> {
    builtin().kind(kind)
}

impl Schemas {
    /// From types that refer to each other by their place in `types`.
    pub fn new(types: Vec<Type>) -> Self {
        let mut schemas = Schemas {
            types,
            ..Schemas::default()
        };
        for (number, ty) in (0u32..).zip(&schemas.types) {
            schemas.by_name.insert(ty.name.clone(), TypeId(number));
            for kind in &ty.kinds {
                schemas.by_kind.insert(kind.clone(), TypeId(number));
            }
        }
        schemas
    }

    /// The type of a name such as `core.v1.Pod`.
    pub fn get(&self, name: &str) -> Option<TypeRef<'_>> {
        self.at(*self.by_name.get(name)?)
    }

    /// The type of a kind.
    pub fn kind(&self, kind: &GroupVersionKind) -> Option<TypeRef<'_>> {
        self.at(*self.by_kind.get(kind)?)
    }

    /// The type of a number of this table.
    pub fn at(&self, id: TypeId) -> Option<TypeRef<'_>> {
        let ty = self.types.get(id.0 as usize)?;
        Some(TypeRef { schemas: self, ty })
    }

    /// The number of a type of this table.
    pub fn id(&self, name: &str) -> Option<TypeId> {
        self.by_name.get(name).copied()
    }

    /// All types, in the order of their numbers.
    pub fn types(&self) -> &[Type] {
        &self.types
    }
}

impl TypeId {
    /// Place in the list of types.
    pub fn new(number: u32) -> Self {
        Self(number)
    }

    /// Place in the list of types.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl Type {
    /// The field of a name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        let found = self.fields.binary_search_by(|f| (*f.name).cmp(name));
        found.ok().map(|place| &self.fields[place])
    }

    /// The name of the Go struct, as error messages print it: `PodSpec`.
    pub fn go_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }
}

impl fmt::Debug for TypeRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypeRef").field(&self.ty.name).finish()
    }
}

impl<'a> TypeRef<'a> {
    /// The type itself.
    pub fn ty(&self) -> &'a Type {
        self.ty
    }

    /// The table it is of.
    pub fn schemas(&self) -> &'a Schemas {
        self.schemas
    }

    /// The field of a name.
    pub fn field(&self, name: &str) -> Option<&'a Field> {
        self.ty.field(name)
    }

    /// The type that a struct shape of this table names.
    pub fn follow(&self, shape: &Shape) -> Option<TypeRef<'a>> {
        match shape {
            Shape::Object { ty, .. } => self.schemas.at(*ty),
            _ => None,
        }
    }

    /// The first kind whose objects are of this type.
    pub fn kind(&self) -> Option<&'a GroupVersionKind> {
        self.ty.kinds.first()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_table_knows_kinds_lists_and_keys() {
        let kind = GroupVersionKind::new("apps", "v1", "Deployment");
        let deployment = type_for(&kind).unwrap();
        assert_eq!(&*deployment.ty().name, "apps.v1.Deployment");
        let spec = deployment
            .follow(&deployment.field("spec").unwrap().shape)
            .unwrap();
        assert!(spec.field("strategy").unwrap().patch.retain_keys);
        let port = builtin().get("core.v1.ContainerPort").unwrap();
        let default = port.field("protocol").unwrap().default.as_deref();
        assert_eq!(default, Some(&Value::from("TCP")));
        let container = builtin().get("core.v1.Container").unwrap();
        let ports = container.field("ports").unwrap();
        assert_eq!(ports.patch.key.as_deref(), Some("containerPort"));
        let Shape::List(list) = &ports.shape else {
            panic!("not a list: {:?}", ports.shape)
        };
        let keys = ListKind::Map(Box::new(["containerPort".into(), "protocol".into()]));
        assert_eq!(list.kind, keys);
        let pods = builtin().get("core.v1.PodList").unwrap();
        assert_eq!(pods.kind().unwrap().kind, "PodList");
    }

    #[test]
    fn every_type_has_its_descriptions() {
        let docs = docs();
        for (number, ty) in (0u32..).zip(builtin().types()) {
            assert_eq!(docs.fields(TypeId::new(number)).len(), ty.fields.len());
        }
        let pod = builtin().by_name["core.v1.Pod"];
        assert!(docs.of(pod).starts_with("Pod is a collection"));
    }
}
