//! Sets of fields: which parts of an object somebody owns. Printed as `FieldsV1`, the form that
//! `managedFields` has.
//!
//! A set is a tree. An entry that is a *member* is owned itself; what is *below* it is owned
//! apart from it. The semantics are those of `fieldpath.Set` of structured-merge-diff.

use std::cmp::Ordering;
use std::fmt;

use serde_json::{Map, Value};

/// One step of a path into an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A field of a struct or an entry of a map.
    Field(Box<str>),
    /// The item of a list with these values in its key fields, in the order of the fields.
    Key(Box<[(Box<str>, Value)]>),
    /// An item of a set.
    Value(Value),
    /// An item by its place.
    Index(i64),
}

/// A set of fields. Entries are in order, distinct, and none is empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Set {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) step: Step,
    pub(super) own: Own,
}

/// What is owned at a place: the place itself, and what is below it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Own {
    pub(super) member: bool,
    pub(super) below: Set,
}

/// A path, printed as `.spec.containers[name="a"].image`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Path(pub Vec<Step>);

/// Why a text is not a `FieldsV1`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no step of a field set: want `f:`, `k:`, `v:` or `i:` and a name or value")]
pub struct ParseError(String);

impl Step {
    /// A field.
    pub fn field(name: &str) -> Self {
        Step::Field(name.into())
    }

    fn rank(&self) -> u8 {
        match self {
            Step::Field(_) => 0,
            Step::Key(_) => 1,
            Step::Value(_) => 2,
            Step::Index(_) => 3,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => Some(Step::field(rest)),
            "v" => serde_json::from_str(rest).ok().map(Step::Value),
            "i" => rest.parse().ok().map(Step::Index),
            "k" => {
                let keys: Map<String, Value> = serde_json::from_str(rest).ok()?;
                let keys = keys.into_iter().map(|(name, value)| (name.into(), value));
                Some(Step::Key(keys.collect()))
            }
            _ => None,
        }
    }

    /// `f:name` and so on, as a key of `FieldsV1`.
    fn print(&self) -> String {
        match self {
            Step::Field(name) => format!("f:{name}"),
            Step::Value(value) => format!("v:{value}"),
            Step::Index(place) => format!("i:{place}"),
            Step::Key(keys) => {
                let keys = keys
                    .iter()
                    .map(|(name, value)| (name.to_string(), value.clone()));
                format!("k:{}", Value::Object(keys.collect()))
            }
        }
    }
}

impl Eq for Step {}

impl PartialOrd for Step {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Step {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Step::Field(one), Step::Field(two)) => one.cmp(two),
            (Step::Index(one), Step::Index(two)) => one.cmp(two),
            (Step::Value(one), Step::Value(two)) => order(one, two),
            (Step::Key(one), Step::Key(two)) => {
                let pairs = one.iter().zip(two.iter());
                let mut orders = pairs.map(|((a, x), (b, y))| a.cmp(b).then_with(|| order(x, y)));
                orders
                    .find(|order| order.is_ne())
                    .unwrap_or_else(|| one.len().cmp(&two.len()))
            }
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

/// A total order of JSON values; equal only where the values are.
fn order(one: &Value, two: &Value) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    };
    match (one, two) {
        (Value::String(one), Value::String(two)) => one.cmp(two),
        (Value::Bool(one), Value::Bool(two)) => one.cmp(two),
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => {
                let floats = a.as_f64().partial_cmp(&b.as_f64());
                let floats = floats.unwrap_or(Ordering::Equal);
                floats.then_with(|| a.to_string().cmp(&b.to_string()))
            }
        },
        _ if rank(one) == rank(two) => one.to_string().cmp(&two.to_string()),
        _ => rank(one).cmp(&rank(two)),
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Field(name) => write!(f, ".{name}"),
            Step::Value(value) => write!(f, "[={value}]"),
            Step::Index(place) => write!(f, "[{place}]"),
            Step::Key(keys) => {
                let keys: Vec<_> = keys.iter().map(|(n, v)| format!("{n}={v}")).collect();
                write!(f, "[{}]", keys.join(","))
            }
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|step| step.fmt(f))
    }
}

impl Own {
    pub(super) const MEMBER: Own = Own {
        member: true,
        below: Set {
            entries: Vec::new(),
        },
    };

    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }

    fn parse(value: &Value) -> Result<Self, ParseError> {
        let Some(map) = value.as_object() else {
            return Err(ParseError(value.to_string()));
        };
        if map.is_empty() {
            return Ok(Own::MEMBER);
        }
        let below = Set::parse(value)?;
        let member = map.contains_key(".");
        Ok(Own { member, below })
    }

    fn print(&self) -> Value {
        let mut map = self.below.print_map();
        if self.member && !map.is_empty() {
            map.insert(".".into(), Value::Object(Map::new()));
        }
        Value::Object(map)
    }
}

impl Set {
    /// From `FieldsV1`.
    pub fn parse(fields: &Value) -> Result<Self, ParseError> {
        let Some(map) = fields.as_object() else {
            return Err(ParseError(fields.to_string()));
        };
        let mut set = Set::default();
        for (key, value) in map.iter().filter(|(key, _)| *key != ".") {
            let step = Step::parse(key).ok_or_else(|| ParseError(key.clone()))?;
            let own = Own::parse(value)?;
            set.push(step, own);
        }
        set.sort();
        Ok(set)
    }

    /// As `FieldsV1`.
    pub fn print(&self) -> Value {
        Value::Object(self.print_map())
    }

    fn print_map(&self) -> Map<String, Value> {
        let printed = |entry: &Entry| (entry.step.print(), entry.own.print());
        self.entries.iter().map(printed).collect()
    }

    /// The set of these paths of fields.
    pub fn of_fields(paths: &[&[&str]]) -> Self {
        let mut set = Set::default();
        for path in paths {
            let mut own = Own::MEMBER;
            for name in path.iter().skip(1).rev() {
                let mut below = Set::default();
                below.push(Step::field(name), own);
                own = Own {
                    member: false,
                    below,
                };
            }
            if let Some(name) = path.first() {
                let mut one = Set::default();
                one.push(Step::field(name), own);
                set = set.union(one);
            }
        }
        set
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Adds what is owned at a step, unless it is nothing. Steps must come in order, or
    /// [`Set::sort`] must follow.
    pub(super) fn push(&mut self, step: Step, own: Own) {
        if !own.is_empty() {
            self.entries.push(Entry { step, own });
        }
    }

    /// Puts entries in order and makes one of those with the same step.
    pub(super) fn sort(&mut self) {
        if self.entries.is_sorted_by(|one, two| one.step < two.step) {
            return;
        }
        let mut entries = std::mem::take(&mut self.entries);
        entries.sort_by(|one, two| one.step.cmp(&two.step));
        for entry in entries {
            match self.entries.last_mut() {
                Some(last) if last.step == entry.step => {
                    last.own.member |= entry.own.member;
                    let below = std::mem::take(&mut last.own.below);
                    last.own.below = below.union(entry.own.below);
                }
                _ => self.entries.push(entry),
            }
        }
    }

    pub(super) fn get(&self, step: &Step) -> Option<&Own> {
        let found = self.entries.binary_search_by(|entry| entry.step.cmp(step));
        found.ok().map(|place| &self.entries[place].own)
    }

    /// As [`Set::get`], for a field by its name.
    pub(super) fn get_field(&self, name: &str) -> Option<&Own> {
        let found = self.entries.binary_search_by(|entry| match &entry.step {
            Step::Field(field) => (**field).cmp(name),
            _ => Ordering::Greater,
        });
        found.ok().map(|place| &self.entries[place].own)
    }

    /// What is in either.
    pub fn union(mut self, other: Set) -> Set {
        if self.is_empty() {
            return other;
        }
        if other.is_empty() {
            return self;
        }
        let mut ones = std::mem::take(&mut self.entries).into_iter().peekable();
        let mut twos = other.entries.into_iter().peekable();
        loop {
            let order = match (ones.peek(), twos.peek()) {
                (None, None) => return self,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(one), Some(two)) => one.step.cmp(&two.step),
            };
            let one = if order.is_le() { ones.next() } else { None };
            let two = if order.is_ge() { twos.next() } else { None };
            let joined = match (one, two) {
                (Some(one), Some(two)) => Some(Entry {
                    step: one.step,
                    own: Own {
                        member: one.own.member || two.own.member,
                        below: one.own.below.union(two.own.below),
                    },
                }),
                (one, two) => one.or(two),
            };
            self.entries.extend(joined);
        }
    }

    /// What is in both.
    pub fn intersection(&self, other: &Set) -> Set {
        let mut both = Set::default();
        for entry in &self.entries {
            if let Some(own) = other.get(&entry.step) {
                let member = entry.own.member && own.member;
                let below = entry.own.below.intersection(&own.below);
                if member || !below.is_empty() {
                    both.push(entry.step.clone(), Own { member, below });
                }
            }
        }
        both
    }

    /// What is in this one alone. What is below a place that both hold stays.
    pub fn difference(self, other: &Set) -> Set {
        self.less(other, |own, other| Own {
            member: own.member && !other.member,
            below: own.below.difference(&other.below),
        })
    }

    /// What is in this one alone and not below anything of the other.
    pub fn recursive_difference(self, other: &Set) -> Set {
        self.less(other, |own, other| {
            if other.member {
                return Own::default();
            }
            Own {
                member: own.member,
                below: own.below.recursive_difference(&other.below),
            }
        })
    }

    /// What `rest` leaves of the entries that the other one has too.
    fn less(mut self, other: &Set, rest: impl Fn(Own, &Own) -> Own) -> Set {
        if self.is_empty() || other.is_empty() {
            return self;
        }
        self.entries.retain_mut(|entry| {
            if let Some(other) = other.get(&entry.step) {
                entry.own = rest(std::mem::take(&mut entry.own), other);
            }
            !entry.own.is_empty()
        });
        self
    }

    /// Whether all of it is in `other`.
    pub fn is_within(&self, other: &Set) -> bool {
        self.entries
            .iter()
            .all(|entry| match other.get(&entry.step) {
                None => false,
                Some(own) => {
                    (own.member || !entry.own.member) && entry.own.below.is_within(&own.below)
                }
            })
    }

    /// Every member with its path, in order.
    pub fn paths(&self) -> Vec<Path> {
        let mut paths = Vec::new();
        self.collect_paths(&mut Vec::new(), &mut paths);
        paths
    }

    fn collect_paths(&self, at: &mut Vec<Step>, paths: &mut Vec<Path>) {
        for entry in &self.entries {
            at.push(entry.step.clone());
            if entry.own.member {
                paths.push(Path(at.clone()));
            }
            entry.own.below.collect_paths(at, paths);
            at.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn set(value: Value) -> Set {
        Set::parse(&value).unwrap()
    }

    #[test]
    fn parses_and_prints_every_kind_of_step() {
        let fields = json!({
            "f:metadata": {"f:labels": {".": {}, "f:a.b/c": {}}, "f:finalizers": {".": {}, "v:\"x\"": {}}},
            "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}},
            "i:3": {},
        });
        let parsed = set(fields.clone());
        assert_eq!(parsed.print(), fields);
        let paths: Vec<_> = parsed.paths().iter().map(ToString::to_string).collect();
        assert_eq!(
            paths,
            [
                ".metadata.finalizers",
                ".metadata.finalizers[=\"x\"]",
                ".metadata.labels",
                ".metadata.labels.a.b/c",
                ".spec.ports[port=80,protocol=\"TCP\"]",
                ".spec.ports[port=80,protocol=\"TCP\"].port",
                "[3]",
            ]
        );
        for wrong in [
            json!([]),
            json!({"x:a": {}}),
            json!({"f:a": 1}),
            json!({"k:{": {}}),
        ] {
            assert!(Set::parse(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn membership_of_a_place_is_apart_from_what_is_below() {
        let both = set(json!({"f:a": {".": {}, "f:b": {}}}));
        let place = set(json!({"f:a": {}}));
        assert_eq!(
            both.clone().difference(&place),
            set(json!({"f:a": {"f:b": {}}}))
        );
        assert!(both.clone().recursive_difference(&place).is_empty());
        assert_eq!(both.intersection(&place), place);
        assert!(place.is_within(&both) && !both.is_within(&place));
    }

    fn sets() -> impl Strategy<Value = Set> {
        let leaf = Just(json!({})).boxed();
        let tree = leaf.prop_recursive(3, 16, 3, |inner| {
            let key = prop_oneof!["f:[a-c]", "v:[1-3]", "i:[0-2]", r#"k:\{"n":[1-3]\}"#, "\\."];
            proptest::collection::btree_map(key, inner, 0..4).prop_map(|map| {
                let dot = |(k, v): (String, Value)| if k == "." { (k, json!({})) } else { (k, v) };
                Value::Object(map.into_iter().map(dot).collect())
            })
        });
        tree.prop_map(|value| Set::parse(&value).unwrap())
    }

    proptest! {
        #[test]
        fn the_algebra_holds(a in sets(), b in sets()) {
            let (only_a, both) = (a.clone().difference(&b), a.intersection(&b));
            let union = a.clone().union(b.clone());
            prop_assert_eq!(only_a.clone().union(both.clone()), a.clone());
            prop_assert_eq!(&union, &b.clone().union(a.clone()));
            prop_assert!(a.is_within(&union) && both.is_within(&a) && both.is_within(&b));
            prop_assert!(only_a.intersection(&b).is_empty());
            prop_assert!(a.clone().recursive_difference(&b).is_within(&only_a));
            prop_assert_eq!(Set::parse(&union.print()).unwrap(), union);
        }
    }
}
