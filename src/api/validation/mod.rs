//! What several kinds share of validation, with upstream's paths and words
//! (`k8s.io/apimachinery/pkg/api/validation`, `pkg/apis/core/validation`).

pub(crate) mod client_config;
pub(crate) mod common;
pub(crate) mod conditions;
pub mod meta;
pub mod path;
pub(crate) mod pod_spec;

use serde_json::Value;

use super::status::FieldError;
use path::Path;

/// What was found wrong so far.
#[derive(Clone, Debug, Default)]
pub struct Errors(Vec<FieldError>);

impl Errors {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// All that was found.
    pub fn into_vec(self) -> Vec<FieldError> {
        self.0
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds one found elsewhere.
    pub fn push(&mut self, error: FieldError) {
        self.0.push(error);
    }

    /// Adds all found elsewhere.
    pub fn extend(&mut self, errors: impl IntoIterator<Item = FieldError>) {
        self.0.extend(errors);
    }

    /// A value is missing.
    pub fn required(&mut self, path: &Path<'_>, detail: &str) {
        self.push(FieldError::required(path, detail));
    }

    /// A value is wrong.
    pub fn invalid(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: &str) {
        self.push(FieldError::invalid(path, &value.into(), detail));
    }

    /// A value is wrong, for each of `details`.
    pub fn invalid_each(&mut self, path: &Path<'_>, value: &str, details: Vec<String>) {
        for detail in details {
            self.invalid(path, value, &detail);
        }
    }

    /// A value may not be there.
    pub fn forbidden(&mut self, path: &Path<'_>, detail: &str) {
        self.push(FieldError::forbidden(path, detail));
    }

    /// A value is none of those possible.
    pub fn not_supported(&mut self, path: &Path<'_>, value: &str, supported: &[&str]) {
        self.push(FieldError::not_supported(path, &value.into(), supported));
    }

    /// A value is there twice.
    pub fn duplicate(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.push(FieldError::duplicate(path, &value.into()));
    }

    /// A value names something that is not there.
    pub fn not_found(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.push(FieldError::not_found(path, &value.into()));
    }

    /// A value has more than `most` bytes.
    pub fn too_long(&mut self, path: &Path<'_>, most: usize) {
        self.push(FieldError::too_long(path, most));
    }

    /// A text that must be one of `supported`, and must be there.
    pub fn one_of(&mut self, path: &Path<'_>, value: &Value, supported: &[&str]) {
        match text(value) {
            "" => self.required(path, ""),
            value if supported.contains(&value) => {}
            value => self.not_supported(path, value, supported),
        }
    }

    /// A number that may not be negative; absent is fine.
    pub fn nonnegative(&mut self, path: &Path<'_>, value: &Value) {
        if value.as_i64().is_some_and(|n| n < 0) {
            self.invalid(path, value.clone(), "must be greater than or equal to 0");
        }
    }

    /// A value that may not change.
    pub fn immutable(&mut self, path: &Path<'_>, new: &Value, old: &Value) {
        if new != old {
            self.invalid(path, new.clone(), "field is immutable");
        }
    }
}

/// A text; empty where absent.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A list; empty where absent.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The entries of a map; none where absent.
pub(crate) fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| (k.as_str(), v))
}

/// Whether a value says something: not absent, not an empty text.
pub(crate) fn is_set(value: &Value) -> bool {
    !value.is_null() && value.as_str() != Some("")
}
