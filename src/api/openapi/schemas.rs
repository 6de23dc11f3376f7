//! Definitions of types.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Form, Served, custom};
use crate::api::gvk::GroupVersionKind;
use crate::api::schema::{Docs, Field, ListKind, Rest, Shape, TypeRef, builtin, docs};

/// Types that are scalars with a name of their own.
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";

/// The definitions that the paths of these resources need, by name.
pub(super) fn definitions(served: &[Served<'_>], form: Form) -> Map<String, Value> {
    let mut types = BTreeMap::new();
    for name in ["meta.v1.Status", "meta.v1.DeleteOptions"] {
        reach(builtin().get(name), &mut types);
    }
    for one in served {
        if one.custom.is_some() {
            reach(builtin().get("meta.v1.ObjectMeta"), &mut types);
            reach(builtin().get("meta.v1.ListMeta"), &mut types);
        } else {
            reach(one.schema, &mut types);
            reach(list_type(one), &mut types);
        }
        for part in &one.subresources {
            reach(builtin().kind(&part.kind), &mut types);
        }
    }
    let docs = docs();
    let define = Define { form, docs: &docs };
    let mut made: Map<String, Value> = types
        .into_iter()
        .map(|(name, ty)| (name, define.definition(ty)))
        .collect();
    made.extend(named_scalars(form));
    for custom in served.iter().filter_map(|one| one.custom) {
        made.extend(custom::definitions(custom, form));
    }
    made
}

/// A reference to the type of lists of a resource.
pub(super) fn list_reference(served: &Served<'_>, form: Form) -> Value {
    match served.custom {
        Some(custom) => {
            let name = format!("{}List", crate::api::custom::definition_name(&custom.kind));
            json!({"$ref": pointer(&name, form)})
        }
        None => reference(list_type(served), form),
    }
}

/// The type of lists of a resource.
fn list_type<'a>(served: &Served<'a>) -> Option<TypeRef<'a>> {
    let GroupVersionKind {
        group,
        version,
        kind,
    } = &served.kind;
    let list = GroupVersionKind::new(group, version, &format!("{kind}List"));
    served.schema?.schemas().kind(&list)
}

/// A reference to a type, or to any object where there is none.
pub(super) fn reference(ty: Option<TypeRef<'_>>, form: Form) -> Value {
    match ty {
        Some(ty) => json!({"$ref": pointer(&definition_name(ty), form)}),
        None => json!({"type": "object"}),
    }
}

pub(super) fn pointer(name: &str, form: Form) -> String {
    match form {
        Form::V2 => format!("#/definitions/{name}"),
        Form::V3 => format!("#/components/schemas/{name}"),
    }
}

/// `core.v1.Pod` is published as `io.k8s.api.core.v1.Pod`; types of custom resources under their
/// own names.
pub(super) fn definition_name(ty: TypeRef<'_>) -> String {
    let name = &ty.ty().name;
    if !std::ptr::eq(ty.schemas(), builtin()) && builtin().id(name).is_none() {
        return name.to_string();
    }
    let prefix = match name.split('.').next().unwrap_or_default() {
        "meta" => "io.k8s.apimachinery.pkg.apis",
        "apiextensions" => "io.k8s.apiextensions-apiserver.pkg.apis",
        "apiregistration" => "io.k8s.kube-aggregator.pkg.apis",
        _ => "io.k8s.api",
    };
    format!("{prefix}.{name}")
}

/// Collects a type and all it refers to.
fn reach<'a>(start: Option<TypeRef<'a>>, found: &mut BTreeMap<String, TypeRef<'a>>) {
    let mut open: Vec<TypeRef<'a>> = start.into_iter().collect();
    while let Some(ty) = open.pop() {
        if found.insert(definition_name(ty), ty).is_some() {
            continue;
        }
        let fields = ty.ty().fields.iter().map(|field| &field.shape);
        let rest = match &ty.ty().rest {
            Rest::Values(shape) => Some(shape),
            Rest::Unknown | Rest::Keep => None,
        };
        let mut shapes: Vec<&Shape> = fields.chain(rest).collect();
        while let Some(shape) = shapes.pop() {
            match shape {
                Shape::Object { .. } => open.extend(ty.follow(shape)),
                Shape::List(list) => shapes.push(&list.items),
                Shape::Map { values, .. } => shapes.push(values),
                Shape::OneOf(choices) => shapes.extend(choices),
                _ => {}
            }
        }
    }
}

fn named_scalars(form: Form) -> [(String, Value); 2] {
    let quantity = "A fixed-point number: digits with an optional fraction, and a suffix: `Ki`, \
                    `Mi`, `Gi`, `Ti`, `Pi`, `Ei` for powers of 1024; `n`, `u`, `m`, `k`, `M`, \
                    `G`, `T`, `P`, `E` for powers of 1000; or an exponent such as `e3`.";
    let int_or_string = "A whole number of 32 bits, or a text.";
    let (quantity, int_or_string) = match form {
        Form::V2 => (
            json!({"type": "string", "description": quantity}),
            json!({"type": "string", "format": "int-or-string", "description": int_or_string}),
        ),
        Form::V3 => (
            json!({"oneOf": [{"type": "string"}, {"type": "number"}], "description": quantity}),
            json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string",
                "description": int_or_string}),
        ),
    };
    [
        (QUANTITY.to_owned(), quantity),
        (INT_OR_STRING.to_owned(), int_or_string),
    ]
}

struct Define<'d> {
    form: Form,
    docs: &'d Docs,
}

impl Define<'_> {
    fn definition(&self, ty: TypeRef<'_>) -> Value {
        let mut made = Map::new();
        made.insert("type".into(), "object".into());
        let id = builtin().id(&ty.ty().name);
        let description = id.map_or("", |id| self.docs.of(id));
        if !description.is_empty() {
            made.insert("description".into(), description.into());
        }
        if !ty.ty().fields.is_empty() {
            let texts = id.map_or(&[][..], |id| self.docs.fields(id));
            let texts = texts
                .iter()
                .map(|text| &**text)
                .chain(std::iter::repeat(""));
            let properties = ty.ty().fields.iter().zip(texts);
            let properties = properties
                .map(|(field, text)| (field.name.to_string(), self.property(ty, field, text)));
            made.insert("properties".into(), Value::Object(properties.collect()));
        }
        let required = ty.ty().fields.iter().filter(|field| field.required);
        let required: Vec<_> = required.map(|field| Value::from(&*field.name)).collect();
        if !required.is_empty() {
            made.insert("required".into(), required.into());
        }
        match &ty.ty().rest {
            Rest::Unknown => {}
            Rest::Keep => {
                made.insert("x-kubernetes-preserve-unknown-fields".into(), true.into());
            }
            Rest::Values(values) => {
                made.insert("additionalProperties".into(), self.shape(ty, values));
            }
        }
        if ty.ty().atomic {
            made.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        if !ty.ty().kinds.is_empty() {
            let kinds = ty.ty().kinds.iter().map(kind_extension).collect();
            made.insert(
                "x-kubernetes-group-version-kind".into(),
                Value::Array(kinds),
            );
        }
        Value::Object(made)
    }

    fn property(&self, owner: TypeRef<'_>, field: &Field, description: &str) -> Value {
        let mut made = self.shape(owner, &field.shape);
        if self.form == Form::V3
            && let Some(target) = made.get("$ref").cloned()
        {
            // Beside a reference nothing else may stand in v3.
            made = json!({"allOf": [{"$ref": target}]});
        }
        let mut put = |key: &str, value: Value| made[key] = value;
        if !description.is_empty() {
            put("description", description.into());
        }
        if let Some(default) = &field.default {
            put("default", (**default).clone());
        }
        match &field.shape {
            Shape::List(list) => {
                let (kind, keys) = match &list.kind {
                    ListKind::Atomic => ("atomic", None),
                    ListKind::Set => ("set", None),
                    ListKind::Map(keys) => ("map", Some(keys)),
                };
                put("x-kubernetes-list-type", kind.into());
                if let Some(keys) = keys {
                    let keys: Vec<_> = keys.iter().map(|key| Value::from(&**key)).collect();
                    put("x-kubernetes-list-map-keys", keys.into());
                }
            }
            Shape::Map { atomic: true, .. } => put("x-kubernetes-map-type", "atomic".into()),
            Shape::Object { atomic, .. } => {
                let own = owner.follow(&field.shape).is_some_and(|ty| ty.ty().atomic);
                if *atomic != own {
                    let kind = if *atomic { "atomic" } else { "granular" };
                    put("x-kubernetes-map-type", kind.into());
                }
            }
            _ => {}
        }
        let rule = &field.patch;
        let strategies = [
            (rule.merge, "merge"),
            (rule.retain_keys, "retainKeys"),
            (rule.replace, "replace"),
        ];
        let strategies: Vec<_> = strategies.iter().filter(|s| s.0).map(|s| s.1).collect();
        if !strategies.is_empty() {
            put("x-kubernetes-patch-strategy", strategies.join(",").into());
        }
        if let Some(key) = &rule.key {
            put("x-kubernetes-patch-merge-key", (**key).into());
        }
        made
    }

    fn shape(&self, owner: TypeRef<'_>, shape: &Shape) -> Value {
        match shape {
            Shape::String => json!({"type": "string"}),
            Shape::Int32 => json!({"type": "integer", "format": "int32"}),
            Shape::Int64 => json!({"type": "integer", "format": "int64"}),
            Shape::Float => json!({"type": "number", "format": "double"}),
            Shape::Bool => json!({"type": "boolean"}),
            Shape::IntOrString => json!({"$ref": pointer(INT_OR_STRING, self.form)}),
            Shape::Quantity => json!({"$ref": pointer(QUANTITY, self.form)}),
            Shape::Time | Shape::MicroTime => json!({"type": "string", "format": "date-time"}),
            Shape::Bytes => json!({"type": "string", "format": "byte"}),
            Shape::Any | Shape::OneOf(_) => json!({}),
            Shape::Free => json!({"x-kubernetes-preserve-unknown-fields": true}),
            Shape::Object { .. } => reference(owner.follow(shape), self.form),
            Shape::List(list) => json!({"type": "array", "items": self.inner(owner, &list.items)}),
            Shape::Map { values, .. } => {
                json!({"type": "object", "additionalProperties": self.inner(owner, values)})
            }
        }
    }

    fn inner(&self, owner: TypeRef<'_>, shape: &Shape) -> Value {
        self.shape(owner, shape)
    }
}

/// `{"group": …, "version": …, "kind": …}`
pub(super) fn kind_extension(kind: &GroupVersionKind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}
