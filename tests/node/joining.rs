//! The cluster is closed: what does not prove itself is refused, with a message that helps.

use super::support::hosts::Network;
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
    drop(server);
}
