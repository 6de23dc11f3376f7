//! The plugins in their order: first all that fill in, then, after validation, all that refuse.

use crate::api::object::Object;
use crate::api::status::ApiError;

use super::default_tolerations::DefaultTolerations;
use super::namespace_lifecycle::NamespaceLifecycle;
use super::node_restriction::NodeRestriction;
use super::priority::Priority;
use super::service_account::ServiceAccounts;
use super::{Attributes, Lookup, Plugin};
use crate::util::rng::Rng;

/// All plugins.
pub(crate) struct Chain {
    plugins: Vec<Box<dyn Plugin>>,
}

impl Chain {
    /// The built-in plugins.
    pub(crate) fn new(lookup: &Lookup, rng: &Rng) -> Self {
        let plugins: Vec<Box<dyn Plugin>> = vec![
            Box::new(NamespaceLifecycle::new(lookup.clone())),
            Box::new(NodeRestriction::new(lookup.clone())),
            Box::new(ServiceAccounts::new(lookup.clone(), rng.clone())),
            Box::new(DefaultTolerations),
            Box::new(Priority::new(lookup.clone())),
        ];
        Self { plugins }
    }

    /// Lets every plugin fill in or refuse a new object.
    pub(crate) async fn mutate(
        &self,
        attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), ApiError> {
        for plugin in &self.plugins {
            plugin.mutate(attributes, object).await?;
        }
        Ok(())
    }

    /// Lets every plugin refuse what is to be written, or a delete.
    pub(crate) async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), ApiError> {
        for plugin in &self.plugins {
            plugin.validate(attributes, object).await?;
        }
        Ok(())
    }
}
