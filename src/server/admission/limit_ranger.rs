//! A namespace's LimitRanges: containers get the default requests and limits they do not name, and
//! what is too small, too large or too uneven is refused (`plugin/pkg/admission/limitranger`).

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value, json};

use crate::api::object::{Object, child_mut};
use crate::api::pod::{self, Resources};
use crate::api::quantity::Quantity;
use crate::api::status::ApiError;
use crate::server::cacher::Item;

use super::compiled::Compiled;
use super::{Attributes, Lookup, Operation, Plugin};

const STORAGE: &str = "limitranges";
const ANNOTATION: &str = "kubernetes.io/limit-ranger";
/// Lists of a Pod's containers, and what the annotation calls one of them.
const LISTS: [(&str, &str); 2] = [
    ("containers", "container"),
    ("initContainers", "init container"),
];

/// One entry of `spec.limits`.
#[derive(Clone, Debug, Default, PartialEq)]
struct Limit {
    kind: String,
    min: Resources,
    max: Resources,
    default: Resources,
    default_request: Resources,
    ratio: Resources,
}

/// By namespace, then in the order of the LimitRanges' names: the entries of each.
type Limits = BTreeMap<String, Vec<Vec<Limit>>>;

pub(super) struct LimitRanger {
    limits: Compiled<Limits>,
}

impl LimitRanger {
    pub(super) fn new(lookup: &Lookup) -> Self {
        Self {
            limits: Compiled::new(lookup, &[STORAGE], compile),
        }
    }
}

#[async_trait]
impl Plugin for LimitRanger {
    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        let is_pod = attributes.is_core("pods");
        let is_claim = attributes.is_core("persistentvolumeclaims");
        let is_due = match attributes.operation {
            Operation::Create => attributes.subresource.is_empty() && (is_pod || is_claim),
            Operation::Update if is_pod => attributes.subresource == "resize",
            Operation::Update => attributes.subresource.is_empty() && is_claim,
            _ => false,
        };
        is_due && self.limits.get().contains_key(attributes.namespace)
    }

    async fn mutate(
        &self,
        attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), ApiError> {
        let limits = self.limits.get();
        if attributes.is_core("pods") {
            for entries in limits.get(attributes.namespace).into_iter().flatten() {
                fill_in(object, entries);
            }
        }
        Ok(())
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), ApiError> {
        let Some(object) = object.filter(|object| !object.is_terminating()) else {
            return Ok(());
        };
        let limits = self.limits.get();
        for entries in limits.get(attributes.namespace).into_iter().flatten() {
            let wrong = match attributes.is_core("pods") {
                true => wrong_pod(object, entries),
                false => wrong_claim(object, entries),
            };
            if let Some(why) = aggregate(wrong) {
                return Err(attributes.forbidden(&why));
            }
        }
        Ok(())
    }
}

fn compile(objects: &[Vec<Arc<Item>>]) -> Limits {
    let mut limits = Limits::new();
    for item in objects.iter().flatten() {
        let Ok(range) = item.object() else {
            continue;
        };
        let entries = range.at(&["spec", "limits"]).and_then(Value::as_array);
        let entries = entries.into_iter().flatten().map(Limit::of).collect();
        let namespace = item.namespace().to_owned();
        limits.entry(namespace).or_default().push(entries);
    }
    limits
}

impl Limit {
    fn of(entry: &Value) -> Self {
        Self {
            kind: entry["type"].as_str().unwrap_or_default().to_owned(),
            min: amounts(&entry["min"]),
            max: amounts(&entry["max"]),
            default: amounts(&entry["default"]),
            default_request: amounts(&entry["defaultRequest"]),
            ratio: amounts(&entry["maxLimitRequestRatio"]),
        }
    }

    /// Everything wrong with requests and limits of something of this entry's kind.
    fn wrong(&self, requests: &Resources, limits: &Resources) -> Vec<String> {
        let kind = self.kind.as_str();
        let ask = |name: &str| (requests.get(name).copied(), limits.get(name).copied());
        let min = self.min.iter().filter_map(|(name, least)| {
            let what = format!("minimum {name} usage per {kind} is {least}");
            match ask(name) {
                (None, _) => Some(format!("{what}.  No request is specified")),
                (Some(request), _) if request < *least => {
                    Some(format!("{what}, but request is {request}"))
                }
                (_, Some(limit)) if limit < *least => Some(format!("{what}, but limit is {limit}")),
                _ => None,
            }
        });
        let max = self.max.iter().filter_map(|(name, most)| {
            let what = format!("maximum {name} usage per {kind} is {most}");
            match ask(name) {
                (_, None) => Some(format!("{what}.  No limit is specified")),
                (_, Some(limit)) if limit > *most => Some(format!("{what}, but limit is {limit}")),
                (Some(request), _) if request > *most => {
                    Some(format!("{what}, but request is {request}"))
                }
                _ => None,
            }
        });
        let ratio = self
            .ratio
            .iter()
            .filter_map(|(name, most)| wrong_ratio((name, kind), *most, ask(name)));
        min.chain(max).chain(ratio).collect()
    }
}

fn wrong_ratio(
    (name, kind): (&str, &str),
    most: Quantity,
    (request, limit): (Option<Quantity>, Option<Quantity>),
) -> Option<String> {
    let what = format!("{name} max limit to request ratio per {kind} is {most}");
    let Some(request) = request.filter(|request| !request.is_zero()) else {
        return Some(format!(
            "{what}, but no request is specified or request is 0"
        ));
    };
    let Some(limit) = limit.filter(|limit| !limit.is_zero()) else {
        return Some(format!("{what}, but no limit is specified or limit is 0"));
    };
    // Ratios are read by people: a float is exact enough, as upstream.
    let ratio = limit.nano() as f64 / request.nano() as f64;
    let is_wrong = ratio * 1000.0 > most.milli_value() as f64;
    is_wrong.then(|| format!("{what}, but provided ratio is {ratio:.6}"))
}

fn amounts(map: &Value) -> Resources {
    let map = map.as_object().into_iter().flatten();
    map.filter_map(|(name, amount)| Some((name.clone(), Quantity::from_json(amount).ok()?)))
        .collect()
}

/// Gives containers the defaults, and the Pod a note of which.
fn fill_in(pod: &mut Object, entries: &[Limit]) {
    let of_containers = entries.iter().filter(|limit| limit.kind == "Container");
    let (mut requests, mut limits) = (Resources::new(), Resources::new());
    for limit in of_containers {
        requests.extend(limit.default_request.clone());
        limits.extend(limit.default.clone());
    }
    if requests.is_empty() && limits.is_empty() {
        return;
    }
    let mut notes = Vec::new();
    let spec = child_mut(&mut pod.0, "spec");
    for (list, what) in LISTS {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let Some(container) = container.as_object_mut() else {
                continue;
            };
            let name = container.get("name").and_then(Value::as_str);
            let name = name.unwrap_or_default().to_owned();
            for (field, defaults, noun) in [
                ("requests", &requests, "request"),
                ("limits", &limits, "limit"),
            ] {
                let added = add_missing(container, field, defaults);
                if !added.is_empty() {
                    let added = added.join(", ");
                    notes.push(format!("{added} {noun} for {what} {name}"));
                }
            }
        }
    }
    if notes.is_empty() {
        return;
    }
    let note = format!("LimitRanger plugin set: {}", notes.join("; "));
    let annotations = child_mut(pod.metadata_mut(), "annotations");
    annotations.insert(ANNOTATION.into(), note.into());
}

/// The names that were added.
fn add_missing(
    container: &mut Map<String, Value>,
    field: &str,
    defaults: &Resources,
) -> Vec<String> {
    let resources = container.get("resources");
    let own = resources
        .and_then(|resources| resources.get(field))
        .cloned();
    let own = own.unwrap_or(json!({}));
    let missing = defaults.iter().filter(|(name, _)| own.get(*name).is_none());
    let missing: Vec<_> = missing.collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let amounts = child_mut(child_mut(container, "resources"), field);
    for (name, amount) in &missing {
        amounts.insert((*name).clone(), amount.to_string().into());
    }
    missing.into_iter().map(|(name, _)| name.clone()).collect()
}

fn wrong_pod(object: &Object, entries: &[Limit]) -> Vec<String> {
    let mut wrong = Vec::new();
    for limit in entries {
        match limit.kind.as_str() {
            "Container" => {
                for (list, _) in LISTS {
                    let containers = object.at(&["spec", list]).and_then(Value::as_array);
                    for container in containers.into_iter().flatten() {
                        let resources = &container["resources"];
                        let requests = amounts(&resources["requests"]);
                        wrong.extend(limit.wrong(&requests, &amounts(&resources["limits"])));
                    }
                }
            }
            "Pod" => {
                // What is no Pod was refused before.
                let Ok(mut pod) = serde_json::from_value::<Pod>(object.clone().into_value()) else {
                    continue;
                };
                if let Some(spec) = &mut pod.spec {
                    // The sandbox's own need is nothing the user can change.
                    spec.overhead = None;
                }
                wrong.extend(limit.wrong(&pod::requests(&pod), &pod::limits(&pod)));
            }
            _ => {}
        }
    }
    wrong
}

/// Claims have requests only.
fn wrong_claim(object: &Object, entries: &[Limit]) -> Vec<String> {
    let requests = object.at(&["spec", "resources", "requests"]);
    let requests = requests.map(amounts).unwrap_or_default();
    let mut wrong = Vec::new();
    for limit in entries.iter().filter(|l| l.kind == "PersistentVolumeClaim") {
        let least = Limit {
            kind: limit.kind.clone(),
            min: limit.min.clone(),
            ..Limit::default()
        };
        wrong.extend(least.wrong(&requests, &Resources::new()));
        for (name, most) in &limit.max {
            let what = format!("maximum {name} usage per {} is {most}", limit.kind);
            match requests.get(name) {
                None => wrong.push(format!("{what}.  No request is specified")),
                Some(request) if request > most => {
                    wrong.push(format!("{what}, but request is {request}"));
                }
                Some(_) => {}
            }
        }
    }
    wrong
}

/// Several reasons as one, each once (`errors.NewAggregate`).
fn aggregate(wrong: Vec<String>) -> Option<String> {
    let mut distinct: Vec<String> = Vec::new();
    for text in wrong {
        if !distinct.contains(&text) {
            distinct.push(text);
        }
    }
    match distinct.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("[{}]", many.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(entry: Value) -> Vec<Limit> {
        vec![Limit::of(&entry)]
    }

    fn pod(containers: Value) -> Object {
        let pod = json!({
            "metadata": {"name": "p"}, "spec": {"containers": containers},
        });
        Object::from_value(pod).unwrap()
    }

    #[test]
    fn containers_get_what_they_do_not_name() {
        let entries = limit(json!({
            "type": "Container", "default": {"cpu": "500m", "memory": "1Gi"},
            "defaultRequest": {"cpu": "100m"},
        }));
        let mut object = pod(json!([
            {"name": "a", "resources": {"limits": {"cpu": "2"}}},
            {"name": "b"},
        ]));
        fill_in(&mut object, &entries);
        let containers = &object.0["spec"]["containers"];
        assert_eq!(
            containers[0]["resources"],
            json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "100m"}})
        );
        assert_eq!(containers[1]["resources"]["limits"]["cpu"], "500m");
        assert_eq!(
            object.text_at(&["metadata", "annotations", ANNOTATION]),
            "LimitRanger plugin set: cpu request for container a; memory limit for container a; \
             cpu request for container b; cpu, memory limit for container b"
        );
        let before = object.clone();
        fill_in(&mut object, &entries);
        assert_eq!(object, before);
    }

    #[test]
    fn too_small_too_large_and_too_uneven_are_refused_in_upstreams_words() {
        let resources = |requests: Value, limits: Value| json!([{"name": "a", "resources": {"requests": requests, "limits": limits}}]);
        let table = [
            (
                json!({"type": "Container", "min": {"cpu": "100m"}}),
                resources(json!({"cpu": "50m"}), json!({})),
                "minimum cpu usage per Container is 100m, but request is 50m",
            ),
            (
                json!({"type": "Container", "min": {"cpu": "100m"}}),
                resources(json!({}), json!({})),
                "minimum cpu usage per Container is 100m.  No request is specified",
            ),
            (
                json!({"type": "Container", "max": {"cpu": "1", "memory": "1Gi"}}),
                resources(json!({}), json!({"cpu": "1500m"})),
                "[maximum cpu usage per Container is 1, but limit is 1500m, maximum memory usage \
                 per Container is 1Gi.  No limit is specified]",
            ),
            (
                json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}}),
                resources(json!({"cpu": "100m"}), json!({"cpu": "300m"})),
                "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
            ),
            (
                json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}}),
                resources(json!({}), json!({"cpu": "300m"})),
                "cpu max limit to request ratio per Container is 2, but no request is specified \
                 or request is 0",
            ),
        ];
        for (entry, containers, text) in table {
            let wrong = wrong_pod(&pod(containers), &limit(entry));
            assert_eq!(aggregate(wrong).as_deref(), Some(text));
        }
    }

    #[test]
    fn a_pod_is_the_sum_of_its_containers() {
        let containers = json!([
            {"name": "a", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}},
            {"name": "b", "resources": {"limits": {"cpu": "2"}, "requests": {"cpu": "1"}}},
        ]);
        let entries = limit(json!({"type": "Pod", "max": {"cpu": "2"}, "min": {"cpu": "2"}}));
        assert_eq!(
            wrong_pod(&pod(containers), &entries),
            ["maximum cpu usage per Pod is 2, but limit is 3"]
        );
    }

    #[test]
    fn claims_are_bounded_by_their_requests() {
        let claim = |storage: &str| {
            let spec = json!({"resources": {"requests": {"storage": storage}}});
            Object::from_value(json!({"spec": spec})).unwrap()
        };
        let entries = limit(json!({
            "type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"},
        }));
        assert!(wrong_claim(&claim("1Gi"), &entries).is_empty());
        assert_eq!(
            wrong_claim(&claim("3Gi"), &entries),
            ["maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"]
        );
        assert_eq!(
            wrong_claim(&claim("1Mi"), &entries),
            ["minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi"]
        );
    }
}
