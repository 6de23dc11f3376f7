//! Admission through the verbs: security levels, limits, quotas, policies, roles.

use serde_json::{Value, json};

use super::harness::Api;
use crate::server::request::User;

const PODS: &str = "POST /api/v1/namespaces/default/pods";
const POLICIES: &str = "POST /apis/admissionregistration.k8s.io/v1";

fn pod(name: &str, spec: &Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "x"}]},
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][field] = value.clone();
    }
    pod
}

#[tokio::test]
async fn a_namespaces_level_refuses_pods_and_warns_of_workloads() {
    let api = Api::new().await;
    let level = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
    api.ok(
        "PATCH /api/v1/namespaces/default | content-type: application/merge-patch+json",
        level,
    )
    .await;
    assert_eq!(
        api.err(PODS, pod("p", &json!({"hostNetwork": true}))).await,
        (
            403,
            "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces \
             (hostNetwork=true)"
                .to_owned()
        )
    );
    api.ok(PODS, pod("p", &json!({}))).await;
    let deployment = json!({
        "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"hostPID": true, "containers": [{"name": "c", "image": "x"}]},
        }},
    });
    let line = "POST /apis/apps/v1/namespaces/default/deployments";
    let answer = api.send(line, deployment).await.unwrap();
    let warnings: Vec<_> = answer.headers().get_all("warning").iter().collect();
    assert_eq!(
        warnings,
        [
            "299 - \"would violate PodSecurity \\\"baseline:latest\\\": host namespaces \
             (hostPID=true)\""
        ]
    );
    let wrong = json!({"metadata": {"name": "x", "labels": {
        "pod-security.kubernetes.io/enforce": "strict",
    }}});
    assert_eq!(api.err("POST /api/v1/namespaces", wrong).await.0, 422);
}

#[tokio::test]
async fn containers_get_defaults_and_limits_hold() {
    let api = Api::new().await;
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": [
        {"type": "Container", "default": {"cpu": "200m"}, "max": {"cpu": "1"}},
    ]}});
    api.ok("POST /api/v1/namespaces/default/limitranges", range)
        .await;
    let made = api.ok(PODS, pod("p", &json!({}))).await;
    let resources = &made["spec"]["containers"][0]["resources"];
    assert_eq!(resources["limits"]["cpu"], "200m");
    let large = json!({"containers": [
        {"name": "c", "image": "x", "resources": {"limits": {"cpu": "2"}}},
    ]});
    assert_eq!(
        api.err(PODS, pod("q", &large)).await.1,
        "pods \"q\" is forbidden: maximum cpu usage per Container is 1, but limit is 2"
    );
}

async fn quota(api: &Api, hard: Value) {
    let used = hard
        .as_object()
        .unwrap()
        .keys()
        .map(|name| (name.clone(), json!("0")));
    let used: Value = used.collect::<serde_json::Map<_, _>>().into();
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": hard}});
    api.ok("POST /api/v1/namespaces/default/resourcequotas", quota)
        .await;
    api.ok(
        "PATCH /api/v1/namespaces/default/resourcequotas/q/status | content-type: \
         application/merge-patch+json",
        json!({"status": {"hard": hard, "used": used}}),
    )
    .await;
}

async fn used(api: &Api, name: &str) -> Value {
    let line = "GET /api/v1/namespaces/default/resourcequotas/q";
    api.ok(line, Value::Null).await["status"]["used"][name].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_exact_with_many_at_once() {
    let api = Api::new().await;
    quota(&api, json!({"count/configmaps": "10", "pods": "5"})).await;
    let api = &api;
    let creates = (0..32).map(|number| async move {
        let map = json!({"metadata": {"name": format!("m{number}")}});
        api.call("POST /api/v1/namespaces/default/configmaps", map)
            .await
    });
    let answers = futures_util::future::join_all(creates).await;
    let made = answers.iter().filter(|(code, _)| *code == 201).count();
    assert_eq!(made, 10);
    let refused = answers.iter().find(|(code, _)| *code != 201).unwrap();
    assert_eq!(refused.0, 403);
    let message = refused.1["message"].as_str().unwrap();
    assert!(
        message.ends_with(
            "is forbidden: exceeded quota: q, requested: count/configmaps=1, used: \
             count/configmaps=10, limited: count/configmaps=10"
        ),
        "{message}"
    );
    assert_eq!(used(api, "count/configmaps").await, "10");
}

#[tokio::test]
async fn what_is_not_made_is_given_back() {
    let api = Api::new().await;
    let map = |name: &str| json!({"metadata": {"name": name}});
    let line = "POST /api/v1/namespaces/default/configmaps";
    quota(&api, json!({"count/configmaps": "3"})).await;
    api.ok(line, map("a")).await;
    assert_eq!(api.err(line, map("a")).await.0, 409);
    assert_eq!(used(&api, "count/configmaps").await, "1");
    api.ok(&format!("{line}?dryRun=All"), map("b")).await;
    assert_eq!(used(&api, "count/configmaps").await, "1");
}

#[tokio::test]
async fn a_policy_refuses_warns_and_takes_parameters() {
    let api = Api::new().await;
    let params = json!({"metadata": {"name": "limits"}, "data": {"prefix": "ok-"}});
    api.ok("POST /api/v1/namespaces/default/configmaps", params)
        .await;
    let policy = json!({"metadata": {"name": "names"}, "spec": {
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConstraints": {"resourceRules": [{
            "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
            "resources": ["secrets"],
        }]},
        "matchConditions": [
            {"name": "not-admin", "expression": "request.userInfo.username != 'root'"},
        ],
        "variables": [{"name": "prefix", "expression": "params.data.prefix"}],
        "validations": [
            {"expression": "object.metadata.name.startsWith(variables.prefix)",
             "messageExpression": "'name must begin with ' + variables.prefix"},
            {"expression": "authorizer.group('').resource('secrets').namespace('default')\
              .check('get').allowed()"},
        ],
    }});
    api.ok(&format!("{POLICIES}/validatingadmissionpolicies"), policy)
        .await;
    let binding = json!({"metadata": {"name": "bound"}, "spec": {
        "policyName": "names", "validationActions": ["Deny"],
        "paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"},
    }});
    api.ok(
        &format!("{POLICIES}/validatingadmissionpolicybindings"),
        binding,
    )
    .await;
    let secrets = "POST /api/v1/namespaces/default/secrets";
    let secret = |name: &str| json!({"metadata": {"name": name}});
    let (code, status) = api.call(secrets, secret("bad")).await;
    assert_eq!((code, &status["reason"]), (422, &json!("Invalid")));
    assert_eq!(
        status["message"],
        "secrets \"bad\" is forbidden: ValidatingAdmissionPolicy 'names' with binding 'bound' \
         denied request: name must begin with ok-"
    );
    api.ok(secrets, secret("ok-1")).await;
    let warn = json!({"spec": {"validationActions": ["Warn"]}});
    let line = "PATCH /apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/\
                bound | content-type: application/merge-patch+json";
    api.ok(line, warn).await;
    let answer = api.send(secrets, secret("bad")).await.unwrap();
    let warning = answer.headers()["warning"].to_str().unwrap();
    assert!(warning.contains("Validation failed for ValidatingAdmissionPolicy 'names'"));
}

#[tokio::test]
async fn a_mutating_policy_changes_what_is_written() {
    let api = Api::new().await;
    let policy = json!({"metadata": {"name": "label"}, "spec": {
        "matchConstraints": {"resourceRules": [{
            "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
            "resources": ["configmaps"],
        }]},
        "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {
            "expression": "Object{metadata: Object.metadata{labels: {'by': \
                           request.userInfo.username}}}",
        }}],
    }});
    api.ok(&format!("{POLICIES}/mutatingadmissionpolicies"), policy)
        .await;
    let binding = json!({"metadata": {"name": "b"}, "spec": {"policyName": "label"}});
    api.ok(
        &format!("{POLICIES}/mutatingadmissionpolicybindings"),
        binding,
    )
    .await;
    let map = json!({"metadata": {"name": "m"}});
    let made = api
        .ok("POST /api/v1/namespaces/default/configmaps", map)
        .await;
    assert_eq!(made["metadata"]["labels"]["by"], "admin");
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_have() {
    let mut api = Api::new().await;
    let roles = "POST /apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
    let bindings = "POST /apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    let role = |name: &str, resource: &str| {
        json!({"metadata": {"name": name}, "rules": [
            {"apiGroups": [""], "resources": [resource], "verbs": ["get"]},
        ]})
    };
    let binding = |name: &str, role: &str| {
        json!({
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "joe"}],
        })
    };
    api.ok(roles, role("pods", "pods")).await;
    api.ok(roles, role("secrets", "secrets")).await;
    api.ok(bindings, binding("joe", "pods")).await;
    api.user = User {
        name: "joe".to_owned(),
        groups: vec!["system:authenticated".to_owned()],
        ..User::default()
    };
    api.ok(roles, role("mine", "pods")).await;
    let (code, message) = api.err(roles, role("more", "secrets")).await;
    assert_eq!(code, 403);
    assert_eq!(
        message,
        "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"joe\" \
         (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently \
         held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}"
    );
    assert_eq!(api.err(bindings, binding("x", "secrets")).await.0, 403);
    assert_eq!(api.err(bindings, binding("x", "none")).await.0, 404);
    api.ok(bindings, binding("y", "pods")).await;
}
