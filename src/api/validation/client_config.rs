//! Where a webhook is: a URL, or a service of the cluster (`k8s.io/apiserver/pkg/util/webhook`).
//! Admission webhooks and conversion webhooks of CRDs say it alike.

use serde_json::Value;

use super::path::Path;
use super::{Errors, text};
use crate::api::name;

const FORM: &str = "; desired format: https://host[/path]";

/// A `clientConfig`: exactly one of `url` and `service`.
pub(crate) fn check(errors: &mut Errors, config: &Value, path: &Path<'_>) {
    match (&config["url"], &config["service"]) {
        (Value::Null, Value::Null) => {
            errors.required(path, "exactly one of url or service is required");
        }
        (Value::Null, service) => check_service(errors, service, &path.field("service")),
        (url, Value::Null) => check_url(errors, text(url), &path.field("url")),
        _ => errors.required(path, "exactly one of url or service is required"),
    }
}

/// `https://host[:port][/path]`, without user, query and fragment.
pub(crate) fn check_url(errors: &mut Errors, url: &str, path: &Path<'_>) {
    let (rest, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (scheme, rest) = rest.split_once(':').unwrap_or(("", rest));
    let authority = rest
        .strip_prefix("//")
        .map_or("", |rest| rest.split('/').next().unwrap_or_default());
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if scheme != "https" {
        let why = format!("'https' is the only allowed URL scheme{FORM}");
        errors.invalid(path, scheme, &why);
    }
    if host.is_empty() {
        errors.invalid(path, host, &format!("host must be specified{FORM}"));
    }
    for (part, what) in [
        (user, "user information is not"),
        (fragment, "fragments are not"),
        (query, "query parameters are not"),
    ] {
        if !part.is_empty() {
            let why = format!("{what} permitted in the URL");
            errors.invalid(path, part, &why);
        }
    }
}

/// Name, namespace, port and path of a service.
pub(crate) fn check_service(errors: &mut Errors, service: &Value, path: &Path<'_>) {
    for (field, why) in [
        ("name", "service name is required"),
        ("namespace", "service namespace is required"),
    ] {
        if text(&service[field]).is_empty() {
            errors.required(&path.field(field), why);
        }
    }
    let port = service["port"].as_i64().unwrap_or(0);
    let wrong = name::port_number(port);
    if !wrong.is_empty() {
        let why = format!("port is not valid: {}", wrong.join(","));
        errors.invalid(&path.field("port"), port, &why);
    }
    url_path(errors, text(&service["path"]), &path.field("path"));
}

fn url_path(errors: &mut Errors, url_path: &str, path: &Path<'_>) {
    match url_path {
        "" | "/" => return,
        "//" => return errors.invalid(path, url_path, "segment[0] may not be empty"),
        _ => {}
    }
    if !url_path.starts_with('/') {
        errors.invalid(path, url_path, "must start with a '/'");
    }
    let mut rest = url_path.chars();
    rest.next();
    let rest = rest.as_str();
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    for (index, step) in rest.split('/').enumerate() {
        if step.is_empty() {
            let why = format!("segment[{index}] may not be empty");
            errors.invalid(path, url_path, &why);
            continue;
        }
        for wrong in name::dns1123_subdomain(step) {
            errors.invalid(path, url_path, &format!("segment[{index}]: {wrong}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wrong(config: &Value) -> Vec<String> {
        let mut errors = Errors::new();
        check(&mut errors, config, &Path::root("c"));
        let errors = errors.into_vec();
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn urls_and_services_are_checked() {
        assert_eq!(wrong(&json!({"url": "https://example.com:9/a"})), [""; 0]);
        let service =
            json!({"service": {"name": "a", "namespace": "b", "port": 443, "path": "/x/"}});
        assert_eq!(wrong(&service), [""; 0]);
        assert_eq!(
            wrong(&json!({"url": "http://u@example.com?q#f"})),
            [
                "c.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired \
                 format: https://host[/path]",
                "c.url: Invalid value: \"u\": user information is not permitted in the URL",
                "c.url: Invalid value: \"f\": fragments are not permitted in the URL",
                "c.url: Invalid value: \"q\": query parameters are not permitted in the URL",
            ]
        );
        assert_eq!(
            wrong(&json!({"service": {"name": "a", "namespace": "b", "port": 0, "path": "/a//b"}})),
            [
                "c.service.port: Invalid value: 0: port is not valid: must be between 1 and \
                 65535, inclusive",
                "c.service.path: Invalid value: \"/a//b\": segment[1] may not be empty",
            ]
        );
    }
}
