//! A claim grows only where something can make its volume larger
//! (`plugin/pkg/admission/storage/persistentvolume/resize`).

use async_trait::async_trait;
use serde_json::Value;

use crate::api::object::Object;
use crate::api::quantity::Quantity;
use crate::api::status::ApiError;

use super::{Attributes, Lookup, Operation, Plugin};

const CLASSES: &str = "storageclasses.storage.k8s.io";

pub(super) struct ClaimResize {
    lookup: Lookup,
}

impl ClaimResize {
    pub(super) fn new(lookup: &Lookup) -> Self {
        Self {
            lookup: lookup.clone(),
        }
    }
}

#[async_trait]
impl Plugin for ClaimResize {
    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Update
            && attributes.subresource.is_empty()
            && attributes.is_core("persistentvolumeclaims")
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), ApiError> {
        let (Some(new), Some(old)) = (object, attributes.old) else {
            return Ok(());
        };
        if storage(new) <= storage(old) {
            return Ok(());
        }
        if old.text_at(&["status", "phase"]) != "Bound" {
            let why = "only bound persistent volume claims can be expanded";
            return Err(attributes.forbidden(why));
        }
        let class = old.text_at(&["spec", "storageClassName"]);
        let class = match class {
            "" => None,
            class => self.lookup.find(CLASSES, class).await?,
        };
        let class = class.and_then(|class| class.object().ok());
        let grows = class.is_some_and(|class| class.field("allowVolumeExpansion") == true);
        if grows {
            return Ok(());
        }
        let why = "only dynamically provisioned pvc can be resized and the storageclass that \
                   provisions the pvc must support resize";
        Err(attributes.forbidden(why))
    }
}

fn storage(claim: &Object) -> Quantity {
    let asked = claim.at(&["spec", "resources", "requests", "storage"]);
    let asked = asked.unwrap_or(&Value::Null);
    Quantity::from_json(asked).unwrap_or(Quantity::ZERO)
}
