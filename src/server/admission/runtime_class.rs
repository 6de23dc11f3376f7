//! A Pod of a RuntimeClass gets the class' overhead and goes where the class runs
//! (`plugin/pkg/admission/runtimeclass`).

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use crate::api::object::{Object, child_mut};
use crate::api::status::ApiError;

use super::{Attributes, Lookup, Plugin};

const STORAGE: &str = "runtimeclasses.node.k8s.io";

pub(super) struct RuntimeClass {
    lookup: Lookup,
}

impl RuntimeClass {
    pub(super) fn new(lookup: &Lookup) -> Self {
        Self {
            lookup: lookup.clone(),
        }
    }

    async fn class(
        &self,
        attributes: &Attributes<'_>,
        pod: &Object,
    ) -> Result<Option<Object>, ApiError> {
        let name = pod.text_at(&["spec", "runtimeClassName"]);
        if name.is_empty() {
            return Ok(None);
        }
        let found = self.lookup.find(STORAGE, name).await?;
        let found = found.ok_or_else(|| {
            attributes.forbidden(&format!("pod rejected: RuntimeClass \"{name}\" not found"))
        })?;
        found.object().map(Some).map_err(ApiError::internal)
    }
}

#[async_trait]
impl Plugin for RuntimeClass {
    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        attributes.is_new_pod()
    }

    async fn mutate(
        &self,
        attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), ApiError> {
        if let Some(class) = self.class(attributes, object).await? {
            fill_in(object, &class).map_err(|why| attributes.forbidden(&why))?;
        }
        Ok(())
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), ApiError> {
        let Some(pod) = object else {
            return Ok(());
        };
        let overhead = pod.at(&["spec", "overhead"]);
        let Some(overhead) = overhead.filter(|o| o.as_object().is_some_and(|o| !o.is_empty()))
        else {
            return Ok(());
        };
        let class = self.class(attributes, pod).await?;
        let fixed = class.as_ref().and_then(|c| c.at(&["overhead", "podFixed"]));
        match fixed {
            Some(fixed) if fixed == overhead => Ok(()),
            Some(_) => Err(attributes.forbidden(MISMATCH)),
            None => Err(attributes.forbidden(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            )),
        }
    }
}

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

fn fill_in(pod: &mut Object, class: &Object) -> Result<(), String> {
    let spec = child_mut(&mut pod.0, "spec");
    if let Some(fixed) = class.at(&["overhead", "podFixed"]) {
        match spec.get("overhead") {
            Some(own) if own != fixed && own.as_object().is_some_and(|own| !own.is_empty()) => {
                return Err(MISMATCH.to_owned());
            }
            _ => {
                spec.insert("overhead".into(), fixed.clone());
            }
        }
    }
    let wanted = class.at(&["scheduling", "nodeSelector"]);
    if let Some(wanted) = wanted.and_then(Value::as_object).filter(|w| !w.is_empty()) {
        merge_selector(child_mut(spec, "nodeSelector"), wanted)?;
    }
    let tolerations = class.at(&["scheduling", "tolerations"]);
    let tolerations = tolerations.and_then(Value::as_array);
    if let Some(added) = tolerations.filter(|added| !added.is_empty()) {
        let own = spec.entry("tolerations").or_insert_with(|| json!([]));
        if let Some(own) = own.as_array_mut() {
            let new: Vec<Value> = added.iter().filter(|t| !own.contains(t)).cloned().collect();
            own.extend(new);
        }
    }
    Ok(())
}

fn merge_selector(own: &mut Map<String, Value>, wanted: &Map<String, Value>) -> Result<(), String> {
    for (key, value) in wanted {
        match own.get(key) {
            Some(other) if other != value => {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; \
                     pod.spec.nodeSelector[{key}] = {}",
                    text(value),
                    text(other)
                ));
            }
            _ => own.insert(key.clone(), value.clone()),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_gets_overhead_and_place_of_its_class() {
        let object = |value: Value| Object::from_value(value).unwrap();
        let class = object(json!({
            "overhead": {"podFixed": {"memory": "100Mi"}},
            "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm"}]},
        }));
        let mut pod = object(json!({"spec": {"tolerations": [{"key": "vm"}]}}));
        fill_in(&mut pod, &class).unwrap();
        assert_eq!(
            pod.0["spec"],
            json!({
                "overhead": {"memory": "100Mi"}, "nodeSelector": {"vm": "yes"},
                "tolerations": [{"key": "vm"}],
            })
        );
        let mut other = object(json!({"spec": {"nodeSelector": {"vm": "no"}}}));
        assert_eq!(
            fill_in(&mut other, &class).unwrap_err(),
            "conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; \
             pod.spec.nodeSelector[vm] = no"
        );
        let mut odd = object(json!({"spec": {"overhead": {"memory": "1Mi"}}}));
        assert_eq!(fill_in(&mut odd, &class).unwrap_err(), MISMATCH);
    }
}
