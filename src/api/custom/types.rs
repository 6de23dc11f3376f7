//! The types that server-side apply and decoding go by, made from a structural schema.

use std::collections::HashMap;

use crate::api::gvk::GroupVersionKind;
use crate::api::schema::structural::{Additional, Items, Kind, Structural};
use crate::api::schema::{
    Field, List, ListKind, PatchRule, Rest, Schemas, Shape, Type, TypeId, TypeRef, builtin,
};

const OBJECT_META: &str = "meta.v1.ObjectMeta";

/// The types of a kind, merged as its schema says.
pub(super) fn merged(kind: &GroupVersionKind, schema: &Structural) -> Schemas {
    let mut build = Build::new();
    let root = build.object(schema, true);
    build.finish(kind, root)
}

/// The type of an object of which only the metadata is known, everything else is kept.
pub(super) fn envelope(kind: &GroupVersionKind) -> Schemas {
    let mut build = Build::new();
    let fields = build.resource_fields();
    let root = Type {
        fields: sorted(fields),
        rest: Rest::Keep,
        ..Type::default()
    };
    build.finish(kind, root)
}

struct Build {
    /// The first is the object itself.
    types: Vec<Type>,
    copied: HashMap<String, TypeId>,
}

impl Build {
    fn new() -> Self {
        Self {
            types: vec![Type::default()],
            copied: HashMap::new(),
        }
    }

    fn finish(mut self, kind: &GroupVersionKind, root: Type) -> Schemas {
        self.types[0] = Type {
            name: super::definition_name(kind).into(),
            kinds: Box::new([kind.clone()]),
            ..root
        };
        for (number, ty) in self.types.iter_mut().enumerate() {
            if ty.name.is_empty() {
                ty.name = format!("{}.part{number}", kind.kind).into();
            }
        }
        Schemas::new(self.types)
    }

    fn add(&mut self, ty: Type) -> TypeId {
        let number = u32::try_from(self.types.len()).unwrap_or(u32::MAX);
        self.types.push(ty);
        TypeId::new(number)
    }

    fn resource_fields(&mut self) -> Vec<Field> {
        let meta = self.object_meta();
        vec![
            field("apiVersion", Shape::String),
            field("kind", Shape::String),
            Field {
                by_value: true,
                ..field("metadata", meta)
            },
        ]
    }

    fn object_meta(&mut self) -> Shape {
        let Some(meta) = builtin().get(OBJECT_META) else {
            return Shape::Free;
        };
        Shape::Object {
            ty: self.copy(meta),
            atomic: false,
        }
    }

    /// A built-in type as one of these.
    fn copy(&mut self, ty: TypeRef<'_>) -> TypeId {
        let name = ty.ty().name.to_string();
        if let Some(id) = self.copied.get(&name) {
            return *id;
        }
        let id = self.add(Type {
            name: ty.ty().name.clone(),
            ..Type::default()
        });
        self.copied.insert(name, id);
        let fields: Vec<Field> = ty
            .ty()
            .fields
            .iter()
            .map(|of| Field {
                name: of.name.clone(),
                shape: self.copied_shape(ty, &of.shape),
                patch: of.patch.clone(),
                required: of.required,
                by_value: of.by_value,
                default: of.default.clone(),
            })
            .collect();
        let made = &mut self.types[id.index()];
        made.atomic = ty.ty().atomic;
        made.fields = fields.into();
        id
    }

    fn copied_shape(&mut self, owner: TypeRef<'_>, shape: &Shape) -> Shape {
        match shape {
            Shape::Object { atomic, .. } => match owner.follow(shape) {
                Some(ty) => Shape::Object {
                    ty: self.copy(ty),
                    atomic: *atomic,
                },
                None => Shape::Free,
            },
            Shape::List(list) => Shape::List(Box::new(List {
                items: self.copied_shape(owner, &list.items),
                kind: list.kind.clone(),
            })),
            Shape::Map { values, atomic } => Shape::Map {
                values: Box::new(self.copied_shape(owner, values)),
                atomic: *atomic,
            },
            other => other.clone(),
        }
    }

    fn object(&mut self, schema: &Structural, is_resource: bool) -> Type {
        let mut fields = Vec::new();
        if is_resource {
            fields = self.resource_fields();
        }
        for (name, of) in &schema.properties {
            if fields.iter().any(|known| *known.name == **name) {
                continue;
            }
            let shape = self.shape(of);
            fields.push(Field {
                default: of.default.clone().map(Box::new),
                ..field(name, shape)
            });
        }
        let rest = match &schema.additional {
            Additional::Values(values) => Rest::Values(self.shape(values)),
            Additional::Any => Rest::Keep,
            Additional::None if schema.preserve => Rest::Keep,
            Additional::None => Rest::Unknown,
        };
        Type {
            fields: sorted(fields),
            rest,
            atomic: schema.atomic_map,
            ..Type::default()
        }
    }

    fn shape(&mut self, schema: &Structural) -> Shape {
        if schema.int_or_string {
            return Shape::Any;
        }
        match schema.kind {
            Some(Kind::String) => Shape::String,
            // Whether it is a whole one is for validation to say.
            Some(Kind::Integer | Kind::Number) => Shape::Float,
            Some(Kind::Boolean) => Shape::Bool,
            Some(Kind::Array) => {
                let items = schema.items.as_deref().map(|items| self.shape(items));
                Shape::List(Box::new(List {
                    items: items.unwrap_or(Shape::Free),
                    kind: list_kind(&schema.list),
                }))
            }
            Some(Kind::Object) => self.object_shape(schema),
            None => Shape::Free,
        }
    }

    fn object_shape(&mut self, schema: &Structural) -> Shape {
        let has_no_fields = schema.properties.is_empty() && !schema.embedded;
        match &schema.additional {
            Additional::Values(values) if has_no_fields => Shape::Map {
                values: Box::new(self.shape(values)),
                atomic: schema.atomic_map,
            },
            Additional::None if has_no_fields && schema.preserve && !schema.atomic_map => {
                Shape::Free
            }
            _ => {
                let ty = self.object(schema, schema.embedded);
                Shape::Object {
                    ty: self.add(ty),
                    atomic: schema.atomic_map,
                }
            }
        }
    }
}

fn field(name: &str, shape: Shape) -> Field {
    Field {
        name: name.into(),
        shape,
        patch: PatchRule::default(),
        required: false,
        by_value: false,
        default: None,
    }
}

fn sorted(mut fields: Vec<Field>) -> Box<[Field]> {
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    fields.into()
}

fn list_kind(list: &Items) -> ListKind {
    match list {
        Items::Atomic => ListKind::Atomic,
        Items::Set => ListKind::Set,
        Items::Map(keys) => {
            let mut keys: Vec<Box<str>> = keys.iter().map(|key| key.as_str().into()).collect();
            keys.sort();
            ListKind::Map(keys.into())
        }
    }
}
