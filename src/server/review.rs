//! Virtual resources that ask about identities and permissions: TokenReview, SelfSubjectReview,
//! the SubjectAccessReview family, SelfSubjectRulesReview. Nothing is stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value, json};

use crate::api::codec::{self, Expect, MediaType, Mode};
use crate::api::gvk::GroupVersionKind;
use crate::api::object::{Object, child_mut};
use crate::api::schema;
use crate::api::status::{ApiError, FieldError};
use crate::server::authn::Authn;
use crate::server::authz::rbac::Rule;
use crate::server::authz::{Attributes, Authz, Verdict};
use crate::server::request::{RequestInfo, User};

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";
/// As the largest object.
const BODY_BYTES_MAX: usize = 3 << 20;

/// Answers reviews.
#[derive(Debug)]
pub struct Review {
    authn: Arc<Authn>,
    authz: Arc<Authz>,
}

impl Review {
    /// Asks these two.
    pub fn new(authn: Arc<Authn>, authz: Arc<Authz>) -> Self {
        Self { authn, authz }
    }

    /// Whether a request is for here.
    pub fn serves(&self, info: &RequestInfo) -> bool {
        let is_review = match info.group.as_str() {
            AUTHENTICATION => matches!(
                info.resource.as_str(),
                "tokenreviews" | "selfsubjectreviews"
            ),
            AUTHORIZATION => matches!(
                info.resource.as_str(),
                "subjectaccessreviews"
                    | "localsubjectaccessreviews"
                    | "selfsubjectaccessreviews"
                    | "selfsubjectrulesreviews"
            ),
            _ => false,
        };
        is_review && info.version == "v1" && info.verb == "create" && info.subresource.is_empty()
    }

    /// The review with its status filled in.
    pub fn answer(
        &self,
        info: &RequestInfo,
        user: &User,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Value, ApiError> {
        let mut review = decode(headers, body, info)?;
        let kind = kind_of(&info.resource);
        check_kind(&review, info, kind)?;
        let status = match info.resource.as_str() {
            "tokenreviews" => self.token(&review)?,
            "selfsubjectreviews" => json!({"userInfo": user_info(user)}),
            "selfsubjectrulesreviews" => self.rules(&review, user)?,
            "selfsubjectaccessreviews" => self.access(&review, kind, Some(user), "")?,
            "localsubjectaccessreviews" => self.access(&review, kind, None, &info.namespace)?,
            _ => self.access(&review, kind, None, "")?,
        };
        review
            .0
            .insert("apiVersion".into(), format!("{}/v1", info.group).into());
        review.0.insert("kind".into(), kind.into());
        let metadata = child_mut(&mut review.0, "metadata");
        metadata.entry("creationTimestamp").or_insert(Value::Null);
        review.0.insert("status".into(), status);
        Ok(review.into_value())
    }

    fn token(&self, review: &Object) -> Result<Value, ApiError> {
        let token = review.text_at(&["spec", "token"]);
        if token.is_empty() {
            let message = "token is required for TokenReview in authentication";
            return Err(ApiError::bad_request(message));
        }
        let audiences = texts(review.at(&["spec", "audiences"]));
        Ok(match self.authn.token(token, &audiences) {
            Ok((user, shared)) => {
                json!({"authenticated": true, "user": user_info(&user), "audiences": shared})
            }
            Err(refused) => json!({"user": {}, "error": refused.to_string()}),
        })
    }

    fn access(
        &self,
        review: &Object,
        kind: &str,
        caller: Option<&User>,
        namespace: &str,
    ) -> Result<Value, ApiError> {
        let spec = review.spec().cloned().unwrap_or_default();
        let errors = check_access(&spec, caller.is_none(), namespace);
        if !errors.is_empty() {
            return Err(ApiError::invalid(
                AUTHORIZATION,
                kind,
                review.name(),
                &errors,
            ));
        }
        let user = match caller {
            Some(user) => user.clone(),
            None => spec_user(&spec),
        };
        let info = asked_info(&spec);
        let field_selector = asked_selector(&spec);
        let asked = Attributes {
            user: &user,
            info: &info,
            field_selector: &field_selector,
        };
        let (allowed, reason) = match self.authz.authorize(&asked) {
            Verdict::Allowed(reason) => (true, reason),
            Verdict::NotAllowed(reason) => (false, reason),
        };
        let mut status = json!({"allowed": allowed});
        if !reason.is_empty() {
            status["reason"] = reason.into();
        }
        Ok(status)
    }

    fn rules(&self, review: &Object, user: &User) -> Result<Value, ApiError> {
        let namespace = review.text_at(&["spec", "namespace"]);
        if namespace.is_empty() {
            return Err(ApiError::bad_request("no namespace on request"));
        }
        let rules = self.authz.rules_for(user, namespace);
        let (paths, resources): (Vec<_>, Vec<_>) = rules
            .iter()
            .partition(|rule| !rule.non_resource_urls.is_empty());
        Ok(json!({
            "resourceRules": resources.into_iter().map(resource_rule).collect::<Vec<_>>(),
            "nonResourceRules": paths
                .into_iter()
                .map(|rule| json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}))
                .collect::<Vec<_>>(),
            "incomplete": false,
        }))
    }
}

fn resource_rule(rule: &Rule) -> Value {
    let mut value = json!({
        "verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources,
    });
    if !rule.resource_names.is_empty() {
        value["resourceNames"] = json!(rule.resource_names);
    }
    value
}

fn kind_of(resource: &str) -> &'static str {
    match resource {
        "tokenreviews" => "TokenReview",
        "selfsubjectreviews" => "SelfSubjectReview",
        "selfsubjectrulesreviews" => "SelfSubjectRulesReview",
        "selfsubjectaccessreviews" => "SelfSubjectAccessReview",
        "localsubjectaccessreviews" => "LocalSubjectAccessReview",
        _ => "SubjectAccessReview",
    }
}

fn decode(headers: &HeaderMap, body: &[u8], info: &RequestInfo) -> Result<Object, ApiError> {
    let content_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let media = MediaType::of(content_type.unwrap_or_default()).ok_or_else(|| {
        ApiError::unsupported_media_type(&["application/json", "application/yaml"])
    })?;
    let kind = GroupVersionKind::new(&info.group, &info.version, kind_of(&info.resource));
    let ty = schema::type_for(&kind).ok_or_else(ApiError::no_such_path)?;
    let expect = Expect {
        ty,
        mode: Mode::Ignore,
        bytes_max: BODY_BYTES_MAX,
    };
    Ok(codec::decode(body, media, &expect)?.0)
}

/// A body may leave its kind out, as upstream, but not contradict the path.
fn check_kind(review: &Object, info: &RequestInfo, kind: &str) -> Result<(), ApiError> {
    let api_version = format!("{}/v1", info.group);
    let fits = |own: &str, wanted: &str| own.is_empty() || own == wanted;
    if fits(review.kind(), kind) && fits(review.api_version(), &api_version) {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "the body is a `{}` of `{}`, the path takes a `{kind}` of `{api_version}`",
        review.kind(),
        review.api_version(),
    )))
}

/// `ValidateSubjectAccessReviewSpec` and its siblings.
fn check_access(spec: &Map<String, Value>, needs_user: bool, namespace: &str) -> Vec<FieldError> {
    let null = &Value::Null;
    let field = |name: &str| spec.get(name).filter(|value| !value.is_null());
    let (resource, path) = (field("resourceAttributes"), field("nonResourceAttributes"));
    let mut errors = Vec::new();
    match (resource, path) {
        (Some(_), Some(path)) => errors.push(FieldError::invalid(
            "spec.nonResourceAttributes",
            path,
            "cannot be specified in combination with resourceAttributes",
        )),
        (None, None) => errors.push(FieldError::invalid(
            "spec.resourceAttributes",
            null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => {}
    }
    let has_groups = field("groups")
        .and_then(Value::as_array)
        .is_some_and(|g| !g.is_empty());
    if needs_user && text(spec, "user").is_empty() && !has_groups {
        let detail = "at least one of user or group must be specified";
        errors.push(FieldError::invalid("spec.user", &json!(""), detail));
    }
    if !namespace.is_empty() {
        let own = resource.and_then(|r| r.get("namespace")).unwrap_or(null);
        if own.as_str() != Some(namespace) {
            let detail = "must match metadata.namespace";
            errors.push(FieldError::invalid(
                "spec.resourceAttributes.namespace",
                own,
                detail,
            ));
        }
    }
    errors
}

fn spec_user(spec: &Map<String, Value>) -> User {
    let extra = spec.get("extra").and_then(Value::as_object);
    User {
        name: text(spec, "user").to_owned(),
        uid: text(spec, "uid").to_owned(),
        groups: texts(spec.get("groups")),
        extra: extra
            .into_iter()
            .flatten()
            .map(|(key, values)| (key.clone(), texts(Some(values))))
            .collect::<BTreeMap<_, _>>(),
    }
}

fn asked_info(spec: &Map<String, Value>) -> RequestInfo {
    if let Some(path) = spec.get("nonResourceAttributes").and_then(Value::as_object) {
        return RequestInfo {
            verb: text(path, "verb").to_owned(),
            path: text(path, "path").to_owned(),
            ..RequestInfo::default()
        };
    }
    let empty = Map::new();
    let resource = spec.get("resourceAttributes").and_then(Value::as_object);
    let resource = resource.unwrap_or(&empty);
    RequestInfo {
        is_resource: true,
        verb: text(resource, "verb").to_owned(),
        group: text(resource, "group").to_owned(),
        version: text(resource, "version").to_owned(),
        resource: text(resource, "resource").to_owned(),
        subresource: text(resource, "subresource").to_owned(),
        namespace: text(resource, "namespace").to_owned(),
        name: text(resource, "name").to_owned(),
        ..RequestInfo::default()
    }
}

/// The field selector of a review as text: raw, or its `In` requirements of one value.
fn asked_selector(spec: &Map<String, Value>) -> String {
    let selector = spec
        .get("resourceAttributes")
        .and_then(|r| r.get("fieldSelector"));
    let Some(selector) = selector.and_then(Value::as_object) else {
        return String::new();
    };
    let requirements = selector.get("requirements").and_then(Value::as_array);
    let terms: Vec<_> = requirements
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
        .filter(|term| text(term, "operator") == "In")
        .filter_map(|term| match &texts(term.get("values"))[..] {
            [value] => Some(format!("{}={value}", text(term, "key"))),
            _ => None,
        })
        .collect();
    match text(selector, "rawSelector") {
        "" => terms.join(","),
        raw => raw.to_owned(),
    }
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

fn text<'a>(map: &'a Map<String, Value>, field: &str) -> &'a str {
    map.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn texts(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}
