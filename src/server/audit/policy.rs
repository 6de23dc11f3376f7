//! The file behind `--audit-policy-file` (`audit.k8s.io/v1 Policy`) and which of its rules a request
//! falls under (`k8s.io/apiserver/pkg/audit/policy/checker.go`). Pure.

use serde::Deserialize;

use crate::server::request::{RequestInfo, User};

/// How much is written about a request. Each has all of the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    /// Nothing.
    #[default]
    None,
    /// Who, what, when, and the outcome.
    Metadata,
    /// The request's object.
    Request,
    /// The answer's object.
    RequestResponse,
}

/// When something is written about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Stage {
    /// Before it is served.
    RequestReceived,
    /// The head of a long-running answer was sent.
    ResponseStarted,
    /// The answer is whole.
    ResponseComplete,
    /// Serving it panicked.
    Panic,
}

/// What is written about which requests.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    api_version: String,
    kind: String,
    /// Names nothing here.
    #[serde(default, rename = "metadata")]
    _metadata: Option<serde::de::IgnoredAny>,
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GroupResources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What a policy says of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// How much.
    pub level: Level,
    /// Not at these.
    pub omit_stages: Vec<Stage>,
    /// Objects are written without `metadata.managedFields`.
    pub omit_managed_fields: bool,
}

/// A policy that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PolicyError(String);

impl Policy {
    /// From the text of the file.
    pub fn read(text: &str) -> Result<Self, PolicyError> {
        let policy: Self = serde_yaml::from_str(text).map_err(|e| PolicyError(e.to_string()))?;
        if policy.kind != "Policy" || policy.api_version != "audit.k8s.io/v1" {
            let found = (&policy.kind, &policy.api_version);
            let text = format!(
                "it is a `{}` of `{}`, not a `Policy` of `audit.k8s.io/v1`",
                found.0, found.1
            );
            return Err(PolicyError(text));
        }
        if policy.rules.is_empty() {
            return Err(PolicyError("loaded illegal policy with 0 rules".to_owned()));
        }
        for (at, rule) in policy.rules.iter().enumerate() {
            rule.check()
                .map_err(|why| PolicyError(format!("rules[{at}]: {why}")))?;
        }
        Ok(policy)
    }

    /// By the first rule that fits; nothing is written where none does.
    pub fn decide(&self, user: &User, info: &RequestInfo) -> Decision {
        let Some(rule) = self.rules.iter().find(|rule| rule.fits(user, info)) else {
            return Decision::default();
        };
        let stages = self.omit_stages.iter().chain(&rule.omit_stages);
        Decision {
            level: rule.level,
            omit_stages: stages.copied().collect(),
            omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
        }
    }
}

impl Rule {
    fn check(&self) -> Result<(), String> {
        let is_of_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if is_of_resources && !self.non_resource_urls.is_empty() {
            return Err(
                "rules cannot apply to both regular resources and non-resource URLs".into(),
            );
        }
        for url in &self.non_resource_urls {
            let stars = url.matches('*').count();
            let is_bad =
                url != "*" && (!url.starts_with('/') || stars > usize::from(url.ends_with('*')));
            if is_bad {
                return Err(format!(
                    "nonResourceURLs: `{url}` must begin with `/`, `*` only at its end"
                ));
            }
        }
        for entry in &self.resources {
            if !entry.resource_names.is_empty() && entry.resources.is_empty() {
                return Err(
                    "resourceNames: must specify resources when resourceNames is specified".into(),
                );
            }
        }
        Ok(())
    }

    fn fits(&self, user: &User, info: &RequestInfo) -> bool {
        let has = |list: &[String], text: &str| list.iter().any(|own| own == text);
        if !self.users.is_empty() && !has(&self.users, &user.name) {
            return false;
        }
        if !self.user_groups.is_empty() && !user.groups.iter().any(|g| has(&self.user_groups, g)) {
            return false;
        }
        if !self.verbs.is_empty() && !has(&self.verbs, &info.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return self.fits_resource(info);
        }
        if !self.non_resource_urls.is_empty() {
            return !info.is_resource
                && self.non_resource_urls.iter().any(|u| covers(u, &info.path));
        }
        true
    }

    fn fits_resource(&self, info: &RequestInfo) -> bool {
        if !info.is_resource {
            return false;
        }
        if !self.namespaces.is_empty() && !self.namespaces.contains(&info.namespace) {
            return false;
        }
        self.resources.is_empty() || self.resources.iter().any(|entry| entry.fits(info))
    }
}

impl GroupResources {
    fn fits(&self, info: &RequestInfo) -> bool {
        if self.group != info.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        if !self.resource_names.is_empty() && !self.resource_names.contains(&info.name) {
            return false;
        }
        let (resource, subresource) = (info.resource.as_str(), info.subresource.as_str());
        self.resources
            .iter()
            .any(|wanted| match wanted.split_once('/') {
                None => wanted == "*" || (wanted == resource && subresource.is_empty()),
                Some((of, "*")) => of == resource,
                Some((of, sub)) => {
                    !subresource.is_empty() && sub == subresource && (of == "*" || of == resource)
                }
            })
    }
}

fn covers(wanted: &str, path: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => wanted == path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(rules: &str) -> Policy {
        let text = format!(
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n{rules}"
        );
        Policy::read(&text).unwrap()
    }

    fn asks(verb: &str, resource: &str, subresource: &str) -> RequestInfo {
        RequestInfo {
            is_resource: true,
            verb: verb.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: "default".into(),
            name: "a".into(),
            ..RequestInfo::default()
        }
    }

    fn user(name: &str, group: &str) -> User {
        User {
            name: name.into(),
            groups: vec![group.into()],
            ..User::default()
        }
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        // The documentation's example, shortened.
        let policy = policy(concat!(
            "- {level: RequestResponse, resources: [{group: '', resources: [pods]}]}\n",
            "- {level: Metadata, resources: [{group: '', resources: [pods/log, pods/status]}]}\n",
            "- {level: None, users: ['system:kube-proxy'], verbs: [watch], resources: [{group: '', resources: [endpoints, services]}]}\n",
            "- {level: None, userGroups: ['system:authenticated'], nonResourceURLs: ['/api*', /version]}\n",
            "- {level: Request, resources: [{group: '', resources: [configmaps], resourceNames: [a]}], namespaces: [kube-system]}\n",
            "- {level: Metadata, omitStages: [ResponseStarted]}\n",
        ));
        let level = |user: &User, info: &RequestInfo| policy.decide(user, info).level;
        let anybody = user("x", "system:authenticated");
        let proxy = user("system:kube-proxy", "g");
        assert_eq!(
            level(&anybody, &asks("get", "pods", "")),
            Level::RequestResponse
        );
        assert_eq!(
            level(&anybody, &asks("get", "pods", "log")),
            Level::Metadata
        );
        assert_eq!(level(&proxy, &asks("watch", "services", "")), Level::None);
        assert_eq!(
            level(&proxy, &asks("list", "services", "")),
            Level::Metadata
        );
        let path = RequestInfo {
            path: "/apis".into(),
            verb: "get".into(),
            ..RequestInfo::default()
        };
        assert_eq!(level(&anybody, &path), Level::None);
        let mut map = asks("update", "configmaps", "");
        assert_eq!(level(&anybody, &map), Level::Metadata);
        map.namespace = "kube-system".into();
        assert_eq!(level(&anybody, &map), Level::Request);
        let stages = policy.decide(&anybody, &path_of("/x")).omit_stages;
        assert_eq!(stages, [Stage::RequestReceived, Stage::ResponseStarted]);
    }

    fn path_of(path: &str) -> RequestInfo {
        RequestInfo {
            path: path.into(),
            ..RequestInfo::default()
        }
    }

    #[test]
    fn stars_stand_for_resources_and_subresources() {
        let fits = |wanted: &str, info: &RequestInfo| {
            let entry = GroupResources {
                resources: vec![wanted.to_owned()],
                ..GroupResources::default()
            };
            entry.fits(info)
        };
        let (pod, log) = (asks("get", "pods", ""), asks("get", "pods", "log"));
        assert!(fits("*", &pod) && fits("*", &log));
        assert!(fits("*/log", &log) && !fits("*/log", &pod));
        assert!(fits("pods/*", &log) && fits("pods/*", &pod));
        assert!(!fits("pods", &log) && !fits("nodes/*", &log));
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        for text in [
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: []",
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Loud}]",
            "apiVersion: audit.k8s.io/v1\nkind: Pod\nrules: [{level: None}]",
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, nonResourceURLs: [a]}]",
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, namespaces: [a], nonResourceURLs: [/a]}]",
        ] {
            assert!(Policy::read(text).is_err(), "{text}");
        }
    }
}
