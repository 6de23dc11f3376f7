//! ServiceCIDR: a network that addresses of services come from.

use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::Value;

use super::GROUP;
use crate::api::gvk::Scope;
use crate::api::ip;
use crate::api::kinds::{Column, KindDef, cells, prepare, rows};
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, list, text};

pub(crate) const DEF: KindDef = KindDef {
    group: GROUP,
    kind: "ServiceCIDR",
    plural: "servicecidrs",
    singular: "servicecidr",
    scope: Scope::Cluster,
    subresources: &[rows::item("status", (GROUP, "v1", "ServiceCIDR"))],
    schema: "networking.v1.ServiceCIDR",
    storage: "servicecidrs.networking.k8s.io",
    columns: COLUMNS,
    cells: row,
    prepare_create: prepare::drop_status,
    prepare_update: prepare::keep_status,
    validate,
    validate_update,
    ..KindDef::BASE
};

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string(
        "CIDRs",
        "CIDRs defines the IP blocks in CIDR notation (e.g. \"192.168.0.0/24\" or \
         \"2001:db8::/64\") from which to assign service cluster IPs. Max of two CIDRs is allowed, \
         one of each IP family. This field is immutable.",
    ),
    rows::AGE,
];

const CIDRS: Path<'static> = Path::root("spec.cidrs");

fn cidrs(object: &Object) -> &[Value] {
    list(&object.field("spec")["cidrs"])
}

fn row(range: &Object, now: Timestamp) -> Vec<Value> {
    let texts: Vec<_> = cidrs(range).iter().map(text).collect();
    vec![
        cells::name(range),
        texts.join(",").into(),
        cells::age(range, now),
    ]
}

fn validate(range: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let all = cidrs(range);
    if all.is_empty() {
        errors.required(&CIDRS, "at least one CIDR required");
    } else if all.len() > 2 {
        let why = "may only hold up to 2 values";
        errors.invalid(&CIDRS, range.field("spec").clone(), why);
    } else {
        for (index, cidr) in all.iter().map(text).enumerate() {
            if let Some(why) = ip::wrong_network(cidr) {
                errors.invalid(&CIDRS.index(index), cidr, why);
            }
        }
        let families: Vec<_> = all
            .iter()
            .filter_map(|cidr| text(cidr).parse::<IpNet>().ok())
            .map(|network| network.addr().is_ipv4())
            .collect();
        if families.len() == 2 && families[0] == families[1] {
            let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and \
                       2001:db8::/64";
            errors.invalid(&CIDRS, all.to_vec(), why);
        }
    }
    errors.into_vec()
}

/// A network stays; one of the other family may be added.
fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    const IMMUTABLE: &str = "field is immutable";
    let mut errors = Errors::new();
    let (now, was) = (cidrs(new), cidrs(old));
    let is_added = was.len() == 1 && now.len() == 2;
    if now.len() != was.len() && !is_added {
        errors.invalid(&CIDRS, now.to_vec(), IMMUTABLE);
        return errors.into_vec();
    }
    for (index, (now, was)) in now.iter().zip(was).enumerate() {
        if now != was {
            errors.invalid(&CIDRS.index(index), now.clone(), IMMUTABLE);
        }
    }
    if is_added {
        errors.extend(validate(new));
    }
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn networks_stay_and_a_second_family_may_come() {
        let range = |cidrs: &[&str]| Object::from_value(json!({"spec": {"cidrs": cidrs}})).unwrap();
        let one = range(&["10.0.0.0/16"]);
        assert!(validate(&one).is_empty());
        assert!(validate_update(&range(&["10.0.0.0/16", "fd00::/112"]), &one).is_empty());
        assert_eq!(
            validate(&range(&[]))[0].to_string(),
            "spec.cidrs: Required value: at least one CIDR required"
        );
        assert_eq!(
            validate_update(&range(&["10.1.0.0/16"]), &one)[0].to_string(),
            "spec.cidrs[0]: Invalid value: \"10.1.0.0/16\": field is immutable"
        );
        assert_eq!(validate(&range(&["10.0.0.0/16", "10.1.0.0/16"])).len(), 1);
    }
}
