//! Lease: who holds something, and until when.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::kinds::{Column, KindDef, cells, rows};
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::Errors;
use crate::api::validation::path::Path;

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
    validate,
    validate_update: |new, _| validate(new),
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

fn validate(lease: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = lease.field("spec");
    if let Some(seconds) = spec["leaseDurationSeconds"].as_i64().filter(|n| *n <= 0) {
        let path = Path::root("spec.leaseDurationSeconds");
        errors.invalid(&path, seconds, "must be greater than 0");
    }
    let path = Path::root("spec.leaseTransitions");
    errors.nonnegative(&path, &spec["leaseTransitions"]);
    errors.into_vec()
}
