//! What to do with an object whose owners are known. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::api::meta;
use crate::client::Propagation;

/// Finalizer of an owner whose dependents are to stay.
pub(super) const ORPHAN: &str = "orphan";
/// Finalizer of an owner that waits for its dependents to go.
pub(super) const FOREGROUND: &str = "foregroundDeletion";

/// What is known of one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is there.
    Solid,
    /// It is there and waits for its dependents to go.
    Waiting,
    /// It is not there.
    Absent,
}

/// What to do with a dependent.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Nothing.
    Keep,
    /// Leave out the owner references with these uids: the other owners keep the object.
    Release(Vec<String>),
    /// Delete it.
    Delete(Propagation),
}

/// Decides over an object with `owners`, each with its standing; `has_dependents` says whether
/// others name the object itself as an owner.
pub(super) fn dependent(
    object: &ObjectMeta,
    owners: &[(&OwnerReference, Standing)],
    has_dependents: bool,
) -> Step {
    let uids = |wanted: &[Standing]| -> Vec<String> {
        let chosen = owners
            .iter()
            .filter(|(_, standing)| wanted.contains(standing));
        chosen.map(|(owner, _)| owner.uid.clone()).collect()
    };
    let is_any = |wanted| owners.iter().any(|(_, standing)| *standing == wanted);
    if owners.is_empty() {
        return Step::Keep;
    }
    if is_any(Standing::Solid) {
        return match uids(&[Standing::Absent, Standing::Waiting]) {
            none if none.is_empty() => Step::Keep,
            gone => Step::Release(gone),
        };
    }
    if is_any(Standing::Waiting) && has_dependents {
        // The whole tree goes from its leaves up.
        return Step::Delete(Propagation::Foreground);
    }
    let propagation = if meta::has_finalizer(object, ORPHAN) {
        Propagation::Orphan
    } else if meta::has_finalizer(object, FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    };
    Step::Delete(propagation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(uid: &str) -> OwnerReference {
        OwnerReference {
            uid: uid.to_owned(),
            ..OwnerReference::default()
        }
    }

    #[test]
    fn an_object_lives_as_long_as_one_owner_stands() {
        use Standing::{Absent, Solid, Waiting};
        let (a, b) = (owner("a"), owner("b"));
        let meta = ObjectMeta::default();
        let decide = |first, second| dependent(&meta, &[(&a, first), (&b, second)], false);
        assert_eq!(decide(Solid, Solid), Step::Keep);
        assert_eq!(decide(Solid, Absent), Step::Release(vec!["b".into()]));
        assert_eq!(decide(Waiting, Solid), Step::Release(vec!["a".into()]));
        assert_eq!(
            decide(Absent, Absent),
            Step::Delete(Propagation::Background)
        );
        assert_eq!(
            decide(Waiting, Absent),
            Step::Delete(Propagation::Background)
        );
        assert_eq!(
            dependent(&meta, &[(&a, Waiting)], true),
            Step::Delete(Propagation::Foreground)
        );
        assert_eq!(dependent(&meta, &[], true), Step::Keep);
    }

    #[test]
    fn finalizers_of_the_object_say_how_it_goes() {
        let a = owner("a");
        let with = |finalizer: &str| ObjectMeta {
            finalizers: Some(vec![finalizer.to_owned()]),
            ..ObjectMeta::default()
        };
        let decide = |meta: &ObjectMeta| dependent(meta, &[(&a, Standing::Absent)], false);
        assert_eq!(decide(&with(ORPHAN)), Step::Delete(Propagation::Orphan));
        assert_eq!(
            decide(&with(FOREGROUND)),
            Step::Delete(Propagation::Foreground)
        );
    }
}
