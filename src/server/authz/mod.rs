//! May they: the union of `system:masters`, the node authorizer and RBAC.

pub mod node;
pub mod rbac;

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Map, Value};

use crate::api::object::ObjectKey;
use crate::api::status::{ApiError, qualified};
use crate::server::cacher::{Cacher, Expired, Snapshot, Watcher};
use crate::server::request::{RequestInfo, User};

use rbac::{Policy, Rule, Sources};

/// Where the objects of a policy are kept.
const ROLE_STORAGES: [&str; 4] = [
    "clusterroles.rbac.authorization.k8s.io",
    "roles.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
];
const PODS: &str = "pods";
/// Events read in one go when the graph of the nodes catches up.
const EVENTS_A_STEP: usize = 1024;

/// Who asks for what.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Who.
    pub user: &'a User,
    /// What.
    pub info: &'a RequestInfo,
    /// The field selector of a list or watch, as it was sent; empty where none.
    pub field_selector: &'a str,
}

/// The verdict on a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Allowed, and why.
    Allowed(String),
    /// Nobody allows it; the text may be empty.
    NotAllowed(String),
}

/// Asks every authorizer. Reads the watch cache at each request, so that a change of a role or
/// the binding of a pod counts from the next request on; compiles again only after a change.
#[derive(Debug)]
pub struct Authz {
    cacher: Cacher,
    policy: Mutex<Option<Compiled>>,
    nodes: Mutex<Option<Nodes>>,
}

#[derive(Debug)]
struct Compiled {
    /// Last changes of the resources it was made of.
    changes: [u64; 4],
    policy: Arc<Policy>,
}

#[derive(Debug)]
struct Nodes {
    graph: node::Graph,
    watcher: Watcher,
}

impl Authz {
    /// Over the objects in `cacher`.
    pub fn new(cacher: Cacher) -> Self {
        Self {
            cacher,
            policy: Mutex::default(),
            nodes: Mutex::default(),
        }
    }

    /// The union of all authorizers.
    pub fn authorize(&self, asked: &Attributes<'_>) -> Verdict {
        if asked.user.is_in("system:masters") {
            return Verdict::Allowed(String::new());
        }
        let mut why_not = String::new();
        if let Some(name) = node::node_of(asked) {
            match self.with_graph(|graph| graph.authorize(name, asked)) {
                Ok(()) => return Verdict::Allowed(String::new()),
                Err(why) => why_not = why,
            }
        }
        match self.policy().allows(asked.user, asked.info) {
            Some(reason) => Verdict::Allowed(reason),
            None => Verdict::NotAllowed(why_not),
        }
    }

    /// `Ok`, or the 403 as upstream words it.
    pub fn require(&self, asked: &Attributes<'_>) -> Result<(), ApiError> {
        match self.authorize(asked) {
            Verdict::Allowed(_) => Ok(()),
            Verdict::NotAllowed(why) => Err(asked.forbidden(&why)),
        }
    }

    /// Every RBAC rule that applies to `user` in `namespace`.
    pub fn rules_for(&self, user: &User, namespace: &str) -> Vec<Rule> {
        self.policy().rules_for(user, namespace)
    }

    /// The policy of this moment.
    fn policy(&self) -> Arc<Policy> {
        let snapshots = ROLE_STORAGES.map(|storage| self.cacher.snapshot(storage));
        let changes = [0, 1, 2, 3].map(|at: usize| snapshots[at].last_change().0);
        let mut kept = self.policy.lock();
        match &*kept {
            Some(compiled) if compiled.changes == changes => Arc::clone(&compiled.policy),
            _ => {
                let policy = Arc::new(compile(&snapshots));
                let shared = Arc::clone(&policy);
                *kept = Some(Compiled { changes, policy });
                shared
            }
        }
    }

    /// Asks the graph of the nodes after it took notice of every event there is.
    fn with_graph<T>(&self, ask: impl FnOnce(&node::Graph) -> T) -> T {
        let mut nodes = self.nodes.lock();
        if let Some(nodes) = nodes.as_mut()
            && nodes.catch_up().is_ok()
        {
            return ask(&nodes.graph);
        }
        let (snapshot, watcher) = self.cacher.watch_from_now(PODS);
        let mut graph = node::Graph::default();
        for item in snapshot.items("", None) {
            if let Ok(pod) = item.object() {
                graph.put(&pod);
            }
        }
        let answer = ask(&graph);
        *nodes = Some(Nodes { graph, watcher });
        answer
    }
}

impl Nodes {
    fn catch_up(&mut self) -> Result<(), Expired> {
        loop {
            let events = self.watcher.poll(EVENTS_A_STEP)?;
            if events.is_empty() {
                return Ok(());
            }
            for event in events {
                match (&event.item, &event.previous) {
                    (Some(item), _) => {
                        if let Ok(pod) = item.object() {
                            self.graph.put(&pod);
                        }
                    }
                    (None, Some(gone)) => {
                        let key = ObjectKey::new(gone.namespace(), gone.name());
                        self.graph.remove(&key);
                    }
                    (None, None) => {}
                }
            }
        }
    }
}

fn compile(snapshots: &[Snapshot; 4]) -> Policy {
    let [cluster_roles, roles, cluster_role_bindings, role_bindings] =
        snapshots.each_ref().map(|s| {
            s.items("", None)
                .filter_map(|item| item.object().ok())
                .map(|object| object.0)
                .collect::<Vec<Map<String, Value>>>()
        });
    Policy::compile(&Sources {
        cluster_roles: cluster_roles.iter().collect(),
        roles: roles.iter().collect(),
        cluster_role_bindings: cluster_role_bindings.iter().collect(),
        role_bindings: role_bindings.iter().collect(),
    })
}

impl Attributes<'_> {
    /// Whether the field selector asks for exactly `field=value`.
    pub fn selects(&self, field: &str, value: &str) -> bool {
        self.field_selector.split(',').any(|term| {
            let Some((name, rest)) = term.split_once('=') else {
                return false;
            };
            name == field && rest.strip_prefix('=').unwrap_or(rest) == value
        })
    }

    /// The 403 as upstream words it.
    pub fn forbidden(&self, why: &str) -> ApiError {
        let mut text = self.refusal();
        if !why.is_empty() {
            text = format!("{text}: {why}");
        }
        let info = self.info;
        if qualified(&info.group, &info.resource).is_empty() {
            let message = format!("forbidden: {text}");
            return ApiError::plain(403, "Forbidden", message);
        }
        ApiError::forbidden(&info.group, &info.resource, &info.name, &text)
    }

    /// The text of a refusal (`k8s.io/apiserver .../responsewriters.forbiddenMessage`).
    pub fn refusal(&self) -> String {
        let (user, info) = (&self.user.name, self.info);
        if !info.is_resource {
            return format!(
                "User \"{user}\" cannot {} path \"{}\"",
                info.verb, info.path
            );
        }
        let resource = match info.subresource.as_str() {
            "" => info.resource.clone(),
            subresource => format!("{}/{subresource}", info.resource),
        };
        let place = match info.namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace \"{namespace}\""),
        };
        format!(
            "User \"{user}\" cannot {} resource \"{resource}\" in API group \"{}\" {place}",
            info.verb, info.group
        )
    }
}
