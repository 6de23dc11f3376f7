//! Webhook configurations, read once after a change.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::server::admission::cel::Conditions;
use crate::server::admission::matching::Match;
use crate::server::cacher::Item;
use crate::server::webhook::Hook as Place;

const TIMEOUT_SECONDS: u64 = 10;

/// One entry of `webhooks`.
#[derive(Debug)]
pub(super) struct Hook {
    /// Its configuration's name.
    pub(super) configuration: String,
    pub(super) name: String,
    pub(super) matching: Match,
    pub(super) conditions: Conditions,
    /// `failurePolicy: Ignore`
    pub(super) fails_open: bool,
    pub(super) timeout: Duration,
    /// Whether a dry run does no harm.
    pub(super) is_harmless: bool,
    /// `reinvocationPolicy: IfNeeded`
    pub(super) is_reinvoked: bool,
    /// The first of `admissionReviewVersions` that is known.
    pub(super) version: Option<&'static str>,
    pub(super) place: Result<Place, String>,
}

impl Hook {
    /// What no other hook is called.
    pub(super) fn id(&self) -> String {
        format!("{}/{}", self.configuration, self.name)
    }
}

/// All hooks, by the names of their configurations, then as they stand there.
pub(super) fn compile(objects: &[Vec<Arc<Item>>]) -> Vec<Hook> {
    let mut hooks = Vec::new();
    for item in objects.iter().flatten() {
        let Ok(object) = item.object() else {
            continue;
        };
        let list = object.0.get("webhooks").and_then(Value::as_array);
        let list = list.into_iter().flatten();
        hooks.extend(list.map(|hook| read(item.name(), hook)));
    }
    hooks
}

pub(super) fn read(configuration: &str, hook: &Value) -> Hook {
    let text = |field: &str| hook[field].as_str().unwrap_or_default();
    let versions = hook["admissionReviewVersions"].as_array();
    let mut versions = versions.into_iter().flatten().filter_map(Value::as_str);
    Hook {
        configuration: configuration.to_owned(),
        name: text("name").to_owned(),
        matching: Match::of_webhook(hook),
        conditions: Conditions::of(&hook["matchConditions"]),
        fails_open: text("failurePolicy") == "Ignore",
        timeout: Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(TIMEOUT_SECONDS)),
        is_harmless: matches!(text("sideEffects"), "None" | "NoneOnDryRun"),
        is_reinvoked: text("reinvocationPolicy") == "IfNeeded",
        version: versions.find_map(|version| match version {
            "v1" => Some("admission.k8s.io/v1"),
            "v1beta1" => Some("admission.k8s.io/v1beta1"),
            _ => None,
        }),
        place: Place::from_value(&hook["clientConfig"]).map_err(|error| error.to_string()),
    }
}
