//! Options of requests (`metav1.ListOptions` and the like): read from query strings and, for a
//! delete, from a body; checked as `k8s.io/apimachinery/pkg/apis/meta/{v1,internalversion}/
//! validation` does.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::selector::{field, label};
use super::status::{ApiError, FieldError};

/// `resourceVersionMatch`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionMatch {
    /// `Exact`
    Exact,
    /// `NotOlderThan`
    NotOlderThan,
}

/// Options of a list, a watch and a deletecollection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// Selects by labels.
    pub label_selector: label::Selector,
    /// Selects by fields.
    pub field_selector: field::Selector,
    /// A watch instead of a list.
    pub watch: bool,
    /// Whether the client understands bookmarks.
    pub allow_watch_bookmarks: bool,
    /// Empty, `0` or a revision.
    pub resource_version: String,
    /// How `resource_version` is meant.
    pub resource_version_match: Option<VersionMatch>,
    /// When the server ends a watch or gives up a list.
    pub timeout_seconds: Option<i64>,
    /// Most objects of a page; 0 for all.
    pub limit: i64,
    /// Where the page before ended (`continue`).
    pub continue_token: String,
    /// Whether a watch begins with the present state.
    pub send_initial_events: Option<bool>,
}

/// Options of a get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GetOptions {
    /// Empty, `0` or a revision the answer must not be older than.
    pub resource_version: String,
}

/// What is done about unknown and duplicate fields of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Dropped.
    Ignore,
    /// Dropped, with a warning each.
    #[default]
    Warn,
    /// An error.
    Strict,
}

/// Options of a create or an update.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Everything but the write itself.
    pub dry_run: bool,
    /// Who is recorded in `managedFields`; empty: the start of the user agent.
    pub field_manager: String,
    /// What is done about unknown fields.
    pub field_validation: FieldValidation,
}

/// Options of a create.
pub type CreateOptions = WriteOptions;
/// Options of an update.
pub type UpdateOptions = WriteOptions;

/// Options of a patch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatchOptions {
    /// What a patch shares with other writes.
    pub write: WriteOptions,
    /// Takes fields over from their managers (apply only).
    pub force: bool,
}

/// What becomes of the objects an object owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They stay, without the owner reference.
    Orphan,
    /// They are deleted after the object.
    Background,
    /// They are deleted before the object.
    Foreground,
}

/// Options of a delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Seconds; the kind's default where absent.
    pub grace_period_seconds: Option<i64>,
    /// Only this object, and only this version of it.
    pub preconditions: Preconditions,
    /// `None`: the kind's default.
    pub propagation: Option<Propagation>,
    /// Everything but the delete itself.
    pub dry_run: bool,
}

/// What must be true of the stored object for a delete to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// `metadata.uid`
    pub uid: Option<String>,
    /// `metadata.resourceVersion`
    pub resource_version: Option<String>,
}

/// The parameters of a query string; the first of several with one name counts.
struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    fn new(text: &'a str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).collect())
    }

    fn raw(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| &**v)
    }

    fn text(&self, name: &str) -> &str {
        self.raw(name).unwrap_or_default()
    }

    fn all(&self, name: &str) -> Vec<&str> {
        self.0
            .iter()
            .filter(|(k, _)| k == name)
            .map(|(_, v)| &**v)
            .collect()
    }

    /// Anything but `0` and `false` is true, as upstream's conversion.
    fn optional_flag(&self, name: &str) -> Option<bool> {
        let value = self.raw(name)?;
        Some(value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    fn flag(&self, name: &str) -> bool {
        self.optional_flag(name).unwrap_or(false)
    }

    fn number(&self, name: &str) -> Result<Option<i64>, ApiError> {
        match self.raw(name) {
            None | Some("") => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!(
                    "strconv.ParseInt: parsing {text:?}: invalid syntax"
                ))
            }),
        }
    }
}

impl GetOptions {
    /// From a query string.
    pub fn from_query(query: &str) -> Self {
        let resource_version = Query::new(query).text("resourceVersion").to_owned();
        Self { resource_version }
    }
}

impl ListOptions {
    /// From a query string, checked.
    pub fn from_query(query: &str) -> Result<Self, ApiError> {
        let query = Query::new(query);
        let bad = |error: &dyn std::fmt::Display| ApiError::bad_request(error.to_string());
        let label_selector = label::Selector::parse(query.text("labelSelector"));
        let field_selector = field::Selector::parse(query.text("fieldSelector"));
        let options = Self {
            label_selector: label_selector.map_err(|e| bad(&e))?,
            field_selector: field_selector.map_err(|e| bad(&e))?,
            watch: query.flag("watch"),
            allow_watch_bookmarks: query.flag("allowWatchBookmarks"),
            resource_version: query.text("resourceVersion").to_owned(),
            resource_version_match: version_match(query.text("resourceVersionMatch")),
            timeout_seconds: query.number("timeoutSeconds")?,
            limit: query.number("limit")?.unwrap_or(0),
            continue_token: query.text("continue").to_owned(),
            send_initial_events: query.optional_flag("sendInitialEvents"),
        };
        let wrong = options.wrong(query.text("resourceVersionMatch"));
        refuse_if_any("ListOptions", wrong).map(|()| options)
    }

    /// The query string of a request with these options; what is at its default is left out.
    pub fn to_query(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let version_match = match self.resource_version_match {
            None => "",
            Some(VersionMatch::Exact) => "Exact",
            Some(VersionMatch::NotOlderThan) => "NotOlderThan",
        };
        let number = |n: i64| if n == 0 { String::new() } else { n.to_string() };
        let flag = |on: bool| if on { "true".to_owned() } else { String::new() };
        let initial = self
            .send_initial_events
            .map_or_else(String::new, |on| on.to_string());
        for (name, value) in [
            ("watch", flag(self.watch)),
            ("allowWatchBookmarks", flag(self.allow_watch_bookmarks)),
            ("sendInitialEvents", initial),
            ("labelSelector", self.label_selector.to_string()),
            ("fieldSelector", self.field_selector.to_string()),
            ("resourceVersion", self.resource_version.clone()),
            ("resourceVersionMatch", version_match.to_owned()),
            ("timeoutSeconds", number(self.timeout_seconds.unwrap_or(0))),
            ("limit", number(self.limit)),
            ("continue", self.continue_token.clone()),
        ] {
            if !value.is_empty() {
                query.append_pair(name, &value);
            }
        }
        query.finish()
    }

    fn wrong(&self, raw_match: &str) -> Vec<FieldError> {
        if self.watch {
            self.wrong_for_watch(raw_match)
        } else {
            self.wrong_for_list(raw_match)
        }
    }

    fn wrong_for_list(&self, raw_match: &str) -> Vec<FieldError> {
        let mut wrong = Vec::new();
        let mut forbid = |field: &str, why: &str| wrong.push(FieldError::forbidden(field, why));
        const FIELD: &str = "resourceVersionMatch";
        if !raw_match.is_empty() {
            if self.resource_version.is_empty() {
                forbid(
                    FIELD,
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                );
            }
            if !self.continue_token.is_empty() {
                forbid(
                    FIELD,
                    "resourceVersionMatch is forbidden when continue is provided",
                );
            }
            if self.resource_version_match == Some(VersionMatch::Exact)
                && self.resource_version == "0"
            {
                forbid(
                    FIELD,
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                );
            }
        }
        if self.send_initial_events.is_some() {
            forbid(
                "sendInitialEvents",
                "sendInitialEvents is forbidden for list",
            );
        }
        if !raw_match.is_empty() && self.resource_version_match.is_none() {
            let supported = ["Exact", "NotOlderThan", ""];
            wrong.push(FieldError::not_supported(
                FIELD,
                &json!(raw_match),
                &supported,
            ));
        }
        wrong
    }

    fn wrong_for_watch(&self, raw_match: &str) -> Vec<FieldError> {
        const FIELD: &str = "resourceVersionMatch";
        let mut wrong = Vec::new();
        let mut forbid = |why: &str| wrong.push(FieldError::forbidden(FIELD, why));
        let not_older = self.resource_version_match == Some(VersionMatch::NotOlderThan);
        if self.send_initial_events.is_some() && !not_older {
            forbid("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        }
        if raw_match.is_empty() {
            return wrong;
        }
        if self.send_initial_events.is_none() {
            forbid(
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            );
        }
        if !self.continue_token.is_empty() {
            forbid("resourceVersionMatch is forbidden when continue is provided");
        }
        if !not_older {
            let supported = ["NotOlderThan"];
            wrong.push(FieldError::not_supported(
                FIELD,
                &json!(raw_match),
                &supported,
            ));
        }
        wrong
    }
}

impl WriteOptions {
    /// Of a create, from a query string.
    pub fn for_create(query: &str) -> Result<Self, ApiError> {
        Self::from_query(query, "CreateOptions")
    }

    /// Of an update, from a query string.
    pub fn for_update(query: &str) -> Result<Self, ApiError> {
        Self::from_query(query, "UpdateOptions")
    }

    fn from_query(query: &str, kind: &str) -> Result<Self, ApiError> {
        let (options, wrong) = Self::read(&Query::new(query));
        refuse_if_any(kind, wrong).map(|()| options)
    }

    fn read(query: &Query<'_>) -> (Self, Vec<FieldError>) {
        let field_manager = query.text("fieldManager").to_owned();
        let mut wrong = wrong_field_manager(&field_manager);
        let dry_run = query.all("dryRun");
        wrong.extend(wrong_dry_run(&dry_run));
        let field_validation = match query.text("fieldValidation") {
            "Ignore" => FieldValidation::Ignore,
            "" | "Warn" => FieldValidation::Warn,
            "Strict" => FieldValidation::Strict,
            other => {
                let supported = ["", "Ignore", "Strict", "Warn"];
                wrong.push(FieldError::not_supported(
                    "fieldValidation",
                    &json!(other),
                    &supported,
                ));
                FieldValidation::Warn
            }
        };
        let options = Self {
            dry_run: dry_run.contains(&"All"),
            field_manager,
            field_validation,
        };
        (options, wrong)
    }
}

impl PatchOptions {
    /// From a query string. `is_apply`: the patch is a server-side apply, which needs a manager
    /// and alone may be forced.
    pub fn from_query(query: &str, is_apply: bool) -> Result<Self, ApiError> {
        let query = Query::new(query);
        let (write, other_wrong) = WriteOptions::read(&query);
        let mut wrong = Vec::new();
        if is_apply && write.field_manager.is_empty() {
            wrong.push(FieldError::required(
                "fieldManager",
                "is required for apply patch",
            ));
        }
        if !is_apply && query.raw("force").is_some() {
            wrong.push(FieldError::forbidden(
                "force",
                "may not be specified for non-apply patch",
            ));
        }
        wrong.extend(other_wrong);
        let force = query.flag("force");
        refuse_if_any("PatchOptions", wrong).map(|()| Self { write, force })
    }
}

impl DeleteOptions {
    /// From the query string, or from a body where there is one (the query then does not count,
    /// as upstream).
    pub fn new(query: &str, body: Option<&Value>) -> Result<Self, ApiError> {
        match body {
            Some(body) => Self::from_body(body),
            None => Self::from_query(query),
        }
    }

    fn from_query(query: &str) -> Result<Self, ApiError> {
        let query = Query::new(query);
        let raw = Raw {
            propagation: query.raw("propagationPolicy").map(str::to_owned),
            orphan: query.optional_flag("orphanDependents"),
            dry_run: query.all("dryRun").into_iter().map(str::to_owned).collect(),
        };
        let options = Self {
            grace_period_seconds: query.number("gracePeriodSeconds")?,
            ..Self::default()
        };
        options.complete(&raw)
    }

    fn from_body(body: &Value) -> Result<Self, ApiError> {
        if !body.is_object() || !matches!(body["kind"].as_str(), None | Some("" | "DeleteOptions"))
        {
            return Err(ApiError::bad_request(
                "decoded object cannot be converted to DeleteOptions",
            ));
        }
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let dry_run = body["dryRun"].as_array().into_iter().flatten();
        let raw = Raw {
            propagation: text(&body["propagationPolicy"]),
            orphan: body["orphanDependents"].as_bool(),
            dry_run: dry_run.filter_map(text).collect(),
        };
        let conditions = &body["preconditions"];
        let options = Self {
            grace_period_seconds: body["gracePeriodSeconds"].as_i64(),
            preconditions: Preconditions {
                uid: text(&conditions["uid"]),
                resource_version: text(&conditions["resourceVersion"]),
            },
            ..Self::default()
        };
        options.complete(&raw)
    }

    fn complete(mut self, raw: &Raw) -> Result<Self, ApiError> {
        const FIELD: &str = "propagationPolicy";
        let mut wrong = Vec::new();
        let policy = raw.propagation.as_deref();
        if let (Some(policy), Some(_)) = (policy, raw.orphan) {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            wrong.push(FieldError::invalid(FIELD, &json!(policy), why));
        }
        self.propagation = match (policy, raw.orphan) {
            (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
            (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (None, None) => None,
            (Some(other), _) => {
                let supported = ["Foreground", "Background", "Orphan", "nil"];
                wrong.push(FieldError::not_supported(FIELD, &json!(other), &supported));
                None
            }
        };
        let dry_run: Vec<_> = raw.dry_run.iter().map(String::as_str).collect();
        wrong.extend(wrong_dry_run(&dry_run));
        self.dry_run = dry_run.contains(&"All");
        refuse_if_any("DeleteOptions", wrong).map(|()| self)
    }
}

/// Options of a delete that are read alike from a query and a body.
struct Raw {
    propagation: Option<String>,
    orphan: Option<bool>,
    dry_run: Vec<String>,
}

fn version_match(text: &str) -> Option<VersionMatch> {
    match text {
        "Exact" => Some(VersionMatch::Exact),
        "NotOlderThan" => Some(VersionMatch::NotOlderThan),
        _ => None,
    }
}

fn wrong_field_manager(manager: &str) -> Vec<FieldError> {
    const MOST: usize = 128;
    let mut wrong = Vec::new();
    if manager.len() > MOST {
        wrong.push(FieldError::too_long("fieldManager", MOST));
    }
    if let Some((at, c)) = manager.char_indices().find(|(_, c)| c.is_control()) {
        let why = format!(
            "invalid character U+{:04X} (at position {at})",
            u32::from(c)
        );
        wrong.push(FieldError::invalid("fieldManager", &json!(manager), &why));
    }
    wrong
}

fn wrong_dry_run(values: &[&str]) -> Option<FieldError> {
    let all_known = values.iter().all(|value| *value == "All");
    (!all_known).then(|| FieldError::not_supported("dryRun", &json!(values), &["All"]))
}

fn refuse_if_any(kind: &str, wrong: Vec<FieldError>) -> Result<(), ApiError> {
    if wrong.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid("meta.k8s.io", kind, "", &wrong))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_options_are_read_and_written() {
        let query = "watch=1&labelSelector=a%3Db&fieldSelector=metadata.name%3Dx&limit=5\
                     &timeoutSeconds=9&allowWatchBookmarks=true&resourceVersion=7&continue=t";
        let options = ListOptions::from_query(query).unwrap();
        assert!(options.watch && options.allow_watch_bookmarks);
        assert_eq!((options.limit, options.timeout_seconds), (5, Some(9)));
        assert_eq!(
            ListOptions::from_query(&options.to_query()).unwrap(),
            options
        );
        assert_eq!(ListOptions::default().to_query(), "");
        assert!(!ListOptions::from_query("watch=false").unwrap().watch);
        assert!(ListOptions::from_query("watch").unwrap().watch);
        assert_eq!(ListOptions::from_query("limit=x").unwrap_err().code, 400);
    }

    #[test]
    fn version_match_rules_are_upstreams() {
        let message = |query: &str| ListOptions::from_query(query).unwrap_err().message;
        assert_eq!(
            message("resourceVersionMatch=Exact"),
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: \
             resourceVersionMatch is forbidden unless resourceVersion is provided"
        );
        assert!(
            message("resourceVersionMatch=Exact&resourceVersion=0")
                .contains("\"exact\" is forbidden")
        );
        assert!(
            message("resourceVersionMatch=x&resourceVersion=1").contains(
                "Unsupported value: \"x\": supported values: \"Exact\", \"NotOlderThan\", \"\""
            )
        );
        assert!(
            message("watch=1&resourceVersionMatch=NotOlderThan")
                .contains("unless sendInitialEvents")
        );
        assert!(message("watch=1&sendInitialEvents=true").contains("requires setting"));
        assert!(message("sendInitialEvents=true").contains("forbidden for list"));
        let fine = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        assert_eq!(
            ListOptions::from_query(fine).unwrap().send_initial_events,
            Some(true)
        );
    }

    #[test]
    fn write_options_are_checked() {
        let options = WriteOptions::for_create("dryRun=All&fieldManager=me&fieldValidation=Strict");
        let options = options.unwrap();
        assert!(options.dry_run && options.field_validation == FieldValidation::Strict);
        assert_eq!(
            WriteOptions::for_update("dryRun=Some").unwrap_err().message,
            "UpdateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: \
             supported values: \"All\""
        );
        assert!(
            PatchOptions::from_query("", true)
                .unwrap_err()
                .message
                .contains("fieldManager: Required")
        );
        assert!(PatchOptions::from_query("force=true", false).is_err());
        assert!(
            PatchOptions::from_query("force=true&fieldManager=a", true)
                .unwrap()
                .force
        );
    }

    #[test]
    fn delete_options_come_from_body_before_query() {
        let body = json!({"kind": "DeleteOptions", "propagationPolicy": "Foreground",
            "gracePeriodSeconds": 0, "preconditions": {"uid": "u"}});
        let options = DeleteOptions::new("propagationPolicy=Orphan", Some(&body)).unwrap();
        assert_eq!(options.propagation, Some(Propagation::Foreground));
        assert_eq!(options.grace_period_seconds, Some(0));
        assert_eq!(options.preconditions.uid.as_deref(), Some("u"));
        let both = json!({"propagationPolicy": "Orphan", "orphanDependents": true});
        assert!(
            DeleteOptions::new("", Some(&both))
                .unwrap_err()
                .message
                .contains("cannot be both set")
        );
        let options = DeleteOptions::new("orphanDependents=true", None).unwrap();
        assert_eq!(options.propagation, Some(Propagation::Orphan));
    }
}
