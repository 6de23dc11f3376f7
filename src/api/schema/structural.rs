//! The schema of a custom resource's version, compiled from the `openAPIV3Schema` of its
//! definition: what pruning, defaulting, validation, server-side apply and columns go by.
//!
//! A *structural* schema says the type of every field outside of `allOf`, `anyOf`, `oneOf` and
//! `not`; what is inside of those only restricts values. Both are the same [`Structural`] here,
//! the inner ones without types. A definition whose schema is not structural is refused when it is
//! made (`super::check`), so compiling never fails: what cannot be read restricts nothing.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

/// Types of JSON Schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `object`
    Object,
    /// `array`
    Array,
    /// `string`
    String,
    /// `integer`
    Integer,
    /// `number`
    Number,
    /// `boolean`
    Boolean,
}

/// How an array merges, and what it may hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Items {
    /// `atomic`, or nothing said.
    #[default]
    Atomic,
    /// `set`: distinct values.
    Set,
    /// `map`: objects told apart by these fields.
    Map(Vec<String>),
}

/// What an object may hold beside its properties.
#[derive(Clone, Debug, Default)]
pub enum Additional {
    /// Nothing (it is pruned).
    #[default]
    None,
    /// Anything.
    Any,
    /// Values of this schema.
    Values(Box<Structural>),
}

/// A place in a schema.
#[derive(Clone, Debug, Default)]
pub struct Structural {
    /// `type`
    pub kind: Option<Kind>,
    /// `nullable`
    pub nullable: bool,
    /// `x-kubernetes-int-or-string`
    pub int_or_string: bool,
    /// `x-kubernetes-preserve-unknown-fields`
    pub preserve: bool,
    /// `x-kubernetes-embedded-resource`
    pub embedded: bool,
    /// `x-kubernetes-map-type: atomic`
    pub atomic_map: bool,
    /// `x-kubernetes-list-type` and `-list-map-keys`
    pub list: Items,
    /// `properties`
    pub properties: BTreeMap<String, Structural>,
    /// `additionalProperties`
    pub additional: Additional,
    /// `items`
    pub items: Option<Box<Structural>>,
    /// `default`
    pub default: Option<Value>,
    /// What values are checked for.
    pub checks: Checks,
    /// `x-kubernetes-validations`, as they are written.
    pub rules: Vec<Value>,
}

/// What restricts values.
#[derive(Clone, Debug, Default)]
pub struct Checks {
    /// `format`
    pub format: String,
    /// `pattern`, with its text.
    pub pattern: Option<(String, Regex)>,
    /// `enum`
    pub choices: Vec<Value>,
    /// `required`
    pub required: Vec<String>,
    /// `minimum`, and whether it is itself excluded.
    pub minimum: Option<(f64, bool)>,
    /// `maximum`, and whether it is itself excluded.
    pub maximum: Option<(f64, bool)>,
    /// `multipleOf`
    pub multiple_of: Option<f64>,
    /// `minLength`
    pub min_length: Option<u64>,
    /// `maxLength`
    pub max_length: Option<u64>,
    /// `minItems`
    pub min_items: Option<u64>,
    /// `maxItems`
    pub max_items: Option<u64>,
    /// `minProperties`
    pub min_properties: Option<u64>,
    /// `maxProperties`
    pub max_properties: Option<u64>,
    /// `uniqueItems`
    pub unique: bool,
    /// `allOf`
    pub all_of: Vec<Structural>,
    /// `anyOf`
    pub any_of: Vec<Structural>,
    /// `oneOf`
    pub one_of: Vec<Structural>,
    /// `not`
    pub not: Option<Box<Structural>>,
}

impl Kind {
    /// From `type`.
    pub fn of(text: &str) -> Option<Self> {
        Some(match text {
            "object" => Kind::Object,
            "array" => Kind::Array,
            "string" => Kind::String,
            "integer" => Kind::Integer,
            "number" => Kind::Number,
            "boolean" => Kind::Boolean,
            _ => return None,
        })
    }

    /// As `type` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Object => "object",
            Kind::Array => "array",
            Kind::String => "string",
            Kind::Integer => "integer",
            Kind::Number => "number",
            Kind::Boolean => "boolean",
        }
    }
}

impl Structural {
    /// Compiles a `JSONSchemaProps`.
    pub fn compile(props: &Value) -> Self {
        let flag = |name: &str| props[name] == true;
        let one = |name: &str| {
            props[name]
                .is_object()
                .then(|| Box::new(Self::compile(&props[name])))
        };
        let keys = strings(&props["x-kubernetes-list-map-keys"]);
        let list = match props["x-kubernetes-list-type"].as_str() {
            Some("set") => Items::Set,
            Some("map") => Items::Map(keys),
            _ => Items::Atomic,
        };
        let additional = match &props["additionalProperties"] {
            Value::Bool(true) => Additional::Any,
            values @ Value::Object(_) => Additional::Values(Box::new(Self::compile(values))),
            _ => Additional::None,
        };
        let properties = props["properties"].as_object().into_iter().flatten();
        Self {
            kind: props["type"].as_str().and_then(Kind::of),
            nullable: flag("nullable"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            preserve: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            atomic_map: props["x-kubernetes-map-type"] == "atomic",
            list,
            properties: properties
                .map(|(name, of)| (name.clone(), Self::compile(of)))
                .collect(),
            additional,
            items: one("items"),
            default: props
                .get("default")
                .filter(|value| !value.is_null())
                .cloned(),
            checks: Checks::compile(props, one("not")),
            rules: props["x-kubernetes-validations"]
                .as_array()
                .cloned()
                .unwrap_or_default(),
        }
    }

    /// What a field of an object here is, where the schema says so.
    pub fn field(&self, name: &str) -> Option<&Structural> {
        self.properties.get(name).or(match &self.additional {
            Additional::Values(values) => Some(values),
            _ => None,
        })
    }

    /// Whether a value is `null` where that is not allowed.
    pub(super) fn is_wrong_null(&self, value: &Value) -> bool {
        value.is_null() && !self.nullable
    }
}

impl Checks {
    fn compile(props: &Value, not: Option<Box<Structural>>) -> Self {
        let all = |name: &str| {
            let list = props[name].as_array().into_iter().flatten();
            list.map(Structural::compile).collect()
        };
        let count = |name: &str| props[name].as_u64();
        let bound =
            |name: &str, exclusive: &str| Some((props[name].as_f64()?, props[exclusive] == true));
        let pattern = props["pattern"].as_str();
        let pattern = pattern.and_then(|text| Some((text.to_owned(), Regex::new(text).ok()?)));
        Self {
            format: props["format"].as_str().unwrap_or_default().to_owned(),
            pattern,
            choices: props["enum"].as_array().cloned().unwrap_or_default(),
            required: strings(&props["required"]),
            minimum: bound("minimum", "exclusiveMinimum"),
            maximum: bound("maximum", "exclusiveMaximum"),
            multiple_of: props["multipleOf"].as_f64(),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            unique: props["uniqueItems"] == true,
            all_of: all("allOf"),
            any_of: all("anyOf"),
            one_of: all("oneOf"),
            not,
        }
    }
}

fn strings(value: &Value) -> Vec<String> {
    let list = value.as_array().into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}
