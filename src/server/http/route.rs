//! Method and path → what is asked of what: [`RequestInfo`], as
//! `k8s.io/apiserver/pkg/endpoints/request.RequestInfoFactory` reads it; and who serves it.

use async_trait::async_trait;
use http::{Method, Request, Response};
use percent_encoding::percent_decode_str;

use crate::api::status::ApiError;
use crate::client::Body;
use crate::server::request::{RequestInfo, User};
use crate::server::snapshot;

/// Who serves requests on resources: the REST verbs, and what leads to nodes.
#[async_trait]
pub trait Upstream: Send + Sync + 'static {
    /// Serves one authenticated and authorized request. The request keeps its extensions, so
    /// `hyper::upgrade::on` works on it.
    async fn handle(
        &self,
        info: RequestInfo,
        user: User,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError>;

    /// Asks admission about a stream or proxy that is about to be opened elsewhere.
    async fn admit(&self, info: &RequestInfo, user: &User, query: &str) -> Result<(), ApiError>;
}

/// Reads `RequestInfo` off a request line. `None`: a path that starts like a resource and is not
/// one (`/api/v1/watch`), which upstream refuses too.
pub fn request_info(method: &Method, path: &str, query: &str) -> Option<RequestInfo> {
    let path = percent_decode_str(path).decode_utf8_lossy();
    let mut info = RequestInfo {
        verb: method.as_str().to_ascii_lowercase(),
        path: path.to_string(),
        ..RequestInfo::default()
    };
    let all: Vec<&str> = split(&path);
    let Some(parts) = group_version(&all, &mut info) else {
        return Some(info);
    };
    let parts = verb_of_path(method, parts, &mut info)?;
    let parts = namespace(parts, &mut info);
    if let [resource, ..] = parts {
        info.resource = (*resource).to_owned();
    }
    if let [_, name, ..] = parts {
        info.name = (*name).to_owned();
    }
    if let [_, _, subresource, rest @ ..] = parts
        && info.verb != "proxy"
    {
        info.subresource = (*subresource).to_owned();
        info.rest = rest.join("/");
        if !rest.is_empty() && path.ends_with('/') {
            info.rest.push('/');
        }
    }
    collection_verb(query, &mut info);
    Some(info)
}

/// Whether a request goes to a node rather than to the stored objects.
pub fn leads_to_node(info: &RequestInfo) -> bool {
    let subresource = info.subresource.as_str();
    info.group.is_empty()
        && match info.resource.as_str() {
            "pods" => matches!(
                subresource,
                "log" | "exec" | "attach" | "portforward" | "proxy"
            ),
            "nodes" | "services" => subresource == "proxy",
            _ => false,
        }
}

/// Whether the path has a namespace where the resource has none, or names an object without the
/// namespace it must be in. Nothing is served there: permissions within a namespace would
/// otherwise reach what is outside of all.
pub fn is_misplaced(info: &RequestInfo, is_namespaced: bool) -> bool {
    let is_collection = matches!(info.verb.as_str(), "list" | "watch" | "deletecollection");
    if is_namespaced {
        return info.namespace.is_empty() && !info.name.is_empty() && !is_collection;
    }
    // Requests on one Namespace are in that namespace, as authorization sees it.
    let is_namespace = info.group.is_empty() && info.resource == "namespaces";
    let is_its_own = is_namespace && info.name == info.namespace;
    !info.namespace.is_empty() && !is_its_own
}

/// Whether the answer streams for as long as the client wants it, so that no deadline applies.
pub fn is_long_running(info: &RequestInfo) -> bool {
    if !info.is_resource {
        return info.path == snapshot::PATH && info.verb == "get";
    }
    (matches!(info.verb.as_str(), "watch" | "proxy") || leads_to_node(info))
}

fn split(path: &str) -> Vec<&str> {
    let trimmed = path.trim_matches('/');
    if trimmed.is_empty() {
        return Vec::new();
    }
    trimmed.split('/').collect()
}

/// Takes prefix, group and version off the path; `None` where it is not the path of a resource.
fn group_version<'a>(all: &'a [&'a str], info: &mut RequestInfo) -> Option<&'a [&'a str]> {
    let (group, version, rest) = match all {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, version, rest),
        _ => return None,
    };
    info.is_resource = true;
    info.prefix = all[0].to_owned();
    info.group = group.to_owned();
    info.version = (*version).to_owned();
    Some(rest)
}

/// The verb by method, or by the old path prefixes `watch/` and `proxy/`.
fn verb_of_path<'a>(
    method: &Method,
    parts: &'a [&'a str],
    info: &mut RequestInfo,
) -> Option<&'a [&'a str]> {
    if let [special @ ("watch" | "proxy"), rest @ ..] = parts {
        info.verb = (*special).to_owned();
        return (!rest.is_empty()).then_some(rest);
    }
    info.verb = match *method {
        Method::POST => "create",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
    .to_owned();
    Some(parts)
}

fn namespace<'a>(parts: &'a [&'a str], info: &mut RequestInfo) -> &'a [&'a str] {
    let ["namespaces", namespace, rest @ ..] = parts else {
        return parts;
    };
    info.namespace = (*namespace).to_owned();
    match rest {
        [] | ["status" | "finalize", ..] => parts,
        _ => rest,
    }
}

/// `get` without a name is a list or a watch, `delete` without one a deletecollection.
fn collection_verb(query: &str, info: &mut RequestInfo) {
    if !info.name.is_empty() {
        return;
    }
    match info.verb.as_str() {
        "get" => {
            let mut watch = false;
            for (key, value) in form_urlencoded::parse(query.as_bytes()) {
                match &*key {
                    "watch" => {
                        watch = !matches!(value.to_ascii_lowercase().as_str(), "false" | "0");
                    }
                    "fieldSelector" => {
                        if let Some(name) = exact_name(&value) {
                            info.name = name;
                        }
                    }
                    _ => {}
                }
            }
            info.verb = if watch { "watch" } else { "list" }.to_owned();
        }
        "delete" => info.verb = "deletecollection".to_owned(),
        _ => {}
    }
}

/// The name of `metadata.name=x`: lists of one name are authorized by it.
fn exact_name(selector: &str) -> Option<String> {
    selector.split(',').find_map(|term| {
        let value = term.strip_prefix("metadata.name=")?;
        let value = value.strip_prefix('=').unwrap_or(value);
        let plain = !value.is_empty() && value != "." && value != "..";
        (plain && !value.contains(['/', '%', '\\'])).then(|| value.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Upstream's table (`TestGetAPIRequestInfo`): method, URL, verb, group, version, namespace,
    /// resource, subresource, name; `-` is empty.
    const RESOURCES: &str = "
        GET /api/v1/namespaces list - v1 - namespaces - -
        GET /api/v1/namespaces/other get - v1 other namespaces - other
        GET /api/v1/namespaces/other/pods list - v1 other pods - -
        GET /api/v1/namespaces/other/pods/foo get - v1 other pods - foo
        HEAD /api/v1/namespaces/other/pods/foo get - v1 other pods - foo
        GET /api/v1/pods list - v1 - pods - -
        HEAD /api/v1/pods list - v1 - pods - -
        GET /api/v1/watch/pods watch - v1 - pods - -
        GET /api/v1/watch/namespaces/other/pods watch - v1 other pods - -
        GET /api/v1/namespaces/other/pods?watch=true watch - v1 other pods - -
        GET /api/v1/namespaces/other/pods?watch=1 watch - v1 other pods - -
        GET /api/v1/pods?watch watch - v1 - pods - -
        GET /api/v1/pods?watch=false&watchlist=true list - v1 - pods - -
        GET /api/v1/namespaces/other/pods?watch=0 list - v1 other pods - -
        GET /api/v1/namespaces/other/pods/foo/status get - v1 other pods status foo
        GET /api/v1/namespaces/other/pods/foo/proxy/subpath get - v1 other pods proxy foo
        PUT /api/v1/namespaces/other/finalize update - v1 other namespaces finalize other
        PUT /api/v1/namespaces/other/status update - v1 other namespaces status other
        PATCH /api/v1/namespaces/other/pods/foo patch - v1 other pods - foo
        DELETE /api/v1/namespaces/other/pods/foo delete - v1 other pods - foo
        POST /api/v1/namespaces/other/pods create - v1 other pods - -
        DELETE /api/v1/nodes deletecollection - v1 - nodes - -
        DELETE /api/v1/namespaces/other/pods deletecollection - v1 other pods - -
        POST /apis/batch/v1/namespaces/other/jobs create batch v1 other jobs - -
        GET /api/v1/pods?fieldSelector=metadata.name%3Dx list - v1 - pods - x
        GET /api/v1/pods?watch=1&fieldSelector=metadata.name==x,a=b watch - v1 - pods - x
        GET /api/v1/pods?fieldSelector=metadata.name%3D.. list - v1 - pods - -
        GET /api/v1/proxy/nodes/foo/bar proxy - v1 - nodes - foo
        GET /api/v1/nodes/a%3Ab get - v1 - nodes - a:b
    ";

    fn parsed(method: &str, url: &str) -> RequestInfo {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        request_info(&method.parse().unwrap(), path, query).unwrap()
    }

    #[test]
    fn resources_are_served_in_the_place_they_have() {
        let misplaced = |path: &str, is_namespaced| {
            let (path, query) = path.split_once('?').unwrap_or((path, ""));
            is_misplaced(
                &request_info(&Method::GET, path, query).unwrap(),
                is_namespaced,
            )
        };
        assert!(misplaced("/api/v1/namespaces/x/nodes", false));
        assert!(misplaced("/api/v1/namespaces/x/nodes/n/proxy/", false));
        assert!(misplaced("/api/v1/namespaces/x/namespaces", false));
        assert!(misplaced("/api/v1/namespaces/x/namespaces/y", false));
        assert!(!misplaced("/api/v1/namespaces/x", false));
        assert!(!misplaced("/api/v1/namespaces/x/status", false));
        assert!(!misplaced("/api/v1/nodes/n/proxy/", false));
        assert!(misplaced("/api/v1/pods/p", true));
        assert!(!misplaced(
            "/api/v1/pods?fieldSelector=metadata.name%3Dp",
            true
        ));
        assert!(!misplaced("/api/v1/namespaces/x/pods/p", true));
    }

    #[test]
    fn resources_are_read_as_upstream_reads_them() {
        for line in RESOURCES.lines().filter(|line| !line.trim().is_empty()) {
            let row: Vec<&str> = line
                .split_whitespace()
                .map(|cell| cell.trim_matches('-'))
                .collect();
            let info = parsed(row[0], row[1]);
            assert!(info.is_resource, "{row:?}");
            let read = [
                row[0],
                row[1],
                &info.verb,
                &info.group,
                &info.version,
                &info.namespace,
                &info.resource,
                &info.subresource,
                &info.name,
            ];
            assert_eq!(read, *row);
        }
    }

    #[test]
    fn other_paths_are_not_resources() {
        for (method, path, verb) in [
            ("GET", "/", "get"),
            ("GET", "/healthz", "get"),
            ("POST", "/api", "post"),
            ("GET", "/apis", "get"),
            ("GET", "/api/v1", "get"),
            ("GET", "/apis/apps/v1", "get"),
            ("PUT", "/openapi/v3/apis/apps/v1", "put"),
        ] {
            let info = parsed(method, path);
            assert!(!info.is_resource, "{path}");
            assert_eq!(info.verb, verb);
        }
        assert_eq!(request_info(&Method::GET, "/api/v1/watch", ""), None);
    }

    #[test]
    fn what_follows_a_proxy_subresource_is_kept() {
        let info = parsed(
            "GET",
            "/api/v1/namespaces/a/services/https:web:80/proxy/x/y/",
        );
        assert_eq!(
            (info.name.as_str(), info.rest.as_str()),
            ("https:web:80", "x/y/")
        );
        assert!(leads_to_node(&info) && is_long_running(&info));
        assert!(!leads_to_node(&parsed(
            "GET",
            "/api/v1/namespaces/a/pods/x/status"
        )));
    }
}
