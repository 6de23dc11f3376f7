//! CertificateSigningRequest: somebody asks a signer for a certificate.
//!
//! Who asks is recorded by the server (`spec.username`, `uid`, `groups`, `extra`; see
//! `server::rest::prepare`) and never changes; the rest of `spec` does not either. Whether it is
//! approved is written at `approval`, the certificate at `status`.

use std::collections::BTreeSet;

use base64::Engine;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;

use super::{Column, KindDef, cells, prepare, rows};
use crate::api::gvk::Scope;
use crate::api::name;
use crate::api::object::{Object, child_mut};
use crate::api::status::FieldError;
use crate::api::time;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, is_set, list, text};

pub(super) const SIGNING_REQUEST: KindDef = KindDef {
    group: GROUP,
    kind: "CertificateSigningRequest",
    plural: "certificatesigningrequests",
    singular: "certificatesigningrequest",
    short_names: &["csr"],
    scope: Scope::Cluster,
    subresources: &[
        rows::item("approval", (GROUP, "v1", "CertificateSigningRequest")),
        rows::item("status", (GROUP, "v1", "CertificateSigningRequest")),
    ],
    schema: "certificates.v1.CertificateSigningRequest",
    storage: "certificatesigningrequests.certificates.k8s.io",
    columns: COLUMNS,
    cells: row,
    fields: |request| vec![("spec.signerName", signer(request).to_owned())],
    prepare_create: prepare::drop_status,
    prepare_update: keep_spec_and_status,
    prepare_status: status_without_approval,
    validate,
    validate_update: |new, _| validate(new),
    validate_status: |new, old| conditions(new, old),
    validate_name: |name, _| name::path_segment(name),
    ..KindDef::BASE
};

const GROUP: &str = "certificates.k8s.io";
const SPEC: Path<'static> = Path::root("spec");
const SECONDS_MIN: i64 = 600;
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";

/// Conditions that only `approval` writes.
const OF_APPROVAL: [&str; 2] = ["Approved", "Denied"];

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::AGE,
    rows::string(
        "SignerName",
        "signerName indicates the requested signer, and is a qualified name.",
    ),
    rows::string(
        "Requestor",
        "request contains an x509 certificate signing request encoded in a \"CERTIFICATE \
         REQUEST\" PEM block.",
    ),
    rows::string(
        "RequestedDuration",
        "expirationSeconds is the requested duration of validity of the issued certificate.",
    ),
    rows::string(
        "Condition",
        "conditions applied to the request. Known conditions are \"Approved\", \"Denied\", and \
         \"Failed\".",
    ),
];

fn signer(request: &Object) -> &str {
    request.text_at(&["spec", "signerName"])
}

fn row(request: &Object, now: Timestamp) -> Vec<Value> {
    let spec = request.field("spec");
    let wanted = spec["expirationSeconds"].as_i64();
    let wanted = wanted.map_or("<none>".to_owned(), |seconds| {
        time::human(SignedDuration::from_secs(seconds))
    });
    vec![
        cells::name(request),
        cells::age(request, now),
        cells::or_none(signer(request)),
        text(&spec["username"]).into(),
        wanted.into(),
        condition(request.field("status")).into(),
    ]
}

fn condition(status: &Value) -> String {
    let has = |kind: &str| {
        list(&status["conditions"])
            .iter()
            .any(|c| c["type"] == kind)
    };
    let mut shown = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (_, true) => "Approved",
        _ => "Pending",
    }
    .to_owned();
    if has("Failed") {
        shown.push_str(",Failed");
    }
    if is_set(&status["certificate"]) {
        shown.push_str(",Issued");
    }
    shown
}

fn keep_spec_and_status(new: &mut Object, old: &Object) {
    prepare::keep(new, old, "spec");
    prepare::keep(new, old, "status");
}

fn is_of_approval(condition: &Value) -> bool {
    OF_APPROVAL.contains(&text(&condition["type"]))
}

/// A write of `status`: the conditions that `approval` writes stay.
fn status_without_approval(new: &mut Object, old: &Object) {
    prepare::only_status(new, old);
    let was = list(&old.field("status")["conditions"]);
    let now = list(&new.field("status")["conditions"]);
    let kept = was.iter().filter(|c| is_of_approval(c));
    let written = now.iter().filter(|c| !is_of_approval(c));
    let conditions: Vec<_> = kept.chain(written).cloned().collect();
    if !conditions.is_empty() {
        child_mut(&mut new.0, "status").insert("conditions".into(), conditions.into());
    }
}

/// A write of `approval`: everything but the conditions stays.
pub(crate) fn only_conditions(new: &mut Object, old: &Object) {
    let conditions = new.at(&["status", "conditions"]).cloned();
    prepare::keep(new, old, "spec");
    prepare::keep(new, old, "status");
    let status = child_mut(&mut new.0, "status");
    match conditions {
        Some(conditions) => status.insert("conditions".into(), conditions),
        None => status.remove("conditions"),
    };
}

fn validate(request: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = request.field("spec");
    if let Err(why) = readable(text(&spec["request"])) {
        errors.invalid(&SPEC.field("request"), spec["request"].clone(), &why);
    }
    usages(&mut errors, &spec["usages"], &SPEC.field("usages"));
    let path = SPEC.field("signerName");
    if signer(request) == LEGACY_SIGNER {
        let why = "the legacy signerName is not allowed via this API version";
        errors.invalid(&path, LEGACY_SIGNER, why);
    } else {
        signer_name(&mut errors, signer(request), &path);
    }
    if let Some(seconds) = spec["expirationSeconds"].as_i64()
        && seconds < SECONDS_MIN
    {
        let why = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.invalid(&SPEC.field("expirationSeconds"), seconds, why);
    }
    errors.into_vec()
}

/// Whether it is a PEM block with a request whose signature is good.
fn readable(request: &str) -> Result<(), String> {
    let no_block = || "PEM block type must be CERTIFICATE REQUEST".to_owned();
    let engine = base64::engine::general_purpose::STANDARD;
    let pem = engine.decode(request).map_err(|e| e.to_string())?;
    let (_, block) = parse_x509_pem(&pem).map_err(|_| no_block())?;
    if block.label != "CERTIFICATE REQUEST" {
        return Err(no_block());
    }
    let (_, parsed) =
        X509CertificationRequest::from_der(&block.contents).map_err(|e| e.to_string())?;
    parsed.verify_signature().map_err(|e| e.to_string())
}

fn usages(errors: &mut Errors, usages: &Value, path: &Path<'_>) {
    if list(usages).is_empty() {
        errors.required(path, "");
    }
    let mut seen = BTreeSet::new();
    for (index, usage) in list(usages).iter().map(text).enumerate() {
        if !USAGES.contains(&usage) {
            errors.not_supported(&path.index(index), usage, USAGES);
        }
        if !seen.insert(usage) {
            errors.duplicate(&path.index(index), usage);
        }
    }
}

/// `example.com/signer-name`
fn signer_name(errors: &mut Errors, signer: &str, path: &Path<'_>) {
    const FORM: &str =
        "must be a fully qualified domain and path of the form 'example.com/signer-name'";
    if signer.is_empty() {
        return errors.required(path, "");
    }
    let Some((domain, name)) = signer
        .split_once('/')
        .filter(|(_, name)| !name.contains('/'))
    else {
        return errors.invalid(path, signer, FORM);
    };
    for wrong in name::dns1123_subdomain(domain) {
        let why = format!("validating label {domain:?}: {wrong}");
        errors.invalid(path, signer, &why);
    }
    if !domain.contains('.') {
        let why = "should be a domain with at least two segments separated by dots";
        errors.invalid(path, domain, why);
    }
    for wrong in name::dns1123_subdomain(name) {
        let why = format!("validating label {name:?}: {wrong}");
        errors.invalid(path, signer, &why);
    }
}

/// Conditions come once a type, and approved is not denied.
pub(crate) fn conditions(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let path = Path::root("status.conditions");
    let mut seen = BTreeSet::new();
    for (index, one) in list(&new.field("status")["conditions"]).iter().enumerate() {
        let here = path.index(index);
        let kind = text(&one["type"]);
        if kind.is_empty() {
            errors.required(&here.field("type"), "");
        }
        let statuses: &[&str] = match kind {
            "Approved" | "Denied" | "Failed" => &["True"],
            _ => &["False", "True", "Unknown"],
        };
        errors.one_of(&here.field("status"), &one["status"], statuses);
        if !seen.insert(kind) {
            errors.duplicate(&here.field("type"), kind);
        }
    }
    if seen.contains("Approved") && seen.contains("Denied") {
        let why = "Approved and Denied conditions are mutually exclusive";
        errors.invalid(&path, "Denied", why);
    }
    for kind in ["Approved", "Denied", "Failed"] {
        let had = list(&old.field("status")["conditions"])
            .iter()
            .any(|one| one["type"] == kind);
        if had && !seen.contains(kind) {
            let why = format!("updates may not remove a condition of type {kind:?}");
            errors.forbidden(&path, &why);
        }
    }
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn with(conditions: Value) -> Object {
        Object::from_value(json!({"spec": {"signerName": "a.b/c"},
            "status": {"conditions": conditions}}))
        .unwrap()
    }

    #[test]
    fn what_is_wrong_is_named() {
        let request = json!({"spec": {"request": "", "usages": ["client auth", "client auth"],
            "signerName": "here", "expirationSeconds": 1}});
        let request = Object::from_value(request).unwrap();
        let texts: Vec<_> = validate(&request).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.request: Invalid value: \"\": PEM block type must be CERTIFICATE REQUEST",
                "spec.usages[1]: Duplicate value: \"client auth\"",
                "spec.signerName: Invalid value: \"here\": must be a fully qualified domain and \
                 path of the form 'example.com/signer-name'",
                "spec.expirationSeconds: Invalid value: 1: may not specify a duration less than \
                 600 seconds (10 minutes)",
            ]
        );
    }

    #[test]
    fn approval_and_status_write_their_own() {
        let approved = json!({"type": "Approved", "status": "True"});
        let failed = json!({"type": "Failed", "status": "True"});
        let old = with(json!([approved]));
        let mut new = with(json!([failed]));
        new.0
            .insert("spec".into(), json!({"username": "somebody else"}));
        status_without_approval(&mut new, &old);
        assert_eq!(new.field("status")["conditions"], json!([approved, failed]));
        assert_eq!(new.field("spec"), old.field("spec"));
        assert_eq!(condition(new.field("status")), "Approved,Failed");
        let mut denied = with(json!([{"type": "Denied", "status": "True"}]));
        only_conditions(&mut denied, &old);
        assert_eq!(
            conditions(&denied, &old)[0].to_string(),
            "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""
        );
    }
}
