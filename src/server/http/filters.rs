//! The filters of a request in their order, and who serves it in the end.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use serde_json::json;

use crate::api::status::ApiError;
use crate::client::{Body, body_from, empty_body};
use crate::server::audit::Trail;
use crate::server::authn::{self, Impersonation, Peer, Refused};
use crate::server::authz::{Attributes, Verdict};
use crate::server::http::{
    BODY_BYTES_MAX, DEADLINE, Inner, openapi, respond, route, stream, tunnel,
};
use crate::server::join;
use crate::server::request::{RequestInfo, User};
use crate::server::scheduler::explain;

/// What clients show as the server's version: the Kubernetes minor whose API this is.
const MINOR: &str = "37";

/// By which FlowSchema and level a request was let in.
const FLOW_SCHEMA_UID: &str = "x-kubernetes-pf-flowschema-uid";
const PRIORITY_LEVEL_UID: &str = "x-kubernetes-pf-prioritylevel-uid";

impl Inner {
    pub(super) async fn serve(
        &self,
        info: &RequestInfo,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        if let Some(response) = self.open_path(info, &mut request).await? {
            return Ok(response);
        }
        let trail = request.extensions().get::<Arc<Trail>>().cloned();
        let trail = trail.as_deref();
        let user = self.user(info, &mut request, trail).await?;
        let query = request.uri().query().unwrap_or_default();
        let field_selector = field_selector(query);
        let asked = Attributes {
            user: &user,
            info,
            field_selector: &field_selector,
        };
        self.authorize(&asked, trail)?;
        let table = self.parts.registry.snapshot();
        let def = table.find(&info.group, &info.version, &info.resource);
        if def.is_some_and(|def| route::is_misplaced(info, def.is_namespaced())) {
            return Err(ApiError::no_such_path());
        }
        if route::is_long_running(info) {
            return self.long_running(info, user, request).await;
        }
        let place = self.flow.enter(info, &user).await?;
        let answer = tokio::time::timeout(DEADLINE, self.short(info, user, request)).await;
        let answer = answer.unwrap_or_else(|_| {
            Err(ApiError::timeout(
                "request did not complete within the allotted timeout",
            ))
        });
        answer.map(|mut response| {
            let (schema, level) = &place.uids;
            for (name, uid) in [(FLOW_SCHEMA_UID, schema), (PRIORITY_LEVEL_UID, level)] {
                if let (false, Ok(uid)) = (uid.is_empty(), HeaderValue::from_str(uid)) {
                    response.headers_mut().insert(name, uid);
                }
            }
            response
        })
    }

    /// Who asks, or whom they act as.
    async fn user(
        &self,
        info: &RequestInfo,
        request: &mut Request<Body>,
        trail: Option<&Trail>,
    ) -> Result<User, ApiError> {
        let user = match request.extensions_mut().remove::<User>() {
            Some(user) => {
                if let Some(trail) = trail {
                    trail.begin(&user).await;
                }
                return Ok(user);
            }
            None => self.remote_user(info, request),
        };
        match (user, trail) {
            (Ok(user), trail) => {
                if let Some(trail) = trail {
                    trail.begin(&user).await;
                }
                self.acting_as(user, request, trail)
            }
            (Err(error), Some(trail)) => {
                trail.refused(&error).await;
                Err(error)
            }
            (Err(error), None) => Err(error),
        }
    }

    fn authorize(&self, asked: &Attributes<'_>, trail: Option<&Trail>) -> Result<(), ApiError> {
        let verdict = self.parts.authz.authorize(asked);
        if let Some(trail) = trail {
            let (decision, reason) = match &verdict {
                Verdict::Allowed(reason) => ("allow", reason),
                Verdict::NotAllowed(reason) => ("forbid", reason),
            };
            trail.annotate("authorization.k8s.io/decision", decision);
            trail.annotate("authorization.k8s.io/reason", reason);
        }
        match verdict {
            Verdict::Allowed(_) => Ok(()),
            Verdict::NotAllowed(why) => Err(asked.forbidden(&why)),
        }
    }

    /// What is answered without credentials: health, version, and how to join.
    async fn open_path(
        &self,
        info: &RequestInfo,
        request: &mut Request<Body>,
    ) -> Result<Option<Response<Body>>, ApiError> {
        if info.is_resource {
            return Ok(None);
        }
        let query = request.uri().query().unwrap_or_default();
        if info.verb == "get" || info.verb == "head" {
            if let Some(response) = self.parts.health.serve(&info.path, query).await {
                return Ok(Some(response));
            }
            match info.path.trim_end_matches('/') {
                "/version" => return Ok(Some(version())),
                "/cacerts" => {
                    let pem = self.parts.ca_pem.clone();
                    return Ok(Some(respond::whole(
                        StatusCode::OK,
                        "application/x-pem-file",
                        pem,
                    )));
                }
                _ => return Ok(None),
            }
        }
        if info.verb == "post" && info.path == join::JOIN_PATH {
            let bearer = authn::take_bearer(request.headers_mut());
            let work = async {
                let body = read_body(request).await?;
                self.parts.join.join(bearer.as_deref(), &body).await
            };
            let answer = tokio::time::timeout(DEADLINE, work).await;
            let answer = answer.unwrap_or_else(|_| Err(ApiError::timeout("join took too long")))?;
            return Ok(Some(respond::json(StatusCode::OK, &answer)));
        }
        Ok(None)
    }

    /// Who sent a request over a socket.
    fn remote_user(
        &self,
        info: &RequestInfo,
        request: &mut Request<Body>,
    ) -> Result<User, ApiError> {
        let bearer = authn::take_bearer(request.headers_mut());
        let peer = request.extensions().get::<Arc<Peer>>().cloned();
        self.parts
            .authn
            .authenticate(peer.as_deref(), bearer.as_deref())
            .map_err(|refused| self.unauthorized(info, &refused))
    }

    /// `user`, or whom the headers say they act as, where they may.
    fn acting_as(
        &self,
        user: User,
        request: &mut Request<Body>,
        trail: Option<&Trail>,
    ) -> Result<User, ApiError> {
        match Impersonation::take(request.headers_mut()) {
            Impersonation::None => Ok(user),
            Impersonation::Incomplete => Err(ApiError::bad_request(
                "requested groups, uid or extras without impersonating a user: the header \
                 `Impersonate-User` is missing",
            )),
            Impersonation::As(wanted) => {
                for need in &wanted.needs {
                    self.parts.authz.require(&Attributes {
                        user: &user,
                        info: need,
                        field_selector: "",
                    })?;
                }
                if let Some(trail) = trail {
                    trail.acting_as(&wanted.user);
                }
                Ok(wanted.user)
            }
        }
    }

    /// DEVIATION: upstream treats a request without credentials as `system:anonymous` and answers
    /// 403; here only health and version are open, and 401 tells what is missing.
    fn unauthorized(&self, info: &RequestInfo, refused: &Refused) -> ApiError {
        tracing::debug!(path = info.path, why = %refused, "unauthenticated");
        ApiError {
            message: format!("Unauthorized: {refused}"),
            ..ApiError::unauthorized()
        }
    }

    /// Watches, logs, exec, snapshots and the like: no deadline, ended when the server stops.
    async fn long_running(
        &self,
        info: &RequestInfo,
        user: User,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let open = stream::Open::new(self.observed.open(info));
        let response = if !info.is_resource {
            self.parts.snapshots.serve().await?
        } else if route::leads_to_node(info) {
            let query = request.uri().query().unwrap_or_default();
            self.parts.rest.admit(info, &user, query).await?;
            self.parts.nodes.handle(info.clone(), user, request).await?
        } else {
            self.parts.rest.handle(info.clone(), user, request).await?
        };
        let stopping = self.stopping.clone();
        Ok(response.map(|body| stream::until(body, stopping, open)))
    }

    async fn short(
        &self,
        info: &RequestInfo,
        user: User,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        if !info.is_resource {
            return self.path(info, &user, request).await;
        }
        if info.verb.is_empty() {
            let method = request.method().as_str().to_owned();
            return Err(ApiError::method_not_allowed(
                &info.group,
                &info.resource,
                &method,
            ));
        }
        let body = match *request.method() {
            Method::GET | Method::HEAD => None,
            _ => Some(read_body(&mut request).await?),
        };
        let trail = request.extensions().get::<Arc<Trail>>();
        if let (Some(trail), Some(body)) = (trail, &body)
            && trail.wants().0
        {
            trail.request(body);
        }
        if self.review.serves(info) {
            let body = body.unwrap_or_default();
            let answer = self.review.answer(info, &user, request.headers(), &body)?;
            return Ok(respond::json(StatusCode::CREATED, &answer));
        }
        let request = match body {
            Some(body) => request.map(|_| body_from(body)),
            None => request,
        };
        self.parts.rest.handle(info.clone(), user, request).await
    }

    /// Paths that are not resources.
    async fn path(
        &self,
        info: &RequestInfo,
        user: &User,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        match (info.verb.as_str(), info.path.as_str()) {
            ("post", join::RENEW_PATH) => {
                let body = read_body(&mut request).await?;
                let answer = self.parts.join.renew(user, &body)?;
                return Ok(respond::json(StatusCode::OK, &answer));
            }
            ("get", join::TUNNEL_PATH) => {
                let node = join::node_of(user)?;
                return tunnel::serve(node, request, &self.parts.tunnel, &self.parts.tasks);
            }
            ("get" | "head", path) => {
                if path.starts_with("/openapi/") {
                    let (head, _) = request.into_parts();
                    let answer = openapi::serve(&self.openapi, &head.uri, &head.headers).await;
                    return answer.unwrap_or_else(|| Err(ApiError::no_such_path()));
                }
                if path.starts_with(explain::PATH) {
                    let work = self.parts.explainer.explain(path);
                    let answer = tokio::time::timeout(DEADLINE, work).await;
                    let slow = |_| Err(ApiError::timeout("the scheduler did not answer"));
                    let answer = answer.unwrap_or_else(slow)?;
                    return Ok(respond::json(StatusCode::OK, &json!(answer)));
                }
                if let Some(response) = self.document(path, &request) {
                    return Ok(response);
                }
            }
            (verb, path) if self.document(path, &request).is_some() => {
                let message = format!("{} is not supported on {path}", verb.to_uppercase());
                return Err(ApiError::plain(405, "MethodNotAllowed", message));
            }
            _ => {}
        }
        Err(ApiError::no_such_path())
    }

    fn document(&self, path: &str, request: &Request<Body>) -> Option<Response<Body>> {
        let ok = |value| Some(respond::json(StatusCode::OK, &value));
        match path {
            "/" => ok(json!({"paths": self.paths()})),
            "/metrics" => {
                let text = self.parts.metrics.render();
                let media_type = "text/plain; version=0.0.4; charset=utf-8";
                Some(respond::whole(StatusCode::OK, media_type, text))
            }
            "/.well-known/openid-configuration" => ok(self.parts.tokens.openid_configuration()),
            "/openid/v1/jwks" => {
                let keys = self.parts.tokens.key_set().to_string();
                Some(respond::whole(
                    StatusCode::OK,
                    "application/jwk-set+json",
                    keys,
                ))
            }
            _ => self.discovery.serve(path, request.headers()),
        }
    }

    /// What `/` lists.
    fn paths(&self) -> Vec<String> {
        let documents = self.discovery.documents();
        let mut paths: Vec<String> = documents.paths().map(str::to_owned).collect();
        let own = [
            "/.well-known/openid-configuration",
            "/healthz",
            "/livez",
            "/metrics",
            "/openapi/v2",
            "/openapi/v3",
            "/openid/v1/jwks",
            "/readyz",
            "/version",
        ];
        paths.extend(own.map(str::to_owned));
        let group_versions = documents.group_versions().iter();
        paths.extend(group_versions.map(|gv| match gv.contains('/') {
            true => format!("/openapi/v3/apis/{gv}"),
            false => format!("/openapi/v3/api/{gv}"),
        }));
        paths.sort();
        paths
    }
}

/// The whole body of a request, up to the limit.
async fn read_body(request: &mut Request<Body>) -> Result<Bytes, ApiError> {
    let too_large = || ApiError::too_large(format!("limit is {BODY_BYTES_MAX}"));
    let mut body = std::mem::replace(request.body_mut(), empty_body());
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            ApiError::bad_request(format!("the request body broke off: {error}"))
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if whole.len() + data.len() > BODY_BYTES_MAX {
            return Err(too_large());
        }
        if whole.is_empty() && body.is_end_stream() {
            return Ok(data);
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

fn field_selector(query: &str) -> String {
    form_urlencoded::parse(query.as_bytes())
        .find(|(key, _)| key == "fieldSelector")
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

fn version() -> Response<Body> {
    let own = env!("CARGO_PKG_VERSION");
    respond::json(
        StatusCode::OK,
        &json!({
            "major": "1", "minor": MINOR, "gitVersion": format!("v1.{MINOR}.0+orch{own}"),
            "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "none", "compiler": "rustc", "platform": platform(),
            "emulationMajor": "1", "emulationMinor": MINOR,
            "minCompatibilityMajor": "1", "minCompatibilityMinor": MINOR,
        }),
    )
}

/// As Go spells it.
fn platform() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{arch}")
}
