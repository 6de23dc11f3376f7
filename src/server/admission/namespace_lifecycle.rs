//! Objects are made only in namespaces that are there and not ending; some namespaces are never
//! deleted (`plugin/pkg/admission/namespace/lifecycle`).

use async_trait::async_trait;
use serde_json::json;

use crate::api::object::Object;
use crate::api::status::ApiError;

use super::{Attributes, Lookup, Operation, Plugin};

const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

pub(super) struct NamespaceLifecycle {
    lookup: Lookup,
}

impl NamespaceLifecycle {
    pub(super) fn new(lookup: Lookup) -> Self {
        Self { lookup }
    }
}

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        match attributes.operation {
            Operation::Create => !attributes.namespace.is_empty(),
            Operation::Update | Operation::Connect => false,
            Operation::Delete => attributes.is_core("namespaces"),
        }
    }

    async fn mutate(
        &self,
        attributes: &Attributes<'_>,
        _object: &mut Object,
    ) -> Result<(), ApiError> {
        let namespace = attributes.namespace;
        if namespace.is_empty() || attributes.operation != Operation::Create {
            return Ok(());
        }
        let Some(found) = self.lookup.find("namespaces", namespace).await? else {
            return Err(ApiError::not_found("", "namespaces", namespace));
        };
        if found.field("status.phase") != Some("Terminating") {
            return Ok(());
        }
        let why = format!(
            "unable to create new content in namespace {namespace} because it is being terminated"
        );
        let mut error = attributes.forbidden(&why);
        let cause = json!({
            "reason": "NamespaceTerminating", "field": "metadata.namespace",
            "message": format!("namespace {namespace} is being terminated"),
        });
        if let Some(details) = &mut error.details {
            details["causes"] = json!([cause]);
        }
        Err(error)
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        _object: Option<&Object>,
    ) -> Result<(), ApiError> {
        if attributes.operation == Operation::Delete
            && attributes.is_core("namespaces")
            && IMMORTAL.contains(&attributes.name)
        {
            return Err(attributes.forbidden("this namespace may not be deleted"));
        }
        Ok(())
    }
}
