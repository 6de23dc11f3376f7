//! Lease: who holds something, and until when.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::kinds::{Column, KindDef, cells, rows};
use crate::api::object::Object;

pub(crate) const DEF: KindDef = KindDef {
    group: "coordination.k8s.io",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    schema: "coordination.v1.Lease",
    storage: "leases.coordination.k8s.io",
    columns: COLUMNS,
    cells: row,
    creates_on_update: true,
    unconditional_update: false,
    ..KindDef::BASE
};

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string(
        "Holder",
        "holderIdentity contains the identity of the holder of a current lease. If Coordinated \
         Leader Election is used, the holder identity must be equal to the elected \
         LeaseCandidate.metadata.name field.",
    ),
    rows::AGE,
];

fn row(lease: &Object, now: Timestamp) -> Vec<Value> {
    let holder = lease.text_at(&["spec", "holderIdentity"]);
    vec![cells::name(lease), holder.into(), cells::age(lease, now)]
}
