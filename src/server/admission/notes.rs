//! What admission says beside its verdict: warnings for the client, annotations for the audit log.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// Collected during one request.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    warnings: Mutex<Vec<String>>,
    annotations: Mutex<BTreeMap<String, String>>,
}

/// What the audit log says of a request beyond the request itself. In the extensions of its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AuditAnnotations(pub(crate) BTreeMap<String, String>);

impl Notes {
    /// Adds to the answer's `Warning` headers; what is there already is not said twice.
    pub(crate) fn warn(&self, warnings: impl IntoIterator<Item = String>) {
        let mut all = self.warnings.lock();
        for warning in warnings {
            if !all.contains(&warning) {
                all.push(warning);
            }
        }
    }

    /// Adds an annotation; the first value of a key stays, as upstream.
    pub(crate) fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        let mut annotations = self.annotations.lock();
        annotations
            .entry(key.into())
            .or_insert_with(|| value.into());
    }

    /// Whether there is a warning to be said.
    pub(crate) fn has_warnings(&self) -> bool {
        !self.warnings.lock().is_empty()
    }

    /// All warnings so far; they are then said.
    pub(crate) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock())
    }

    /// All annotations so far; they are then written.
    pub(crate) fn take_annotations(&self) -> AuditAnnotations {
        AuditAnnotations(std::mem::take(&mut *self.annotations.lock()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_said_once_and_first_annotations_stay() {
        let notes = Notes::default();
        notes.warn(["a".to_owned(), "b".to_owned(), "a".to_owned()]);
        notes.annotate("k", "1");
        notes.annotate("k", "2");
        assert_eq!(notes.take_warnings(), ["a", "b"]);
        assert_eq!(notes.take_annotations().0["k"], "1");
        assert!(notes.take_warnings().is_empty());
    }
}
