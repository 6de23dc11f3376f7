//! What differs between two objects, as sets of fields.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::fields::{Own, Set, Step};
use super::schema::Node;

/// The fields that are in the new object alone, in both with different values, and in the old
/// object alone.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Comparison {
    pub(super) added: Set,
    pub(super) modified: Set,
    pub(super) removed: Set,
}

static NO_FIELDS: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
static NO_ITEMS: Value = Value::Array(Vec::new());

impl Comparison {
    pub(super) fn of(node: Node<'_>, old: &Map<String, Value>, new: &Map<String, Value>) -> Self {
        let mut diff = Diff::default();
        compare_maps(node, Some(old), Some(new), &mut diff);
        Comparison {
            added: diff.added.below,
            modified: diff.modified.below,
            removed: diff.removed.below,
        }
    }

    /// Everything but what is at or below `ignored`.
    pub(super) fn without(mut self, ignored: &Set) -> Self {
        if !ignored.is_empty() {
            for set in [&mut self.added, &mut self.modified, &mut self.removed] {
                *set = std::mem::take(set).recursive_difference(ignored);
            }
        }
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    pub(super) fn changed(&self) -> Set {
        self.added.clone().union(self.modified.clone())
    }
}

#[derive(Default)]
struct Diff {
    added: Own,
    modified: Own,
    removed: Own,
}

impl Diff {
    fn push(&mut self, step: Step, below: Diff) {
        let Diff {
            added,
            modified,
            removed,
        } = below;
        let sets = [
            (&mut self.added.below, added),
            (&mut self.modified.below, modified),
            (&mut self.removed.below, removed),
        ];
        // Nearly always at most one of the three holds something.
        let mut left = sets.iter().filter(|(_, own)| !own.is_empty()).count();
        let mut step = Some(step);
        for (set, own) in sets {
            if own.is_empty() {
                continue;
            }
            left -= 1;
            let next = if left == 0 { step.take() } else { step.clone() };
            if let Some(next) = next {
                set.push(next, own);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// Marks the place itself, where only one side has it.
    fn mark(&mut self, old: Option<&Value>, new: Option<&Value>) {
        self.added.member |= old.is_none();
        self.removed.member |= new.is_none();
    }
}

fn compare<'v>(node: Node<'_>, old: Option<&'v Value>, new: Option<&'v Value>) -> Diff {
    let mut diff = Diff::default();
    if old == new {
        return diff;
    }
    let node = node.resolved(new.or(old));
    let nothing = |value: Option<&Value>| match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    };
    let fits = |value: Option<&Value>| match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(_)) => node.is_map(),
        Some(Value::Array(_)) => node.is_list(),
        Some(_) => false,
    };
    if nothing(old) && nothing(new) || !fits(old) || !fits(new) {
        diff.mark(old, new);
        diff.modified.member = old.is_some() && new.is_some();
        return diff;
    }
    if node.is_map() {
        let fields = |value: Option<&'v Value>| value.and_then(Value::as_object);
        compare_maps(node, fields(old), fields(new), &mut diff);
    } else {
        compare_lists(node, old, new, &mut diff);
    }
    diff.mark(old, new);
    diff
}

fn compare_maps(
    node: Node<'_>,
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
    diff: &mut Diff,
) {
    let mut olds = old.into_iter().flatten().peekable();
    let mut news = new.into_iter().flatten().peekable();
    loop {
        let name = match (olds.peek(), news.peek()) {
            (None, None) => return,
            (Some((a, _)), Some((b, _))) => (*a).min(*b),
            (Some((a, _)), None) => *a,
            (None, Some((b, _))) => *b,
        };
        let mut one = olds.next_if(|(key, _)| *key == name).map(|(_, v)| v);
        let mut two = news.next_if(|(key, _)| *key == name).map(|(_, v)| v);
        if one == two {
            continue;
        }
        let child = node.child(name);
        if child.by_value {
            // A struct by value is there in every object, if only as an empty one.
            let empty = if child.node.is_list() {
                &NO_ITEMS
            } else {
                &*NO_FIELDS
            };
            one = one.or(old.map(|_| empty));
            two = two.or(new.map(|_| empty));
        }
        let below = compare(child.node, one, two);
        if !below.is_empty() {
            diff.push(Step::field(name), below);
        }
    }
}

fn compare_lists(node: Node<'_>, old: Option<&Value>, new: Option<&Value>, diff: &mut Diff) {
    let (olds, news) = (steps(node, old), steps(node, new));
    let (mut olds, mut news) = (olds.as_slice(), news.as_slice());
    let item = node.item();
    loop {
        let step = match (olds.first(), news.first()) {
            (None, None) => return,
            (Some((a, _)), Some((b, _))) => a.min(b),
            (Some((a, _)), None) => a,
            (None, Some((b, _))) => b,
        };
        let step = step.clone();
        let (one, two) = (take_same(&mut olds, &step), take_same(&mut news, &step));
        let below = match (one, two) {
            ([] | [_], [] | [_]) => {
                compare(item, one.first().map(|i| i.1), two.first().map(|i| i.1))
            }
            // Duplicates are one place, which changes as a whole.
            (one, two) => {
                let mut below = Diff::default();
                below.added.member = one.is_empty();
                below.removed.member = two.is_empty();
                let same = one.iter().map(|i| i.1).eq(two.iter().map(|i| i.1));
                below.modified.member = !one.is_empty() && !two.is_empty() && !same;
                below
            }
        };
        if !below.is_empty() {
            diff.push(step, below);
        }
    }
}

/// The items with their steps, in the order of the steps. An item that has none (no key) takes
/// no part.
fn steps<'v>(node: Node<'_>, list: Option<&'v Value>) -> Vec<(Step, &'v Value)> {
    let items = list
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let mut steps: Vec<_> = items
        .iter()
        .filter_map(|item| Some((node.step(item).ok()?, item)))
        .collect();
    steps.sort_by(|one, two| one.0.cmp(&two.0));
    steps
}

fn take_same<'s, 'v>(items: &mut &'s [(Step, &'v Value)], step: &Step) -> &'s [(Step, &'v Value)] {
    let count = items.iter().take_while(|item| item.0 == *step).count();
    let (same, rest) = items.split_at(count);
    *items = rest;
    same
}
