//! ValidatingAdmissionPolicy: expressions that refuse, warn and annotate.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::api::object::Object;
use crate::api::status::ApiError;
use crate::server::admission::compiled::Compiled;
use crate::server::admission::{Attributes, Lookup, Plugin, matching};
use crate::server::authz::Authz;

use super::config::{self, Binding, Policy};
use super::decide::{self, Denial, Verdict};
use super::select::{Finder, Invocation, set_variables};

const STORAGES: &[&str] = &[
    "validatingadmissionpolicies.admissionregistration.k8s.io",
    "validatingadmissionpolicybindings.admissionregistration.k8s.io",
];
/// Failures in the audit annotation, so that it cannot flood the log.
const FAILURES_MAX: usize = 50;

pub(in crate::server::admission) struct ValidatingPolicies {
    lookup: Lookup,
    authz: Arc<Authz>,
    policies: Compiled<Vec<Policy>>,
}

impl ValidatingPolicies {
    pub(in crate::server::admission) fn new(lookup: &Lookup, authz: &Arc<Authz>) -> Self {
        Self {
            lookup: lookup.clone(),
            authz: Arc::clone(authz),
            policies: Compiled::new(lookup, STORAGES, config::compile),
        }
    }
}

#[async_trait]
impl Plugin for ValidatingPolicies {
    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        !self.policies.get().is_empty() && !matching::is_exempt(attributes)
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), ApiError> {
        let policies = self.policies.get();
        let finder = Finder {
            lookup: &self.lookup,
            authz: &self.authz,
        };
        let found = finder.invocations(&policies, attributes, object).await?;
        let (invocations, wrong) = found;
        let mut record = Record::default();
        for broken in wrong.iter().filter(|broken| !broken.policy.fails_open) {
            let who = who(broken.policy, broken.binding);
            record.deny(who, &broken.why, "");
        }
        for invocation in &invocations {
            let scope = finder.scope(invocation, attributes, object).await?;
            record.add(invocation, ask(invocation.policy, scope), attributes);
        }
        record.finish(attributes)
    }
}

/// What the policy says; nothing where its match conditions do not hold.
fn ask(policy: &Policy, mut scope: crate::server::admission::cel::Scope) -> Verdict {
    match policy.conditions.hold(&scope, policy.fails_open) {
        Ok(false) => Verdict::default(),
        Ok(true) => {
            set_variables(&mut scope, policy);
            decide::judge(policy, &scope)
        }
        Err(message) => Verdict {
            denials: vec![Denial {
                index: 0,
                message,
                reason: String::new(),
            }],
            ..Verdict::default()
        },
    }
}

fn who(policy: &Policy, binding: Option<&Binding>) -> String {
    let policy = format!("ValidatingAdmissionPolicy '{}'", policy.name);
    match binding {
        Some(binding) => format!("{policy} with binding '{}'", binding.name),
        None => policy,
    }
}

/// What all policies said of one write.
#[derive(Debug, Default)]
struct Record {
    /// The first refusal: who and why, and the reason of the status.
    denied: Option<(String, String)>,
    failures: Vec<Value>,
    annotations: BTreeMap<String, Vec<String>>,
}

impl Record {
    fn deny(&mut self, who: String, why: &str, reason: &str) {
        let denied = || (format!("{who} denied request: {why}"), reason.to_owned());
        self.denied.get_or_insert_with(denied);
    }

    fn add(&mut self, invocation: &Invocation<'_>, said: Verdict, attributes: &Attributes<'_>) {
        let (policy, binding) = (invocation.policy, invocation.binding);
        for denial in &said.denials {
            let message = &denial.message;
            for action in &binding.actions {
                match action.as_str() {
                    "Deny" => self.deny(who(policy, Some(binding)), message, &denial.reason),
                    "Warn" => attributes.notes.warn([format!(
                        "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': \
                         {message}",
                        policy.name, binding.name
                    )]),
                    "Audit" => self.failures.push(json!({
                        "message": message, "policy": policy.name, "binding": binding.name,
                        "expressionIndex": denial.index, "validationActions": binding.actions,
                    })),
                    _ => {}
                }
            }
        }
        for (key, value) in said.annotations {
            let values = self.annotations.entry(format!("{}/{key}", policy.name));
            let values = values.or_default();
            if !values.contains(&value) {
                values.push(value);
            }
        }
        for why in &said.broken {
            self.deny(who(policy, Some(binding)), why, "");
        }
    }

    fn finish(mut self, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        for (key, values) in self.annotations {
            attributes.notes.annotate(key, values.join(", "));
        }
        if !self.failures.is_empty() {
            self.failures.truncate(FAILURES_MAX);
            let key = "validation.policy.admission.k8s.io/validation_failure";
            let failures = Value::from(self.failures);
            attributes.notes.annotate(key, failures.to_string());
        }
        match self.denied {
            Some((message, reason)) => Err(super::denied(attributes, &message, &reason)),
            None => Ok(()),
        }
    }
}
