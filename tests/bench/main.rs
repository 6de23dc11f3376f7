//! `make bench`: one table of figures.
//!
//! Without arguments it starts its own one-node cluster on a host made of a network namespace,
//! measures that from a thread on the same host, and removes it. With `--kubeconfig FILE` it puts
//! the same load on any Kubernetes API; figures that need the server's process are left out then.
//! Every load is bounded in count and time. `--only WORD` runs one part of it.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    reason = "a program that measures: it runs programs, uses real time and prints"
)]

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod support;

mod load;
mod machine;
mod pods;
mod table;
mod watch;
mod wire;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use load::Subject;
use wire::Target;

/// The parts, in their order.
const PARTS: [&str; 5] = ["idle", "kubectl", "pods", "load", "watch"];

/// What the command line asks for.
#[derive(Default)]
struct Wish {
    kubeconfig: Option<PathBuf>,
    only: Option<String>,
}

impl Wish {
    fn wants(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == part)
    }
}

fn main() -> ExitCode {
    let Some(wish) = wish(std::env::args().skip(1)) else {
        eprintln!(
            "usage: bench [--kubeconfig FILE] [--only {}]",
            PARTS.join("|")
        );
        return ExitCode::from(64);
    };
    table::print_head();
    match &wish.kubeconfig {
        None => own_cluster(&wish),
        Some(file) => {
            let folder = tempfile::tempdir().unwrap();
            client_parts(&wish, file, (None, folder.path()));
        }
    }
    ExitCode::SUCCESS
}

fn wish(mut words: impl Iterator<Item = String>) -> Option<Wish> {
    let mut wish = Wish::default();
    while let Some(word) = words.next() {
        match word.as_str() {
            // `cargo bench` adds it.
            "--bench" => {}
            "--kubeconfig" => wish.kubeconfig = Some(words.next()?.into()),
            "--only" => wish.only = Some(words.next().filter(|w| PARTS.contains(&w.as_str()))?),
            _ => return None,
        }
    }
    Some(wish)
}

/// Starts a cluster on a host of its own and measures it there.
fn own_cluster(wish: &Wish) {
    let mut network = support::hosts::Network::new();
    let host = network.host("master", "192.168.1.5");
    let server = machine::started(&host);
    host.wait_nodes(1);
    if wish.wants("idle") {
        machine::idle(server.pid());
    }
    host.enter(|| {
        let place = (Some(server.pid()), host.folder.as_path());
        client_parts(wish, &host.kubeconfig(), place);
    });
    machine::loaded(server.pid());
}

/// What any API can be asked. `folder` is on the disk of the store, where that is here.
fn client_parts(wish: &Wish, kubeconfig: &Path, (server, folder): (Option<i32>, &Path)) {
    if wish.wants("kubectl") {
        machine::kubectl(kubeconfig, &folder.join("kubectl-cache"));
    }
    if wish.wants("pods") {
        pods::run(kubeconfig);
    }
    if !wish.wants("load") && !wish.wants("watch") {
        return;
    }
    let subject = Subject {
        target: Target::of(kubeconfig),
        server,
    };
    let mut one = load::make_namespace(&subject);
    if wish.wants("load") {
        load::run(&subject, &mut one, server.map(|_| folder));
    }
    if wish.wants("watch") {
        watch::run(&subject);
    }
    load::remove_namespace(&mut one);
}
