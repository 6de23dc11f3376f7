//! The default roles and bindings (`k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy`).
//!
//! A rule is one line: `verbs : groups : resources [: names]`, or `verbs @ paths`; lists are
//! separated by commas, the core group is `core`; `READ`, `WRITE` and `EVENTS` stand for what they
//! say below.

use serde_json::{Value, json};

use super::controller_policy::{CONTROLLERS, PREFIX};

/// Marks what the server keeps up to date.
const BOOTSTRAPPING: (&str, &str) = ("kubernetes.io/bootstrapping", "rbac-defaults");
/// Set to `false` by whoever wants a default left alone.
pub(super) const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const GROUP: &str = "rbac.authorization.k8s.io";

struct Role {
    name: &'static str,
    /// `aggregate-to-<this>`
    aggregate_to: &'static str,
    rules: &'static [&'static str],
}

const READ: &str = "get,list,watch";
const WRITE: &str = "create,delete,deletecollection,patch,update";
const EVENTS: &str = "create,patch,update : core,events.k8s.io : events";

/// Roles whose rules are those of the roles that are labelled for them.
const AGGREGATED: &[(&str, &str)] = &[("admin", ""), ("edit", "admin"), ("view", "edit")];

const ROLES: &[Role] = &[
    Role {
        name: "cluster-admin",
        aggregate_to: "",
        rules: &["* : * : *", "* @ *"],
    },
    Role {
        name: "system:discovery",
        aggregate_to: "",
        rules: &[
            "get @ /api,/api/*,/apis,/apis/*,/healthz,/livez,/openapi,/openapi/*,/readyz,/version,/version/",
        ],
    },
    Role {
        name: "system:public-info-viewer",
        aggregate_to: "",
        rules: &["get @ /healthz,/livez,/readyz,/version,/version/"],
    },
    Role {
        name: "system:monitoring",
        aggregate_to: "",
        rules: &[
            "get @ /healthz,/healthz/*,/livez,/livez/*,/metrics,/metrics/slis,/readyz,/readyz/*",
        ],
    },
    Role {
        name: "system:basic-user",
        aggregate_to: "",
        rules: &[
            "create : authorization.k8s.io : selfsubjectaccessreviews,selfsubjectrulesreviews",
            "create : authentication.k8s.io : selfsubjectreviews",
        ],
    },
    Role {
        name: "system:aggregate-to-admin",
        aggregate_to: "admin",
        rules: &[
            "create : authorization.k8s.io : localsubjectaccessreviews",
            "WRITE,READ : rbac.authorization.k8s.io : roles,rolebindings",
        ],
    },
    Role {
        name: "system:aggregate-to-edit",
        aggregate_to: "edit",
        rules: &[
            "READ : core : pods/attach,pods/exec,pods/portforward,pods/proxy,secrets,services/proxy",
            "impersonate : core : serviceaccounts",
            "WRITE : core : pods,pods/attach,pods/exec,pods/portforward,pods/proxy",
            "create : core : pods/eviction",
            "WRITE : core : configmaps,events,persistentvolumeclaims,replicationcontrollers,replicationcontrollers/scale,secrets,serviceaccounts,services,services/proxy",
            "create : core : serviceaccounts/token",
            "WRITE : apps : daemonsets,deployments,deployments/rollback,deployments/scale,replicasets,replicasets/scale,statefulsets,statefulsets/scale",
            "WRITE : autoscaling : horizontalpodautoscalers",
            "WRITE : batch : cronjobs,jobs",
            "WRITE : policy : poddisruptionbudgets",
            "WRITE : networking.k8s.io : ingresses,networkpolicies",
            "WRITE,READ : coordination.k8s.io : leases",
            "WRITE : resource.k8s.io : resourceclaims,resourceclaimtemplates",
        ],
    },
    Role {
        name: "system:aggregate-to-view",
        aggregate_to: "view",
        rules: &[
            "READ : core : configmaps,endpoints,persistentvolumeclaims,persistentvolumeclaims/status,pods,replicationcontrollers,replicationcontrollers/scale,serviceaccounts,services,services/status",
            "READ : core : bindings,events,limitranges,namespaces/status,pods/log,pods/status,replicationcontrollers/status,resourcequotas,resourcequotas/status",
            "READ : core : namespaces",
            "READ : discovery.k8s.io : endpointslices",
            "READ : apps : controllerrevisions,daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,replicasets,replicasets/scale,replicasets/status,statefulsets,statefulsets/scale,statefulsets/status",
            "READ : autoscaling : horizontalpodautoscalers,horizontalpodautoscalers/status",
            "READ : batch : cronjobs,cronjobs/status,jobs,jobs/status",
            "READ : policy : poddisruptionbudgets,poddisruptionbudgets/status",
            "READ : networking.k8s.io : ingresses,ingresses/status,networkpolicies",
            "READ : resource.k8s.io : resourceclaims,resourceclaims/status,resourceclaimtemplates",
        ],
    },
    Role {
        name: "system:node",
        aggregate_to: "",
        rules: &[
            "create : authentication.k8s.io : tokenreviews",
            "create : authorization.k8s.io : localsubjectaccessreviews,subjectaccessreviews",
            "READ : core : services",
            "create,get,list,watch : core : nodes",
            "patch,update : core : nodes/status",
            "patch,update : core : nodes",
            "create,patch,update : core : events",
            "READ : core : pods",
            "create,delete : core : pods",
            "patch,update : core : pods/status",
            "create : core : pods/eviction",
            "READ : core : configmaps,secrets",
            "get : core : persistentvolumeclaims,persistentvolumes",
            "get : core : endpoints",
            "create,get,list,watch : certificates.k8s.io : certificatesigningrequests",
            "create,delete,get,patch,update : coordination.k8s.io : leases",
            "get : storage.k8s.io : volumeattachments",
            "create : core : serviceaccounts/token",
            "get,patch,update : core : persistentvolumeclaims/status",
            "READ : storage.k8s.io : csidrivers",
            "create,delete,get,patch,update : storage.k8s.io : csinodes",
            "READ : node.k8s.io : runtimeclasses",
            "get : resource.k8s.io : resourceclaims",
            "delete,deletecollection,create,get,list,patch,update,watch : resource.k8s.io : resourceslices",
            "READ : certificates.k8s.io : clustertrustbundles",
        ],
    },
    Role {
        name: "system:node-proxier",
        aggregate_to: "",
        rules: &[
            "list,watch : core : endpoints,services",
            "get,list,watch : core : nodes",
            "EVENTS",
            "list,watch : discovery.k8s.io : endpointslices",
        ],
    },
    Role {
        name: "system:kubelet-api-admin",
        aggregate_to: "",
        rules: &[
            "READ,proxy : core : nodes",
            "* : core : nodes/log,nodes/metrics,nodes/proxy,nodes/stats",
        ],
    },
    Role {
        name: "system:node-bootstrapper",
        aggregate_to: "",
        rules: &["create,get,list,watch : certificates.k8s.io : certificatesigningrequests"],
    },
    Role {
        name: "system:auth-delegator",
        aggregate_to: "",
        rules: &[
            "create : authentication.k8s.io : tokenreviews",
            "create : authorization.k8s.io : subjectaccessreviews",
        ],
    },
    Role {
        name: "system:kube-controller-manager",
        aggregate_to: "",
        rules: &[
            "EVENTS",
            "create : coordination.k8s.io : leases",
            "get,update : coordination.k8s.io : leases : kube-controller-manager",
            "create : core : secrets,serviceaccounts",
            "delete : core : secrets",
            "get : core : configmaps,namespaces,secrets,serviceaccounts",
            "update : core : secrets,serviceaccounts",
            "create : authentication.k8s.io : tokenreviews",
            "create : authorization.k8s.io : subjectaccessreviews",
            "list,watch : * : *",
            "create : core : serviceaccounts/token",
        ],
    },
    Role {
        name: "system:kube-dns",
        aggregate_to: "",
        rules: &["list,watch : core : endpoints,services"],
    },
    Role {
        name: "system:kube-scheduler",
        aggregate_to: "",
        rules: &[
            "EVENTS",
            "create : coordination.k8s.io : leases",
            "get,list,update,watch : coordination.k8s.io : leases : kube-scheduler",
            "READ : core : nodes",
            "delete,get,list,watch : core : pods",
            "create : core : bindings,pods/binding",
            "patch,update : core : pods/status",
            "READ : core : replicationcontrollers,services",
            "READ : apps : replicasets",
            "READ : apps : statefulsets",
            "READ : policy : poddisruptionbudgets",
            "READ : core : persistentvolumeclaims,persistentvolumes",
            "create : authentication.k8s.io : tokenreviews",
            "create : authorization.k8s.io : subjectaccessreviews",
            "READ : storage.k8s.io : csinodes",
            "READ : core : namespaces",
            "READ : storage.k8s.io : csidrivers",
            "READ : storage.k8s.io : csistoragecapacities",
            "READ : storage.k8s.io : volumeattachments",
            "READ : resource.k8s.io : deviceclasses,resourceclaims,resourceslices",
            "patch,update : resource.k8s.io : resourceclaims,resourceclaims/status",
            "patch,update : core : pods/finalizers",
        ],
    },
    Role {
        name: "system:volume-scheduler",
        aggregate_to: "",
        rules: &[
            "get,list,patch,update,watch : core : persistentvolumes",
            "READ : storage.k8s.io : storageclasses",
            "get,list,patch,update,watch : core : persistentvolumeclaims",
        ],
    },
    Role {
        name: "system:persistent-volume-provisioner",
        aggregate_to: "",
        rules: &[
            "create,delete,get,list,watch : core : persistentvolumes",
            "get,list,update,watch : core : persistentvolumeclaims",
            "READ : storage.k8s.io : storageclasses",
            "watch : core : events",
            "EVENTS",
        ],
    },
    Role {
        name: "system:heapster",
        aggregate_to: "",
        rules: &[
            "READ : core : events,namespaces,nodes,pods",
            "READ : extensions : deployments",
        ],
    },
    Role {
        name: "system:kube-aggregator",
        aggregate_to: "",
        rules: &["READ : core : endpoints,services"],
    },
    Role {
        name: "system:node-problem-detector",
        aggregate_to: "",
        rules: &[
            "get : core : nodes",
            "patch : core : nodes/status",
            "EVENTS",
        ],
    },
    Role {
        name: "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        aggregate_to: "",
        rules: &["create : certificates.k8s.io : certificatesigningrequests/nodeclient"],
    },
    Role {
        name: "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        aggregate_to: "",
        rules: &["create : certificates.k8s.io : certificatesigningrequests/selfnodeclient"],
    },
    Role {
        name: "system:certificates.k8s.io:legacy-unknown-approver",
        aggregate_to: "",
        rules: &["approve : certificates.k8s.io : signers : kubernetes.io/legacy-unknown"],
    },
    Role {
        name: "system:certificates.k8s.io:kubelet-serving-approver",
        aggregate_to: "",
        rules: &["approve : certificates.k8s.io : signers : kubernetes.io/kubelet-serving"],
    },
    Role {
        name: "system:certificates.k8s.io:kube-apiserver-client-approver",
        aggregate_to: "",
        rules: &["approve : certificates.k8s.io : signers : kubernetes.io/kube-apiserver-client"],
    },
    Role {
        name: "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        aggregate_to: "",
        rules: &[
            "approve : certificates.k8s.io : signers : kubernetes.io/kube-apiserver-client-kubelet",
        ],
    },
    Role {
        name: "system:service-account-issuer-discovery",
        aggregate_to: "",
        rules: &[
            "get @ /.well-known/openid-configuration,/.well-known/openid-configuration/,/openid/v1/jwks,/openid/v1/jwks/",
        ],
    },
];

/// Role, and who it is bound to: `Kind/name` or `ServiceAccount/namespace/name`.
const BINDINGS: &[(&str, &[&str])] = &[
    ("cluster-admin", &["Group/system:masters"]),
    ("system:monitoring", &["Group/system:monitoring"]),
    ("system:discovery", &["Group/system:authenticated"]),
    ("system:basic-user", &["Group/system:authenticated"]),
    (
        "system:public-info-viewer",
        &["Group/system:authenticated", "Group/system:unauthenticated"],
    ),
    ("system:node-proxier", &["User/system:kube-proxy"]),
    (
        "system:kube-controller-manager",
        &["User/system:kube-controller-manager"],
    ),
    ("system:kube-dns", &["ServiceAccount/kube-system/kube-dns"]),
    ("system:kube-scheduler", &["User/system:kube-scheduler"]),
    ("system:volume-scheduler", &["User/system:kube-scheduler"]),
    ("system:node", &[]),
    (
        "system:service-account-issuer-discovery",
        &["Group/system:serviceaccounts"],
    ),
];

/// Every default ClusterRole.
pub(super) fn cluster_roles() -> Vec<Value> {
    let plain = ROLES.iter().map(|role| {
        let mut labels = json!({BOOTSTRAPPING.0: BOOTSTRAPPING.1});
        if !role.aggregate_to.is_empty() {
            labels[aggregate_label(role.aggregate_to)] = "true".into();
        }
        let rules: Vec<Value> = role.rules.iter().map(|line| rule(line)).collect();
        json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole",
            "metadata": metadata(role.name, labels), "rules": rules,
        })
    });
    let aggregated = AGGREGATED.iter().map(|(name, to)| {
        let mut labels = json!({BOOTSTRAPPING.0: BOOTSTRAPPING.1});
        if !to.is_empty() {
            labels[aggregate_label(to)] = "true".into();
        }
        let selector = json!([{"matchLabels": {aggregate_label(name): "true"}}]);
        json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole",
            "metadata": metadata(name, labels),
            "aggregationRule": {"clusterRoleSelectors": selector},
            "rules": aggregated_rules(name),
        })
    });
    plain.chain(aggregated).chain(controller_roles()).collect()
}

fn controller_roles() -> impl Iterator<Item = Value> {
    CONTROLLERS.iter().map(|(name, lines)| {
        let rules: Vec<Value> = lines.iter().map(|line| rule(line)).collect();
        let labels = json!({BOOTSTRAPPING.0: BOOTSTRAPPING.1});
        json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole",
            "metadata": metadata(&format!("{PREFIX}{name}"), labels), "rules": rules,
        })
    })
}

/// Every default ClusterRoleBinding.
pub(super) fn cluster_role_bindings() -> Vec<Value> {
    let plain = BINDINGS.iter().map(|(role, subjects)| {
        let subjects = subjects.iter().map(|text| subject(text)).collect();
        cluster_role_binding(role, subjects)
    });
    let controllers = CONTROLLERS.iter().map(|(name, _)| {
        let account = subject(&format!("ServiceAccount/kube-system/{name}"));
        cluster_role_binding(&format!("{PREFIX}{name}"), vec![account])
    });
    plain.chain(controllers).collect()
}

fn cluster_role_binding(role: &str, subjects: Vec<Value>) -> Value {
    let labels = json!({BOOTSTRAPPING.0: BOOTSTRAPPING.1});
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRoleBinding",
        "metadata": metadata(role, labels), "subjects": subjects,
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role},
    })
}

/// A Role and its RoleBinding.
struct Namespaced {
    namespace: &'static str,
    name: &'static str,
    rules: &'static [&'static str],
    /// The binding's name where it is another, and whom it binds.
    binding: &'static str,
    subjects: &'static [&'static str],
}

const MANAGER: &str = "User/system:kube-controller-manager";
const SCHEDULER: &str = "User/system:kube-scheduler";

/// `bootstrappolicy/namespace_policy.go`
const NAMESPACED: &[Namespaced] = &[
    Namespaced {
        namespace: "kube-system",
        name: "extension-apiserver-authentication-reader",
        rules: &["READ : core : configmaps : extension-apiserver-authentication"],
        binding: "system::extension-apiserver-authentication-reader",
        subjects: &[MANAGER, SCHEDULER],
    },
    Namespaced {
        namespace: "kube-system",
        name: "system:controller:bootstrap-signer",
        rules: &["READ : core : secrets"],
        binding: "system:controller:bootstrap-signer",
        subjects: &["ServiceAccount/kube-system/bootstrap-signer"],
    },
    Namespaced {
        namespace: "kube-system",
        name: "system:controller:cloud-provider",
        rules: &["create,get,list,watch : core : configmaps"],
        binding: "system:controller:cloud-provider",
        subjects: &["ServiceAccount/kube-system/cloud-provider"],
    },
    Namespaced {
        namespace: "kube-system",
        name: "system:controller:token-cleaner",
        rules: &["delete,get,list,watch : core : secrets", "EVENTS"],
        binding: "system:controller:token-cleaner",
        subjects: &["ServiceAccount/kube-system/token-cleaner"],
    },
    Namespaced {
        namespace: "kube-system",
        name: "system::leader-locking-kube-controller-manager",
        rules: &[
            "watch : core : configmaps",
            "get,update : core : configmaps : kube-controller-manager",
        ],
        binding: "system::leader-locking-kube-controller-manager",
        subjects: &[
            MANAGER,
            "ServiceAccount/kube-system/kube-controller-manager",
        ],
    },
    Namespaced {
        namespace: "kube-system",
        name: "system::leader-locking-kube-scheduler",
        rules: &[
            "watch : core : configmaps",
            "get,update : core : configmaps : kube-scheduler",
        ],
        binding: "system::leader-locking-kube-scheduler",
        subjects: &[SCHEDULER, "ServiceAccount/kube-system/kube-scheduler"],
    },
    Namespaced {
        namespace: "kube-public",
        name: "system:controller:bootstrap-signer",
        rules: &[
            "READ : core : configmaps",
            "update : core : configmaps : cluster-info",
            "EVENTS",
        ],
        binding: "system:controller:bootstrap-signer",
        subjects: &["ServiceAccount/kube-system/bootstrap-signer"],
    },
];

/// Every default Role, with its namespace.
pub(super) fn roles() -> Vec<(&'static str, Value)> {
    let role = |entry: &Namespaced| {
        let rules: Vec<Value> = entry.rules.iter().map(|line| rule(line)).collect();
        json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "Role",
            "metadata": namespaced_metadata(entry.name, entry.namespace), "rules": rules,
        })
    };
    NAMESPACED
        .iter()
        .map(|entry| (entry.namespace, role(entry)))
        .collect()
}

/// Every default RoleBinding, with its namespace.
pub(super) fn role_bindings() -> Vec<(&'static str, Value)> {
    let binding = |entry: &Namespaced| {
        let subjects: Vec<Value> = entry.subjects.iter().map(|text| subject(text)).collect();
        json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "RoleBinding",
            "metadata": namespaced_metadata(entry.binding, entry.namespace),
            "subjects": subjects,
            "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": entry.name},
        })
    };
    NAMESPACED
        .iter()
        .map(|entry| (entry.namespace, binding(entry)))
        .collect()
}

fn namespaced_metadata(name: &str, namespace: &str) -> Value {
    let mut meta = metadata(name, json!({BOOTSTRAPPING.0: BOOTSTRAPPING.1}));
    meta["namespace"] = namespace.into();
    meta
}

/// What the defaults give an aggregating role, for those who read it; what is asked of it at a
/// request is found out from the selectors.
fn aggregated_rules(name: &str) -> Vec<Value> {
    let mut names = vec![name];
    let mut at = 0;
    while let Some(target) = names.get(at).copied() {
        let more = AGGREGATED.iter().filter(|(_, to)| *to == target);
        names.extend(more.map(|(name, _)| *name));
        at += 1;
    }
    ROLES
        .iter()
        .filter(|role| names.contains(&role.aggregate_to))
        .flat_map(|role| role.rules.iter().map(|line| rule(line)))
        .collect()
}

fn aggregate_label(to: &str) -> String {
    format!("rbac.authorization.k8s.io/aggregate-to-{to}")
}

fn metadata(name: &str, labels: Value) -> Value {
    json!({"name": name, "labels": labels, "annotations": {AUTOUPDATE: "true"}})
}

fn subject(text: &str) -> Value {
    let (kind, name) = text.split_once('/').unwrap_or(("Group", text));
    if kind == "ServiceAccount" {
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        return json!({"kind": kind, "namespace": namespace, "name": name});
    }
    json!({"apiGroup": GROUP, "kind": kind, "name": name})
}

fn rule(line: &str) -> Value {
    let line = line
        .replace("EVENTS", EVENTS)
        .replace("READ", READ)
        .replace("WRITE", WRITE);
    let list = |text: &str| -> Vec<String> {
        let items = text.split(',').map(str::trim);
        items
            .map(|item| if item == "core" { "" } else { item }.to_owned())
            .collect()
    };
    if let Some((verbs, paths)) = line.split_once(" @ ") {
        return json!({"verbs": list(verbs), "nonResourceURLs": list(paths)});
    }
    let parts: Vec<_> = line.split(" : ").map(list).collect();
    let part = |at: usize| parts.get(at).cloned().unwrap_or_default();
    let mut rule = json!({"verbs": part(0), "apiGroups": part(1), "resources": part(2)});
    if parts.len() > 3 {
        rule["resourceNames"] = json!(part(3));
    }
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_rules() {
        assert_eq!(
            rule("get,WRITE : core,apps : pods : a"),
            json!({"verbs": ["get", "create", "delete", "deletecollection", "patch", "update"],
                "apiGroups": ["", "apps"], "resources": ["pods"], "resourceNames": ["a"]})
        );
        assert_eq!(
            rule("get @ /api,/api/*"),
            json!({"verbs": ["get"], "nonResourceURLs": ["/api", "/api/*"]})
        );
    }

    #[test]
    fn every_line_of_the_tables_is_whole() {
        for role in cluster_roles() {
            for rule in role["rules"].as_array().unwrap() {
                let filled = |field: &str| rule[field].as_array().is_some_and(|l| !l.is_empty());
                assert!(filled("verbs"), "{role}");
                assert!(
                    filled("nonResourceURLs") || (filled("apiGroups") && filled("resources")),
                    "{role}"
                );
            }
        }
        let roles = cluster_roles();
        for binding in cluster_role_bindings() {
            let name = &binding["roleRef"]["name"];
            assert!(
                roles.iter().any(|role| role["metadata"]["name"] == *name),
                "{name}"
            );
        }
    }

    #[test]
    fn admin_has_the_rules_of_edit_and_view() {
        let has = |rules: &[Value], resource: &str| {
            rules
                .iter()
                .any(|r| r["resources"].to_string().contains(resource))
        };
        assert!(has(&aggregated_rules("admin"), "pods/log"));
        assert!(has(&aggregated_rules("admin"), "rolebindings"));
        assert!(has(&aggregated_rules("view"), "pods/log"));
        assert!(!has(&aggregated_rules("view"), "secrets"));
    }
}
