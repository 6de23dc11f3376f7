//! Which objects a list, a watch or a deletecollection is about: place, labels, fields.

use std::sync::Arc;

use crate::api::object::Object;
use crate::api::options::ListOptions;
use crate::api::selector::{field, label};
use crate::api::status::ApiError;
use crate::server::cacher::Item;
use crate::server::registry::ResourceDef;
use crate::server::storage::keys;

use super::render;

/// Namespace and selectors of a request.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    pub(super) namespace: String,
    /// Empty where the path names no object.
    name: String,
    labels: label::Selector,
    fields: field::Selector,
    /// Where objects are stored in another version, fields are read from the version asked for.
    converted: Option<Arc<ResourceDef>>,
}

impl Filter {
    /// Refuses fields that cannot be selected by. `name`: of the object in the path, where a watch
    /// of one object is asked for.
    pub(super) fn new(
        def: &Arc<ResourceDef>,
        namespace: &str,
        name: &str,
        options: &ListOptions,
    ) -> Result<Self, ApiError> {
        let own = def.rules.fields(&Object::default());
        for term in options.field_selector.terms() {
            let is_common = matches!(term.field.as_str(), "metadata.name" | "metadata.namespace");
            if !is_common && !own.iter().any(|(field, _)| *field == *term.field) {
                return Err(unsupported(&term.field, own.is_empty()));
            }
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels: options.label_selector.clone(),
            fields: options.field_selector.clone(),
            converted: def.is_converted().then(|| Arc::clone(def)),
        })
    }

    /// Whether every object of the namespace is meant.
    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty() && self.name.is_empty()
    }

    /// The local key, where at most one object can be meant.
    pub(super) fn only_key(&self, def: &ResourceDef) -> Option<String> {
        let name = match self.name.as_str() {
            "" => self.fields.required("metadata.name")?,
            name => name,
        };
        if def.is_namespaced() && self.namespace.is_empty() {
            return None;
        }
        Some(keys::local(&self.namespace, name))
    }

    /// Whether the object is meant.
    pub(super) fn matches(&self, item: &Item) -> bool {
        (self.namespace.is_empty() || item.namespace() == self.namespace)
            && (self.name.is_empty() || item.name() == self.name)
            && self.selects(item)
    }

    fn selects(&self, item: &Item) -> bool {
        if !self.labels.is_empty() && !self.labels.matches(&item.labels) {
            return false;
        }
        if self.fields.is_empty() {
            return true;
        }
        let Some(def) = &self.converted else {
            return self.fields.matches(|label| item.field(label));
        };
        let Ok(mut object) = item.object() else {
            return false;
        };
        render::from_stored(def, &mut object);
        let values = def.rules.fields(&object);
        self.fields.matches(|label| {
            let own = values.iter().find(|(name, _)| *name == label);
            own.map(|(_, value)| value.as_str())
                .or_else(|| match label {
                    "metadata.name" => Some(item.name()),
                    "metadata.namespace" => Some(item.namespace()),
                    _ => None,
                })
        })
    }
}

fn unsupported(field: &str, only_metadata: bool) -> ApiError {
    ApiError::bad_request(if only_metadata {
        format!(
            "\"{field}\" is not a known field selector: only \"metadata.name\", \
             \"metadata.namespace\""
        )
    } else {
        format!("field label not supported: {field}")
    })
}
