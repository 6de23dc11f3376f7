//! IPAddress: who has an address of the cluster's service networks.

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::Value;

use super::{GROUP, segment};
use crate::api::gvk::Scope;
use crate::api::ip;
use crate::api::kinds::{Column, KindDef, cells, rows};
use crate::api::name;
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, text};

pub(crate) const DEF: KindDef = KindDef {
    group: GROUP,
    kind: "IPAddress",
    plural: "ipaddresses",
    singular: "ipaddress",
    short_names: &["ip"],
    scope: Scope::Cluster,
    schema: "networking.v1.IPAddress",
    storage: "ipaddresses.networking.k8s.io",
    columns: COLUMNS,
    cells: row,
    validate,
    validate_update,
    validate_name: address_name,
    ..KindDef::BASE
};

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string(
        "ParentRef",
        "ParentRef references the resource that an IPAddress is attached to. An IPAddress must \
         reference a parent object.",
    ),
];

const PARENT: Path<'static> = Path::root("spec.parentRef");

fn row(address: &Object, _now: Timestamp) -> Vec<Value> {
    let parent = &address.field("spec")["parentRef"];
    let parts = ["resource", "namespace", "name"].map(|field| text(&parent[field]));
    let mut shown: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let resource = match text(&parent["group"]) {
        "" => text(&parent["resource"]).to_owned(),
        group => format!("{}.{group}", text(&parent["resource"])),
    };
    if let Some(first) = shown.first_mut() {
        *first = &resource;
    }
    vec![cells::name(address), cells::or_none(&shown.join("/"))]
}

/// The one spelling of an address: what it is printed as.
fn address_name(name: &str, _is_prefix: bool) -> Vec<String> {
    let Ok(address) = name.parse::<IpAddr>() else {
        return ip::wrong_address(name)
            .map(str::to_owned)
            .into_iter()
            .collect();
    };
    let canonical = address.to_string();
    if canonical == name {
        return Vec::new();
    }
    vec![format!("must be in canonical form (\"{canonical}\")")]
}

fn validate(address: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let parent = &address.field("spec")["parentRef"];
    if parent.is_null() {
        errors.required(&PARENT, "");
        return errors.into_vec();
    }
    let group = text(&parent["group"]);
    if !group.is_empty() {
        let wrong = name::dns1123_subdomain(group);
        errors.invalid_each(&PARENT.field("group"), group, wrong);
    }
    segment(&mut errors, &parent["resource"], &PARENT.field("resource"));
    segment(&mut errors, &parent["name"], &PARENT.field("name"));
    let namespace = text(&parent["namespace"]);
    let wrong = name::path_segment(namespace);
    errors.invalid_each(&PARENT.field("namespace"), namespace, wrong);
    errors.into_vec()
}

fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let parent = |address: &Object| address.field("spec")["parentRef"].clone();
    errors.immutable(&PARENT, &parent(new), &parent(old));
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_have_one_spelling_and_one_owner() {
        assert!(address_name("10.96.0.1", false).is_empty());
        assert_eq!(
            address_name("FD00::1", false),
            ["must be in canonical form (\"fd00::1\")"]
        );
        let parent = json!({"resource": "services", "namespace": "a", "name": "b"});
        let good = Object::from_value(json!({"spec": {"parentRef": parent}})).unwrap();
        assert!(validate(&good).is_empty());
        assert_eq!(row(&good, Timestamp::UNIX_EPOCH)[1], "services/a/b");
        assert_eq!(
            validate(&Object::default())[0].to_string(),
            "spec.parentRef: Required value"
        );
        assert_eq!(validate_update(&Object::default(), &good).len(), 1);
    }
}
