//! `serviceaccounts/token`: a signed, bound, short-lived token for a service account
//! (`pkg/registry/core/serviceaccount/storage.TokenREST`).

use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::api::object::{Object, child_mut};
use crate::api::options::WriteOptions;
use crate::api::status::{ApiError, FieldError};
use crate::api::time;
use crate::client::Body;
use crate::server::admission::{Attributes, Operation};
use crate::server::rest::call::{Call, named_type, read_body};
use crate::server::rest::{Core, errors, render};

const SECONDS_MIN: i64 = 600;
const SECONDS_MAX: i64 = 1 << 32;
const SECONDS_DEFAULT: i64 = 3600;

/// An object by name and uid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameAndUid {
    /// Its name.
    pub name: String,
    /// Its uid; empty where it is not known.
    pub uid: String,
}

/// What a token shall say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenWish {
    /// Of the service account.
    pub namespace: String,
    /// The service account.
    pub service_account: NameAndUid,
    /// The Pod it is bound to.
    pub pod: Option<NameAndUid>,
    /// The Secret it is bound to.
    pub secret: Option<NameAndUid>,
    /// The Node it is bound to, or where the Pod runs.
    pub node: Option<NameAndUid>,
    /// Whom it is for; never empty.
    pub audiences: Vec<String>,
    /// How long it is good.
    pub lifetime_seconds: i64,
    /// Its own name, a UUID.
    pub id: String,
}

/// Signs tokens.
pub trait TokenIssuer: Send + Sync + 'static {
    /// Whom a token is for that says nothing else.
    fn audience(&self) -> String;

    /// A signed token that begins `now`.
    fn issue(&self, wish: &TokenWish, now: Timestamp) -> Result<String, ApiError>;
}

pub(in crate::server::rest) async fn issue(
    core: &Core,
    call: &Call,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::for_create(&call.query)?;
    let ty = named_type("authentication.v1.TokenRequest")?;
    let mut request = call.decode_as(&read_body(body).await?, ty, &options)?;
    let name = &call.info.name;
    if !request.name().is_empty() && request.name() != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({name})",
            request.name()
        )));
    }
    let account = core.fresh(&call.def, &call.local_key()).await?;
    let account = account.ok_or_else(|| errors::not_found(&call.def, name))?;
    let account = account.object().map_err(ApiError::internal)?;
    let attributes = Attributes {
        subresource: "token",
        dry_run: options.dry_run,
        ..call.attributes(Operation::Create, name)
    };
    core.admission.mutate(&attributes, &mut request).await?;
    let lifetime_seconds = lifetime(&request)?;
    core.admission.validate(&attributes, Some(&request)).await?;
    let mut wish = TokenWish {
        namespace: call.namespace().to_owned(),
        service_account: name_and_uid(&account),
        audiences: audiences(&request, core.tokens.audience()),
        lifetime_seconds,
        id: core.rng.uid(),
        ..TokenWish::default()
    };
    bind(core, call, &request, &mut wish).await?;
    let now = core.clock.now();
    let token = core.tokens.issue(&wish, now)?;
    let end = now.saturating_add(SignedDuration::from_secs(lifetime_seconds));
    let meta = request.metadata_mut();
    meta.insert("name".into(), name.as_str().into());
    meta.insert("namespace".into(), call.namespace().into());
    meta.insert("creationTimestamp".into(), time::seconds(now).into());
    let spec = child_mut(&mut request.0, "spec");
    spec.insert("audiences".into(), wish.audiences.into());
    spec.insert("expirationSeconds".into(), lifetime_seconds.into());
    let expires = time::seconds(end.map_err(ApiError::internal)?);
    let status = json!({"token": token, "expirationTimestamp": expires});
    request.0.insert("status".into(), status);
    let renderer = call.renderer(core);
    let json = serde_json::to_vec(&request.0).map_err(ApiError::internal)?;
    let body = render::encode(json.into(), renderer.output.encoding)?;
    Ok(renderer.respond(StatusCode::CREATED, body))
}

fn lifetime(request: &Object) -> Result<i64, ApiError> {
    const FIELD: &str = "spec.expirationSeconds";
    let wanted = request.at(&["spec", "expirationSeconds"]);
    let seconds = wanted.and_then(Value::as_i64).unwrap_or(SECONDS_DEFAULT);
    let why = match seconds {
        ..SECONDS_MIN => "may not specify a duration less than 10 minutes",
        SECONDS_MIN..=SECONDS_MAX => return Ok(seconds),
        _ => "may not specify a duration larger than 2^32 seconds",
    };
    let error = FieldError::invalid(FIELD, &seconds.into(), why);
    let (group, kind) = ("authentication.k8s.io", "TokenRequest");
    Err(ApiError::invalid(group, kind, request.name(), &[error]))
}

fn audiences(request: &Object, default: String) -> Vec<String> {
    let wanted = request.at(&["spec", "audiences"]).and_then(Value::as_array);
    let wanted: Vec<String> = wanted
        .into_iter()
        .flatten()
        .filter_map(|audience| audience.as_str().map(str::to_owned))
        .collect();
    if wanted.is_empty() {
        vec![default]
    } else {
        wanted
    }
}

fn name_and_uid(object: &Object) -> NameAndUid {
    NameAndUid {
        name: object.name().to_owned(),
        uid: object.uid().to_owned(),
    }
}

/// Ties the token to the object the request names, which must be there.
async fn bind(
    core: &Core,
    call: &Call,
    request: &Object,
    wish: &mut TokenWish,
) -> Result<(), ApiError> {
    let bound = |field: &str| request.text_at(&["spec", "boundObjectRef", field]);
    if request.at(&["spec", "boundObjectRef"]).is_none() {
        return Ok(());
    }
    let (kind, name, uid) = (bound("kind"), bound("name"), bound("uid"));
    let (resource, namespace) = match (bound("apiVersion"), kind) {
        ("v1" | "", "Pod") => ("pods", call.namespace()),
        ("v1" | "", "Secret") => ("secrets", call.namespace()),
        ("v1" | "", "Node") => ("nodes", ""),
        (version, kind) => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount to object with apiVersion {version} and \
                 kind {kind}"
            )));
        }
    };
    let found = find(core, resource, namespace, name).await?;
    let found = found.ok_or_else(|| ApiError::not_found("", resource, name))?;
    if !uid.is_empty() && uid != found.uid() {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. \
             The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict("", resource, name, &why));
    }
    let reference = name_and_uid(&found);
    match kind {
        "Pod" => {
            let account = found.text_at(&["spec", "serviceAccountName"]);
            if account != wish.service_account.name {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount \"{}\" to pod running with different \
                     serviceaccount name.",
                    wish.service_account.name
                )));
            }
            let node = found.text_at(&["spec", "nodeName"]);
            if !node.is_empty() {
                let uid = find(core, "nodes", "", node).await?;
                wish.node = Some(NameAndUid {
                    name: node.to_owned(),
                    uid: uid.map(|node| node.uid().to_owned()).unwrap_or_default(),
                });
            }
            wish.pod = Some(reference);
        }
        "Secret" => wish.secret = Some(reference),
        _ => wish.node = Some(reference),
    }
    Ok(())
}

async fn find(
    core: &Core,
    resource: &str,
    namespace: &str,
    name: &str,
) -> Result<Option<Object>, ApiError> {
    let registry = core.registry.snapshot();
    let Some(def) = registry.find("", "v1", resource) else {
        return Ok(None);
    };
    let key = crate::server::storage::keys::local(namespace, name);
    let item = core.fresh(def, &key).await?;
    item.map(|item| item.object().map_err(ApiError::internal))
        .transpose()
}
