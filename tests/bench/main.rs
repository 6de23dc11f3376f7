//! `make bench`: one table of figures.
//!
//! Without arguments it starts its own one-node cluster on a host made of a network namespace and
//! measures that. With `--kubeconfig FILE` it puts the same load on any Kubernetes API; rows that
//! need the server's process are left out then. Every load is bounded in count and time.

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

use std::path::PathBuf;
use std::process::ExitCode;

/// A line of the table.
pub(crate) struct Row {
    name: String,
    value: String,
    target: &'static str,
}

impl Row {
    pub(crate) fn new(name: &str, value: String, target: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            value,
            target,
        }
    }
}

fn main() -> ExitCode {
    // `cargo bench` adds `--bench`.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [] => own_cluster(),
        ["--kubeconfig", file] => print(&against(file.into(), false)),
        ["--rows", file] => print(&against(file.into(), true)),
        _ => {
            eprintln!("usage: bench [--kubeconfig FILE]");
            return ExitCode::from(64);
        }
    }
    ExitCode::SUCCESS
}

/// Starts a cluster, measures its process from here and its API from a process on its host.
fn own_cluster() {
    let mut network = support::hosts::Network::new();
    let host = network.host("master", "192.168.1.5");
    println!("{:<58} {:>22}   to reach", "figure", "measured");
    let server = machine::started(&host, print_one);
    host.wait_nodes(1);
    machine::idle(&server, print_one);
    let own = std::env::current_exe().unwrap();
    let mut command = host.command(&own.to_string_lossy());
    command.arg("--rows").arg(host.kubeconfig());
    let status = command.status().unwrap();
    assert!(status.success(), "the load ended with {status}");
    machine::loaded(&server, print_one);
    drop(server);
    drop(network);
}

fn against(kubeconfig: PathBuf, own: bool) -> Vec<Row> {
    // One provider for the whole process.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = load::connect(&kubeconfig);
        let mut rows = load::rows(&client).await;
        if own {
            rows.extend(pods::rows(&client).await);
        }
        rows
    })
}

fn print(rows: &[Row]) {
    rows.iter().for_each(print_row);
}

fn print_one(row: Row) {
    print_row(&row);
}

fn print_row(row: &Row) {
    println!("{:<58} {:>22}   {}", row.name, row.value, row.target);
}
