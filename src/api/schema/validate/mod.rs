//! Checks values against a schema, with upstream's words (`kube-openapi/pkg/validation`,
//! `apiextensions-apiserver/pkg/apiserver/validation`).
//!
//! *Ratcheting*: what an update leaves as it was is not held against it, wherever old and new
//! value can be told to be the same place (KEP-4008).

mod format;
mod lists;
mod meta;

use serde_json::{Map, Value};

use crate::api::status::{Cause, FieldError};

use super::structural::{Checks, Items, Kind, Structural};

pub use lists::lists;
pub use meta::embedded;

/// All that is wrong with `value`; `old` is what it replaces, where there is something.
pub fn validate(value: &Value, old: Option<&Value>, schema: &Structural) -> Vec<FieldError> {
    let mut found = Vec::new();
    check(value, old, schema, &mut At::new("", &mut found));
    found
}

/// Where checking is, and what it found.
struct At<'a> {
    path: &'a str,
    found: &'a mut Vec<FieldError>,
}

impl<'a> At<'a> {
    fn new(path: &'a str, found: &'a mut Vec<FieldError>) -> Self {
        Self { path, found }
    }

    /// `spec.x in body`
    fn named(&self) -> String {
        format!("{} in body", self.path)
    }

    /// `spec.x: Invalid value: …: spec.x in body <why>`
    fn invalid(&mut self, value: &Value, why: &str) {
        let why = format!("{} {why}", self.named());
        self.found.push(FieldError::invalid(self.path, value, &why));
    }

    /// A value that is not of the type or format `wanted`.
    fn not_of(&mut self, wanted: &str, shown: &str) {
        let why = format!("{} must be of type {wanted}: {shown:?}", self.named());
        self.found.push(FieldError {
            cause: Cause::TypeInvalid,
            ..FieldError::invalid(self.path, &shown.into(), &why)
        });
    }

    /// What has no place of its own upstream.
    fn composite(&mut self, why: &str) {
        let why = format!("{:?} {why}", self.path);
        self.found
            .push(FieldError::invalid("<nil>", &"".into(), &why));
    }
}

/// `spec.a`, or `a` at the top.
pub(super) fn child(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    }
}

fn check(value: &Value, old: Option<&Value>, schema: &Structural, at: &mut At<'_>) {
    if old == Some(value) && !at.path.is_empty() {
        return;
    }
    if !has_type(value, schema, at) {
        return;
    }
    if value.is_null() {
        return;
    }
    choices(value, &schema.checks, at);
    match value {
        Value::Object(map) => object(map, old, schema, at),
        Value::Array(list) => array(list, old, schema, at),
        Value::String(text) => string(text, &schema.checks, at),
        Value::Number(_) => number(value, &schema.checks, at),
        _ => {}
    }
    combined(value, old, &schema.checks, at);
}

/// Whether the value is of the type, said where it is not.
fn has_type(value: &Value, schema: &Structural, at: &mut At<'_>) -> bool {
    let wanted = match (schema.kind, schema.int_or_string) {
        (_, true) => "integer,string",
        (Some(kind), _) => kind.name(),
        (None, false) => return true,
    };
    if value.is_null() {
        if !schema.nullable {
            at.not_of(wanted, "null");
        }
        return schema.nullable;
    }
    let is_whole =
        value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0);
    let fits = |kind: Kind| match kind {
        Kind::Object => value.is_object(),
        Kind::Array => value.is_array(),
        Kind::String => value.is_string(),
        Kind::Integer => is_whole,
        Kind::Number => value.is_number(),
        Kind::Boolean => value.is_boolean(),
    };
    let ok = match (schema.int_or_string, schema.kind) {
        (true, _) => fits(Kind::Integer) || fits(Kind::String),
        (false, Some(kind)) => fits(kind),
        (false, None) => true,
    };
    if !ok {
        at.not_of(wanted, type_name(value));
    }
    ok
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn choices(value: &Value, checks: &Checks, at: &mut At<'_>) {
    if checks.choices.is_empty() || checks.choices.iter().any(|choice| same(choice, value)) {
        return;
    }
    let shown: Vec<String> = checks
        .choices
        .iter()
        .map(|choice| {
            choice
                .as_str()
                .map_or_else(|| choice.to_string(), str::to_owned)
        })
        .collect();
    let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
    at.found
        .push(FieldError::not_supported(at.path, value, &shown));
}

/// 1 and 1.0 are the same.
fn same(a: &Value, b: &Value) -> bool {
    a == b || matches!((a, b), (Value::Number(a), Value::Number(b)) if a.as_f64() == b.as_f64())
}

fn object(map: &Map<String, Value>, old: Option<&Value>, schema: &Structural, at: &mut At<'_>) {
    let checks = &schema.checks;
    let size = map.len() as u64;
    if let Some(least) = checks.min_properties.filter(|least| size < *least) {
        let value = Value::Object(map.clone());
        at.invalid(&value, &format!("should have at least {least} properties"));
    }
    if let Some(most) = checks.max_properties.filter(|most| size > *most) {
        at.found
            .push(FieldError::too_many(at.path, map.len(), narrow(most)));
    }
    for name in &checks.required {
        if !map.contains_key(name) {
            at.found
                .push(FieldError::required(child(at.path, name), ""));
        }
    }
    for (name, value) in map {
        if let Some(known) = schema.field(name) {
            let old = old.and_then(|old| old.get(name));
            check(
                value,
                old,
                known,
                &mut At::new(&child(at.path, name), at.found),
            );
        }
    }
}

fn array(list: &[Value], old: Option<&Value>, schema: &Structural, at: &mut At<'_>) {
    let checks = &schema.checks;
    let size = list.len() as u64;
    if let Some(least) = checks.min_items.filter(|least| size < *least) {
        at.invalid(
            &Value::from(list),
            &format!("should have at least {least} items"),
        );
    }
    if let Some(most) = checks.max_items.filter(|most| size > *most) {
        at.found
            .push(FieldError::too_many(at.path, list.len(), narrow(most)));
    }
    if checks.unique
        && list
            .iter()
            .enumerate()
            .any(|(n, item)| list[..n].contains(item))
    {
        at.invalid(&Value::from(list), "shouldn't contain duplicates");
    }
    let Some(items) = &schema.items else {
        return;
    };
    for (number, item) in list.iter().enumerate() {
        let old = correlated(item, old, &schema.list);
        let path = format!("{}[{number}]", at.path);
        check(item, old, items, &mut At::new(&path, at.found));
    }
}

/// The item that `item` replaces: items of maps are told apart by their keys, others are not.
pub fn correlated<'o>(item: &Value, old: Option<&'o Value>, list: &Items) -> Option<&'o Value> {
    let Items::Map(keys) = list else {
        return None;
    };
    let old = old?.as_array()?;
    old.iter()
        .find(|old| keys.iter().all(|key| old[key] == item[key]))
}

fn narrow(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn string(text: &str, checks: &Checks, at: &mut At<'_>) {
    let length = text.chars().count() as u64;
    if let Some(most) = checks.max_length.filter(|most| length > *most) {
        at.found.push(FieldError::too_long(at.path, narrow(most)));
    }
    if let Some(least) = checks.min_length.filter(|least| length < *least) {
        at.invalid(
            &text.into(),
            &format!("should be at least {least} chars long"),
        );
    }
    if let Some((pattern, regex)) = &checks.pattern
        && !regex.is_match(text)
    {
        at.invalid(&text.into(), &format!("should match '{pattern}'"));
    }
    if !format::has(&checks.format, text) {
        at.not_of(&checks.format, text);
    }
}

fn number(value: &Value, checks: &Checks, at: &mut At<'_>) {
    let number = value.as_f64().unwrap_or_default();
    if let Some((most, excluded)) = checks.maximum {
        let wrong = if excluded {
            number >= most
        } else {
            number > most
        };
        let than = if excluded {
            "less than"
        } else {
            "less than or equal to"
        };
        if wrong {
            at.invalid(value, &format!("should be {than} {most}"));
        }
    }
    if let Some((least, excluded)) = checks.minimum {
        let wrong = if excluded {
            number <= least
        } else {
            number < least
        };
        let than = if excluded {
            "greater than"
        } else {
            "greater than or equal to"
        };
        if wrong {
            at.invalid(value, &format!("should be {than} {least}"));
        }
    }
    if let Some(of) = checks.multiple_of
        && of > 0.0
        && (number / of).fract() != 0.0
    {
        at.invalid(value, &format!("should be a multiple of {of}"));
    }
    let fits = match checks.format.as_str() {
        "int32" => value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) || value.is_f64(),
        "int64" => value.as_i64().is_some() || value.is_f64(),
        _ => true,
    };
    if !fits {
        at.invalid(
            value,
            &format!("must be of type {}: {value}", checks.format),
        );
    }
}

fn combined(value: &Value, old: Option<&Value>, checks: &Checks, at: &mut At<'_>) {
    let errors = |schema: &Structural| {
        let mut found = Vec::new();
        check(value, old, schema, &mut At::new(at.path, &mut found));
        found
    };
    let all: Vec<_> = checks.all_of.iter().map(errors).collect();
    let any: Vec<_> = checks.any_of.iter().map(errors).collect();
    let valid = checks
        .one_of
        .iter()
        .map(errors)
        .filter(Vec::is_empty)
        .count();
    let not = checks.not.as_deref().map(errors);
    let wrong: Vec<_> = all.into_iter().flatten().collect();
    if !wrong.is_empty() {
        at.found.extend(wrong);
        at.composite("must validate all the schemas (allOf)");
    }
    if !any.is_empty() && !any.iter().any(Vec::is_empty) {
        // As upstream: the complaints of the alternative that fits best come along.
        let best = any.into_iter().min_by_key(Vec::len).unwrap_or_default();
        at.composite("must validate at least one schema (anyOf)");
        at.found.extend(best);
    }
    if !checks.one_of.is_empty() && valid != 1 {
        let found = match valid {
            0 => "Found none valid".to_owned(),
            valid => format!("Found {valid} valid alternatives"),
        };
        at.composite(&format!(
            "must validate one and only one schema (oneOf). {found}"
        ));
    }
    if not.is_some_and(|errors| errors.is_empty()) {
        at.composite("must not validate the schema (not)");
    }
}

#[cfg(test)]
mod tests;
