//! Who asks for what: the two things every filter, authorizer and verb needs to know of a request.

use std::collections::BTreeMap;

/// Who is calling (`authentication.k8s.io UserInfo`). In the extensions of every request after
/// authentication; a request from inside the process brings it along.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// For instance `system:node:worker1`.
    pub name: String,
    /// May be empty.
    pub uid: String,
    /// For instance `system:nodes`, `system:authenticated`.
    pub groups: Vec<String>,
    /// For instance the pod a service-account token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user of the program itself: in `system:masters` and `system:authenticated`.
    pub fn system(name: &str) -> Self {
        let groups = vec![
            "system:masters".to_owned(),
            "system:authenticated".to_owned(),
        ];
        Self {
            name: name.to_owned(),
            groups,
            ..Self::default()
        }
    }

    /// Nobody in particular.
    pub fn anonymous() -> Self {
        let groups = vec!["system:unauthenticated".to_owned()];
        Self {
            name: "system:anonymous".to_owned(),
            groups,
            ..Self::default()
        }
    }

    /// Whether the user is in `group`.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// What a request is about, read off its method and path
/// (`k8s.io/apiserver/pkg/endpoints/request.RequestInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; the
    /// lower-case method for paths that are not resources.
    pub verb: String,
    /// Whether the path names a resource.
    pub is_resource: bool,
    /// `api` or `apis`.
    pub prefix: String,
    /// Empty for the core group.
    pub group: String,
    /// For instance `v1`.
    pub version: String,
    /// Plural, for instance `pods`.
    pub resource: String,
    /// For instance `status`; empty where none.
    pub subresource: String,
    /// Empty for cluster-scoped requests and lists over all namespaces. For requests on a
    /// Namespace object itself: its name, as upstream.
    pub namespace: String,
    /// Empty for collections.
    pub name: String,
    /// What follows the subresource (`proxy/a/b` gives `a/b`).
    pub rest: String,
    /// The whole path.
    pub path: String,
}
