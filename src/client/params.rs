//! Options of requests and their forms as query strings and bodies.

use serde_json::{Value, json};

/// What to list, watch or delete together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListParams {
    /// For instance `app=web,tier!=db`; empty selects all.
    pub labels: String,
    /// For instance `spec.nodeName=worker1`; empty selects all.
    pub fields: String,
    /// Most objects a page; 0: all at once.
    pub limit: u32,
    /// The token of the page to go on with; empty for the first.
    pub continue_token: String,
    /// `resourceVersion` to read at; empty: the newest.
    pub revision: String,
    /// `Exact` or `NotOlderThan`; empty with an empty `revision`.
    pub revision_match: String,
}

impl ListParams {
    /// By labels.
    pub fn labels(selector: &str) -> Self {
        Self {
            labels: selector.to_owned(),
            ..Self::default()
        }
    }

    /// By fields.
    pub fn fields(selector: &str) -> Self {
        Self {
            fields: selector.to_owned(),
            ..Self::default()
        }
    }

    pub(super) fn query(&self) -> Query {
        let limit = if self.limit == 0 {
            String::new()
        } else {
            self.limit.to_string()
        };
        Query::default()
            .with("labelSelector", &self.labels)
            .with("fieldSelector", &self.fields)
            .with("limit", &limit)
            .with("continue", &self.continue_token)
            .with("resourceVersion", &self.revision)
            .with("resourceVersionMatch", &self.revision_match)
    }

    pub(super) fn watch_query(&self, revision: &str, timeout_seconds: u32) -> Query {
        Query::default()
            .with("watch", "true")
            .with("allowWatchBookmarks", "true")
            .with("labelSelector", &self.labels)
            .with("fieldSelector", &self.fields)
            .with("resourceVersion", revision)
            .with("timeoutSeconds", &timeout_seconds.to_string())
    }
}

/// What happens to what an object owns when it is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// The object goes at once, what it owns follows.
    Background,
    /// What it owns goes first.
    Foreground,
    /// What it owns stays.
    Orphan,
}

/// How to delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteParams {
    /// Seconds the object has to end; `None`: the kind's default.
    pub grace_period_seconds: Option<i64>,
    /// `None`: the kind's default.
    pub propagation: Option<Propagation>,
    /// Only the object with this uid.
    pub uid: Option<String>,
    /// Only at this revision.
    pub revision: Option<String>,
}

impl DeleteParams {
    /// Only the object with this uid.
    pub fn uid(uid: &str) -> Self {
        Self {
            uid: Some(uid.to_owned()),
            ..Self::default()
        }
    }

    /// At once, without grace.
    pub fn now() -> Self {
        Self {
            grace_period_seconds: Some(0),
            ..Self::default()
        }
    }

    pub(super) fn body(&self) -> Value {
        let mut body = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if let Some(seconds) = self.grace_period_seconds {
            body["gracePeriodSeconds"] = seconds.into();
        }
        if let Some(propagation) = self.propagation {
            body["propagationPolicy"] = format!("{propagation:?}").into();
        }
        if let Some(uid) = &self.uid {
            body["preconditions"]["uid"] = uid.as_str().into();
        }
        if let Some(revision) = &self.revision {
            body["preconditions"]["resourceVersion"] = revision.as_str().into();
        }
        body
    }
}

/// A change to part of an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Patch {
    /// RFC 6902 operations.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' merge patch that knows lists by their keys.
    Strategic(Value),
    /// Server-side apply.
    Apply {
        /// Who owns the fields.
        manager: String,
        /// Whether to take fields from other owners.
        force: bool,
        /// The whole wish: `apiVersion`, `kind`, `metadata.name` and the fields.
        body: Value,
    },
}

impl Patch {
    pub(super) fn content_type(&self) -> &'static str {
        match self {
            Patch::Json(_) => "application/json-patch+json",
            Patch::Merge(_) => "application/merge-patch+json",
            Patch::Strategic(_) => "application/strategic-merge-patch+json",
            Patch::Apply { .. } => "application/apply-patch+yaml",
        }
    }

    pub(super) fn body(&self) -> &Value {
        match self {
            Patch::Json(body) | Patch::Merge(body) | Patch::Strategic(body) => body,
            Patch::Apply { body, .. } => body,
        }
    }

    pub(super) fn query(&self) -> Query {
        match self {
            Patch::Apply { manager, force, .. } => Query::default()
                .with("fieldManager", manager)
                .with("force", if *force { "true" } else { "" }),
            _ => Query::default(),
        }
    }
}

/// A query string; empty values are left out.
#[derive(Clone, Debug, Default)]
pub(super) struct Query(String);

impl Query {
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        if !value.is_empty() {
            self.0.push(if self.0.is_empty() { '?' } else { '&' });
            let pair = form_urlencoded::Serializer::new(String::new())
                .append_pair(name, value)
                .finish();
            self.0.push_str(&pair);
        }
        self
    }

    pub(super) fn after(&self, path: &str) -> String {
        format!("{path}{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_escape_values_and_leave_out_empty_ones() {
        let params = ListParams {
            limit: 5,
            ..ListParams::labels("a in (b,c)")
        };
        assert_eq!(
            params.query().after("/x"),
            "/x?labelSelector=a+in+%28b%2Cc%29&limit=5"
        );
        assert_eq!(ListParams::default().query().after("/x"), "/x");
    }

    #[test]
    fn delete_options_carry_only_what_was_asked() {
        let params = DeleteParams {
            propagation: Some(Propagation::Orphan),
            ..DeleteParams::uid("u")
        };
        let expected = json!({"kind": "DeleteOptions", "apiVersion": "v1",
            "propagationPolicy": "Orphan", "preconditions": {"uid": "u"}});
        assert_eq!(params.body(), expected);
    }
}
