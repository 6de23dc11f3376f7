//! `pods/eviction`: a delete that a PodDisruptionBudget may refuse
//! (`pkg/registry/core/pod/storage.EvictionREST`).
//!
//! Invariant. What a budget allows is taken from its stored status by compare-and-swap before the
//! pod is marked and deleted: any number of evictions at once never take more than it allows. After
//! a crash in between the budget shows one too few until its controller counts anew.

use http::Response;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::object::{Object, child_mut};
use crate::api::options::{DeleteOptions, WriteOptions};
use crate::api::selector::label::Selector;
use crate::api::status::ApiError;
use crate::api::time;
use crate::client::Body;
use crate::server::admission::{Attributes, Operation};
use crate::server::rest::call::{Call, named_type, read_body};
use crate::server::rest::read::Stored;
use crate::server::rest::update::read_again;
use crate::server::rest::write::{Target, Written};
use crate::server::rest::{Core, delete, errors};
use crate::server::storage::{codec, keys};

const BUDGETS: &str = "poddisruptionbudgets.policy";
/// How often others may write a budget or pod first, as upstream.
const TRIES: usize = 20;
/// More unconfirmed evictions than this and the controller is not keeping up, as upstream.
const DISRUPTED_MAX: usize = 2000;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
const CONDITION: &str = "DisruptionAllowed";

/// Why a pod may go.
#[derive(Debug, PartialEq)]
enum Permit {
    /// Whatever it does meanwhile.
    Free,
    /// As it is now: it needs nobody's leave, and a moment later it might.
    Exact,
    /// As it is now, not ready; else the budget named would have to be asked.
    Unhealthy(String),
}

pub(in crate::server::rest) async fn evict(
    core: &Core,
    call: &Call,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::for_create(&call.query)?;
    let ty = named_type("policy.v1.Eviction")?;
    let eviction = call.decode_as(&read_body(body).await?, ty, &options)?;
    let name = &call.info.name;
    if !eviction.name().is_empty() && eviction.name() != name {
        return Err(ApiError::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    let attributes = Attributes {
        subresource: "eviction",
        dry_run: options.dry_run,
        ..call.attributes(Operation::Create, name)
    };
    core.admission
        .validate(&attributes, Some(&eviction))
        .await?;
    let wanted = eviction.0.get("deleteOptions");
    let mut wanted = DeleteOptions::new("", wanted)?;
    wanted.dry_run |= options.dry_run;
    carry_out(core, call, &wanted).await?;
    super::done(core, call)
}

async fn carry_out(core: &Core, call: &Call, asked: &DeleteOptions) -> Result<(), ApiError> {
    for _ in 0..TRIES {
        let pod = core.stored(&call.def, &call.local_key()).await?;
        let pod = pod.ok_or_else(|| errors::not_found(&call.def, &call.info.name))?;
        let permit = permit(core, call, &pod.object, asked.dry_run).await?;
        let mut wanted = asked.clone();
        let is_pinned = permit != Permit::Free && wanted.preconditions.resource_version.is_none();
        if is_pinned {
            let version = pod.object.resource_version().to_owned();
            wanted.preconditions.resource_version = Some(version);
        }
        let done = mark_and_delete(core, call, wanted).await;
        match (done, permit) {
            // It changed, and may now be one that a budget protects.
            (Err(error), Permit::Exact) if is_pinned && error.is_conflict() => {}
            (Err(error), Permit::Unhealthy(budget)) if is_pinned && error.is_conflict() => {
                return Err(still_processed(&budget));
            }
            (done, _) => return done,
        }
    }
    let gvr = &call.def.gvr;
    let name = &call.info.name;
    Err(ApiError::conflict(
        &gvr.group,
        &gvr.resource,
        name,
        errors::MODIFIED,
    ))
}

/// Whether the pod may go; takes it off what its budget allows.
///
/// Errors: it may not.
async fn permit(core: &Core, call: &Call, pod: &Object, dry_run: bool) -> Result<Permit, ApiError> {
    if let Some(permit) = without_budget(pod) {
        return Ok(permit);
    }
    for _ in 0..TRIES {
        let Some(budget) = budget_of(core, call, pod).await? else {
            return Ok(Permit::Free);
        };
        if !is_ready(pod) && lets_unhealthy_go(&budget.object) {
            return Ok(Permit::Unhealthy(budget.object.name().to_owned()));
        }
        let taken = take(&budget.object, pod.name(), core.clock.now())?;
        if dry_run || write_budget(core, &budget, &taken).await? {
            return Ok(Permit::Free);
        }
    }
    let budget = budget_of(core, call, pod).await?;
    let name = budget.map(|b| b.object.name().to_owned());
    Err(ApiError::timeout(format!(
        "couldn't update PodDisruptionBudget {:?} due to conflicts",
        name.unwrap_or_default()
    )))
}

/// The budget that covers a pod, as it is now.
async fn budget_of(core: &Core, call: &Call, pod: &Object) -> Result<Option<Stored>, ApiError> {
    let registry = core.registry.snapshot();
    let Some(def) = registry.stored(BUDGETS) else {
        return Ok(None);
    };
    core.wait_for_now(def).await?;
    let mut covering = Vec::new();
    for item in core.cacher.list(BUDGETS, call.namespace()) {
        let budget = item.object().map_err(ApiError::internal)?;
        if covers(&budget, pod) {
            covering.push(item);
        }
    }
    match covering.as_slice() {
        [] => Ok(None),
        [one] => core.stored(def, &one.key).await,
        _ => Err(ApiError::plain(
            500,
            "",
            "This pod has more than one PodDisruptionBudget, which the eviction subresource \
             does not support.",
        )),
    }
}

/// `false`: somebody else wrote it first.
async fn write_budget(core: &Core, old: &Stored, new: &Object) -> Result<bool, ApiError> {
    let registry = core.registry.snapshot();
    let def = registry
        .stored(BUDGETS)
        .ok_or_else(ApiError::no_such_path)?;
    let target = Target {
        def,
        key: &keys::local(new.meta("namespace"), new.name()),
        name: new.name(),
    };
    let written = core.replace(target, new, old.revision, None).await?;
    Ok(matches!(written, Written::Done(_)))
}

/// Says on the pod why it goes, then deletes it.
async fn mark_and_delete(
    core: &Core,
    call: &Call,
    mut options: DeleteOptions,
) -> Result<(), ApiError> {
    if !options.dry_run {
        mark(core, call, &mut options).await?;
    }
    delete::remove(core, call, &call.info.name, &options).await?;
    Ok(())
}

/// Sets the condition; the preconditions of `options` are checked, and hold of what was written.
async fn mark(core: &Core, call: &Call, options: &mut DeleteOptions) -> Result<(), ApiError> {
    let (def, name, key) = (&call.def, &call.info.name, call.local_key());
    let target = Target {
        def,
        key: &key,
        name,
    };
    let missing = || errors::not_found(def, name);
    let mut stored = core.stored(def, &key).await?.ok_or_else(missing)?;
    for _ in 0..TRIES {
        delete::check_preconditions(def, &stored.object, options)?;
        options.preconditions.uid = Some(stored.object.uid().to_owned());
        let marked = marked(&stored.object, core.clock.now());
        let written = core.replace(target, &marked, stored.revision, None).await?;
        match written {
            Written::Done(bytes) => {
                let pod = codec::parse(&bytes).map_err(ApiError::internal)?;
                if let Some(version) = &mut options.preconditions.resource_version {
                    pod.resource_version().clone_into(version);
                }
                return Ok(());
            }
            Written::Again => {}
            Written::Lost(None) => return Err(missing()),
            Written::Lost(Some(current)) => stored = read_again(target, &current)?,
        }
    }
    let gvr = &def.gvr;
    Err(ApiError::conflict(
        &gvr.group,
        &gvr.resource,
        name,
        errors::MODIFIED,
    ))
}

/// Pods that run nothing, or are going already, count for no budget (`canIgnorePDB`).
fn without_budget(pod: &Object) -> Option<Permit> {
    if pod.is_terminating() {
        return Some(Permit::Free);
    }
    let phase = pod.text_at(&["status", "phase"]);
    matches!(phase, "Succeeded" | "Failed" | "Pending").then_some(Permit::Exact)
}

fn covers(budget: &Object, pod: &Object) -> bool {
    let Some(selector) = budget.at(&["spec", "selector"]) else {
        return false;
    };
    let selector = Selector::from_label_selector(selector);
    let labels: std::collections::BTreeMap<String, String> = pod
        .at(&["metadata", "labels"])
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    selector.is_ok_and(|selector| selector.matches(&labels))
}

fn is_ready(pod: &Object) -> bool {
    let conditions = pod.at(&["status", "conditions"]).and_then(Value::as_array);
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn count(budget: &Object, field: &str) -> i64 {
    let value = budget.at(&["status", field]).and_then(Value::as_i64);
    value.unwrap_or(0)
}

/// Whether the budget lets go of pods that are not ready: always, or while it has enough others.
fn lets_unhealthy_go(budget: &Object) -> bool {
    let desired = count(budget, "desiredHealthy");
    budget.text_at(&["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow"
        || (desired > 0 && count(budget, "currentHealthy") >= desired)
}

/// The budget after one more eviction.
///
/// Errors: it allows none.
fn take(budget: &Object, pod: &str, now: Timestamp) -> Result<Object, ApiError> {
    let name = budget.name();
    let generation = budget.at(&["metadata", "generation"]);
    let generation = generation.and_then(Value::as_i64).unwrap_or(0);
    let observed = count(budget, "observedGeneration");
    if observed < generation {
        return Err(still_processed(name));
    }
    let forbidden = |why: &str| ApiError::forbidden("policy", "poddisruptionbudget", name, why);
    let allowed = count(budget, "disruptionsAllowed");
    if allowed < 0 {
        return Err(forbidden("pdb disruptions allowed is negative"));
    }
    let disrupted = budget.at(&["status", "disruptedPods"]);
    if disrupted
        .and_then(Value::as_object)
        .map_or(0, serde_json::Map::len)
        > DISRUPTED_MAX
    {
        return Err(forbidden(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    if allowed == 0 {
        return Err(refused(0, &why_none(budget)));
    }
    let mut taken = budget.clone();
    let status = child_mut(&mut taken.0, "status");
    status.insert("disruptionsAllowed".into(), (allowed - 1).into());
    child_mut(status, "disruptedPods").insert(pod.to_owned(), time::seconds(now).into());
    if allowed == 1 {
        let condition = json!({
            "type": CONDITION, "status": "False", "reason": "InsufficientPods", "message": "",
            "lastTransitionTime": time::seconds(now), "observedGeneration": observed,
        });
        set_condition(status, condition);
    }
    Ok(taken)
}

fn why_none(budget: &Object) -> String {
    let name = budget.name();
    let conditions = budget
        .at(&["status", "conditions"])
        .and_then(Value::as_array);
    let mut conditions = conditions.into_iter().flatten();
    let failure = conditions.find(|c| c["type"] == CONDITION && c["reason"] == "SyncFailed");
    match failure {
        Some(failure) => format!(
            "The disruption budget {name} does not allow evicting pods currently because it \
             failed sync: {}",
            failure["message"].as_str().unwrap_or_default()
        ),
        None => format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            count(budget, "desiredHealthy"),
            count(budget, "currentHealthy")
        ),
    }
}

fn still_processed(budget: &str) -> ApiError {
    let why = format!("The disruption budget {budget} is still being processed by the server.");
    refused(10, &why)
}

/// 429 that says which budget refuses.
fn refused(retry_seconds: u32, why: &str) -> ApiError {
    let causes = json!([{"reason": "DisruptionBudget", "message": why}]);
    let mut error = ApiError::too_many_requests(REFUSED, retry_seconds);
    let mut details = json!({"causes": causes});
    if retry_seconds > 0 {
        details["retryAfterSeconds"] = retry_seconds.into();
    }
    error.details = Some(details);
    error
}

/// The pod with the condition that says it is evicted.
fn marked(pod: &Object, now: Timestamp) -> Object {
    let mut condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastProbeTime": null,
        "lastTransitionTime": time::seconds(now),
    });
    if let Some(generation) = pod.at(&["metadata", "generation"]) {
        condition["observedGeneration"] = generation.clone();
    }
    let mut pod = pod.clone();
    set_condition(child_mut(&mut pod.0, "status"), condition);
    pod
}

/// Puts a condition in the place of the one of its type, whose time it keeps where the status is
/// the same.
fn set_condition(status: &mut serde_json::Map<String, Value>, mut new: Value) {
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    let Some(conditions) = conditions.as_array_mut() else {
        return;
    };
    match conditions.iter_mut().find(|c| c["type"] == new["type"]) {
        None => conditions.push(new),
        Some(old) => {
            if old["status"] == new["status"] {
                new["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = new;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    fn budget(spec: Value, status: Value) -> Object {
        object(json!({"metadata": {"name": "b", "generation": 2}, "spec": spec, "status": status}))
    }

    fn refusal(status: Value) -> (u16, String, Value) {
        let error = take(&budget(json!({}), status), "p", Timestamp::UNIX_EPOCH).unwrap_err();
        let details = error.details.unwrap_or_default();
        let cause = details["causes"][0]["message"].as_str();
        let text = cause.unwrap_or(&error.message).to_owned();
        (error.code, text, details["retryAfterSeconds"].clone())
    }

    #[test]
    fn a_budget_refuses_in_upstreams_words() {
        let table = [
            (
                json!({"observedGeneration": 1, "disruptionsAllowed": 1}),
                429,
                "The disruption budget b is still being processed by the server.",
                json!(10),
            ),
            (
                json!({"observedGeneration": 2, "desiredHealthy": 2, "currentHealthy": 1}),
                429,
                "The disruption budget b needs 2 healthy pods and has 1 currently",
                Value::Null,
            ),
            (
                json!({"observedGeneration": 2, "conditions": [{"type": "DisruptionAllowed",
                    "reason": "SyncFailed", "message": "no scale"}]}),
                429,
                "The disruption budget b does not allow evicting pods currently because it \
                 failed sync: no scale",
                Value::Null,
            ),
            (
                json!({"observedGeneration": 2, "disruptionsAllowed": -1}),
                403,
                "poddisruptionbudget.policy \"b\" is forbidden: pdb disruptions allowed is \
                 negative",
                Value::Null,
            ),
        ];
        for (status, code, text, retry) in table {
            assert_eq!(refusal(status), (code, text.to_owned(), retry));
        }
    }

    #[test]
    fn what_is_taken_is_noted_and_the_last_one_says_so() {
        let status = json!({"observedGeneration": 2, "disruptionsAllowed": 2, "conditions": [{
            "type": "DisruptionAllowed", "status": "True", "reason": "SufficientPods"}]});
        let once = take(&budget(json!({}), status), "p", Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(count(&once, "disruptionsAllowed"), 1);
        assert_eq!(once.0["status"]["conditions"][0]["status"], "True");
        let twice = take(&once, "q", Timestamp::UNIX_EPOCH).unwrap();
        let noted = &twice.0["status"]["disruptedPods"];
        assert_eq!(
            *noted,
            json!({"p": "1970-01-01T00:00:00Z", "q": "1970-01-01T00:00:00Z"})
        );
        assert_eq!(
            twice.0["status"]["conditions"][0]["reason"],
            "InsufficientPods"
        );
        assert!(take(&twice, "r", Timestamp::UNIX_EPOCH).is_err());
    }

    #[test]
    fn pods_that_serve_nobody_need_no_leave() {
        let pod = |status: Value| object(json!({"metadata": {"name": "p"}, "status": status}));
        assert_eq!(
            without_budget(&pod(json!({"phase": "Pending"}))),
            Some(Permit::Exact)
        );
        assert_eq!(without_budget(&pod(json!({"phase": "Running"}))), None);
        let always = json!({"unhealthyPodEvictionPolicy": "AlwaysAllow"});
        for (spec, desired, current, goes) in [
            (json!({}), 2, 1, false),
            (json!({}), 2, 2, true),
            (json!({}), 0, 0, false),
            (always, 2, 0, true),
        ] {
            let status = json!({"desiredHealthy": desired, "currentHealthy": current});
            assert_eq!(lets_unhealthy_go(&budget(spec, status)), goes);
        }
    }
}
