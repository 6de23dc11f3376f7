//! Writes for tests of plugins, without a server.

use crate::server::registry::{Registry, ResourceDef};
use crate::server::request::{RequestInfo, User};

use super::{Attributes, Notes, Operation};

/// A create.
pub(super) struct Asked {
    def: ResourceDef,
    info: RequestInfo,
    user: User,
    notes: Notes,
}

impl Asked {
    /// Of a built-in resource; `resource` or `resource.group`, in version `v1`.
    pub(super) fn new(resource: &str, namespace: &str, name: &str) -> Self {
        let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
        let table = Registry::builtin().snapshot();
        let info = RequestInfo {
            verb: "create".to_owned(),
            is_resource: true,
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..RequestInfo::default()
        };
        Self {
            def: (**table.find(group, "v1", resource).unwrap()).clone(),
            info,
            user: User::system("admin"),
            notes: Notes::default(),
        }
    }

    pub(super) fn below(mut self, subresource: &str) -> Self {
        self.info.subresource = subresource.to_owned();
        self
    }

    pub(super) fn attributes(&self) -> Attributes<'_> {
        Attributes {
            operation: Operation::Create,
            def: &self.def,
            namespace: &self.info.namespace,
            name: &self.info.name,
            subresource: &self.info.subresource,
            user: &self.user,
            old: None,
            dry_run: false,
            info: &self.info,
            query: "",
            delete: None,
            notes: &self.notes,
        }
    }
}
