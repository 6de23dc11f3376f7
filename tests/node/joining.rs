//! The cluster is closed: what does not prove itself is refused, with a message that helps.

use super::support::hosts::{Host, Network};
use super::support::wait::{ensure, eventually, secs};

#[test]
fn wrong_tokens_and_strangers_are_refused() {
    let mut network = Network::new();
    let master = network.host("master", "192.168.1.5");
    let worker = network.host("worker1", "192.168.1.6");
    let server = master.start_server(&["--disable-agent"]);
    master.wait_ready();
    let token = master.token();
    let (head, _) = token.rsplit_once(':').unwrap();
    for (bad, text) in [
        (format!("{head}:wrong"), "token"),
        (
            format!("K10{}::server:x", "ab".repeat(32)),
            "is not the one the token was made for",
        ),
        ("K10zz".to_owned(), "token"),
    ] {
        let mut agent = worker.start_agent(&master, &bad, &[]);
        eventually("the agent gives up", secs(20), || {
            ensure(agent.has_ended(), agent.log_tail())
        });
        assert!(
            agent.log_tail().contains(text),
            "`{text}` is not in: {}",
            agent.log_tail()
        );
    }
    for path in [
        "/api/v1/nodes",
        "/api/v1/namespaces/default/secrets",
        "/apis",
    ] {
        let url = format!("https://192.168.1.5:6443{path}");
        let seen = worker.run(&["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", &url]);
        assert_eq!(seen.stdout, "401", "{path}");
    }
    for path in ["/livez", "/readyz", "/healthz", "/version"] {
        let url = format!("https://192.168.1.5:6443{path}");
        let seen = worker.run(&["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", &url]);
        assert_eq!(seen.stdout, "200", "{path}");
    }
    let plain = worker.run(&["curl", "-sk", "http://192.168.1.5:6443/api"]);
    assert!(
        !plain.stdout.contains("versions"),
        "the API answers without TLS"
    );
    let agent = worker.start_agent(&master, &token, &[]);
    master.wait_nodes(1);
    a_nodes_certificate_writes_only_what_is_its_own(&master, &worker);
    drop((agent, server));
}

/// Method, path, body, answer.
const AS_NODE: &[(&str, &str, &str, &str)] = &[
    ("PATCH", "/api/v1/nodes/worker1/status", "{}", "200"),
    (
        "PATCH",
        "/api/v1/nodes/worker1",
        r#"{"metadata":{"annotations":{"a":"b"}}}"#,
        "200",
    ),
    ("PATCH", "/api/v1/nodes/other", "{}", "403"),
    ("PATCH", "/api/v1/nodes/other/status", "{}", "403"),
    ("DELETE", "/api/v1/nodes/other", "", "403"),
    (
        "PATCH",
        "/api/v1/nodes/worker1",
        r#"{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":""}}}"#,
        "403",
    ),
    (
        "PATCH",
        "/api/v1/namespaces/default/pods/elsewhere/status",
        "{}",
        "403",
    ),
    (
        "DELETE",
        "/api/v1/namespaces/default/pods/elsewhere",
        "",
        "403",
    ),
    (
        "POST",
        "/api/v1/namespaces/default/pods/elsewhere/eviction",
        "{}",
        "403",
    ),
    (
        "PATCH",
        "/api/v1/namespaces/default/configmaps/kube-root-ca.crt",
        "{}",
        "403",
    ),
    ("GET", "/api/v1/namespaces/default/secrets", "", "403"),
    (
        "GET",
        "/api/v1/namespaces/default/secrets/hidden",
        "",
        "403",
    ),
    (
        "POST",
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        "{}",
        "403",
    ),
    ("GET", "/orch/v1/snapshot", "", "403"),
];

fn a_nodes_certificate_writes_only_what_is_its_own(master: &Host, worker: &Host) {
    let other = r#"
apiVersion: v1
kind: Node
metadata: {name: other}
---
apiVersion: v1
kind: Secret
metadata: {name: hidden}
---
apiVersion: v1
kind: Pod
metadata: {name: elsewhere}
spec: {nodeName: other, containers: [{name: c, image: "nginx:1.22"}]}
"#;
    master.apply(other);
    let tls = worker.data().join("agent/tls");
    let file = |name: &str| tls.join(name).display().to_string();
    let (ca, cert, key) = (file("ca.crt"), file("client.crt"), file("client.key"));
    for (method, path, body, code) in AS_NODE {
        let url = format!("https://192.168.1.5:6443{path}");
        let media = match *method {
            "PATCH" => "content-type: application/merge-patch+json",
            _ => "content-type: application/json",
        };
        let mut words = vec![
            "curl", "-s", "--cacert", &ca, "--cert", &cert, "--key", &key,
        ];
        words.extend(["-X", method, "-H", media, "-w", "\n%{http_code}", &url]);
        if !body.is_empty() {
            words.extend(["-d", body]);
        }
        let seen = worker.run(&words).stdout;
        assert!(
            seen.ends_with(code),
            "{method} {path}: {code} is not the end of {seen}"
        );
    }
}
