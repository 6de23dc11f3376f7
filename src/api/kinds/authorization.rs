//! Kinds of `authorization.k8s.io`: only asked and answered, never stored.

use super::{KindDef, rows};
use crate::api::gvk::Scope;

pub(super) const SUBJECT_ACCESS_REVIEW: KindDef = KindDef {
    group: "authorization.k8s.io",
    kind: "SubjectAccessReview",
    plural: "subjectaccessreviews",
    singular: "subjectaccessreview",
    scope: Scope::Cluster,
    verbs: rows::CREATE,
    schema: "authorization.v1.SubjectAccessReview",
    ..KindDef::BASE
};

pub(super) const SELF_SUBJECT_ACCESS_REVIEW: KindDef = KindDef {
    kind: "SelfSubjectAccessReview",
    plural: "selfsubjectaccessreviews",
    singular: "selfsubjectaccessreview",
    schema: "authorization.v1.SelfSubjectAccessReview",
    ..SUBJECT_ACCESS_REVIEW
};

pub(super) const SELF_SUBJECT_RULES_REVIEW: KindDef = KindDef {
    kind: "SelfSubjectRulesReview",
    plural: "selfsubjectrulesreviews",
    singular: "selfsubjectrulesreview",
    schema: "authorization.v1.SelfSubjectRulesReview",
    ..SUBJECT_ACCESS_REVIEW
};

pub(super) const LOCAL_SUBJECT_ACCESS_REVIEW: KindDef = KindDef {
    kind: "LocalSubjectAccessReview",
    plural: "localsubjectaccessreviews",
    singular: "localsubjectaccessreview",
    scope: Scope::Namespaced,
    schema: "authorization.v1.LocalSubjectAccessReview",
    ..SUBJECT_ACCESS_REVIEW
};
