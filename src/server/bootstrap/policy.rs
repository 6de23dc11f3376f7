//! The default roles and bindings (`k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy`).
//!
//! A rule is one line: `verbs : groups : resources [: names]`, or `verbs @ paths`; lists are
//! separated by commas, the core group is `core`.

use serde_json::{Value, json};

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
        ],
    },
    Role {
        name: "system:node-proxier",
        aggregate_to: "",
        rules: &[
            "list,watch : core : endpoints,services",
            "get,list,watch : core : nodes",
            "create,patch,update : core,events.k8s.io : events",
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
            "create,patch,update : core,events.k8s.io : events",
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
            "create,patch,update : core,events.k8s.io : events",
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
            "create,patch,update : core,events.k8s.io : events",
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
    plain.chain(aggregated).collect()
}

/// Every default ClusterRoleBinding.
pub(super) fn cluster_role_bindings() -> Vec<Value> {
    BINDINGS
        .iter()
        .map(|(role, subjects)| {
            let labels = json!({BOOTSTRAPPING.0: BOOTSTRAPPING.1});
            let subjects: Vec<Value> = subjects.iter().map(|text| subject(text)).collect();
            json!({
                "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRoleBinding",
                "metadata": metadata(role, labels), "subjects": subjects,
                "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role},
            })
        })
        .collect()
}

/// Who may read what extension API servers need.
pub(super) fn namespaced() -> Vec<(&'static str, Value)> {
    let name = "extension-apiserver-authentication-reader";
    let labels = json!({BOOTSTRAPPING.0: BOOTSTRAPPING.1});
    let mut meta = metadata(name, labels);
    meta["namespace"] = "kube-system".into();
    let rules = [rule(
        "READ : core : configmaps : extension-apiserver-authentication",
    )];
    let role = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "Role", "metadata": meta, "rules": rules,
    });
    let subjects = [
        "User/system:kube-controller-manager",
        "User/system:kube-scheduler",
    ]
    .map(subject);
    let binding = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "RoleBinding", "metadata": meta,
        "subjects": subjects, "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": name},
    });
    vec![("roles", role), ("rolebindings", binding)]
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
    let line = line.replace("READ", READ).replace("WRITE", WRITE);
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
