//! Where webhooks are, and what is said of them when they fail.

use std::time::Duration;

use serde_json::json;

use super::target::{host_and_port, split};
use super::*;

#[test]
fn a_client_config_names_one_place() {
    let url = Hook::from_value(&json!({"url": "https://a.b:8443/x?y=1"})).unwrap();
    assert_eq!(
        url.url(Duration::from_secs(10)),
        "https://a.b:8443/x?y=1&timeout=10s"
    );
    let service = json!({"service": {"namespace": "ns", "name": "hook", "path": "/c"}});
    let service = Hook::from_value(&service).unwrap();
    assert_eq!(
        service.url(Duration::from_secs(30)),
        "https://hook.ns.svc:443/c?timeout=30s"
    );
    assert_eq!(service.server_name("hook.ns.svc:443"), "hook.ns.svc");
    assert!(Hook::from_value(&json!({})).is_err());
}

#[test]
fn urls_are_split_into_host_port_and_path() {
    assert_eq!(split("https://a:1/b?c").unwrap(), ("a:1", "/b?c".into()));
    assert_eq!(split("https://a?c").unwrap(), ("a", "/?c".into()));
    assert!(split("http://a/").is_err() && split("https:///").is_err());
    assert_eq!(host_and_port("a"), ("a", 443));
    assert_eq!(host_and_port("[::1]:8443"), ("::1", 8443));
    assert_eq!(host_and_port("[::1]"), ("::1", 443));
}

#[test]
fn answers_that_are_errors_are_told_as_upstream_does() {
    let status = json!({"kind": "Status", "message": "no"}).to_string();
    assert_eq!(refusal(500, status.as_bytes()), "no");
    assert_eq!(
        refusal(500, b"oops"),
        "an error on the server (\"oops\") has prevented the request from succeeding"
    );
    assert_eq!(
        refusal(404, b""),
        "the server could not find the requested resource"
    );
}
