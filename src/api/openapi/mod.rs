//! OpenAPI documents of what is served: v3 with one document for each group and version, and v2
//! with one for all, as JSON and as protobuf. `kubectl explain`, `apply`, `diff` and `edit` and
//! generated clients read them.
//!
//! Documents are made when they are asked for, which takes some ten milliseconds, and are not
//! kept here; the caller keeps the bytes as long as it likes. They are the same bytes for the same
//! input. [`fingerprint`] tells whether a document would differ without making it.

mod custom;
mod gnostic;
mod paths;
mod schemas;
pub mod v2;
pub mod v3;

use sha2::{Digest, Sha256};

use super::custom::Custom;
use super::gvk::{GroupVersionKind, Scope};
use super::kinds::KindDef;
use super::schema::{TypeRef, asset, builtin};

/// One resource of one version.
#[derive(Clone, Debug)]
pub struct Served<'a> {
    /// What its objects are.
    pub kind: GroupVersionKind,
    /// For instance `pods`.
    pub plural: &'a str,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// As discovery lists them.
    pub verbs: Vec<&'a str>,
    /// Paths below an object.
    pub subresources: Vec<Part<'a>>,
    /// The type of its objects; without one it is documented as any object.
    pub schema: Option<TypeRef<'a>>,
    /// Of a custom resource: the schema as it is written.
    pub custom: Option<&'a Custom>,
}

/// A path below an object.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    /// For instance `status`.
    pub name: &'a str,
    /// Kind of the bodies.
    pub kind: GroupVersionKind,
    /// As discovery lists them.
    pub verbs: Vec<&'a str>,
}

impl From<&'static KindDef> for Served<'static> {
    fn from(def: &'static KindDef) -> Self {
        let part = |sub: &'static super::kinds::Subresource| Part {
            name: sub.name,
            kind: GroupVersionKind::new(sub.group, sub.version, sub.kind),
            verbs: sub.verbs.to_vec(),
        };
        Served {
            kind: GroupVersionKind::new(def.group, def.version, def.kind),
            plural: def.plural,
            namespaced: def.scope == Scope::Namespaced,
            verbs: def.verbs.to_vec(),
            subresources: def.subresources.iter().map(part).collect(),
            schema: builtin().get(def.schema),
            custom: None,
        }
    }
}

/// The two forms of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    V2,
    V3,
}

/// A strong `ETag` (without quotes) of a document.
pub fn etag(document: &[u8]) -> String {
    hex::encode_upper(Sha256::digest(document))
}

/// Changes when the document made of these resources would change.
pub fn fingerprint(served: &[Served<'_>]) -> String {
    let mut hash = Sha256::new();
    hash.update(env!("CARGO_PKG_VERSION"));
    hash.update(asset());
    for one in served {
        let Served {
            kind,
            plural,
            namespaced,
            ..
        } = one;
        hash.update(format!("{kind:?} {plural} {namespaced} {:?}\n", one.verbs));
        hash.update(format!("{:?} {:?}\n", one.subresources, one.schema));
        if let Some(custom) = one.custom {
            hash.update(custom.published.to_string());
        }
    }
    hex::encode_upper(hash.finalize())
}

#[cfg(test)]
mod tests;
