//! Tests against a real containerd and runc. They need root, `containerd`, `runc` and a static
//! busybox, and say so and pass where one is missing.
//!
//! The log program is the test executable itself: cargo's test harness takes unknown arguments as
//! filters, so a small script stands between (see [`rig`]).

mod registry;
mod rig;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::runtime::{Exit, Phase};
use registry::LocalRegistry;
use rig::{IMAGE, Rig, add, busybox_layer, config, eventually, write_image};

/// Not a test: the body of the log program, see [`log_program`].
#[test]
fn the_log_program() {
    if let Ok(args) = std::env::var("ORCH_TEST_LOG_ARGS") {
        crate::runtime::log::main(&args);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn real_an_image_is_imported_once_and_containers_run_from_it() {
    let Some(rig) = Rig::with_image().await else {
        return;
    };
    let runtime = &rig.runtime;
    let image = runtime.image(IMAGE).await.unwrap().unwrap();
    assert!(image.pinned);
    assert_eq!(image.config.env, ["PATH=/bin", "FROM=image"]);
    assert_eq!(
        runtime.image(&image.id).await.unwrap().unwrap().id,
        image.id
    );
    assert_eq!(
        runtime.image(&image.names[1]).await.unwrap().unwrap().id,
        image.id
    );
    assert!(
        runtime
            .image("registry.test/other")
            .await
            .unwrap()
            .is_none()
    );
    let again = runtime
        .import(&rig.folder.path().join("busybox.tar.gz"))
        .await
        .unwrap();
    assert_eq!(again[0].id, image.id);

    let mut spec = rig.spec("a", "id; echo err >&2; env; pwd; exit 7");
    spec.security.user = Some(101);
    spec.env = vec!["OWN=1".to_owned()];
    spec.labels = BTreeMap::from([("k".to_owned(), "v".repeat(5000))]);
    runtime.create(&spec).await.unwrap();
    let created = runtime.container("a").await.unwrap().unwrap();
    assert_eq!((created.phase, created.started_at), (Phase::Created, None));
    assert!(matches!(
        runtime.create(&spec).await,
        Err(Error::AlreadyExists { .. })
    ));
    runtime.start("a").await.unwrap();
    let exit = rig.ended("a").await;
    assert_eq!((exit.code, exit.oom_killed), (7, false));
    let lines = rig.lines("a");
    let has = |line: &str| assert!(lines.iter().any(|l| l == line), "{line} in {lines:?}");
    has("stdout F uid=101(web) gid=102(web) groups=33(extra),102(web)");
    has("stderr F err");
    has("stdout F FROM=image");
    has("stdout F OWN=1");
    has("stdout F /");
    let state = runtime.container("a").await.unwrap().unwrap();
    assert!(state.started_at.is_some());
    assert_eq!(state.labels, spec.labels);
    runtime.remove("a").await.unwrap();
    runtime.remove("a").await.unwrap();
    assert!(runtime.container("a").await.unwrap().is_none());
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real_a_program_that_is_not_there_is_told_and_leaves_nothing() {
    let Some(rig) = Rig::with_image().await else {
        return;
    };
    let mut spec = rig.spec("a", "");
    spec.args = vec!["/no/such".to_owned()];
    let error = rig.runtime.create(&spec).await.unwrap_err();
    assert!(
        error.to_string().contains("no such file or directory"),
        "{error}"
    );
    assert!(rig.runtime.container("a").await.unwrap().is_none());
    assert!(!rig.runtime.has_snapshot("a").await.unwrap());
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real_commands_run_in_a_container_with_streams_and_limits() {
    let Some(rig) = Rig::with_image().await else {
        return;
    };
    let runtime = &rig.runtime;
    rig.run(&rig.spec("a", "sleep 1000")).await;
    let args = |command: &str| vec!["sh".to_owned(), "-c".to_owned(), command.to_owned()];
    let limit = Duration::from_secs(10);
    let output = runtime
        .exec_sync("a", &args("echo out; echo err >&2; exit 3"), limit)
        .await
        .unwrap();
    assert_eq!(output.code, 3);
    assert_eq!(output.output.len(), 8);
    let output = runtime
        .exec_sync("a", &args("yes | head -c 100000"), limit)
        .await
        .unwrap();
    assert_eq!((output.code, output.output.len()), (0, 16384));
    let late = runtime
        .exec_sync("a", &args("sleep 100"), Duration::from_millis(300))
        .await;
    assert!(matches!(late, Err(Error::Timeout { .. })), "{late:?}");
    let error = runtime
        .exec_sync("a", &["nope".to_owned()], limit)
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("executable file not found in $PATH"),
        "{error}"
    );
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real_streams_of_a_command_carry_everything_and_end() {
    let Some(rig) = Rig::with_image().await else {
        return;
    };
    let runtime = &rig.runtime;
    rig.run(&rig.spec("a", "sleep 1000")).await;
    let args = |command: &str| vec!["sh".to_owned(), "-c".to_owned(), command.to_owned()];
    let mut process = runtime
        .exec(&ExecSpec {
            container: "a".to_owned(),
            args: args("cat; echo done >&2; exit 5"),
            tty: false,
            stdin: true,
        })
        .await
        .unwrap();
    let sent = vec![b'x'; 300_000];
    let mut stdin = process.stdin.take().unwrap();
    let data = sent.clone();
    let writing = async move {
        stdin.write_all(&data).await.unwrap();
        drop(stdin);
    };
    let mut got = Vec::new();
    let mut stdout = process.stdout.take().unwrap();
    let (_, read) = tokio::join!(writing, stdout.read_to_end(&mut got));
    read.unwrap();
    assert_eq!(got.len(), sent.len());
    let mut err = String::new();
    process
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut err)
        .await
        .unwrap();
    assert_eq!(err, "done\n");
    assert_eq!(
        *process.exit.wait_for(Option::is_some).await.unwrap(),
        Some(5)
    );

    let stats = runtime.stats("a").await.unwrap().unwrap();
    assert!(stats.memory_usage_bytes > 0 && stats.pids >= 1, "{stats:?}");
    runtime.signal("a", libc::SIGKILL, false).await.unwrap();
    assert_eq!(rig.ended("a").await.code, 137);
    assert!(runtime.stats("a").await.unwrap().is_none());
    eventually("the streams' folders are removed", || {
        fs::read_dir(rig.folder.path().join("state/exec"))
            .unwrap()
            .count()
            == 0
    })
    .await;
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real_a_terminal_has_a_size_and_can_be_attached_to() {
    let Some(rig) = Rig::with_image().await else {
        return;
    };
    let mut spec = rig.spec(
        "a",
        "echo ready; while read line; do stty size; echo got $line; done",
    );
    spec.tty = true;
    spec.stdin = true;
    rig.run(&spec).await;
    let mut process = rig.runtime.attach("a", true).await.unwrap();
    process.resize.send((101, 33)).await.unwrap();
    eventually("it started", || !rig.lines("a").is_empty()).await;
    let mut stdin = process.stdin.take().unwrap();
    let mut stdout = process.stdout.take().unwrap();
    let mut seen = String::new();
    // The size is set by a task of its own; ask until it is there.
    for _ in 0..100 {
        stdin.write_all(b"hello\n").await.unwrap();
        let mut buffer = [0; 1000];
        let count = stdout.read(&mut buffer).await.unwrap();
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        if seen.contains("33 101") && seen.contains("got hello") {
            break;
        }
    }
    assert!(seen.contains("33 101"), "{seen}");
    drop(stdin);
    let mut exec = rig
        .runtime
        .exec(&ExecSpec {
            container: "a".to_owned(),
            args: vec!["tty".to_owned()],
            tty: true,
            stdin: false,
        })
        .await
        .unwrap();
    let mut text = String::new();
    exec.stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .await
        .unwrap();
    assert!(text.starts_with("/dev/pts/"), "{text}");
    let logged = rig.lines("a").join("\n");
    assert!(logged.contains("stdout F got hello"), "{logged}");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real_standard_input_without_a_terminal_ends_with_its_client_where_asked() {
    let Some(rig) = Rig::with_image().await else {
        return;
    };
    let mut spec = rig.spec("a", "cat; echo end; exit 4");
    spec.stdin = true;
    spec.stdin_once = true;
    rig.run(&spec).await;
    let mut process = rig.runtime.attach("a", true).await.unwrap();
    let mut stdin = process.stdin.take().unwrap();
    stdin.write_all(b"one\ntwo\n").await.unwrap();
    drop(stdin);
    let mut seen = String::new();
    process
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut seen)
        .await
        .unwrap();
    assert_eq!(seen, "one\ntwo\nend\n");
    assert_eq!(
        *process.exit.wait_for(Option::is_some).await.unwrap(),
        Some(4)
    );
    rig.ended("a").await;
    assert_eq!(
        rig.lines("a"),
        ["stdout F one", "stdout F two", "stdout F end"]
    );
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real_a_container_over_its_memory_limit_is_killed_and_it_is_said_so() {
    let Some(rig) = Rig::with_image().await else {
        return;
    };
    let mut spec = rig.spec(
        "a",
        "dd if=/dev/zero of=/dev/null bs=200M count=1; echo not reached $?; exit 1",
    );
    spec.args = [
        "/bin/dd",
        "if=/dev/zero",
        "of=/dev/null",
        "bs=200M",
        "count=1",
    ]
    .map(str::to_owned)
    .to_vec();
    spec.resources.memory_limit_bytes = Some(20 << 20);
    rig.run(&spec).await;
    let exit = rig.ended("a").await;
    assert_eq!((exit.code, exit.oom_killed), (137, true));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real_containers_live_on_when_containerd_or_the_agent_is_killed() {
    let Some(rig) = Rig::with_image().await else {
        return;
    };
    rig.run(&rig.spec("a", "for i in $(seq 1000); do echo $i; sleep 0.02; done"))
        .await;
    rig.run(&rig.spec("b", "sleep 0.5; exit 9")).await;
    let before = rig.runtime.container("a").await.unwrap().unwrap();
    let mut events = rig.runtime.events();
    let pid: i32 = fs::read_to_string(rig.folder.path().join("c/containerd.pid"))
        .unwrap()
        .parse()
        .unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    let resync = async { while events.recv().await != Some(RuntimeEvent::Resync) {} };
    tokio::time::timeout(Duration::from_secs(20), resync)
        .await
        .expect("a resync");
    assert_eq!(rig.runtime.container("a").await.unwrap().unwrap(), before);
    assert_eq!(rig.ended("b").await.code, 9);
    let limit = Duration::from_secs(10);
    let output = rig
        .runtime
        .exec_sync("a", &["echo".to_owned(), "x".to_owned()], limit)
        .await
        .unwrap();
    assert_eq!(output.output, b"x\n");

    // Another agent, as after a restart of ours, sees the same.
    let tasks = Tasks::new();
    let address = rig.folder.path().join("c/containerd.sock");
    let second = Containerd::connect(config(rig.folder.path(), &address), Clock::system(), &tasks)
        .await
        .unwrap();
    assert_eq!(second.container("a").await.unwrap().unwrap(), before);
    assert!(matches!(
        second.container("b").await.unwrap().unwrap().phase,
        Phase::Exited(Exit { code: 9, .. })
    ));
    tasks.shutdown(limit).await;
    rig.runtime.signal("a", libc::SIGKILL, false).await.unwrap();
    rig.ended("a").await;
    let lines = rig.lines("a");
    let expected: Vec<_> = (1..=lines.len())
        .map(|number| format!("stdout F {number}"))
        .collect();
    assert_eq!(lines, expected, "the log has no hole");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real_an_archive_of_docker_save_is_imported() {
    let Some(rig) = Rig::start().await else {
        return;
    };
    let layer = busybox_layer();
    let config = serde_json::json!({
        "architecture": images::host_architecture(), "os": "linux",
        "config": {"Entrypoint": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [content::digest_of(&layer)]},
    })
    .to_string();
    let manifest = serde_json::json!([{
        "Config": "abc.json", "RepoTags": [IMAGE, "other:2"], "Layers": ["abc/layer.tar"],
    }])
    .to_string();
    let path = rig.folder.path().join("saved.tar");
    let mut archive = tar::Builder::new(fs::File::create(&path).unwrap());
    add(&mut archive, "abc/layer.tar", &layer, 0o644);
    add(&mut archive, "abc.json", config.as_bytes(), 0o644);
    add(&mut archive, "manifest.json", manifest.as_bytes(), 0o644);
    archive.into_inner().unwrap();
    let images = rig.runtime.import(&path).await.unwrap();
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].config.entrypoint, ["/bin/sh"]);
    assert!(rig.runtime.image("other:2").await.unwrap().unwrap().pinned);
    rig.run(&rig.spec("a", "echo saved")).await;
    rig.ended("a").await;
    assert_eq!(rig.lines("a"), ["stdout F saved"]);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real_images_are_pulled_from_a_registry_and_run() {
    let Some(rig) = Rig::start().await else {
        return;
    };
    let folder = rig.folder.path();
    let Some(mut registry) = LocalRegistry::start(folder).await else {
        return;
    };
    let archive = folder.join("busybox.tar.gz");
    write_image(&archive, IMAGE);
    registry.push(&archive, "team/busybox", "1").await;
    let name = format!("{}/team/busybox:1", registry.address);
    let (one, two) = tokio::join!(rig.runtime.pull(&name, &[]), rig.runtime.pull(&name, &[]));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one, two);
    assert!(
        one.names[1].contains("/team/busybox@sha256:"),
        "{:?}",
        one.names
    );
    assert_eq!(rig.runtime.image(&name).await.unwrap().unwrap(), one);
    let spec = ContainerSpec {
        image: name.clone(),
        ..rig.spec("a", "echo pulled")
    };
    rig.run(&spec).await;
    rig.ended("a").await;
    assert_eq!(rig.lines("a"), ["stdout F pulled"]);
    rig.runtime.remove("a").await.unwrap();
    let missing = rig
        .runtime
        .pull(&format!("{}/team/other:2", registry.address), &[])
        .await
        .unwrap_err();
    let expected = format!(
        "failed to pull and unpack image \"{0}/team/other:2\": failed to resolve reference \
         \"{0}/team/other:2\": {0}/team/other:2: not found",
        registry.address
    );
    assert_eq!(missing.to_string(), expected);
    rig.runtime.remove_image(&one.id).await.unwrap();
    assert!(rig.runtime.image(&name).await.unwrap().is_none());
    registry.child.kill().await.unwrap();
    rig.finish().await;
}
