//! What admission says beside its verdict: warnings for the client, annotations for the audit log.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;

use crate::api::object::Object;

/// Collected during one request.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    warnings: Mutex<Vec<String>>,
    annotations: Mutex<BTreeMap<String, String>>,
    rounds: Mutex<Rounds>,
}

/// Who changes objects and is asked again when somebody else did after it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sort {
    Policy,
    Webhook,
}

/// The rounds of one admission: there is a second where a later change calls for it, never a third
/// (`k8s.io/apiserver/pkg/admission/reinvocation.go`).
#[derive(Debug, Default)]
struct Rounds {
    is_second: bool,
    wants_second: bool,
    policies: Invoked,
    webhooks: Invoked,
}

#[derive(Debug, Default)]
struct Invoked {
    /// What they left.
    last: Option<Object>,
    /// Asked, and to be asked again where need be.
    before: BTreeSet<String>,
    again: BTreeSet<String>,
}

impl Rounds {
    fn of(&mut self, sort: Sort) -> &mut Invoked {
        match sort {
            Sort::Policy => &mut self.policies,
            Sort::Webhook => &mut self.webhooks,
        }
    }
}

impl Invoked {
    fn ask_again(&mut self) {
        let before = std::mem::take(&mut self.before);
        self.again.extend(before);
    }
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

    /// Begins an admission.
    pub(super) fn begin(&self) {
        *self.rounds.lock() = Rounds::default();
    }

    /// Begins the second round where one is wanted.
    pub(super) fn begin_second(&self) -> bool {
        let mut rounds = self.rounds.lock();
        rounds.is_second = rounds.wants_second;
        rounds.is_second
    }

    /// Number of the round, from 0.
    pub(super) fn round(&self) -> usize {
        usize::from(self.rounds.lock().is_second)
    }

    /// Before all of a sort are asked about an object.
    pub(super) fn enter(&self, sort: Sort, object: &Object) {
        let mut rounds = self.rounds.lock();
        let is_second = rounds.is_second;
        let invoked = rounds.of(sort);
        if is_second && invoked.last.as_ref() != Some(object) {
            invoked.ask_again();
        }
    }

    /// After all of a sort were asked.
    pub(super) fn leave(&self, sort: Sort, object: &Object) {
        self.rounds.lock().of(sort).last = Some(object.clone());
    }

    /// Whether one of a sort is to be asked in this round.
    pub(super) fn is_due(&self, sort: Sort, id: &str) -> bool {
        let mut rounds = self.rounds.lock();
        !rounds.is_second || rounds.of(sort).again.contains(id)
    }

    /// One was asked: whether it changed the object, and whether it wants to see later changes.
    pub(super) fn invoked(&self, sort: Sort, id: &str, (changed, is_reinvoked): (bool, bool)) {
        let mut rounds = self.rounds.lock();
        if changed {
            rounds.of(sort).ask_again();
            rounds.wants_second = true;
        }
        if is_reinvoked {
            rounds.of(sort).before.insert(id.to_owned());
        }
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

    #[test]
    fn who_wants_to_is_asked_again_after_somebody_elses_change() {
        let notes = Notes::default();
        let object = |text: &str| Object([("a".to_owned(), text.into())].into_iter().collect());
        notes.begin();
        notes.enter(Sort::Webhook, &object("0"));
        notes.invoked(Sort::Webhook, "first", (false, true));
        notes.invoked(Sort::Webhook, "second", (true, true));
        notes.leave(Sort::Webhook, &object("1"));
        assert!(notes.begin_second() && notes.round() == 1);
        notes.enter(Sort::Webhook, &object("1"));
        assert!(notes.is_due(Sort::Webhook, "first"));
        assert!(!notes.is_due(Sort::Webhook, "second"));
        notes.begin();
        assert!(!notes.begin_second() && notes.is_due(Sort::Webhook, "second"));
    }
}
