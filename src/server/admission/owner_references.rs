//! Who changes an object's owners must be allowed to delete it, and who makes an owner wait for it
//! must be allowed to hold the owner (`plugin/pkg/admission/gc`): else deletions could be caused or
//! blocked by who may do neither.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::api::gvk::GroupVersionKind;
use crate::api::object::Object;
use crate::api::status::ApiError;
use crate::server::authz::{self, Authz, Verdict};
use crate::server::request::RequestInfo;

use super::{Attributes, Lookup, Operation, Plugin};

pub(super) struct OwnerReferences {
    lookup: Lookup,
    authz: Arc<Authz>,
}

impl OwnerReferences {
    pub(super) fn new(lookup: &Lookup, authz: &Arc<Authz>) -> Self {
        Self {
            lookup: lookup.clone(),
            authz: Arc::clone(authz),
        }
    }

    /// Why the user may not; `None`: they may.
    fn refusal(&self, attributes: &Attributes<'_>, info: &RequestInfo) -> Option<String> {
        let asked = authz::Attributes {
            user: attributes.user,
            info,
            field_selector: "",
        };
        match self.authz.authorize(&asked) {
            Verdict::Allowed(_) => None,
            Verdict::NotAllowed(why) => Some(why),
        }
    }

    fn check_delete(&self, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        let gvr = &attributes.def.gvr;
        let info = RequestInfo {
            verb: "delete".to_owned(),
            is_resource: true,
            group: gvr.group.clone(),
            version: gvr.version.clone(),
            resource: gvr.resource.clone(),
            namespace: attributes.namespace.to_owned(),
            name: attributes.name.to_owned(),
            ..RequestInfo::default()
        };
        let Some(why) = self.refusal(attributes, &info) else {
            return Ok(());
        };
        let text = format!("cannot set an ownerRef on a resource you can't delete: {why}, <nil>");
        Err(attributes.forbidden(&text))
    }

    fn check_owner(&self, attributes: &Attributes<'_>, owner: &Value) -> Result<(), ApiError> {
        let text = |field: &str| owner[field].as_str().unwrap_or_default();
        let kind = GroupVersionKind::from_api_version(text("apiVersion"), text("kind"));
        let table = self.lookup.table();
        let Some(def) = table.find_kind(&kind) else {
            return Err(attributes.forbidden(&format!(
                "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for \
                 APIVersion {} Kind {}: no matches for kind \"{}\" in version \"{}\"",
                text("apiVersion"),
                text("kind"),
                text("kind"),
                text("apiVersion")
            )));
        };
        let namespace = match def.is_namespaced() {
            true => attributes.namespace,
            false => "",
        };
        let info = RequestInfo {
            verb: "update".to_owned(),
            is_resource: true,
            group: def.gvr.group.clone(),
            version: def.gvr.version.clone(),
            resource: def.gvr.resource.clone(),
            subresource: "finalizers".to_owned(),
            namespace: namespace.to_owned(),
            name: text("name").to_owned(),
            ..RequestInfo::default()
        };
        let Some(why) = self.refusal(attributes, &info) else {
            return Ok(());
        };
        Err(attributes.forbidden(&format!(
            "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set \
             finalizers on: {why}, <nil>"
        )))
    }
}

#[async_trait]
impl Plugin for OwnerReferences {
    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        matches!(attributes.operation, Operation::Create | Operation::Update)
            && !attributes.user.is_in("system:masters")
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), ApiError> {
        let Some(object) = object else {
            return Ok(());
        };
        if owners(Some(object)) == owners(attributes.old) {
            return Ok(());
        }
        if attributes.operation != Operation::Create {
            self.check_delete(attributes)?;
        }
        for owner in newly_blocking(object, attributes.old) {
            self.check_owner(attributes, owner)?;
        }
        Ok(())
    }
}

fn owners(object: Option<&Object>) -> &[Value] {
    let owners = object.and_then(|object| object.at(&["metadata", "ownerReferences"]));
    owners.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Owners that wait for the object and did not before.
fn newly_blocking<'a>(new: &'a Object, old: Option<&'a Object>) -> Vec<&'a Value> {
    let blocking = |object| {
        let owners: &[Value] = owners(object);
        owners
            .iter()
            .filter(|owner| owner["blockOwnerDeletion"] == true)
    };
    let before: Vec<&Value> = blocking(old).collect();
    blocking(Some(new))
        .filter(|owner| before.iter().all(|known| known["uid"] != owner["uid"]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_owners_that_newly_wait_count() {
        let object = |owners: Value| {
            Object::from_value(json!({"metadata": {"ownerReferences": owners}})).unwrap()
        };
        let old = object(json!([
            {"uid": "1", "blockOwnerDeletion": true}, {"uid": "2"},
        ]));
        let new = object(json!([
            {"uid": "1", "blockOwnerDeletion": true}, {"uid": "2", "blockOwnerDeletion": true},
            {"uid": "3", "blockOwnerDeletion": false},
        ]));
        let found = newly_blocking(&new, Some(&old));
        assert_eq!(found, [&json!({"uid": "2", "blockOwnerDeletion": true})]);
        assert_eq!(newly_blocking(&new, None).len(), 2);
    }
}
