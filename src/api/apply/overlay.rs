//! Merging without books: what a mutating admission policy applies belongs to nobody
//! (`k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch`).

use serde_json::Value;

use super::merge::merge_maps;
use super::schema::Node;
use crate::api::object::Object;
use crate::api::schema::TypeRef;

/// `live` with `config` over it, list items told apart by their keys.
///
/// Errors: `config` has part of something that is only replaced as a whole, which would lose the
/// rest of it.
pub fn overlay(live: &Object, config: &Object, schema: TypeRef<'_>) -> Result<Object, String> {
    let root = Node::root(schema);
    let mut wholes = Vec::new();
    for (name, value) in &config.0 {
        find_wholes(
            root.child(name).node,
            value,
            &format!(".{name}"),
            &mut wholes,
        );
    }
    if !wholes.is_empty() {
        let wholes = wholes.join(", ");
        return Err(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {wholes}"
        ));
    }
    Ok(Object(merge_maps(root, &live.0, &config.0)))
}

fn find_wholes(node: Node<'_>, value: &Value, path: &str, wholes: &mut Vec<String>) {
    let node = node.resolved(Some(value));
    match value {
        Value::Object(fields) if node.is_map() => {
            for (name, value) in fields {
                find_wholes(
                    node.child(name).node,
                    value,
                    &format!("{path}.{name}"),
                    wholes,
                );
            }
        }
        Value::Array(items) if node.is_list() => {
            for (index, item) in items.iter().enumerate() {
                find_wholes(node.item(), item, &format!("{path}[{index}]"), wholes);
            }
        }
        Value::Object(_) | Value::Array(_) => wholes.push(path.to_owned()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::schema::builtin;
    use serde_json::json;

    #[test]
    fn items_are_merged_by_key_and_wholes_refused() {
        let object = |value: Value| Object::from_value(value).unwrap();
        let pod = builtin().get("core.v1.Pod").unwrap();
        let live = object(json!({"spec": {"containers": [{"name": "a", "image": "x"}]}}));
        let config = object(json!({
            "metadata": {"labels": {"l": "v"}},
            "spec": {"containers": [{"name": "a", "env": [{"name": "E", "value": "1"}]}]},
        }));
        let merged = overlay(&live, &config, pod).unwrap();
        assert_eq!(
            merged.into_value(),
            json!({
                "metadata": {"labels": {"l": "v"}},
                "spec": {"containers": [
                    {"name": "a", "image": "x", "env": [{"name": "E", "value": "1"}]},
                ]},
            })
        );
        let whole = object(json!({"spec": {"containers": [{"name": "a", "args": ["x"]}]}}));
        assert_eq!(
            overlay(&live, &whole, pod).unwrap_err(),
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: \
             .spec.containers[0].args"
        );
    }
}
