//! Nobody gives away more than they have: roles hold only what their author may do, bindings bind
//! only such roles, unless the author may `escalate` or `bind`
//! (`pkg/registry/rbac/{clusterrole,rolebinding,…}/policybased`).

use std::sync::Arc;

use async_trait::async_trait;

use crate::api::object::Object;
use crate::api::status::ApiError;
use crate::server::authz::rbac::Rule;
use crate::server::authz::{self, Authz, Verdict};
use crate::server::request::{RequestInfo, User};

use super::{Attributes, Lookup, Plugin};

const GROUP: &str = "rbac.authorization.k8s.io";
const ROLES: &[&str] = &["roles", "clusterroles"];
const BINDINGS: &[&str] = &["rolebindings", "clusterrolebindings"];

pub(super) struct RbacEscalation {
    lookup: Lookup,
    authz: Arc<Authz>,
}

impl RbacEscalation {
    pub(super) fn new(lookup: &Lookup, authz: &Arc<Authz>) -> Self {
        Self {
            lookup: lookup.clone(),
            authz: Arc::clone(authz),
        }
    }

    fn may(
        &self,
        user: &User,
        verb: &str,
        namespace: &str,
        (resource, name): (&str, &str),
    ) -> bool {
        let info = RequestInfo {
            verb: verb.to_owned(),
            is_resource: true,
            group: GROUP.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..RequestInfo::default()
        };
        let asked = authz::Attributes {
            user,
            info: &info,
            field_selector: "",
        };
        matches!(self.authz.authorize(&asked), Verdict::Allowed(_))
    }

    fn check_role(&self, attributes: &Attributes<'_>, role: &Object) -> Result<(), ApiError> {
        let (user, namespace) = (attributes.user, attributes.namespace);
        let resource = attributes.def.gvr.resource.as_str();
        if self.may(user, "escalate", namespace, (resource, attributes.name)) {
            return Ok(());
        }
        let old = attributes.old;
        let is_same = |field: &str| old.is_some_and(|old| old.field(field) == role.field(field));
        if is_same("rules") && is_same("aggregationRule") {
            return Ok(());
        }
        let owned = self.authz.rules_for(user, namespace);
        let wanted = rules_of(role);
        if !role.field("aggregationRule").is_null()
            && !escalations(&everything(), &owned).is_empty()
        {
            let why = "must have cluster-admin privileges to use an aggregationRule";
            return Err(attributes.forbidden(why));
        }
        confirm(attributes, &wanted, &owned)
    }

    async fn check_binding(
        &self,
        attributes: &Attributes<'_>,
        binding: &Object,
    ) -> Result<(), ApiError> {
        let (user, namespace) = (attributes.user, attributes.namespace);
        let name = binding.text_at(&["roleRef", "name"]);
        let (resource, key) = match binding.text_at(&["roleRef", "kind"]) {
            "ClusterRole" => ("clusterroles", name.to_owned()),
            _ => ("roles", format!("{namespace}/{name}")),
        };
        if self.may(user, "bind", namespace, (resource, name)) {
            return Ok(());
        }
        let role = self
            .lookup
            .find(&format!("{resource}.{GROUP}"), &key)
            .await?;
        let role = role.ok_or_else(|| ApiError::not_found(GROUP, resource, name))?;
        let role = role.object().map_err(ApiError::internal)?;
        let owned = self.authz.rules_for(user, namespace);
        confirm(attributes, &rules_of(&role), &owned)
    }
}

#[async_trait]
impl Plugin for RbacEscalation {
    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        let gvr = &attributes.def.gvr;
        gvr.group == GROUP
            && attributes.is_put()
            && !attributes.user.is_in("system:masters")
            && (ROLES.contains(&&*gvr.resource) || BINDINGS.contains(&&*gvr.resource))
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), ApiError> {
        let Some(object) = object.filter(|object| !frees_only(attributes.old, object)) else {
            return Ok(());
        };
        if ROLES.contains(&attributes.def.gvr.resource.as_str()) {
            return self.check_role(attributes, object);
        }
        self.check_binding(attributes, object).await
    }
}

/// Whether an update touches only what the garbage collector needs to let the object go.
fn frees_only(old: Option<&Object>, new: &Object) -> bool {
    let Some(old) = old else {
        return false;
    };
    let stripped = |object: &Object| {
        let mut object = object.clone();
        let meta = object.metadata_mut();
        for field in ["ownerReferences", "finalizers", "managedFields"] {
            meta.remove(field);
        }
        object
    };
    stripped(old) == stripped(new)
}

fn rules_of(role: &Object) -> Vec<Rule> {
    let rules = role.field("rules").as_array().into_iter().flatten();
    rules.map(Rule::from_value).collect()
}

fn everything() -> [Rule; 2] {
    let all = || vec!["*".to_owned()];
    [
        Rule {
            verbs: all(),
            api_groups: all(),
            resources: all(),
            ..Rule::default()
        },
        Rule {
            verbs: all(),
            non_resource_urls: all(),
            ..Rule::default()
        },
    ]
}

fn confirm(attributes: &Attributes<'_>, wanted: &[Rule], owned: &[Rule]) -> Result<(), ApiError> {
    let missing = escalations(wanted, owned);
    if missing.is_empty() {
        return Ok(());
    }
    let user = attributes.user;
    Err(attributes.forbidden(&format!(
        "user \"{}\" (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        list(&user.groups),
        missing.join("\n")
    )))
}

/// What of `wanted` is not in `owned`, a line each, sorted; rules that differ in verbs only are
/// one line.
fn escalations(wanted: &[Rule], owned: &[Rule]) -> Vec<String> {
    let mut compact: Vec<Rule> = Vec::new();
    for piece in wanted.iter().flat_map(|rule| rule.uncovered(owned)) {
        let same = |other: &&mut Rule| {
            piece.non_resource_urls.is_empty()
                && Rule {
                    verbs: piece.verbs.clone(),
                    ..(**other).clone()
                } == piece
        };
        match compact.iter_mut().find(same) {
            Some(other) if !other.verbs.contains(&piece.verbs[0]) => {
                other.verbs.extend(piece.verbs);
            }
            Some(_) => {}
            None => compact.push(piece),
        }
    }
    let mut lines: Vec<String> = compact.iter().map(print).collect();
    lines.sort();
    lines
}

/// `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`
fn print(rule: &Rule) -> String {
    let parts = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ];
    let parts = parts.iter().filter(|(_, items)| !items.is_empty());
    let parts: Vec<String> = parts
        .map(|(name, items)| format!("{name}:{}", list(items)))
        .collect();
    format!("{{{}}}", parts.join(", "))
}

/// A list as Go's `%q` prints it.
fn list(items: &[String]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| format!("{item:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn rules(values: Value) -> Vec<Rule> {
        values
            .as_array()
            .unwrap()
            .iter()
            .map(Rule::from_value)
            .collect()
    }

    #[test]
    fn what_is_not_held_is_listed() {
        let owned = rules(json!([
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
        ]));
        let wanted = rules(json!([
            {"apiGroups": [""], "resources": ["pods", "secrets"], "verbs": ["get", "watch", "list"]},
            {"nonResourceURLs": ["/metrics"], "verbs": ["get"]},
        ]));
        assert_eq!(
            escalations(&wanted, &owned),
            [
                "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"watch\"]}",
                "{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"watch\" \"list\"]}",
                "{NonResourceURLs:[\"/metrics\"], Verbs:[\"get\"]}",
            ]
        );
        assert!(escalations(&wanted, &everything()).is_empty());
        assert_eq!(escalations(&everything(), &owned).len(), 2);
    }
}
