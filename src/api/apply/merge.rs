//! Merges what somebody applies into the live object, and takes out what he applied before and no
//! longer does.

use serde_json::{Map, Value};

use super::fields::{Set, Step};
use super::schema::{Node, fields_of, fields_without, with_named};

fn merge(node: Node<'_>, live: &Value, config: &Value) -> Value {
    let node = node.resolved(Some(config));
    match (live, config) {
        (Value::Object(live), Value::Object(config)) if node.is_map() => {
            Value::Object(merge_maps(node, live, config))
        }
        (Value::Array(live), Value::Array(config)) if node.is_list() => {
            Value::Array(merge_lists(node, live, config))
        }
        _ => config.clone(),
    }
}

/// `live` with `config` over it. Items of lists keep the order of `live` where `config` does not
/// say otherwise.
pub(super) fn merge_maps(
    node: Node<'_>,
    live: &Map<String, Value>,
    config: &Map<String, Value>,
) -> Map<String, Value> {
    let mut merged = Map::new();
    for (name, old) in live {
        let value = match config.get(name) {
            Some(value) => merge(node.child(name).node, old, value),
            None => old.clone(),
        };
        merged.insert(name.clone(), value);
    }
    for (name, value) in config.iter().filter(|(name, _)| !live.contains_key(*name)) {
        merged.insert(name.clone(), value.clone());
    }
    merged
}

/// An item with its step; items without a step (no key) are never the same as another.
type Item<'v> = (Option<Step>, &'v Value);

fn merge_lists(node: Node<'_>, live: &[Value], config: &[Value]) -> Vec<Value> {
    let items = |list: &'_ [Value]| -> Vec<Option<Step>> {
        list.iter().map(|item| node.step(item).ok()).collect()
    };
    let (live_steps, config_steps) = (items(live), items(config));
    let lives: Vec<Item<'_>> = live_steps.into_iter().zip(live).collect();
    let configs: Vec<Item<'_>> = config_steps.into_iter().zip(config).collect();
    let in_live = Places::of(&lives);
    let in_config = Places::of(&configs);
    let shared: Vec<usize> = (0..configs.len())
        .filter(|place| in_live.first(&configs[*place]).is_some())
        .collect();
    let mut shared = shared.into_iter().peekable();
    let (mut l, mut c) = (0, 0);
    let mut out = Vec::with_capacity(lives.len() + configs.len());
    let mut merged = vec![false; configs.len()];
    let item = node.item();
    while l < lives.len() || c < configs.len() {
        if let Some(one) = lives.get(l) {
            let wanted = in_config.first(one);
            match wanted {
                // Only the live object has it.
                None => {
                    out.push(one.1.clone());
                    l += 1;
                    continue;
                }
                // Merged already: stood earlier in the configuration, or is a duplicate.
                Some(place) if merged[place] => {
                    l += 1;
                    continue;
                }
                // Another of the shared items comes first.
                Some(place) if c < configs.len() && shared.peek().is_some_and(|s| *s != place) => {
                    l += 1;
                    continue;
                }
                Some(_) => {}
            }
        }
        let Some(two) = configs.get(c) else { break };
        let old = in_live.first(two).map(|place| lives[place].1);
        out.push(match old {
            Some(old) => merge(item, old, two.1),
            None => two.1.clone(),
        });
        merged[c] = true;
        if shared.peek() == Some(&c) {
            shared.next();
        }
        c += 1;
    }
    out
}

/// Where in a list each step stands first.
struct Places<'i>(Vec<(&'i Step, usize)>);

impl<'i> Places<'i> {
    fn of(items: &'i [Item<'_>]) -> Self {
        let with_step = |(place, item): (usize, &'i Item<'_>)| Some((item.0.as_ref()?, place));
        let mut places: Vec<_> = items.iter().enumerate().filter_map(with_step).collect();
        places.sort();
        places.dedup_by(|next, kept| next.0 == kept.0);
        Places(places)
    }

    fn first(&self, item: &Item<'_>) -> Option<usize> {
        let step = item.0.as_ref()?;
        let found = self.0.binary_search_by(|(other, _)| (*other).cmp(step));
        found.ok().map(|at| self.0[at].1)
    }
}

/// Takes out of `merged` what `last` has (the set that was applied before), nobody of `managed`
/// (all sets, with the new one) has, and what stood only inside of that.
pub(super) fn prune(
    node: Node<'_>,
    merged: Map<String, Value>,
    last: &Set,
    managed: &[&Set],
) -> Map<String, Value> {
    let all = managed
        .iter()
        .fold(Set::default(), |all, set| all.union((*set).clone()));
    if last.is_within(&all) {
        return merged;
    }
    let named = |set: &Set| with_named(node, set);
    let less = |set: &Set| fields_without(node, &merged, set);
    let (last, all) = (named(last), named(&all));
    let merged_set = named(&fields_of(node, &merged));
    // Without all that was applied before …
    let bare = named(&fields_of(node, &less(&last)));
    // … but with what anybody still owns …
    let owned = less(&merged_set.clone().difference(&bare.union(all)));
    // … and with what was never his to remove.
    let owned_set = named(&fields_of(node, &owned));
    less(&merged_set.difference(&owned_set).intersection(&last))
}
