//! orch's own commands against a running server, and the manifests folder.

use super::support::hosts::{Host, Network};
use super::support::wait::{ensure, eventually, secs};

#[test]
fn snapshots_tokens_status_and_the_manifests_folder() {
    let mut network = Network::new();
    let host = network.host("master", "192.168.1.5");
    let server = host.start_server(&["--disable-agent"]);
    host.wait_ready();
    folder_is_followed(&host);
    tokens_are_made_and_end(&host);
    let status = host.orch(&["status"]).expect_ok();
    assert!(status.contains("datastore   ok"), "{status}");
    let check = host
        .orch(&["check", "--https-listen-port=6444"])
        .expect_ok();
    assert!(check.contains("6444/tcp is free"), "{check}");

    let data = host.data().display().to_string();
    let config_map = |name: &str| host.kubectl(&["get", "configmap", name, "-o", "name"]).ok;
    let create = |name: &str| {
        host.kubectl(&["create", "configmap", name, "--from-literal=a=b"])
            .expect_ok();
    };
    create("before");
    let saved = host
        .orch(&["snapshot", "save", "--data-dir", &data])
        .expect_ok();
    create("after");
    let file = saved.rsplit(' ').next().unwrap().trim().to_owned();
    let list = host
        .orch(&["snapshot", "list", "--data-dir", &data])
        .expect_ok();
    assert!(list.contains(&file) && list.lines().count() == 2, "{list}");
    let restore = ["snapshot", "restore", &file, "--data-dir", &data];
    let refused = host.orch(&restore);
    assert!(
        refused.stderr.contains("stop the server first"),
        "{refused:?}"
    );
    assert_eq!(server.terminate(secs(30)), Some(0));
    host.orch(&restore).expect_ok();
    let server = host.start_server(&["--disable-agent"]);
    host.wait_ready();
    assert!(config_map("before") && !config_map("after"));
    create("later");
    drop(server);
}

fn folder_is_followed(host: &Host) {
    let file = host.data().join("server/manifests/cm.yaml");
    let write = |value: &str| {
        let text = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: of-file, namespace: default}}\n\
             data: {{a: {value}}}\n"
        );
        std::fs::write(&file, text).unwrap();
    };
    let get = || host.kubectl(&["get", "configmap", "of-file", "-o", "jsonpath={.data.a}"]);
    for value in ["one", "two"] {
        write(value);
        eventually("the file is applied", secs(20), || {
            let seen = get();
            ensure(seen.stdout == value, format!("{seen:?}"))
        });
    }
    std::fs::write(&file, "apiVersion: [\n").unwrap();
    eventually("a bad file is told of", secs(20), || {
        let seen = host.orch(&["status"]).stdout;
        ensure(seen.contains("cm.yaml"), seen)
    });
    assert_eq!(get().stdout, "two", "a bad file took its objects away");
    std::fs::remove_file(&file).unwrap();
    eventually("the removed file's object is gone", secs(20), || {
        let seen = get();
        ensure(seen.stderr.contains("NotFound"), format!("{seen:?}"))
    });
}

fn tokens_are_made_and_end(host: &Host) {
    let data = host.data().display().to_string();
    assert_eq!(
        host.orch(&["token", "--data-dir", &data])
            .expect_ok()
            .trim(),
        host.token()
    );
    let create = ["token", "create", "--ttl=1h", "--description=a test"];
    let token = host.orch(&create).expect_ok().trim().to_owned();
    assert!(token.starts_with("K10"), "{token}");
    let short = token.rsplit("::").next().unwrap();
    let kubeconfig = host.kubeconfig().display().to_string();
    let list = || {
        host.orch(&["token", "list", "--kubeconfig", &kubeconfig])
            .expect_ok()
    };
    let listed = list();
    assert!(
        listed.contains(short) && listed.contains("a test"),
        "{listed}"
    );
    host.orch(&["token", "delete", &token]).expect_ok();
    assert!(!list().contains(short));
}
