//! Kinds of `authentication.k8s.io`: only asked and answered, never stored.

use super::{KindDef, rows};
use crate::api::gvk::Scope;

pub(super) const TOKEN_REVIEW: KindDef = KindDef {
    group: "authentication.k8s.io",
    kind: "TokenReview",
    plural: "tokenreviews",
    singular: "tokenreview",
    scope: Scope::Cluster,
    verbs: rows::CREATE,
    schema: "authentication.v1.TokenReview",
    ..KindDef::BASE
};

pub(super) const SELF_SUBJECT_REVIEW: KindDef = KindDef {
    kind: "SelfSubjectReview",
    plural: "selfsubjectreviews",
    singular: "selfsubjectreview",
    schema: "authentication.v1.SelfSubjectReview",
    ..TOKEN_REVIEW
};
