//! The executable: what it prints where, and how it ends.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    missing_docs,
    reason = "these tests run the program and look at what it leaves behind"
)]

use std::path::Path;
use std::process::{Command, Stdio};

/// Longer than any of these commands takes; a server that should have been refused ends here.
const LIMIT_SECONDS: &str = "60";

struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs orch in a network namespace of its own, which has no way out, and for a limited time: a
/// flag that is good where it should be refused starts nothing on this machine's network.
fn orch(words: &[&str], variables: &[(&str, &str)]) -> Ran {
    let output = Command::new("timeout")
        .args(["--signal=KILL", LIMIT_SECONDS, "unshare"])
        .args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args((!nix::unistd::geteuid().is_root()).then_some("--map-root-user"))
        .arg(env!("CARGO_BIN_EXE_orch"))
        .args(words)
        .env_remove("KUBECONFIG")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[track_caller]
fn refused(words: &[&str], variables: &[(&str, &str)], text: &str) {
    let ran = orch(words, variables);
    assert_eq!(ran.code, Some(64), "{}", ran.stderr);
    assert!(
        ran.stderr.contains(text),
        "`{text}` is not in: {}",
        ran.stderr
    );
    assert!(ran.stdout.is_empty(), "{}", ran.stdout);
}

#[test]
fn version_and_help_are_data() {
    let version = orch(&["version"], &[]);
    assert_eq!(version.code, Some(0));
    assert_eq!(
        version.stdout,
        format!("orch {}\n", env!("CARGO_PKG_VERSION"))
    );
    let help = orch(&["server", "--help"], &[]);
    assert_eq!(help.code, Some(0));
    for flag in [
        "--cluster-cidr",
        "--datastore-endpoint",
        "--node-taint",
        "--disable-agent",
    ] {
        assert!(
            help.stdout.contains(flag),
            "{flag} is not in: {}",
            help.stdout
        );
    }
    let completion = orch(&["completion", "bash"], &[]);
    assert!(completion.stdout.contains("_orch"));
}

#[test]
fn a_wrong_flag_is_named_with_its_value_and_nothing_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data_dir = format!("--data-dir={}", data.display());
    let server = |flag: &'static str, text: &str| refused(&["server", &data_dir, flag], &[], text);
    server("--no-such-flag", "--no-such-flag");
    server(
        "--cluster-cidr=10.244.0.0",
        "`10.244.0.0` for `--cluster-cidr`",
    );
    server("--service-cidr=10.244.0.0/16", "overlaps");
    server("--https-listen-port=70000", "70000");
    server("--node-label=a b", "`a b` for `--node-label`");
    server("--node-taint=a=b:Never", "`a=b:Never` for `--node-taint`");
    server("--node-name=Bad_Name", "`Bad_Name`");
    server("--cgroup-root=kubepods", "`kubepods` for `--cgroup-root`");
    server("--log-level=orch=loud", "`orch=loud` for `--log-level`");
    server("--write-kubeconfig-mode=999", "999");
    refused(&["agent", &data_dir], &[], "--join");
    assert!(!data.exists(), "something was opened");
}

#[test]
fn flag_environment_and_file_have_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml");
    let config = format!("--config={}", file.display());
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    write("cluster-cidr: from-file\n");
    refused(
        &["server", &config],
        &[],
        "`from-file` for `--cluster-cidr`",
    );
    let variable = [("ORCH_CLUSTER_CIDR", "from-environment")];
    refused(
        &["server", &config],
        &variable,
        "`from-environment` for `--cluster-cidr`",
    );
    let words = ["server", &config, "--cluster-cidr=from-flag"];
    refused(&words, &variable, "`from-flag` for `--cluster-cidr`");
    std::fs::create_dir(folder.path().join("config.yaml.d")).unwrap();
    std::fs::write(
        folder.path().join("config.yaml.d/10.yaml"),
        "cluster-cidr: from-drop-in\n",
    )
    .unwrap();
    refused(
        &["server", &config],
        &[],
        "`from-drop-in` for `--cluster-cidr`",
    );
}

#[test]
fn a_wrong_file_is_named_with_its_key_or_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml");
    let config = format!("--config={}", file.display());
    let refused_with = |text: &str, wanted: &str| {
        std::fs::write(&file, text).unwrap();
        refused(&["server", &config], &[], wanted);
    };
    refused_with("cluster-cdr: x\n", "unknown key `cluster-cdr`");
    refused_with("a: [\n", "is not YAML");
    refused_with("- a\n", "expected a mapping");
    refused_with("disable-agent: maybe\n", "`disable-agent`: true or false");
    let missing = format!("--config={}", folder.path().join("none.yaml").display());
    refused(&["server", &missing], &[], "none.yaml");
}

#[test]
fn commands_without_a_cluster_say_what_is_missing() {
    let status = orch(&["status", "--kubeconfig=/nonexistent/kubeconfig"], &[]);
    assert_eq!(status.code, Some(1));
    assert!(
        status.stderr.contains("/nonexistent/kubeconfig"),
        "{}",
        status.stderr
    );
    let token = orch(&["token", "--data-dir=/nonexistent"], &[]);
    assert_eq!(token.code, Some(1));
    assert!(
        token.stderr.contains("/nonexistent/server/token"),
        "{}",
        token.stderr
    );
    let restore = orch(&["snapshot", "restore", "/nonexistent/file"], &[]);
    assert_eq!(restore.code, Some(1));
    assert!(!Path::new("/var/lib/orch/server/db-before").exists());
}
