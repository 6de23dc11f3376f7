//! The number a Pod's priority class stands for (`plugin/pkg/admission/priority`).

use async_trait::async_trait;
use serde_json::Value;

use crate::api::object::{Object, child_mut};
use crate::api::status::ApiError;

use super::{Attributes, Lookup, Plugin};

const STORAGE: &str = "priorityclasses.scheduling.k8s.io";
const DEFAULT_PREEMPTION: &str = "PreemptLowerPriority";

pub(super) struct Priority {
    lookup: Lookup,
}

impl Priority {
    pub(super) fn new(lookup: Lookup) -> Self {
        Self { lookup }
    }

    /// Value and preemption policy of a class.
    async fn class(&self, name: &str) -> Result<Option<(i64, String)>, ApiError> {
        let system = match name {
            "system-cluster-critical" => Some(2_000_000_000),
            "system-node-critical" => Some(2_000_001_000),
            _ => None,
        };
        if let Some(value) = system {
            return Ok(Some((value, DEFAULT_PREEMPTION.to_owned())));
        }
        let Some(item) = self.lookup.find(STORAGE, name).await? else {
            return Ok(None);
        };
        let class = item.object().map_err(ApiError::internal)?;
        let value = class.0.get("value").and_then(Value::as_i64).unwrap_or(0);
        let policy = match class.text_at(&["preemptionPolicy"]) {
            "" => DEFAULT_PREEMPTION,
            policy => policy,
        };
        Ok(Some((value, policy.to_owned())))
    }
}

#[async_trait]
impl Plugin for Priority {
    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        attributes.is_new_pod()
    }

    async fn mutate(
        &self,
        attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), ApiError> {
        if !attributes.is_new_pod() {
            return Ok(());
        }
        let name = object.text_at(&["spec", "priorityClassName"]).to_owned();
        let (value, policy) = if name.is_empty() {
            (0, DEFAULT_PREEMPTION.to_owned())
        } else {
            self.class(&name).await?.ok_or_else(|| {
                attributes.forbidden(&format!("no PriorityClass with name {name} was found"))
            })?
        };
        let spec = child_mut(&mut object.0, "spec");
        if let Some(given) = spec.get("priority").and_then(Value::as_i64)
            && given != value
        {
            return Err(attributes.forbidden(&format!(
                "the integer value of priority ({given}) must not be provided in pod spec; \
                 priority admission controller computed {value} from the given PriorityClass name"
            )));
        }
        if let Some(given) = spec.get("preemptionPolicy").and_then(Value::as_str)
            && given != policy
        {
            return Err(attributes.forbidden(&format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; \
                 priority admission controller computed {policy} from the given PriorityClass name"
            )));
        }
        spec.insert("priority".into(), value.into());
        spec.insert("preemptionPolicy".into(), policy.into());
        Ok(())
    }
}
