//! Role-based access control: roles and bindings compiled to something that is quick to ask.
//!
//! Pure. The verdict for a request is the union of the rules of every role that is bound to its
//! user or one of its groups (`k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac`).

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::server::request::{RequestInfo, User};

/// One rule of a role (`rbac.authorization.k8s.io/v1 PolicyRule`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Verbs, or `*`.
    pub verbs: Vec<String>,
    /// Groups, or `*`.
    pub api_groups: Vec<String>,
    /// `pods`, `pods/log`, `*/scale`, `*`.
    pub resources: Vec<String>,
    /// Empty: all names.
    pub resource_names: Vec<String>,
    /// Paths, with `*` at the end.
    pub non_resource_urls: Vec<String>,
}

/// All roles and bindings of the cluster.
#[derive(Debug, Default)]
pub struct Policy {
    cluster_roles: HashMap<String, Arc<[Rule]>>,
    roles: HashMap<(String, String), Arc<[Rule]>>,
    cluster_bindings: HashMap<Subject, Vec<Binding>>,
    bindings: HashMap<String, HashMap<Subject, Vec<Binding>>>,
}

/// The objects a policy is made of.
#[derive(Clone, Debug, Default)]
pub struct Sources<'a> {
    /// ClusterRoles.
    pub cluster_roles: Vec<&'a Map<String, Value>>,
    /// Roles.
    pub roles: Vec<&'a Map<String, Value>>,
    /// ClusterRoleBindings.
    pub cluster_role_bindings: Vec<&'a Map<String, Value>>,
    /// RoleBindings.
    pub role_bindings: Vec<&'a Map<String, Value>>,
}

/// Who a role is bound to. A service account is the user it authenticates as.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

#[derive(Clone, Debug)]
struct Binding {
    name: String,
    role: RoleRef,
}

#[derive(Clone, Debug)]
enum RoleRef {
    Cluster(String),
    Namespaced(String),
}

impl Rule {
    /// From the JSON of a `PolicyRule`.
    pub fn from_value(value: &Value) -> Self {
        Self {
            verbs: texts(value, "verbs"),
            api_groups: texts(value, "apiGroups"),
            resources: texts(value, "resources"),
            resource_names: texts(value, "resourceNames"),
            non_resource_urls: texts(value, "nonResourceURLs"),
        }
    }

    /// Whether the rule allows what `info` asks.
    pub fn allows(&self, info: &RequestInfo) -> bool {
        if !has(&self.verbs, &info.verb) {
            return false;
        }
        if !info.is_resource {
            return self
                .non_resource_urls
                .iter()
                .any(|url| covers_path(url, &info.path));
        }
        has(&self.api_groups, &info.group)
            && self.has_resource(&info.resource, &info.subresource)
            && (self.resource_names.is_empty() || self.resource_names.contains(&info.name))
    }

    fn has_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|rule| {
            if rule == "*" {
                return true;
            }
            match rule.split_once('/') {
                None => subresource.is_empty() && rule == resource,
                Some((of, sub)) => {
                    sub == subresource && !sub.is_empty() && (of == resource || of == "*")
                }
            }
        })
    }

    /// Whether everything `other` allows is allowed by one of `owned`
    /// (`k8s.io/component-helpers/auth/rbac/validation.Covers`, for one rule).
    pub fn is_covered_by(&self, owned: &[Rule]) -> bool {
        self.uncovered(owned).is_empty()
    }

    /// What of it none of `owned` allows, in pieces of one verb, group, resource, name or path.
    pub fn uncovered(&self, owned: &[Rule]) -> Vec<Rule> {
        let mut pieces = self.pieces();
        pieces.retain(|piece| !owned.iter().any(|rule| rule.covers(piece)));
        pieces
    }

    /// The rule split so that each piece has one verb, group, resource, name or path.
    fn pieces(&self) -> Vec<Rule> {
        let mut pieces = Vec::new();
        for verb in &self.verbs {
            for url in &self.non_resource_urls {
                pieces.push(Rule {
                    verbs: vec![verb.clone()],
                    non_resource_urls: vec![url.clone()],
                    ..Rule::default()
                });
            }
            for group in &self.api_groups {
                for resource in &self.resources {
                    let piece = Rule {
                        verbs: vec![verb.clone()],
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Rule::default()
                    };
                    if self.resource_names.is_empty() {
                        pieces.push(piece);
                        continue;
                    }
                    pieces.extend(self.resource_names.iter().map(|name| Rule {
                        resource_names: vec![name.clone()],
                        ..piece.clone()
                    }));
                }
            }
        }
        pieces
    }

    /// `piece` has at most one of each.
    fn covers(&self, piece: &Rule) -> bool {
        let all = |own: &[String], asked: &[String]| asked.iter().all(|a| has(own, a));
        let names = self.resource_names.is_empty()
            || (!piece.resource_names.is_empty()
                && piece
                    .resource_names
                    .iter()
                    .all(|n| self.resource_names.contains(n)));
        let resources = piece.resources.iter().all(|asked| {
            let (resource, subresource) = asked.split_once('/').unwrap_or((asked, ""));
            self.has_resource(resource, subresource)
        });
        let urls = piece.non_resource_urls.iter().all(|asked| {
            self.non_resource_urls
                .iter()
                .any(|own| covers_path(own, asked))
        });
        all(&self.verbs, &piece.verbs)
            && all(&self.api_groups, &piece.api_groups)
            && resources
            && names
            && urls
    }
}

impl Policy {
    /// Compiles the objects.
    pub fn compile(sources: &Sources<'_>) -> Self {
        let mut policy = Self::default();
        for role in &sources.cluster_roles {
            let rules = match role.get("aggregationRule") {
                Some(aggregation) => aggregate(aggregation, &sources.cluster_roles),
                None => rules_of(role),
            };
            policy
                .cluster_roles
                .insert(meta(role, "name").to_owned(), rules.into());
        }
        for role in &sources.roles {
            let key = (
                meta(role, "namespace").to_owned(),
                meta(role, "name").to_owned(),
            );
            policy.roles.insert(key, rules_of(role).into());
        }
        for object in &sources.cluster_role_bindings {
            bind(object, &mut policy.cluster_bindings);
        }
        for object in &sources.role_bindings {
            let namespace = policy.bindings.entry(meta(object, "namespace").to_owned());
            bind(object, namespace.or_default());
        }
        policy
    }

    /// Why the request is allowed; `None` where no rule allows it.
    pub fn allows(&self, user: &User, info: &RequestInfo) -> Option<String> {
        let reason = |kind: &str, binding: &Binding, subject: &Subject| {
            let (role_kind, role) = match &binding.role {
                RoleRef::Cluster(name) => ("ClusterRole", name),
                RoleRef::Namespaced(name) => ("Role", name),
            };
            let (name, namespace) = (&binding.name, &info.namespace);
            let binding = match kind {
                "RoleBinding" => format!("{kind} \"{name}/{namespace}\""),
                _ => format!("{kind} \"{name}\""),
            };
            let subject = match subject {
                Subject::User(name) => format!("User \"{name}\""),
                Subject::Group(name) => format!("Group \"{name}\""),
            };
            format!("RBAC: allowed by {binding} of {role_kind} \"{role}\" to {subject}")
        };
        for subject in subjects_of(user) {
            let bound = self.cluster_bindings.get(&subject).into_iter().flatten();
            for binding in bound {
                if self.rules(binding, "").iter().any(|rule| rule.allows(info)) {
                    return Some(reason("ClusterRoleBinding", binding, &subject));
                }
            }
            let in_namespace = self.bindings.get(&info.namespace);
            let bound = in_namespace
                .and_then(|b| b.get(&subject))
                .into_iter()
                .flatten();
            for binding in bound {
                let rules = self.rules(binding, &info.namespace);
                if info.is_resource && rules.iter().any(|rule| rule.allows(info)) {
                    return Some(reason("RoleBinding", binding, &subject));
                }
            }
        }
        None
    }

    /// Every rule that applies to `user` in `namespace` (empty: cluster-wide rules only).
    pub fn rules_for(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let mut rules = Vec::new();
        for subject in subjects_of(user) {
            for binding in self.cluster_bindings.get(&subject).into_iter().flatten() {
                rules.extend_from_slice(self.rules(binding, ""));
            }
            let in_namespace = self.bindings.get(namespace);
            let bound = in_namespace
                .and_then(|b| b.get(&subject))
                .into_iter()
                .flatten();
            for binding in bound {
                rules.extend_from_slice(self.rules(binding, namespace));
            }
        }
        rules
    }

    fn rules(&self, binding: &Binding, namespace: &str) -> &[Rule] {
        let rules = match &binding.role {
            RoleRef::Cluster(name) => self.cluster_roles.get(name),
            RoleRef::Namespaced(name) => self.roles.get(&(namespace.to_owned(), name.clone())),
        };
        rules.map(|rules| &rules[..]).unwrap_or_default()
    }
}

fn subjects_of(user: &User) -> impl Iterator<Item = Subject> {
    let groups = user.groups.iter().cloned().map(Subject::Group);
    std::iter::once(Subject::User(user.name.clone())).chain(groups)
}

fn bind(object: &Map<String, Value>, into: &mut HashMap<Subject, Vec<Binding>>) {
    let Some(role) = object.get("roleRef") else {
        return;
    };
    let role_name = text(role, "name").to_owned();
    let binding = Binding {
        name: meta(object, "name").to_owned(),
        role: match text(role, "kind") {
            "ClusterRole" => RoleRef::Cluster(role_name),
            _ => RoleRef::Namespaced(role_name),
        },
    };
    let subjects = object.get("subjects").and_then(Value::as_array);
    for subject in subjects.into_iter().flatten() {
        let name = text(subject, "name");
        let subject = match text(subject, "kind") {
            "User" => Subject::User(name.to_owned()),
            "Group" => Subject::Group(name.to_owned()),
            "ServiceAccount" => {
                let namespace = match text(subject, "namespace") {
                    "" => meta(object, "namespace"),
                    namespace => namespace,
                };
                Subject::User(format!("system:serviceaccount:{namespace}:{name}"))
            }
            _ => continue,
        };
        into.entry(subject).or_default().push(binding.clone());
    }
}

fn rules_of(role: &Map<String, Value>) -> Vec<Rule> {
    let rules = role.get("rules").and_then(Value::as_array);
    rules.into_iter().flatten().map(Rule::from_value).collect()
}

/// The rules of every ClusterRole whose labels one of the selectors matches.
fn aggregate(aggregation: &Value, all: &[&Map<String, Value>]) -> Vec<Rule> {
    let selectors = aggregation
        .get("clusterRoleSelectors")
        .and_then(Value::as_array);
    let selectors: Vec<&Value> = selectors.into_iter().flatten().collect();
    all.iter()
        .filter(|role| !role.contains_key("aggregationRule") || is_chained(role, &selectors))
        .filter(|role| selectors.iter().any(|selector| selects(selector, role)))
        .flat_map(|role| flat_rules(role, all))
        .collect()
}

/// An aggregating role may itself be aggregated (`edit` into `admin`), once.
fn is_chained(role: &Map<String, Value>, selectors: &[&Value]) -> bool {
    selectors.iter().any(|selector| selects(selector, role))
}

fn flat_rules(role: &Map<String, Value>, all: &[&Map<String, Value>]) -> Vec<Rule> {
    let Some(aggregation) = role.get("aggregationRule") else {
        return rules_of(role);
    };
    let selectors = aggregation
        .get("clusterRoleSelectors")
        .and_then(Value::as_array);
    let selectors: Vec<&Value> = selectors.into_iter().flatten().collect();
    all.iter()
        .filter(|other| meta(other, "name") != meta(role, "name"))
        .filter(|other| selectors.iter().any(|selector| selects(selector, other)))
        .flat_map(|other| rules_of(other))
        .collect()
}

/// `matchLabels` and `matchExpressions` of a label selector against a role's labels.
fn selects(selector: &Value, role: &Map<String, Value>) -> bool {
    let labels = role.get("metadata").and_then(|m| m.get("labels"));
    let label = |key: &str| labels.and_then(|l| l.get(key)).and_then(Value::as_str);
    let exact = selector.get("matchLabels").and_then(Value::as_object);
    let exact_match = exact
        .into_iter()
        .flatten()
        .all(|(key, value)| label(key) == value.as_str());
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    let expression_match = expressions.into_iter().flatten().all(|expression| {
        let value = label(text(expression, "key"));
        let values = texts(expression, "values");
        let listed = value.is_some_and(|v| values.iter().any(|w| w == v));
        match text(expression, "operator") {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    });
    exact_match && expression_match
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

fn covers_path(rule: &str, path: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix.trim_end_matches('*')),
        None => rule == path,
    }
}

fn meta<'a>(object: &'a Map<String, Value>, field: &str) -> &'a str {
    object
        .get("metadata")
        .map(|m| text(m, field))
        .unwrap_or_default()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn texts(value: &Value, field: &str) -> Vec<String> {
    let list = value.get(field).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn role(name: &str, labels: Value, rules: Value) -> Value {
        json!({"metadata": {"name": name, "namespace": "default", "labels": labels}, "rules": rules})
    }

    fn binding(kind: &str, role: &str, subject: Value) -> Value {
        json!({"metadata": {"name": "b", "namespace": "default"},
            "roleRef": {"kind": kind, "name": role}, "subjects": [subject]})
    }

    fn user(name: &str) -> User {
        User {
            name: name.into(),
            groups: vec!["devs".into()],
            ..User::default()
        }
    }

    fn asks(verb: &str, resource: &str, namespace: &str, name: &str) -> RequestInfo {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        RequestInfo {
            is_resource: true,
            verb: verb.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..RequestInfo::default()
        }
    }

    fn as_map(values: &[Value]) -> Vec<&Map<String, Value>> {
        values.iter().filter_map(Value::as_object).collect()
    }

    #[test]
    fn a_role_binding_allows_in_its_namespace_only() {
        let rules = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "*/scale"],
            "resourceNames": ["a"]}]);
        let roles = [role("r", json!({}), rules)];
        let bindings = [binding(
            "Role",
            "r",
            json!({"kind": "Group", "name": "devs"}),
        )];
        let policy = Policy::compile(&Sources {
            roles: as_map(&roles),
            role_bindings: as_map(&bindings),
            ..Sources::default()
        });
        let allows = |info: &RequestInfo| policy.allows(&user("x"), info).is_some();
        assert!(allows(&asks("get", "pods", "default", "a")));
        assert!(allows(&asks("get", "deployments/scale", "default", "a")));
        assert!(!allows(&asks("get", "pods", "default", "b")));
        assert!(!allows(&asks("get", "pods/log", "default", "a")));
        assert!(!allows(&asks("get", "pods", "other", "a")));
        assert!(!allows(&asks("list", "pods", "default", "")));
        assert!(!allows(&asks("get", "pods", "", "a")));
    }

    #[test]
    fn a_service_account_is_bound_by_name_and_paths_match_by_prefix() {
        let rules = json!([{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/logs/*"]}]);
        let roles = [role("r", json!({}), rules)];
        let subject = json!({"kind": "ServiceAccount", "name": "a", "namespace": "n"});
        let bindings = [binding("ClusterRole", "r", subject)];
        let policy = Policy::compile(&Sources {
            cluster_roles: as_map(&roles),
            cluster_role_bindings: as_map(&bindings),
            ..Sources::default()
        });
        let get = |path: &str| {
            let info = RequestInfo {
                verb: "get".into(),
                path: path.into(),
                ..RequestInfo::default()
            };
            policy.allows(&user("system:serviceaccount:n:a"), &info)
        };
        assert_eq!(
            get("/logs/x").unwrap(),
            "RBAC: allowed by ClusterRoleBinding \"b\" of ClusterRole \"r\" to User \
             \"system:serviceaccount:n:a\""
        );
        assert!(get("/healthz").is_some() && get("/healthz/etcd").is_none());
    }

    #[test]
    fn an_aggregating_role_has_the_rules_of_those_it_selects() {
        let view = role(
            "view",
            json!({"to-edit": "true"}),
            json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]),
        );
        let chain = |name: &str, label: &str, labels: Value| {
            json!({"metadata": {"name": name, "labels": labels},
                "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]}})
        };
        let roles = [
            view,
            chain("edit", "to-edit", json!({"to-admin": "true"})),
            chain("admin", "to-admin", json!({})),
        ];
        let bindings = [binding(
            "ClusterRole",
            "admin",
            json!({"kind": "User", "name": "x"}),
        )];
        let policy = Policy::compile(&Sources {
            cluster_roles: as_map(&roles),
            role_bindings: as_map(&bindings),
            ..Sources::default()
        });
        assert!(
            policy
                .allows(&user("x"), &asks("get", "pods", "default", ""))
                .is_some()
        );
        assert_eq!(policy.rules_for(&user("x"), "default").len(), 1);
        assert!(policy.rules_for(&user("x"), "other").is_empty());
    }

    #[test]
    fn a_rule_is_covered_only_where_every_part_of_it_is() {
        let rule = |verbs: &[&str], resources: &[&str], names: &[&str]| {
            Rule::from_value(
                &json!({"verbs": verbs, "apiGroups": [""], "resources": resources,
                "resourceNames": names}),
            )
        };
        let owned = [
            rule(&["get"], &["pods"], &[]),
            rule(&["list"], &["*"], &["a"]),
        ];
        assert!(rule(&["get"], &["pods"], &["x"]).is_covered_by(&owned));
        assert!(rule(&["list"], &["pods", "nodes"], &["a"]).is_covered_by(&owned));
        assert!(!rule(&["list"], &["pods"], &[]).is_covered_by(&owned));
        assert!(!rule(&["get", "list"], &["pods"], &[]).is_covered_by(&owned));
        assert!(!rule(&["*"], &["pods"], &[]).is_covered_by(&owned));
    }
}
