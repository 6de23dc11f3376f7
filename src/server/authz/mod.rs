//! May they: the union of `system:masters`, the node authorizer and RBAC.

pub mod node;
pub mod rbac;

use crate::server::request::{RequestInfo, User};

/// Who asks for what.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Who.
    pub user: &'a User,
    /// What.
    pub info: &'a RequestInfo,
    /// The field selector of a list or watch, as it was sent; empty where none.
    pub field_selector: &'a str,
}

impl Attributes<'_> {
    /// Whether the field selector asks for exactly `field=value`.
    pub fn selects(&self, field: &str, value: &str) -> bool {
        self.field_selector.split(',').any(|term| {
            let Some((name, rest)) = term.split_once('=') else {
                return false;
            };
            name == field && rest.strip_prefix('=').unwrap_or(rest) == value
        })
    }

    /// The text of a refusal (`k8s.io/apiserver .../responsewriters.forbiddenMessage`).
    pub fn refusal(&self) -> String {
        let (user, info) = (&self.user.name, self.info);
        if !info.is_resource {
            return format!(
                "User \"{user}\" cannot {} path \"{}\"",
                info.verb, info.path
            );
        }
        let resource = match info.subresource.as_str() {
            "" => info.resource.clone(),
            subresource => format!("{}/{subresource}", info.resource),
        };
        let place = match info.namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace \"{namespace}\""),
        };
        format!(
            "User \"{user}\" cannot {} resource \"{resource}\" in API group \"{}\" {place}",
            info.verb, info.group
        )
    }
}
