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

    /// Name, value and preemption policy of the class that Pods without one have: of several marked
    /// so, the one of the lowest value, as upstream.
    fn default_class(&self) -> Option<(String, i64, String)> {
        let classes = self.lookup.all(STORAGE);
        let classes = classes.iter().filter_map(|item| item.object().ok());
        let marked = classes.filter(|class| class.field("globalDefault") == true);
        let read = marked.map(|class| {
            let (value, policy) = of(&class);
            (class.name().to_owned(), value, policy)
        });
        read.min_by_key(|(_, value, _)| *value)
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
        Ok(Some(of(&class)))
    }
}

/// Value and preemption policy.
fn of(class: &Object) -> (i64, String) {
    let value = class.field("value").as_i64().unwrap_or(0);
    let policy = match class.text_at(&["preemptionPolicy"]) {
        "" => DEFAULT_PREEMPTION,
        policy => policy,
    };
    (value, policy.to_owned())
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
        let default = if name.is_empty() {
            self.default_class()
        } else {
            None
        };
        let (value, policy) = if let Some((name, value, policy)) = default {
            let spec = child_mut(&mut object.0, "spec");
            spec.insert("priorityClassName".into(), name.into());
            (value, policy)
        } else if name.is_empty() {
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
