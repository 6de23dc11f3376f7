//! Strategic merge patch: a merge patch that merges lists by the keys their types declare, and
//! understands directives. Follows `k8s.io/apimachinery/pkg/util/strategicpatch`:
//!
//! - `$patch: replace` in a map replaces it, in an item of a list replaces the list;
//! - `$patch: delete` empties a map, or removes the item of that key from a list;
//! - `$deleteFromPrimitiveList/FIELD` removes values from a list of scalars;
//! - `$setElementOrder/FIELD` orders a list;
//! - `$retainKeys` removes the fields it does not name.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::cannot_do;
use crate::api::schema::{PatchRule, Shape, TypeRef};
use crate::api::status::ApiError;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

pub(super) fn apply(current: Value, patch: &[u8], schema: TypeRef<'_>) -> Result<Value, ApiError> {
    let patch: Map<String, Value> = serde_json::from_slice(patch)
        .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
    let Value::Object(current) = current else {
        return Err(ApiError::bad_request("invalid JSON document"));
    };
    let merged = merge_map(current, patch, Context::of(schema))?;
    Ok(Value::Object(merged))
}

/// What is known of the map that is being merged.
#[derive(Clone, Copy)]
struct Context<'a> {
    owner: TypeRef<'a>,
    kind: Known<'a>,
}

#[derive(Clone, Copy)]
enum Known<'a> {
    /// The fields of `owner`.
    Fields,
    /// A map of such values.
    Values(&'a Shape),
    /// Nothing.
    Nothing,
}

const NO_RULE: &PatchRule = &PatchRule {
    merge: false,
    retain_keys: false,
    replace: false,
    key: None,
};

impl<'a> Context<'a> {
    fn of(owner: TypeRef<'a>) -> Self {
        Context {
            owner,
            kind: Known::Fields,
        }
    }

    /// The rule of a field, and what is known of its value or of its items.
    fn below(self, field: &str) -> (&'a PatchRule, Context<'a>) {
        let (rule, shape) = match self.kind {
            Known::Fields => match self.owner.field(field) {
                Some(field) => (&field.patch, Some(&field.shape)),
                None => (NO_RULE, None),
            },
            Known::Values(shape) => (NO_RULE, Some(shape)),
            Known::Nothing => (NO_RULE, None),
        };
        (
            rule,
            shape.map_or(self.nothing(), |shape| self.shaped(shape)),
        )
    }

    fn shaped(self, shape: &'a Shape) -> Context<'a> {
        match shape {
            Shape::List(list) => self.shaped(&list.items),
            Shape::Map { values, .. } => Context {
                kind: Known::Values(values),
                ..self
            },
            Shape::Object { .. } => self.owner.follow(shape).map_or(self.nothing(), Context::of),
            _ => self.nothing(),
        }
    }

    fn nothing(self) -> Context<'a> {
        Context {
            kind: Known::Nothing,
            ..self
        }
    }
}

fn merge_map(
    mut original: Map<String, Value>,
    mut patch: Map<String, Value>,
    context: Context<'_>,
) -> Result<Map<String, Value>, ApiError> {
    if let Some(directive) = patch.remove(PATCH) {
        return match directive.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Map::new()),
            _ => Err(bad_directive(&directive, patch)),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    order_lists(&mut original, &mut patch, context)?;
    for (key, value) in patch {
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        if let Some(field) = key.strip_prefix(DELETE_FROM_LIST) {
            delete_values(&mut original, field, value)?;
            continue;
        }
        let merged = match (original.remove(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                let (rule, below) = context.below(&key);
                if rule.replace {
                    Value::Object(new)
                } else {
                    Value::Object(merge_map(old, new, below)?)
                }
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                let (rule, below) = context.below(&key);
                Value::Array(merge_list(old, new, rule, below)?)
            }
            (_, new) => plain(new),
        };
        original.insert(key, merged);
    }
    Ok(original)
}

/// Removes what `$retainKeys` does not name.
fn retain_keys(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
) -> Result<(), ApiError> {
    let Some(directive) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let wrong = || ApiError::bad_request("invalid patch format of retainKeys");
    let kept = directive.as_array().ok_or_else(wrong)?;
    let kept: HashSet<&str> = kept.iter().filter_map(Value::as_str).collect();
    let named = |(key, value): (&String, &Value)| {
        value.is_null()
            || key.starts_with(DELETE_FROM_LIST)
            || key.starts_with(ELEMENT_ORDER)
            || kept.contains(key.as_str())
    };
    if !patch.iter().all(named) {
        return Err(wrong());
    }
    original.retain(|key, _| kept.contains(key.as_str()));
    Ok(())
}

/// Merges the lists that have a `$setElementOrder`, and takes both out of the patch.
fn order_lists(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    context: Context<'_>,
) -> Result<(), ApiError> {
    let directives: Vec<_> = patch
        .keys()
        .filter(|key| key.starts_with(ELEMENT_ORDER))
        .cloned()
        .collect();
    for directive in directives {
        let field = &directive[ELEMENT_ORDER.len()..];
        let order = array(patch.remove(&directive).unwrap_or_default())?;
        let (rule, below) = context.below(field);
        let edits = match patch.get(field) {
            Some(Value::Null) | None => None,
            Some(_) => Some(array(patch.remove(field).unwrap_or_default())?),
        };
        check_order(edits.as_deref().unwrap_or_default(), &order, rule)?;
        let old = original.remove(field).map(array).transpose()?;
        let server_order = old.clone().unwrap_or_default();
        let merged = match (old, edits) {
            (Some(old), None) => old,
            (None, Some(edits)) => array(plain(Value::Array(edits)))?,
            (Some(old), Some(edits)) => merge_list(old, edits, rule, below)?,
            (None, None) => continue,
        };
        let key = rule.key.as_deref();
        let ordered = in_order(merged, &order, &server_order, key);
        original.insert(field.to_owned(), Value::Array(ordered));
    }
    Ok(())
}

/// The items of the patch must stand in the order list, in the same order.
fn check_order(edits: &[Value], order: &[Value], rule: &PatchRule) -> Result<(), ApiError> {
    let key = rule.key.as_deref();
    let mut rest = order.iter();
    let kept = edits.iter().filter(|item| item.get(PATCH).is_none());
    for item in kept {
        if !rest.any(|other| same(other, item, key)) {
            let shown = Value::Array(edits.to_vec());
            return Err(ApiError::plain(
                500,
                "",
                format!(
                    "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                    go_print(&shown),
                    go_print(&Value::Array(order.to_vec()))
                ),
            ));
        }
    }
    Ok(())
}

/// `$deleteFromPrimitiveList/field`
fn delete_values(
    original: &mut Map<String, Value>,
    field: &str,
    values: Value,
) -> Result<(), ApiError> {
    let values = array(values)?;
    if let Some(Value::Array(items)) = original.get_mut(field) {
        items.retain(|item| !values.contains(item));
    }
    Ok(())
}

fn merge_list(
    original: Vec<Value>,
    patch: Vec<Value>,
    rule: &PatchRule,
    context: Context<'_>,
) -> Result<Vec<Value>, ApiError> {
    if !rule.merge {
        return array(plain(Value::Array(patch)));
    }
    if original.iter().chain(&patch).any(Value::is_array) {
        return Err(cannot_do("lists of lists are not supported"));
    }
    let maps = original.iter().chain(&patch).filter(|v| v.is_object());
    let (maps, all) = (maps.count(), original.len() + patch.len());
    if maps == 0 {
        return Ok(merge_values(original, patch));
    }
    if maps != all {
        return Err(ApiError::bad_request(
            "invalid patch format of primitive list",
        ));
    }
    let Some(key) = rule.key.as_deref() else {
        let name = context.owner.ty().go_name();
        let message = format!("cannot merge lists without merge key for {name}");
        return Err(ApiError::plain(500, "", message));
    };
    let (mut merged, patch) = special_items(original, patch, key)?;
    let (patch_order, server_order) = (keys_only(&patch, key), keys_only(&merged, key));
    for item in patch {
        let Value::Object(item) = item else { continue };
        let Some(value) = item.get(key) else {
            return Err(no_merge_key(item, key));
        };
        match merged.iter_mut().find(|old| old.get(key) == Some(value)) {
            Some(old) => {
                if let Value::Object(fields) = std::mem::take(old) {
                    *old = Value::Object(merge_map(fields, item, context)?);
                }
            }
            None => merged.push(plain(Value::Object(item))),
        }
    }
    Ok(in_order(merged, &patch_order, &server_order, Some(key)))
}

fn merge_values(original: Vec<Value>, patch: Vec<Value>) -> Vec<Value> {
    let mut merged = Vec::with_capacity(original.len() + patch.len());
    for value in original.iter().chain(&patch) {
        if !merged.contains(value) {
            merged.push(value.clone());
        }
    }
    in_order(merged, &patch, &original, None)
}

/// Does what items with `$patch` ask: `delete` and `replace`. Gives what is left of both lists.
fn special_items(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), ApiError> {
    let mut rest = Vec::with_capacity(patch.len());
    let mut replace = false;
    for item in patch {
        let Some(directive) = item.get(PATCH) else {
            rest.push(item);
            continue;
        };
        match directive.as_str() {
            Some("delete") => match item.get(key) {
                Some(value) => original.retain(|old| old.get(key) != Some(value)),
                None => return Err(no_merge_key(fields(item), key)),
            },
            Some("replace") => replace = true,
            Some("merge") => {
                let message = "merging lists cannot yet be specified in the patch";
                return Err(ApiError::plain(500, "", message));
            }
            _ => return Err(bad_directive(&directive.clone(), fields(item))),
        }
    }
    if replace {
        return Ok((rest, Vec::new()));
    }
    Ok((original, rest))
}

/// Each item reduced to its key, which is all that ordering looks at.
fn keys_only(items: &[Value], key: &str) -> Vec<Value> {
    let reduced = |item: &Value| {
        let value = item.get(key).cloned().unwrap_or_default();
        Value::Object(Map::from_iter([(key.to_owned(), value)]))
    };
    items.iter().map(reduced).collect()
}

/// Puts the items named in `order` in that order, and the others where they were in the list
/// `before` as well as that goes.
fn in_order(items: Vec<Value>, order: &[Value], before: &[Value], key: Option<&str>) -> Vec<Value> {
    let place = |list: &[Value], item: &Value| list.iter().position(|o| same(o, item, key));
    let (mut named, mut others): (Vec<_>, Vec<_>) = items
        .into_iter()
        .partition(|item| place(order, item).is_some());
    named.sort_by_key(|item| place(order, item));
    others.sort_by_key(|item| place(before, item).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(named.len() + others.len());
    let mut named = named.into_iter().peekable();
    for other in others {
        let other_place = place(before, &other);
        while let Some(item) = named.peek() {
            let comes_first = match (other_place, place(before, item)) {
                (Some(other), Some(item)) => other < item,
                _ => false,
            };
            if comes_first {
                break;
            }
            out.extend(named.next());
        }
        out.push(other);
    }
    out.extend(named);
    out
}

fn same(one: &Value, other: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) => one.get(key).is_some() && one.get(key) == other.get(key),
        None => one == other,
    }
}

/// A new value without directives and without `null`s.
fn plain(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(key, value)| {
                !value.is_null()
                    && key != PATCH
                    && key != RETAIN_KEYS
                    && !key.starts_with(DELETE_FROM_LIST)
                    && !key.starts_with(ELEMENT_ORDER)
            });
            Value::Object(kept.map(|(key, value)| (key, plain(value))).collect())
        }
        Value::Array(items) => {
            let removed = |item: &Value| {
                let directive = item.get(PATCH).and_then(Value::as_str);
                matches!(directive, Some("delete" | "replace"))
            };
            let kept = items.into_iter().filter(|item| !removed(item));
            Value::Array(kept.map(plain).collect())
        }
        scalar => scalar,
    }
}

fn array(value: Value) -> Result<Vec<Value>, ApiError> {
    match value {
        Value::Array(items) => Ok(items),
        other => {
            let kind = go_kind(&other);
            let message = format!("expected a []interface {{}}, but received a {kind}");
            Err(ApiError::plain(500, "", message))
        }
    }
}

fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn bad_directive(directive: &Value, map: Map<String, Value>) -> ApiError {
    let (directive, map) = (go_print(directive), go_print(&Value::Object(map)));
    ApiError::plain(
        500,
        "",
        format!("unknown patch type: {directive} in map: {map}"),
    )
}

fn no_merge_key(map: Map<String, Value>, key: &str) -> ApiError {
    let map = go_print(&Value::Object(map));
    let message = format!("map: {map} does not contain declared merge key: {key}");
    ApiError::plain(500, "", message)
}

fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// As Go's `%v` prints it.
pub(super) fn go_print(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(go_print).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => {
            let entries: Vec<_> = map
                .iter()
                .map(|(key, value)| format!("{key}:{}", go_print(value)))
                .collect();
            format!("map[{}]", entries.join(" "))
        }
        other => other.to_string(),
    }
}
