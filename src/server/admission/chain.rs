//! The plugins in their order: first all that fill in, then, after validation, all that refuse.

use crate::api::object::Object;
use crate::api::status::ApiError;

use super::default_tolerations::DefaultTolerations;
use super::limit_ranger::LimitRanger;
use super::namespace_lifecycle::NamespaceLifecycle;
use super::node_restriction::NodeRestriction;
use super::pod_security::PodSecurity;
use super::priority::Priority;
use super::resource_quota::ResourceQuota;
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
            Box::new(LimitRanger::new(lookup)),
            Box::new(ServiceAccounts::new(lookup.clone(), rng.clone())),
            Box::new(NodeRestriction::new(lookup.clone())),
            Box::new(PodSecurity::new(lookup.clone())),
            Box::new(Priority::new(lookup.clone())),
            Box::new(DefaultTolerations),
            // Last: what it charges must not be refused by somebody else.
            Box::new(ResourceQuota::new(lookup)),
        ];
        Self { plugins }
    }

    fn of(&self, attributes: &Attributes<'_>) -> impl Iterator<Item = &dyn Plugin> {
        let plugins = self.plugins.iter().map(|plugin| &**plugin);
        plugins.filter(|plugin| plugin.concerns(attributes))
    }

    /// Lets every plugin fill in or refuse a new object.
    pub(crate) async fn mutate(
        &self,
        attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), ApiError> {
        for plugin in self.of(attributes) {
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
        for plugin in self.of(attributes) {
            plugin.validate(attributes, object).await?;
        }
        Ok(())
    }

    /// Takes back what was done for a write that passed and was not made after all.
    pub(crate) async fn undo(&self, attributes: &Attributes<'_>, object: &Object) {
        if attributes.dry_run {
            return;
        }
        for plugin in self.of(attributes) {
            plugin.undo(attributes, object).await;
        }
    }
}
