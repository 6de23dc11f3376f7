//! Plans as tables.

use serde_json::{Value, json};

use super::*;

fn service(change: impl Fn(&mut Value)) -> Service {
    let mut value = json!({
        "metadata": {"name": "web", "namespace": "d", "uid": "svc", "labels": {"app": "web"}},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn pod(number: usize, change: impl Fn(&mut Value)) -> Arc<Pod> {
    let name = format!("p{number:03}");
    let mut value = json!({
        "metadata": {"name": name, "namespace": "d", "uid": name, "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
        "status": {"phase": "Running", "podIP": format!("10.1.{}.{}", number / 200, number % 200),
            "conditions": [{"type": "Ready", "status": "True"}]},
    });
    change(&mut value);
    Arc::new(serde_json::from_value(value).unwrap())
}

fn plan_for(service: &Service, pods: &[Arc<Pod>], owned: &[Arc<EndpointSlice>]) -> Plan {
    plan(service, pods, owned, |node| Some(format!("zone-of-{node}")))
}

/// The slices after a plan was carried out.
fn after(owned: &[Arc<EndpointSlice>], plan: &Plan) -> Vec<Arc<EndpointSlice>> {
    let mut slices: Vec<_> = owned
        .iter()
        .filter(|slice| !plan.delete.contains(slice))
        .map(|slice| {
            let update = plan
                .update
                .iter()
                .find(|u| u.metadata.name == slice.metadata.name);
            update.map_or_else(|| slice.clone(), |update| Arc::new(update.clone()))
        })
        .collect();
    for slice in &plan.create {
        let mut slice = slice.clone();
        slice.metadata.name = Some(format!("web-{}", slices.len()));
        slices.push(Arc::new(slice));
    }
    slices
}

fn sizes(slices: &[Arc<EndpointSlice>]) -> Vec<usize> {
    let mut sizes: Vec<_> = slices
        .iter()
        .map(|slice| slice.endpoints.as_ref().map_or(0, Vec::len))
        .collect();
    sizes.sort_unstable();
    sizes
}

#[test]
fn an_endpoint_says_all_there_is_to_know_of_a_pod() {
    let ending = pod(1, |p| {
        p["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        p["spec"]["hostname"] = "h".into();
        p["spec"]["subdomain"] = "web".into();
    });
    let plan = plan_for(&service(|_| {}), &[ending], &[]);
    let slice = &plan.create[0];
    let endpoint = &slice.endpoints.as_ref().unwrap()[0];
    let conditions = endpoint.conditions.as_ref().unwrap();
    let states = (conditions.ready, conditions.serving, conditions.terminating);
    assert_eq!(states, (Some(false), Some(true), Some(true)));
    assert_eq!(endpoint.zone.as_deref(), Some("zone-of-n1"));
    assert_eq!(endpoint.hostname.as_deref(), Some("h"));
    assert_eq!(
        endpoint.target_ref.as_ref().unwrap().name.as_deref(),
        Some("p001")
    );
    assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
    let labels = slice.metadata.labels.as_ref().unwrap();
    assert_eq!(labels[SERVICE_NAME], "web");
    assert_eq!(labels[MANAGED_BY], MANAGER);
    assert!(meta::is_controlled_by(&slice.metadata, "svc"));
}

#[test]
fn slices_hold_a_hundred_and_what_stands_in_one_stays() {
    let service = service(|_| {});
    let mut pods: Vec<_> = (0..250).map(|n| pod(n, |_| {})).collect();
    let first = plan_for(&service, &pods, &[]);
    let slices = after(&[], &first);
    assert_eq!(sizes(&slices), [50, 100, 100]);
    assert_eq!(plan_for(&service, &pods, &slices), Plan::default());
    pods.remove(7);
    pods.push(pod(300, |_| {}));
    let change = plan_for(&service, &pods, &slices);
    assert_eq!((change.create.len(), change.update.len()), (0, 1));
    assert_eq!(sizes(&after(&slices, &change)), [50, 100, 100]);
    let shrunk = after(&slices, &plan_for(&service, &pods[..60], &slices));
    assert_eq!(sizes(&shrunk), [60]);
    let none = after(&shrunk, &plan_for(&service, &[], &shrunk));
    assert_eq!(sizes(&none), [0], "one empty slice stays");
    assert_eq!(plan_for(&service, &[], &none), Plan::default());
}

#[test]
fn ports_by_name_make_a_slice_for_each_set_of_numbers() {
    let service = service(|s| s["spec"]["ports"][0]["targetPort"] = "web".into());
    let with_port = |number, port: i32| {
        pod(number, |p| {
            p["spec"]["containers"][0]["ports"] = json!([{"name": "web", "containerPort": port}]);
        })
    };
    let pods = [with_port(1, 80), with_port(2, 81), with_port(3, 80)];
    let plan = plan_for(&service, &pods, &[]);
    let made: Vec<_> = plan
        .create
        .iter()
        .map(|s| {
            (
                s.ports.as_ref().unwrap()[0].port,
                s.endpoints.as_ref().unwrap().len(),
            )
        })
        .collect();
    assert_eq!(made, [(Some(80), 2), (Some(81), 1)]);
}

#[test]
fn families_headless_services_and_unready_pods() {
    let both = service(|s| {
        s["spec"]["ipFamilies"] = json!(["IPv4", "IPv6"]);
        s["spec"]["clusterIP"] = "None".into();
        s["spec"]["publishNotReadyAddresses"] = true.into();
        s["spec"]["ports"] = Value::Null;
    });
    let unready = pod(1, |p| {
        p["status"]["conditions"][0]["status"] = "False".into();
        p["status"]["podIPs"] = json!([{"ip": "10.1.0.1"}, {"ip": "fd00::1"}]);
    });
    let plan = plan_for(&both, &[unready], &[]);
    let types: Vec<_> = plan
        .create
        .iter()
        .map(|s| s.address_type.as_str())
        .collect();
    assert_eq!(types, ["IPv4", "IPv6"]);
    let endpoint = &plan.create[1].endpoints.as_ref().unwrap()[0];
    assert_eq!(endpoint.addresses, ["fd00::1"]);
    let conditions = endpoint.conditions.as_ref().unwrap();
    assert_eq!(
        (conditions.ready, conditions.serving),
        (Some(true), Some(false))
    );
    let labels = plan.create[0].metadata.labels.as_ref().unwrap();
    assert_eq!(labels[services::HEADLESS], "");
    let slices = after(&[], &plan);
    let only_v4 = service(|_| {});
    let plan = plan_for(&only_v4, &[], &slices);
    assert!(plan.delete.iter().any(|s| s.address_type == "IPv6"));
}
