//! The plugins in their order: first all that fill in, then, after validation, all that refuse.

use std::sync::Arc;

use crate::api::object::Object;
use crate::api::status::ApiError;

use super::certificates::Certificates;
use super::claim_resize::ClaimResize;
use super::default_class::DefaultClass;
use super::default_tolerations::DefaultTolerations;
use super::limit_ranger::LimitRanger;
use super::namespace_lifecycle::NamespaceLifecycle;
use super::node_restriction::NodeRestriction;
use super::owner_references::OwnerReferences;
use super::pod_security::PodSecurity;
use super::policy::{MutatingPolicies, ValidatingPolicies};
use super::priority::Priority;
use super::rbac_escalation::RbacEscalation;
use super::resource_quota::ResourceQuota;
use super::runtime_class::RuntimeClass;
use super::service_account::ServiceAccounts;
use super::webhook::{Caller, MutatingWebhooks, ValidatingWebhooks};
use super::{Attributes, Lookup, Plugin};
use crate::server::authz::Authz;
use crate::server::webhook::Webhooks;
use crate::util::rng::Rng;

/// All plugins.
pub(crate) struct Chain {
    plugins: Vec<Box<dyn Plugin>>,
    lookup: Lookup,
    authz: Arc<Authz>,
}

impl Chain {
    /// The built-in plugins.
    pub(crate) fn new(lookup: &Lookup, rng: &Rng) -> Self {
        let authz = Arc::new(Authz::new(lookup.cacher().clone()));
        let caller = Caller::new(lookup.webhooks(), Arc::clone(&authz), rng.clone());
        let plugins: Vec<Box<dyn Plugin>> = vec![
            Box::new(NamespaceLifecycle::new(lookup.clone())),
            Box::new(LimitRanger::new(lookup)),
            Box::new(ServiceAccounts::new(lookup.clone(), rng.clone())),
            Box::new(NodeRestriction::new(lookup.clone())),
            Box::new(PodSecurity::new(lookup.clone())),
            Box::new(Priority::new(lookup.clone())),
            Box::new(DefaultTolerations),
            Box::new(OwnerReferences::new(lookup, &authz)),
            Box::new(ClaimResize::new(lookup)),
            Box::new(RuntimeClass::new(lookup)),
            Box::new(DefaultClass::of_ingress(lookup)),
            Box::new(DefaultClass::of_storage(lookup)),
            Box::new(RbacEscalation::new(lookup, &authz)),
            Box::new(Certificates::new(&authz)),
            Box::new(MutatingPolicies::new(lookup, &authz)),
            Box::new(MutatingWebhooks::new(lookup, caller.clone())),
            Box::new(ValidatingPolicies::new(lookup, &authz)),
            Box::new(ValidatingWebhooks::new(lookup, caller)),
            // Last: what it charges must not be refused by somebody else.
            Box::new(ResourceQuota::new(lookup)),
        ];
        Self {
            plugins,
            lookup: lookup.clone(),
            authz,
        }
    }

    /// Who says what users may do; reads the cache.
    pub(crate) fn authz(&self) -> &Arc<Authz> {
        &self.authz
    }

    /// Says how webhooks are called. Counts once.
    pub(crate) fn set_webhooks(&self, webhooks: Webhooks) {
        // A second call would be a mistake of the wiring; the first stays.
        let _ = self.lookup.webhooks().set(webhooks);
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
        attributes.notes.begin();
        loop {
            for plugin in self.of(attributes) {
                plugin.mutate(attributes, object).await?;
            }
            let is_second = attributes.notes.round() == 1;
            if is_second || !attributes.notes.begin_second() {
                return Ok(());
            }
        }
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
