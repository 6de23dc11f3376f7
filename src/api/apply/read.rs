//! Reads the body of a server-side apply: YAML or JSON, in which no field may be unknown.

use serde_json::{Map, Value};

use super::fields::{Path, Step};
use super::schema::{Kind, Node};
use crate::api::codec::{self, Mode};
use crate::api::object::Object;
use crate::api::schema::{Shape, TypeRef};
use crate::api::status::ApiError;

/// Decodes an apply configuration. Unknown fields, wrong types and duplicate items of lists with
/// keys are errors in any mode; duplicate fields as `mode` says. The second part of the answer
/// are warnings.
pub fn read(body: &[u8], ty: TypeRef<'_>, mode: Mode) -> Result<(Object, Vec<String>), ApiError> {
    let (mut object, problems) = codec::read_any(body, ty)
        .map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))?;
    codec::check_kind(&mut object, ty)?;
    let only_duplicates = problems.strict.iter().all(|p| p.starts_with("duplicate"));
    if problems.mismatch.is_some() || !only_duplicates {
        let raw = codec::value_of_any(body);
        let errors = Check::of(ty, &raw);
        if !errors.is_empty() {
            return Err(refused(&object, &errors));
        }
    }
    if let Some(text) = problems.mismatch {
        return Err(ApiError::bad_request(text));
    }
    if !has_sound_lists(Node::root(ty), &object.0) {
        let errors = Check::of(ty, &Value::Object(object.0.clone()));
        return Err(refused(&object, &errors));
    }
    if mode == Mode::Strict && !problems.strict.is_empty() {
        let all = problems.strict.join(", ");
        return Err(ApiError::bad_request(format!(
            "error strict decoding YAML: {all}"
        )));
    }
    let warnings = match mode {
        Mode::Ignore => Vec::new(),
        _ => problems.strict,
    };
    Ok((object, warnings))
}

/// Whether all items of lists with keys have keys, and distinct ones. The rest was checked when
/// the text was decoded.
fn has_sound_lists(node: Node<'_>, map: &Map<String, Value>) -> bool {
    map.iter().all(|(name, value)| match value {
        Value::Object(_) | Value::Array(_) => is_sound(node.child(name).node, value),
        _ => true,
    })
}

fn is_sound(node: Node<'_>, value: &Value) -> bool {
    match value {
        Value::Object(map) if node.is_map() => has_sound_lists(node, map),
        Value::Array(items) if node.is_list() => {
            let item_node = node.item();
            let steps: Result<Vec<_>, _> = items.iter().map(|item| node.step(item)).collect();
            let Ok(mut steps) = steps else { return false };
            steps.sort();
            let distinct = steps.windows(2).all(|pair| pair[0] != pair[1]);
            distinct && items.iter().all(|item| is_sound(item_node, item))
        }
        _ => true,
    }
}

fn refused(object: &Object, errors: &[String]) -> ApiError {
    let errors = match errors {
        [one] => one.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    };
    let message = format!(
        "failed to create typed patch object ({}/{}; {}, Kind={}): {errors}",
        object.namespace(),
        object.name(),
        object.api_version(),
        object.kind()
    );
    ApiError::plain(500, "", message)
}

/// Collects what is wrong with a value in the words of structured-merge-diff.
struct Check {
    at: Path,
    errors: Vec<String>,
}

impl Check {
    fn of(ty: TypeRef<'_>, value: &Value) -> Vec<String> {
        let mut check = Check {
            at: Path::default(),
            errors: Vec::new(),
        };
        check.fields(Node::root(ty), value);
        check.errors
    }

    fn wrong(&mut self, what: &str) {
        self.errors.push(format!("{}: {what}", self.at));
    }

    fn below(&mut self, step: Step, check: impl FnOnce(&mut Self)) {
        self.at.0.push(step);
        check(self);
        self.at.0.pop();
    }

    fn value(&mut self, node: Node<'_>, shape: Option<&Shape>, value: &Value) {
        if value.is_null() {
            return;
        }
        match (node.kind, shape) {
            (Kind::Struct(_) | Kind::Map(_), _) => self.fields(node, value),
            (Kind::Set(_) | Kind::Keyed(..), _) => self.items(node, value),
            (_, Some(Shape::List(list))) => match value {
                Value::Array(items) => {
                    let item = node.inside(&list.items);
                    for (place, value) in (0i64..).zip(items) {
                        let step = Step::Index(place);
                        self.below(step, |this| this.value(item, Some(&list.items), value));
                    }
                }
                other => self.wrong(&format!("expected list, got &{{{}}}", plain(other))),
            },
            (_, Some(Shape::Object { .. } | Shape::Map { .. })) => {
                self.fields(node.granular(), value);
            }
            (_, Some(shape)) => self.scalar(shape, value),
            (_, None) => {}
        }
    }

    fn fields(&mut self, node: Node<'_>, value: &Value) {
        let Some(map) = value.as_object() else {
            return self.wrong(&format!("expected map, got &{{{}}}", plain(value)));
        };
        for (name, value) in map {
            self.below(Step::field(name), |this| {
                if node.knows(name) {
                    let child = node.child(name);
                    this.value(child.node, node.shape_of(name), value);
                } else {
                    this.wrong("field not declared in schema");
                }
            });
        }
    }

    fn items(&mut self, node: Node<'_>, value: &Value) {
        let Some(items) = value.as_array() else {
            return self.wrong(&format!("expected list, got &{{{}}}", plain(value)));
        };
        let mut seen = Vec::new();
        for (place, item) in items.iter().enumerate() {
            match node.step(item) {
                Err(why) => self.wrong(&format!("element {place}: {why}")),
                Ok(step) => {
                    self.below(step.clone(), |this| {
                        this.value(node.item(), node.shape_of(""), item);
                    });
                    seen.push(step);
                }
            }
        }
        seen.sort();
        let mut doubled: Vec<_> = seen.windows(2).filter(|w| w[0] == w[1]).collect();
        doubled.dedup_by(|one, two| one[0] == two[0]);
        for pair in doubled {
            self.wrong(&format!("duplicate entries for key {}", pair[0]));
        }
    }

    fn scalar(&mut self, shape: &Shape, value: &Value) {
        let what = match (shape, value) {
            (Shape::Any | Shape::Free | Shape::OneOf(_), _)
            | (Shape::Bool, Value::Bool(_))
            | (Shape::Int32 | Shape::Int64 | Shape::Float, Value::Number(_))
            | (Shape::Quantity | Shape::IntOrString, Value::Number(_) | Value::String(_))
            | (Shape::String | Shape::Time | Shape::MicroTime | Shape::Bytes, Value::String(_)) => {
                return;
            }
            (Shape::Bool, other) => format!("expected boolean, got &{{{}}}", plain(other)),
            (Shape::Int32 | Shape::Int64 | Shape::Float, other) => {
                let kind = match other {
                    Value::String(_) => "string",
                    Value::Bool(_) => "bool",
                    Value::Array(_) => "[]interface {}",
                    _ => "map[string]interface {}",
                };
                format!("expected numeric (int or float), got {kind}")
            }
            (Shape::Quantity | Shape::IntOrString, other) => {
                format!("expected any scalar, got &{{{}}}", plain(other))
            }
            (_, other) => {
                let shown = plain(other);
                format!("expected string, got &value.valueUnstructured{{Value:{shown}}}")
            }
        };
        self.wrong(&what);
    }
}

/// As Go prints a value inside of another.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
