//! The status of a definition: which names it has, and whether it is served
//! (`apiextensions-apiserver/pkg/controller/{status,establish,apiapproval}`). Pure.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::api::object::{Object, child_mut};
use crate::api::time;

const APPROVAL: &str = "api-approved.kubernetes.io";

/// Names that are taken in a group.
#[derive(Debug, Default)]
pub(super) struct Taken {
    resources: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

impl Taken {
    /// By the definitions of a group, as their status says.
    pub(super) fn by<'a>(definitions: impl Iterator<Item = &'a Object>) -> Self {
        let mut taken = Self::default();
        for definition in definitions {
            let names = &definition.field("status")["acceptedNames"];
            let text = |field: &str| names[field].as_str().unwrap_or_default().to_owned();
            taken.resources.extend([text("plural"), text("singular")]);
            taken.resources.extend(strings(&names["shortNames"]));
            taken.kinds.extend([text("kind"), text("listKind")]);
        }
        taken
    }
}

fn strings(value: &Value) -> impl Iterator<Item = String> {
    let list = value.as_array().into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned)
}

/// The definition with the status it should have.
pub(super) fn settled(definition: &Object, taken: &Taken, now: Timestamp) -> Object {
    let mut new = definition.clone();
    let (names, wrong) = accepted(definition, taken);
    let status = child_mut(&mut new.0, "status");
    status.insert("acceptedNames".into(), names);
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    if conditions.is_null() {
        *conditions = json!([]);
    }
    let Value::Array(conditions) = conditions else {
        return new;
    };
    let is_accepted = wrong.is_none();
    let (reason, message) = wrong.unwrap_or(("NoConflicts", "no conflicts found".to_owned()));
    set(
        conditions,
        ("NamesAccepted", is_accepted, reason, &message),
        now,
    );
    let is_established = |list: &[Value]| {
        list.iter()
            .any(|of| of["type"] == "Established" && of["status"] == "True")
    };
    if is_accepted {
        let why = "the initial names have been accepted";
        if !is_established(conditions) {
            set(
                conditions,
                ("Established", true, "InitialNamesAccepted", why),
                now,
            );
        }
    } else if !is_established(conditions) {
        let why = "not all names are accepted";
        set(conditions, ("Established", false, "NotAccepted", why), now);
    }
    approval(conditions, definition, now);
    new
}

/// The names it gets, and why it does not get all it asks for.
fn accepted(definition: &Object, taken: &Taken) -> (Value, Option<(&'static str, String)>) {
    let wanted = &definition.field("spec")["names"];
    let had = &definition.field("status")["acceptedNames"];
    let mut names: Map<String, Value> = had.as_object().cloned().unwrap_or_default();
    let mut wrong = None;
    let in_use = |name: &str| format!("{name:?} is already in use");
    for (field, reason, used) in [
        ("plural", "PluralConflict", &taken.resources),
        ("singular", "SingularConflict", &taken.resources),
        ("shortNames", "ShortNamesConflict", &taken.resources),
        ("kind", "KindConflict", &taken.kinds),
        ("listKind", "ListKindConflict", &taken.kinds),
    ] {
        if wanted[field] == had[field] {
            continue;
        }
        let own: Vec<String> = match field {
            "shortNames" => ["plural", "singular"]
                .iter()
                .filter_map(|own| had[*own].as_str().map(str::to_owned))
                .chain(strings(&had[field]))
                .collect(),
            _ => Vec::new(),
        };
        let asked: Vec<String> = match &wanted[field] {
            Value::String(name) => vec![name.clone()],
            list => strings(list).collect(),
        };
        let mut clashes = asked
            .iter()
            .filter(|name| used.contains(*name) && !own.contains(name));
        if let Some(first) = clashes.next() {
            let more: Vec<String> = clashes.map(|name| in_use(name)).collect();
            let message = match more.is_empty() {
                true => in_use(first),
                false => format!("[{}, {}]", in_use(first), more.join(", ")),
            };
            wrong = Some((reason, message));
            continue;
        }
        put(&mut names, field, &wanted[field]);
    }
    put(&mut names, "categories", &wanted["categories"]);
    for needed in ["plural", "kind"] {
        names.entry(needed).or_insert_with(|| "".into());
    }
    (Value::Object(names), wrong)
}

fn put(map: &mut Map<String, Value>, field: &str, value: &Value) {
    match value {
        Value::Null => map.remove(field),
        value => map.insert(field.to_owned(), value.clone()),
    };
}

/// Groups of Kubernetes itself need somebody's approval.
fn approval(conditions: &mut Vec<Value>, definition: &Object, now: Timestamp) {
    const TYPE: &str = "KubernetesAPIApprovalPolicyConformant";
    let group = definition.text_at(&["spec", "group"]);
    let is_protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|of| group == *of || group.ends_with(&format!(".{of}")));
    if !is_protected {
        conditions.retain(|condition| condition["type"] != TYPE);
        return;
    }
    let said = definition.text_at(&["metadata", "annotations", APPROVAL]);
    if said.starts_with("https://") {
        let message = format!("approved in {said}");
        set(
            conditions,
            (TYPE, true, "ApprovedAnnotation", &message),
            now,
        );
    } else {
        let message = format!("not approved: {said:?}");
        set(
            conditions,
            (TYPE, false, "UnapprovedAnnotation", &message),
            now,
        );
    }
}

/// Sets a condition; the time is that of its last change of status.
pub(super) fn set(
    conditions: &mut Vec<Value>,
    (kind, status, reason, message): (&str, bool, &str, &str),
    now: Timestamp,
) {
    let status = if status { "True" } else { "False" };
    let old = conditions
        .iter_mut()
        .find(|condition| condition["type"] == kind);
    let since = match &old {
        Some(old) if old["status"] == status => old["lastTransitionTime"].clone(),
        _ => time::seconds(now).into(),
    };
    let new = json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": since,
    });
    match old {
        Some(old) => *old = new,
        None => conditions.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(plural: &str, kind: &str, short: &[&str]) -> Object {
        Object::from_value(json!({"spec": {"group": "example.com", "names": {
            "plural": plural, "singular": plural, "kind": kind, "listKind": format!("{kind}List"),
            "shortNames": short}}, "status": {"conditions": []}}))
        .unwrap()
    }

    fn condition<'a>(object: &'a Object, kind: &str) -> &'a Value {
        let conditions = object.field("status")["conditions"].as_array().unwrap();
        conditions
            .iter()
            .find(|of| of["type"] == kind)
            .unwrap_or(&Value::Null)
    }

    #[test]
    fn the_first_to_ask_gets_a_name_and_later_ones_are_told() {
        let now = Timestamp::UNIX_EPOCH;
        let first = settled(&definition("foos", "Foo", &["f"]), &Taken::default(), now);
        assert_eq!(condition(&first, "NamesAccepted")["reason"], "NoConflicts");
        assert_eq!(condition(&first, "Established")["status"], "True");
        assert_eq!(
            first.field("status")["acceptedNames"]["shortNames"],
            json!(["f"])
        );
        let taken = Taken::by(std::iter::once(&first));
        let second = settled(&definition("bars", "Foo", &["f"]), &taken, now);
        let names = condition(&second, "NamesAccepted");
        assert_eq!(names["status"], "False");
        assert_eq!(names["reason"], "ListKindConflict");
        assert_eq!(names["message"], "\"FooList\" is already in use");
        assert_eq!(condition(&second, "Established")["reason"], "NotAccepted");
        let again = settled(&first, &Taken::default(), now);
        assert_eq!(again, first);
    }
}
