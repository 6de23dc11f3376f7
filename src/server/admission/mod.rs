//! What a write must pass beyond its own validity: plugins that look at other objects, fill in
//! fields, or refuse. Each plugin is a file and knows no other; [`Chain`] has their order.

mod cel;
mod certificates;
mod chain;
mod claim_resize;
mod compiled;
mod default_class;
mod default_tolerations;
mod limit_ranger;
mod lookup;
mod matching;
mod namespace_lifecycle;
mod node_restriction;
mod notes;
mod owner_references;
mod pod_security;
mod policy;
mod priority;
mod rbac_escalation;
pub(crate) mod resource_quota;
mod review;
mod runtime_class;
mod service_account;
#[cfg(test)]
mod testing;
mod webhook;

use async_trait::async_trait;

use crate::api::object::Object;
use crate::api::options::DeleteOptions;
use crate::api::status::ApiError;
use crate::server::registry::ResourceDef;
use crate::server::request::{RequestInfo, User};

pub(crate) use chain::Chain;
pub(crate) use lookup::Lookup;
pub(crate) use notes::Notes;

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    /// A stream or proxy is opened; the object is its options.
    Connect,
}

impl Operation {
    /// As configurations and reviews spell it.
    fn name(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// What plugins know of a write besides the new object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes<'a> {
    pub(crate) operation: Operation,
    pub(crate) def: &'a ResourceDef,
    /// Empty for cluster-scoped resources.
    pub(crate) namespace: &'a str,
    /// Empty where the name is yet to be generated.
    pub(crate) name: &'a str,
    /// Empty for the object itself.
    pub(crate) subresource: &'a str,
    pub(crate) user: &'a User,
    /// What is stored, for updates and deletes.
    pub(crate) old: Option<&'a Object>,
    /// Whether nothing is to be written in the end.
    pub(crate) dry_run: bool,
    /// The request this is part of.
    pub(crate) info: &'a RequestInfo,
    /// Its query, with its options.
    pub(crate) query: &'a str,
    /// The options of a delete.
    pub(crate) delete: Option<&'a DeleteOptions>,
    /// What is said beside the verdict.
    pub(crate) notes: &'a Notes,
}

impl Attributes<'_> {
    /// Whether the write is on `resource` of the core group.
    fn is_core(&self, resource: &str) -> bool {
        self.def.gvr.group.is_empty() && self.def.gvr.resource == resource
    }

    /// Whether a Pod itself is created.
    fn is_new_pod(&self) -> bool {
        self.operation == Operation::Create && self.subresource.is_empty() && self.is_core("pods")
    }

    /// Whether the object itself is created or updated.
    fn is_put(&self) -> bool {
        matches!(self.operation, Operation::Create | Operation::Update)
            && self.subresource.is_empty()
    }

    /// 403; `why` is the text after `is forbidden: `.
    fn forbidden(&self, why: &str) -> ApiError {
        let gvr = &self.def.gvr;
        ApiError::forbidden(&gvr.group, &gvr.resource, self.name, why)
    }
}

/// One rule about writes.
#[async_trait]
trait Plugin: Send + Sync {
    /// Whether the plugin may have something to say. Asked at every write, so it must be quick.
    fn concerns(&self, _attributes: &Attributes<'_>) -> bool {
        true
    }

    /// Fills in the new object, or refuses it.
    async fn mutate(
        &self,
        _attributes: &Attributes<'_>,
        _object: &mut Object,
    ) -> Result<(), ApiError> {
        Ok(())
    }

    /// Refuses, with the object as it is to be written (`None` for a delete).
    async fn validate(
        &self,
        _attributes: &Attributes<'_>,
        _object: Option<&Object>,
    ) -> Result<(), ApiError> {
        Ok(())
    }

    /// Takes back what `validate` did for a write that was not made after all.
    async fn undo(&self, _attributes: &Attributes<'_>, _object: &Object) {}
}
