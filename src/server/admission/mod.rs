//! What a write must pass beyond its own validity: plugins that look at other objects, fill in
//! fields, or refuse. Each plugin is a file and knows no other; [`Chain`] has their order.

mod chain;
mod default_tolerations;
mod lookup;
mod namespace_lifecycle;
mod node_restriction;
mod priority;
mod service_account;

use async_trait::async_trait;

use crate::api::object::Object;
use crate::api::status::ApiError;
use crate::server::registry::ResourceDef;
use crate::server::request::User;

pub(crate) use chain::Chain;
pub(crate) use lookup::Lookup;

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
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

    /// 403; `why` is the text after `is forbidden: `.
    fn forbidden(&self, why: &str) -> ApiError {
        let gvr = &self.def.gvr;
        ApiError::forbidden(&gvr.group, &gvr.resource, self.name, why)
    }
}

/// One rule about writes.
#[async_trait]
trait Plugin: Send + Sync {
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
}
