//! FlowSchemas and PriorityLevelConfigurations, compiled: which level a request belongs to, and which
//! flow it is part of (`k8s.io/apiserver/pkg/util/flowcontrol`). Pure.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value};

use super::queues::Shape;
use crate::server::request::{RequestInfo, User};

/// What a level does with its requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing: they run at once.
    Exempt,
    /// So many at a time; what is beyond waits in queues, or is refused at once.
    Limited {
        /// Its part of the server's seats.
        shares: u32,
        /// Per cent of its seats that others may use.
        lendable_percent: u32,
        /// Per cent of its seats that it may use of others'; `None`: whatever is free.
        borrowing_percent: Option<u32>,
        /// `None`: nothing waits.
        queues: Option<Shape>,
    },
}

/// A PriorityLevelConfiguration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Level {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) kind: Kind,
}

/// A FlowSchema.
#[derive(Clone, Debug)]
pub(super) struct Schema {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) level: String,
    precedence: i64,
    distinguisher: String,
    rules: Vec<Value>,
}

impl Level {
    pub(super) fn read(object: &Map<String, Value>) -> Self {
        let null = Value::Null;
        let spec = object.get("spec").unwrap_or(&null);
        let kind = match text(spec, "type") {
            "Exempt" => Kind::Exempt,
            _ => limited(spec.get("limited").unwrap_or(&null)),
        };
        Self {
            name: meta(object, "name"),
            uid: meta(object, "uid"),
            kind,
        }
    }
}

fn limited(limited: &Value) -> Kind {
    let number = |of: &Value, field: &str, default: u32| {
        let value = of.get(field).and_then(Value::as_u64);
        value.map_or(default, |n| u32::try_from(n).unwrap_or(u32::MAX))
    };
    let response = limited.get("limitResponse").unwrap_or(&Value::Null);
    let queuing = response.get("queuing").unwrap_or(&Value::Null);
    let queues = (text(response, "type") != "Reject").then(|| Shape {
        queues: number(queuing, "queues", 64) as usize,
        hand: number(queuing, "handSize", 8) as usize,
        length_max: number(queuing, "queueLengthLimit", 50) as usize,
    });
    Kind::Limited {
        shares: number(limited, "nominalConcurrencyShares", 30),
        lendable_percent: number(limited, "lendablePercent", 0).min(100),
        borrowing_percent: limited
            .get("borrowingLimitPercent")
            .filter(|value| !value.is_null())
            .map(|_| number(limited, "borrowingLimitPercent", 0)),
        queues,
    }
}

impl Schema {
    pub(super) fn read(object: &Map<String, Value>) -> Self {
        let null = Value::Null;
        let spec = object.get("spec").unwrap_or(&null);
        let part = |field: &str| spec.get(field).unwrap_or(&null);
        let precedence = part("matchingPrecedence").as_i64();
        Self {
            name: meta(object, "name"),
            uid: meta(object, "uid"),
            level: text(part("priorityLevelConfiguration"), "name").to_owned(),
            precedence: precedence.filter(|p| *p > 0).unwrap_or(1000),
            distinguisher: text(part("distinguisherMethod"), "type").to_owned(),
            rules: part("rules").as_array().cloned().unwrap_or_default(),
        }
    }

    /// In this order they are asked; the first that matches is it.
    pub(super) fn order(&self) -> (i64, &str) {
        (self.precedence, &self.name)
    }

    pub(super) fn matches(&self, user: &User, info: &RequestInfo) -> bool {
        self.rules.iter().any(|rule| {
            let mut subjects = list(rule, "subjects");
            subjects.any(|subject| is_subject(subject, user)) && is_asked(rule, info)
        })
    }

    /// The flow a request is part of.
    pub(super) fn flow(&self, user: &User, info: &RequestInfo) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        match self.distinguisher.as_str() {
            "ByUser" => user.name.hash(&mut hasher),
            "ByNamespace" => info.namespace.hash(&mut hasher),
            _ => {}
        }
        hasher.finish()
    }
}

fn is_subject(subject: &Value, user: &User) -> bool {
    let part = |field: &str| subject.get(field).unwrap_or(&Value::Null);
    match text(subject, "kind") {
        "User" => fits(text(part("user"), "name"), &user.name),
        "Group" => {
            let wanted = text(part("group"), "name");
            wanted == "*" || user.is_in(wanted)
        }
        "ServiceAccount" => {
            let account = user.name.strip_prefix("system:serviceaccount:");
            let Some((namespace, name)) = account.and_then(|a| a.split_once(':')) else {
                return false;
            };
            let wanted = part("serviceAccount");
            text(wanted, "namespace") == namespace && fits(text(wanted, "name"), name)
        }
        _ => false,
    }
}

fn is_asked(rule: &Value, info: &RequestInfo) -> bool {
    if !info.is_resource {
        return list(rule, "nonResourceRules").any(|rule| {
            has(rule, "verbs", &info.verb)
                && list(rule, "nonResourceURLs").any(|url| {
                    let url = url.as_str().unwrap_or_default();
                    match url.strip_suffix('*') {
                        Some(prefix) => info.path.starts_with(prefix),
                        None => url == info.path,
                    }
                })
        });
    }
    let resource = match info.subresource.as_str() {
        "" => info.resource.clone(),
        sub => format!("{}/{sub}", info.resource),
    };
    list(rule, "resourceRules").any(|rule| {
        let in_scope = match info.namespace.as_str() {
            "" => rule.get("clusterScope").and_then(Value::as_bool) == Some(true),
            namespace => has(rule, "namespaces", namespace),
        };
        in_scope
            && has(rule, "verbs", &info.verb)
            && has(rule, "apiGroups", &info.group)
            && has(rule, "resources", &resource)
    })
}

fn has(rule: &Value, field: &str, value: &str) -> bool {
    list(rule, field).any(|item| item.as_str().is_some_and(|item| fits(item, value)))
}

fn fits(wanted: &str, value: &str) -> bool {
    wanted == "*" || wanted == value
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value
        .get(field)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn meta(object: &Map<String, Value>, field: &str) -> String {
    let metadata = object.get("metadata").unwrap_or(&Value::Null);
    text(metadata, field).to_owned()
}
