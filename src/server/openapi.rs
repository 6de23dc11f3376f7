//! Keeps OpenAPI documents of the present registry: made when first asked for, and kept packed,
//! because they are large, hardly ever read twice, and sent packed anyway.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::api::openapi::{self, Part, Served, v2, v3};
use crate::server::registry::{Registry, ResourceDef, Rules, Snapshot};
use crate::util::gzip;

/// Which document.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// `/openapi/v2` as JSON.
    V2Json,
    /// `/openapi/v2` as protobuf.
    V2Protobuf,
    /// `/openapi/v3`
    Index,
    /// `/openapi/v3/apis/GROUP/VERSION`
    Group(String, String),
}

/// A document.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its bytes, gzipped.
    pub packed: Bytes,
    /// Quoted, as the header has it.
    pub etag: String,
    /// What the URL in the index carries; empty for all but [`Wanted::Group`].
    pub hash: String,
}

/// Documents of the present registry.
#[derive(Debug)]
pub struct OpenApi {
    registry: Arc<Registry>,
    made: Mutex<Made>,
}

#[derive(Debug, Default)]
struct Made {
    of: Option<Arc<Snapshot>>,
    documents: HashMap<Wanted, Document>,
}

impl OpenApi {
    /// None is made yet.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self {
            registry,
            made: Mutex::default(),
        }
    }

    /// A document of the registry as it is now; `None` where nothing of it is served. Takes some
    /// ten milliseconds the first time, so it is not for a worker thread.
    pub fn document(&self, wanted: &Wanted) -> Option<Document> {
        let snapshot = self.registry.snapshot();
        if let Some(known) = self.known(&snapshot, wanted) {
            return Some(known);
        }
        let document = make(&snapshot, wanted)?;
        let mut made = self.made.lock();
        if made
            .of
            .as_ref()
            .is_some_and(|of| Arc::ptr_eq(of, &snapshot))
        {
            made.documents.insert(wanted.clone(), document.clone());
        }
        Some(document)
    }

    fn known(&self, snapshot: &Arc<Snapshot>, wanted: &Wanted) -> Option<Document> {
        let mut made = self.made.lock();
        if !made.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, snapshot)) {
            *made = Made {
                of: Some(Arc::clone(snapshot)),
                documents: HashMap::new(),
            };
        }
        made.documents.get(wanted).cloned()
    }
}

fn make(snapshot: &Snapshot, wanted: &Wanted) -> Option<Document> {
    let served: Vec<_> = snapshot.resources().iter().map(served).collect();
    let mut hash = String::new();
    let plain = match wanted {
        Wanted::V2Json => v2::json(&served),
        Wanted::V2Protobuf => v2::protobuf(&served),
        Wanted::Index => v3::index(&served),
        Wanted::Group(group, version) => {
            hash = v3::hash(&served, group, version);
            v3::document(&served, group, version)?
        }
    };
    let etag = format!("\"{}\"", openapi::etag(&plain));
    Some(Document {
        packed: gzip::pack(&plain).into(),
        etag,
        hash,
    })
}

fn served(def: &Arc<ResourceDef>) -> Served<'_> {
    match &def.rules {
        Rules::Builtin(kind) => (*kind).into(),
        Rules::Custom(custom) => Served {
            kind: def.gvk.clone(),
            plural: &def.gvr.resource,
            namespaced: def.is_namespaced(),
            verbs: texts(&def.verbs),
            subresources: def
                .subresources
                .iter()
                .map(|sub| Part {
                    name: &sub.name,
                    kind: sub.gvk.clone(),
                    verbs: texts(&sub.verbs),
                })
                .collect(),
            schema: custom.merged(),
            custom: Some(custom),
        },
    }
}

fn texts(verbs: &[String]) -> Vec<&str> {
    verbs.iter().map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds;
    use serde_json::Value;

    #[test]
    fn the_index_leads_to_documents_with_the_hashes_it_names() {
        let openapi = OpenApi::new(Arc::new(Registry::of(kinds::all())));
        let index = openapi.document(&Wanted::Index).unwrap();
        let index: Value = serde_json::from_slice(&gzip::unpack(&index.packed).unwrap()).unwrap();
        let apps = Wanted::Group("apps".into(), "v1".into());
        let apps = openapi.document(&apps).unwrap();
        assert_eq!(
            index["paths"]["apis/apps/v1"]["serverRelativeURL"],
            format!("/openapi/v3/apis/apps/v1?hash={}", apps.hash)
        );
        let none = Wanted::Group("none".into(), "v1".into());
        assert!(openapi.document(&none).is_none());
    }
}
