//! Reads a value from any serde format along a type. What is wrong is collected with its path
//! while reading goes on, as Go's decoder does; only the syntax of the text can make it fail.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess};
use serde::de::{SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::scalar;
use crate::api::object::Object;
use crate::api::schema::{Rest, Shape, TypeRef};

/// At most this many unknown and duplicate fields are reported, as upstream.
const STRICT_MAX: usize = 100;

/// What was found wrong while reading.
#[derive(Debug, Default)]
pub struct Problems {
    /// Unknown and duplicate fields, in upstream's words.
    pub strict: Vec<String>,
    /// The first value of a wrong type, in upstream's words.
    pub mismatch: Option<String>,
    wants_strict: bool,
}

impl Problems {
    /// With or without unknown and duplicate fields.
    pub fn new(wants_strict: bool) -> Self {
        Self {
            wants_strict,
            ..Self::default()
        }
    }

    fn strict(&mut self, what: &str, at: &Place<'_>, field: &str) {
        if self.wants_strict && self.strict.len() < STRICT_MAX {
            let path = Place::field(at, field);
            let text = format!("{what} field \"{}\"", path.strict());
            if !self.strict.contains(&text) {
                self.strict.push(text);
            }
        }
    }

    fn mismatch(&mut self, text: impl FnOnce() -> String) {
        if self.mismatch.is_none() {
            self.mismatch = Some(text());
        }
    }
}

/// Where reading is: a list that lives on the stack.
struct Place<'p> {
    parent: Option<&'p Place<'p>>,
    step: Step<'p>,
}

enum Step<'p> {
    Root,
    Field(&'p str),
    Item(usize),
}

impl<'p> Place<'p> {
    const ROOT: Place<'static> = Place {
        parent: None,
        step: Step::Root,
    };

    fn field(parent: &'p Place<'p>, name: &'p str) -> Self {
        Place {
            parent: Some(parent),
            step: Step::Field(name),
        }
    }

    fn item(parent: &'p Place<'p>, number: usize) -> Self {
        Place {
            parent: Some(parent),
            step: Step::Item(number),
        }
    }

    /// `spec.containers[0].image`, as strict errors print it.
    fn strict(&self) -> String {
        let mut text = self.parent.map(Place::strict).unwrap_or_default();
        match self.step {
            Step::Root => {}
            Step::Field(name) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(name);
            }
            Step::Item(number) => text.push_str(&format!("[{number}]")),
        }
        text
    }

    /// `spec.containers.image`, as Go's type errors print it.
    fn go(&self) -> String {
        let text = self.parent.map(Place::go).unwrap_or_default();
        match self.step {
            Step::Field(name) if text.is_empty() => name.to_owned(),
            Step::Field(name) => format!("{text}.{name}"),
            Step::Root | Step::Item(_) => text,
        }
    }
}

/// Reads a whole object.
pub(super) struct Root<'a, 'p> {
    ty: TypeRef<'a>,
    problems: &'p mut Problems,
}

impl<'a, 'p> Root<'a, 'p> {
    pub(super) fn new(ty: TypeRef<'a>, problems: &'p mut Problems) -> Self {
        Self { ty, problems }
    }
}

impl<'de> DeserializeSeed<'de> for Root<'_, '_> {
    type Value = Object;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Object, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Root<'_, '_> {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object, A::Error> {
        let reader = Reader {
            problems: self.problems,
            place: &Place::ROOT,
            owner: self.ty,
        };
        reader.fields(self.ty, map).map(Object)
    }
}

/// Reads one value of a place. `None` is `null`, or what was dropped for being wrong.
struct Reader<'a, 'p> {
    problems: &'p mut Problems,
    place: &'p Place<'p>,
    /// The struct that the innermost field is of.
    owner: TypeRef<'a>,
}

/// A [`Reader`] and the shape it should read.
struct Shaped<'a, 'p> {
    reader: Reader<'a, 'p>,
    shape: &'a Shape,
}

impl<'a> Reader<'a, '_> {
    /// The fields of a struct.
    fn fields<'de, A: MapAccess<'de>>(
        self,
        ty: TypeRef<'a>,
        mut map: A,
    ) -> Result<Map<String, Value>, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let shape = match (ty.field(&name), &ty.ty().rest) {
                (Some(field), _) => Some(&field.shape),
                (None, Rest::Values(values)) => Some(values),
                (None, Rest::Keep) => Some(&Shape::Free),
                (None, Rest::Unknown) => None,
            };
            let Some(shape) = shape else {
                map.next_value::<IgnoredAny>()?;
                self.problems.strict("unknown", self.place, &name);
                continue;
            };
            let value = map.next_value_seed(Shaped {
                reader: Reader {
                    problems: self.problems,
                    place: &Place::field(self.place, &name),
                    owner: ty,
                },
                shape,
            })?;
            if fields.contains_key(&name) {
                self.problems.strict("duplicate", self.place, &name);
            }
            if let Some(value) = value {
                fields.insert(name, value);
            }
        }
        Ok(fields)
    }

    /// The entries of a map. `null` is the empty value of the type, as in Go.
    fn entries<'de, A: MapAccess<'de>>(
        self,
        values: &'a Shape,
        mut map: A,
    ) -> Result<Map<String, Value>, A::Error> {
        let mut entries = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value_seed(Shaped {
                reader: Reader {
                    problems: self.problems,
                    place: &Place::field(self.place, &name),
                    owner: self.owner,
                },
                shape: values,
            })?;
            if entries.contains_key(&name) {
                self.problems.strict("duplicate", self.place, &name);
            }
            entries.insert(name, value.unwrap_or_else(|| empty(values)));
        }
        Ok(entries)
    }

    fn items<'de, A: SeqAccess<'de>>(
        self,
        items: &'a Shape,
        mut seq: A,
    ) -> Result<Vec<Value>, A::Error> {
        let mut out = Vec::new();
        loop {
            let read = seq.next_element_seed(Shaped {
                reader: Reader {
                    problems: self.problems,
                    place: &Place::item(self.place, out.len()),
                    owner: self.owner,
                },
                shape: items,
            })?;
            match read {
                None => return Ok(out),
                Some(value) => out.push(value.unwrap_or_else(|| empty(items))),
            }
        }
    }

    /// `json: cannot unmarshal <what> into Go struct field <Struct>.<path> of type <type>`
    fn wrong(self, what: &str, shape: &Shape) -> Option<Value> {
        let (owner, place) = (self.owner, self.place);
        self.problems.mismatch(|| {
            format!(
                "json: cannot unmarshal {what} into Go struct field {}.{} of type {}",
                owner.ty().go_name(),
                place.go(),
                go_type(owner, shape)
            )
        });
        None
    }
}

impl<'de> DeserializeSeed<'de> for Shaped<'_, '_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        match self.shape {
            Shape::Any => Value::deserialize(from).map(Some),
            Shape::Free => {
                let (problems, place) = (self.reader.problems, self.reader.place);
                from.deserialize_any(Raw { problems, place }).map(Some)
            }
            _ => from.deserialize_any(self),
        }
    }
}

/// Reads anything as it is, and reports fields that are there twice.
struct Raw<'p> {
    problems: &'p mut Problems,
    place: &'p Place<'p>,
}

impl<'de> DeserializeSeed<'de> for Raw<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Raw<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value);
        let number = number.ok_or_else(|| E::custom(format!("`{value}` is no JSON number")))?;
        Ok(Value::Number(number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let read = seq.next_element_seed(Raw {
                problems: self.problems,
                place: &Place::item(self.place, items.len()),
            })?;
            match read {
                None => return Ok(Value::Array(items)),
                Some(item) => items.push(item),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value_seed(Raw {
                problems: self.problems,
                place: &Place::field(self.place, &name),
            })?;
            if fields.contains_key(&name) {
                self.problems.strict("duplicate", self.place, &name);
            }
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

impl<'a> Shaped<'a, '_> {
    /// Of a choice the one that `fits`; else the shape itself.
    fn choose(mut self, fits: fn(&Shape) -> bool) -> Self {
        if let Shape::OneOf(choices) = self.shape
            && let Some(choice) = choices
                .iter()
                .find(|choice| fits(choice))
                .or(choices.first())
        {
            self.shape = choice;
        }
        self
    }

    fn number(self, number: Number) -> Option<Value> {
        let wrong = match (self.shape, number.as_i64()) {
            (Shape::Float, _) | (Shape::Int64, Some(_)) => None,
            (Shape::Int32 | Shape::IntOrString, Some(n)) if i32::try_from(n).is_ok() => None,
            (Shape::Quantity, _) => return self.checked(scalar::quantity(&number.to_string())),
            (Shape::Int32 | Shape::Int64 | Shape::IntOrString, _) => {
                Some(format!("number {number}"))
            }
            _ => Some("number".to_owned()),
        };
        match wrong {
            None => Some(Value::Number(number)),
            Some(what) => self.reader.wrong(&what, self.shape),
        }
    }

    fn text(self, text: String) -> Option<Value> {
        match self.shape {
            Shape::String | Shape::IntOrString => Some(Value::String(text)),
            Shape::Quantity => self.checked(scalar::quantity(&text)),
            Shape::Time => self.checked(scalar::time(text)),
            Shape::MicroTime => self.checked(scalar::micro_time(text)),
            Shape::Bytes => self.checked(scalar::bytes(text)),
            shape => self.reader.wrong("string", shape),
        }
    }

    /// What a check of a text made of it, or the error of its own that Go's type gives.
    fn checked(self, checked: Result<String, String>) -> Option<Value> {
        match checked {
            Ok(text) => Some(Value::String(text)),
            Err(error) => {
                self.reader.problems.mismatch(|| error);
                None
            }
        }
    }
}

impl<'de> Visitor<'de> for Shaped<'_, '_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        let this = self.choose(|shape| matches!(shape, Shape::Bool));
        match this.shape {
            Shape::Bool => Ok(Some(value.into())),
            shape => Ok(this.reader.wrong("bool", shape)),
        }
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(self.number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(self.number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        let number = Number::from_f64(value);
        let number = number.ok_or_else(|| E::custom(format!("`{value}` is no JSON number")))?;
        Ok(self.number(number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(self.text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Self::Value, E> {
        Ok(self.text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let this = self.choose(|shape| matches!(shape, Shape::List(_)));
        if let Shape::List(list) = this.shape {
            let items = this.reader.items(&list.items, seq)?;
            return Ok(Some(Value::Array(items)));
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(this.reader.wrong("array", this.shape))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let this = self.choose(|shape| matches!(shape, Shape::Object { .. }));
        let fields = match this.shape {
            Shape::Map { values, .. } => this.reader.entries(values, map)?,
            Shape::Object { .. } => match this.reader.owner.follow(this.shape) {
                Some(ty) => this.reader.fields(ty, map)?,
                None => this.reader.entries(&Shape::Free, map)?,
            },
            shape => {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                return Ok(this.reader.wrong("object", shape));
            }
        };
        Ok(Some(Value::Object(fields)))
    }
}

/// The empty value of a type, as Go has it.
fn empty(shape: &Shape) -> Value {
    match shape {
        Shape::String | Shape::Bytes => "".into(),
        Shape::Quantity => "0".into(),
        Shape::Int32 | Shape::Int64 | Shape::Float | Shape::IntOrString => 0.into(),
        Shape::Bool => false.into(),
        Shape::Object { .. } => Value::Object(Map::new()),
        _ => Value::Null,
    }
}

/// The Go type of a shape, as error messages print it.
fn go_type(owner: TypeRef<'_>, shape: &Shape) -> String {
    match shape {
        Shape::String => "string".into(),
        Shape::Int32 => "int32".into(),
        Shape::Int64 => "int64".into(),
        Shape::Float => "float64".into(),
        Shape::Bool => "bool".into(),
        Shape::IntOrString => "intstr.IntOrString".into(),
        Shape::Quantity => "resource.Quantity".into(),
        Shape::Time => "v1.Time".into(),
        Shape::MicroTime => "v1.MicroTime".into(),
        Shape::Bytes => "[]uint8".into(),
        Shape::Any | Shape::Free => "runtime.RawExtension".into(),
        Shape::List(list) => format!("[]{}", go_type(owner, &list.items)),
        Shape::Map { values, .. } => format!("map[string]{}", go_type(owner, values)),
        Shape::OneOf(choices) => choices
            .first()
            .map(|shape| go_type(owner, shape))
            .unwrap_or_default(),
        Shape::Object { .. } => {
            let ty = owner.follow(shape);
            let name = ty.map_or("", |ty| &ty.ty().name);
            let mut parts = name.rsplitn(3, '.');
            let (kind, version) = (parts.next(), parts.next());
            format!("{}.{}", version.unwrap_or("v1"), kind.unwrap_or_default())
        }
    }
}
