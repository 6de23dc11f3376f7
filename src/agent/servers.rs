//! Follows which servers the cluster has: API calls go to any of them, and each has a connection
//! from this node, over which it asks for logs, exec and the like.
//!
//! The servers are the endpoints of the Service `kubernetes`. They are remembered on disk, so that
//! a node starts again while the server it once joined is gone. The address that was joined stays
//! in use where none of the others can be reached: a cluster behind a gateway knows itself by
//! addresses that its nodes may not reach.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::Notify;

use crate::api::object::ObjectKey;
use crate::client::{Cache, HttpsTransport};
use crate::util::errors::OrLog;
use crate::util::fs::write_atomic;
use crate::util::tasks::Tasks;

use super::http::NodeApi;
use super::tunnel;

/// The file below `DATA/agent`: one `host:port` a line.
const FILE: &str = "servers";
/// For a connection to a server that is no longer listed to end.
const END_TIMEOUT: Duration = Duration::from_secs(1);
/// More servers than any cluster has; what is listed beyond is left out.
const SERVERS_MAX: usize = 32;

/// Whose servers are followed, and what is kept up to date by it.
pub struct Servers {
    /// Connects to servers with the node's certificate.
    pub transport: HttpsTransport,
    /// The server that was joined, as `host:port`; `None` for a server's own node.
    pub joined: Option<String>,
    /// The server in this process, which needs no connection.
    pub own: Option<String>,
    /// Answers what comes over the connections.
    pub api: NodeApi,
    /// `DATA/agent`.
    pub folder: PathBuf,
}

/// A connection that is kept.
struct Kept {
    tasks: Tasks,
    is_open: Arc<AtomicBool>,
}

/// The servers that were known when the node last ran.
pub fn remembered(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join(FILE)).unwrap_or_default();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.take(SERVERS_MAX).map(str::to_owned).collect()
}

impl Servers {
    /// Follows `slices` until `tasks` end.
    pub fn follow(self, slices: Cache<EndpointSlice>, tasks: &Tasks) {
        let (cancelled, group) = (tasks.cancelled(), tasks.clone());
        tasks.service("servers", async move {
            let following = self.run(slices, &group);
            cancelled.run_until_cancelled(following).await;
        });
    }

    async fn run(&self, slices: Cache<EndpointSlice>, tasks: &Tasks) {
        let changes = slices.changes();
        let opened = Arc::new(Notify::new());
        let mut kept = BTreeMap::new();
        loop {
            let listed = self.listed(&slices);
            self.tell(&listed);
            let wanted = self.wanted(&listed, &kept);
            let gone: Vec<_> = kept
                .keys()
                .filter(|server| !wanted.contains(*server))
                .cloned()
                .collect();
            for server in gone {
                if let Some(Kept { tasks, .. }) = kept.remove(&server) {
                    tasks.shutdown(END_TIMEOUT).await;
                }
            }
            for server in wanted {
                kept.entry(server.clone())
                    .or_insert_with(|| self.keep(server, &opened, tasks));
            }
            tokio::select! {
                _ = changes.next() => {}
                () = opened.notified() => {}
            }
        }
    }

    /// The servers in the endpoints of the Service `kubernetes`.
    fn listed(&self, slices: &Cache<EndpointSlice>) -> Vec<String> {
        let slice = slices.get(&ObjectKey::new("default", "kubernetes"));
        slice.map(|slice| addresses(&slice)).unwrap_or_default()
    }

    /// API calls go to the servers that are listed, and to the one that was joined.
    fn tell(&self, listed: &[String]) {
        let Some(joined) = &self.joined else { return };
        if listed.is_empty() {
            return;
        }
        let mut all = listed.to_vec();
        if let Some(at) = all.iter().position(|server| server == joined) {
            // The first is connected to first: not every node to the same server.
            all.rotate_left(at);
        } else {
            all.push(joined.clone());
        }
        self.transport.set_servers(all);
        let text = listed.join("\n");
        let file = self.folder.join(FILE);
        if std::fs::read_to_string(&file).ok().as_deref() != Some(&text) {
            write_atomic(&file, text.as_bytes(), 0o644).ok_or_log("remember the servers");
        }
    }

    /// The servers to be connected to.
    fn wanted(&self, listed: &[String], kept: &BTreeMap<String, Kept>) -> Vec<String> {
        let others = listed
            .iter()
            .filter(|server| Some(*server) != self.own.as_ref());
        let mut wanted: Vec<_> = others.cloned().collect();
        let is_open = |server: &String| {
            let kept = kept.get(server);
            kept.is_some_and(|kept| kept.is_open.load(Ordering::Acquire))
        };
        if let Some(joined) = &self.joined
            && !wanted.contains(joined)
            && !wanted.iter().any(is_open)
        {
            wanted.push(joined.clone());
        }
        wanted
    }

    fn keep(&self, server: String, opened: &Arc<Notify>, tasks: &Tasks) -> Kept {
        let tasks = tasks.child();
        let is_open = Arc::new(AtomicBool::new(false));
        let (flag, opened) = (is_open.clone(), opened.clone());
        let tell = move |open: bool| {
            flag.store(open, Ordering::Release);
            opened.notify_one();
        };
        let transport = self.transport.to(server, &tasks);
        tunnel::keep(transport, self.api.clone(), &tasks, tell);
        Kept { tasks, is_open }
    }
}

/// `host:port` of every endpoint.
fn addresses(slice: &EndpointSlice) -> Vec<String> {
    let ports = slice.ports.iter().flatten();
    let Some(port) = ports.filter_map(|port| port.port).next() else {
        return Vec::new();
    };
    let all = slice.endpoints.iter().flatten().flat_map(|e| &e.addresses);
    let named = all.map(|address| match address.contains(':') {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    });
    named.take(SERVERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn endpoints_are_servers() {
        let slice = |family: &str, address: &str| -> EndpointSlice {
            serde_json::from_value(json!({"metadata": {}, "addressType": family,
                "ports": [{"port": 6443}], "endpoints": [{"addresses": [address]}]}))
            .unwrap()
        };
        assert_eq!(addresses(&slice("IPv4", "10.0.0.1")), ["10.0.0.1:6443"]);
        assert_eq!(addresses(&slice("IPv6", "fd00::1")), ["[fd00::1]:6443"]);
    }

    #[test]
    fn servers_are_remembered() {
        let folder = tempfile::tempdir().unwrap();
        assert!(remembered(folder.path()).is_empty());
        std::fs::write(folder.path().join(FILE), "a:1\n\n b:2 ").unwrap();
        assert_eq!(remembered(folder.path()), ["a:1", "b:2"]);
    }
}
