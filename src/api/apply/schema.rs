//! Types as server-side apply sees them: what is a leaf, what is merged field by field, which
//! items of lists are the same. And the walks that need one value only: the set of its fields,
//! and the value without some of them.

use serde_json::{Map, Value};

use super::fields::{Own, Set, Step};
use crate::api::schema::{ListKind, Rest, Shape, TypeRef};

/// A place in an object, with what is known of its type.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    owner: TypeRef<'a>,
    pub(super) kind: Kind<'a>,
    /// Of an atomic struct or map: what it would be if it were not.
    granular: Option<Kind<'a>>,
}

/// How a place is owned and merged.
#[derive(Clone, Copy)]
pub(super) enum Kind<'a> {
    /// As a whole.
    Leaf,
    /// Field by field; the fields are known.
    Struct(TypeRef<'a>),
    /// Entry by entry.
    Map(&'a Shape),
    /// Item by item, which are distinct values.
    Set(&'a Shape),
    /// Item by item, told apart by keys.
    Keyed(&'a Shape, &'a [Box<str>]),
    /// By what the value looks like.
    Free,
}

/// A child of a struct or map.
pub(super) struct Child<'a> {
    pub(super) node: Node<'a>,
    /// Whether it is a field that the type names.
    pub(super) named: bool,
    /// See `Field::by_value`.
    pub(super) by_value: bool,
}

impl<'a> Node<'a> {
    pub(super) fn root(ty: TypeRef<'a>) -> Self {
        Node {
            owner: ty,
            kind: Kind::Struct(ty),
            granular: None,
        }
    }

    fn of(owner: TypeRef<'a>, shape: &'a Shape) -> Self {
        let (atomic, kind) = match shape {
            Shape::Object { atomic, .. } => match owner.follow(shape) {
                Some(ty) => (*atomic, Kind::Struct(ty)),
                None => (false, Kind::Leaf),
            },
            Shape::Map { values, atomic } => (*atomic, Kind::Map(values)),
            Shape::List(list) => match &list.kind {
                ListKind::Atomic => (false, Kind::Leaf),
                ListKind::Set => (false, Kind::Set(&list.items)),
                ListKind::Map(keys) => (false, Kind::Keyed(&list.items, keys)),
            },
            Shape::Free => (false, Kind::Free),
            _ => (false, Kind::Leaf),
        };
        Node {
            owner,
            kind: if atomic { Kind::Leaf } else { kind },
            granular: atomic.then_some(kind),
        }
    }

    /// Decides about a place of unknown type by its value: maps are merged, all else is not.
    pub(super) fn resolved(self, value: Option<&Value>) -> Self {
        let kind = match (self.kind, value) {
            (Kind::Free, Some(Value::Object(_))) => Kind::Map(&Shape::Free),
            (Kind::Free, _) => Kind::Leaf,
            (kind, _) => kind,
        };
        Node { kind, ..self }
    }

    /// The child of that name; of a list, what an item is.
    pub(super) fn child(&self, name: &str) -> Child<'a> {
        let unnamed = |shape: &'a Shape| Child {
            node: Node::of(self.owner, shape),
            named: false,
            by_value: false,
        };
        match self.kind {
            Kind::Struct(ty) => match (ty.field(name), &ty.ty().rest) {
                (Some(field), _) => Child {
                    node: Node::of(ty, &field.shape),
                    named: true,
                    by_value: field.by_value,
                },
                (None, Rest::Values(values)) => Child {
                    node: Node::of(ty, values),
                    named: false,
                    by_value: false,
                },
                (None, _) => unnamed(&Shape::Free),
            },
            Kind::Map(shape) | Kind::Set(shape) | Kind::Keyed(shape, _) => unnamed(shape),
            Kind::Leaf | Kind::Free => unnamed(&Shape::Free),
        }
    }

    /// The same place, field by field, where it is owned as a whole.
    pub(super) fn granular(self) -> Self {
        self.granular.map_or(self, |kind| Node { kind, ..self })
    }

    /// An item or value of that shape.
    pub(super) fn inside(&self, shape: &'a Shape) -> Node<'a> {
        Node::of(self.owner, shape)
    }

    /// Whether a field of that name may be.
    pub(super) fn knows(&self, name: &str) -> bool {
        match self.kind {
            Kind::Struct(ty) => ty.field(name).is_some() || !matches!(ty.ty().rest, Rest::Unknown),
            _ => true,
        }
    }

    /// The shape of the child of that name; of a list, of an item.
    pub(super) fn shape_of(&self, name: &str) -> Option<&'a Shape> {
        match self.kind {
            Kind::Struct(ty) => match (ty.field(name), &ty.ty().rest) {
                (Some(field), _) => Some(&field.shape),
                (None, Rest::Values(values)) => Some(values),
                (None, _) => None,
            },
            Kind::Map(shape) | Kind::Set(shape) | Kind::Keyed(shape, _) => Some(shape),
            Kind::Leaf | Kind::Free => None,
        }
    }

    /// What an item of a list is.
    pub(super) fn item(&self) -> Node<'a> {
        self.child("").node
    }

    /// The step to an item of a list; the error is the rest of a sentence about the item.
    pub(super) fn step(&self, item: &Value) -> Result<Step, String> {
        let Kind::Keyed(shape, keys) = self.kind else {
            return match item {
                Value::Object(_) | Value::Array(_) | Value::Null => {
                    Err("set has an element that is not a scalar".into())
                }
                scalar => Ok(Step::Value(scalar.clone())),
            };
        };
        let Some(map) = item.as_object() else {
            return Err("associative list with keys may not have non-map elements".into());
        };
        let ty = self.owner.follow(shape);
        let value = |key: &str| {
            let default = || ty.and_then(|ty| ty.field(key)?.default.as_deref());
            map.get(key).or_else(default).cloned()
        };
        let found: Box<[_]> = keys
            .iter()
            .filter_map(|key| value(key).map(|value| (key.clone(), value)))
            .collect();
        if found.is_empty() {
            let names: Vec<_> = keys.iter().map(|key| format!("\"{key}\"")).collect();
            return Err(format!(
                "associative list with keys has an element that omits all key fields [{}] (and \
                 doesn't have default values for any key fields)",
                names.join(" ")
            ));
        }
        Ok(Step::Key(found))
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self.kind, Kind::Set(_) | Kind::Keyed(..))
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self.kind, Kind::Struct(_) | Kind::Map(_))
    }
}

/// The fields that an object sets.
pub(super) fn fields_of(node: Node<'_>, object: &Map<String, Value>) -> Set {
    fields_of_map(node, object)
}

fn own_of(node: Node<'_>, value: &Value) -> Own {
    let node = node.resolved(Some(value));
    match value {
        Value::Object(map) if node.is_map() => Own {
            member: false,
            below: fields_of_map(node, map),
        },
        Value::Array(items) if node.is_list() => Own {
            member: false,
            below: fields_of_list(node, items),
        },
        Value::Null if node.is_map() || node.is_list() => Own::default(),
        _ => Own::MEMBER,
    }
}

fn fields_of_map(node: Node<'_>, map: &Map<String, Value>) -> Set {
    let mut set = Set::default();
    for (name, value) in map {
        let child = node.child(name);
        let mut own = own_of(child.node, value);
        let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
        own.member |= empty || !child.named;
        set.push(Step::field(name), own);
    }
    set
}

fn fields_of_list(node: Node<'_>, items: &[Value]) -> Set {
    let item_node = node.item();
    let mut owns: Vec<(Step, Own)> = items
        .iter()
        .filter_map(|item| {
            let mut own = own_of(item_node, item);
            own.member = true;
            Some((node.step(item).ok()?, own))
        })
        .collect();
    owns.sort_by(|one, two| one.0.cmp(&two.0));
    let mut set = Set::default();
    let mut owns = owns.into_iter().peekable();
    while let Some((step, mut own)) = owns.next() {
        // Of duplicates only the place is owned.
        while owns.next_if(|(next, _)| *next == step).is_some() {
            own = Own::MEMBER;
        }
        set.push(step, own);
    }
    set
}

/// The fields of a struct or map without those of `set`.
pub(super) fn fields_without(
    node: Node<'_>,
    map: &Map<String, Value>,
    set: &Set,
) -> Map<String, Value> {
    let mut kept = Map::new();
    for (name, value) in map {
        match set.get_field(name) {
            Some(own) if own.member => {}
            Some(own) => {
                let left = without(node.child(name).node, value, &own.below);
                kept.extend(left.map(|value| (name.clone(), value)));
            }
            None => {
                kept.insert(name.clone(), value.clone());
            }
        }
    }
    kept
}

/// `value` without the fields of `set`; `None` where nothing is left of a map or list.
fn without(node: Node<'_>, value: &Value, set: &Set) -> Option<Value> {
    let node = node.resolved(Some(value));
    match value {
        Value::Object(map) if node.is_map() => {
            let kept = fields_without(node, map, set);
            (map.is_empty() || !kept.is_empty()).then_some(Value::Object(kept))
        }
        Value::Array(items) if node.is_list() => {
            if items.is_empty() {
                return Some(value.clone());
            }
            let kept: Vec<_> = items
                .iter()
                .filter_map(|item| item_without(node, item, set))
                .collect();
            (!kept.is_empty()).then_some(Value::Array(kept))
        }
        other => Some(other.clone()),
    }
}

fn item_without(node: Node<'_>, item: &Value, set: &Set) -> Option<Value> {
    let own = node
        .step(item)
        .ok()
        .and_then(|step| set.get(&step).cloned());
    match own {
        Some(own) if own.member => None,
        Some(own) => without(node.item(), item, &own.below),
        None => Some(item.clone()),
    }
}

/// The set with every struct field on the way to a member as a member.
pub(super) fn with_named(node: Node<'_>, set: &Set) -> Set {
    let mut out = Set::default();
    for entry in set.entries() {
        let (child, named) = match &entry.step {
            Step::Field(name) => {
                let child = node.child(name);
                (child.node, child.named)
            }
            _ => (node.item(), false),
        };
        let below = with_named(child, &entry.own.below);
        let member = entry.own.member || named && !below.is_empty();
        out.push(entry.step.clone(), Own { member, below });
    }
    out
}
