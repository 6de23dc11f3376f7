//! What Services take, keep and give back.

use super::*;
use crate::store::Txn;
use crate::store::mvcc::Mvcc;
use serde_json::{Value, json};

async fn alloc(store: &dyn Store) -> Arc<Alloc> {
    let cidr = "10.96.0.0/12".parse().unwrap();
    let alloc = Alloc::load(store, cidr, 30000..=32767, Rng::seeded(7)).await;
    Arc::new(alloc.unwrap())
}

fn service(spec: Value) -> Object {
    Object::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).unwrap()
}

#[tokio::test]
async fn a_service_gets_an_address_and_ports_and_gives_them_back() {
    let store = Mvcc::in_memory();
    let alloc = alloc(&*store).await;
    let mut web = service(json!({
        "type": "NodePort", "selector": {"a": "b"},
        "ports": [{"port": 80}, {"port": 53, "protocol": "UDP", "nodePort": 30053}],
    }));
    let reservation = alloc.reserve(Some(&mut web), None).unwrap();
    let (preconditions, writes) = reservation.changes("default/web");
    assert_eq!((preconditions.len(), writes.len()), (3, 3));
    reservation.commit();
    let ip: Ipv4Addr = web.text_at(&["spec", "clusterIP"]).parse().unwrap();
    assert!(ip > Ipv4Addr::new(10, 96, 1, 0));
    let spec = &web.0["spec"];
    assert_eq!(spec["clusterIPs"], json!([ip.to_string()]));
    assert_eq!(spec["ipFamilies"], json!(["IPv4"]));
    assert_eq!(spec["ipFamilyPolicy"], "SingleStack");
    assert!((30086..=32767).contains(&spec["ports"][0]["nodePort"].as_u64().unwrap()));

    let mut other = service(json!({"clusterIP": ip.to_string(), "ports": [{"port": 1}]}));
    let error = alloc.reserve(Some(&mut other), None).unwrap_err();
    assert_eq!(
        error.message,
        format!(
            "Service \"web\" is invalid: spec.clusterIPs: Invalid value: [\"{ip}\"]: failed to \
             allocate IP {ip}: provided IP is already allocated"
        )
    );
    let mut taken = service(json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30053}]}));
    let before = alloc.ips.lock().taken();
    let error = alloc.reserve(Some(&mut taken), None).unwrap_err();
    assert!(error.message.ends_with(
        "spec.ports[0].nodePort: Invalid value: 30053: provided port is already allocated"
    ));
    assert_eq!(
        alloc.ips.lock().taken(),
        before,
        "a failed try keeps nothing"
    );

    alloc.reserve(None, Some(&web)).unwrap().commit();
    assert!(alloc.reserve(Some(&mut other), None).is_ok());
}

#[tokio::test]
async fn an_update_keeps_what_it_leaves_out_and_a_change_of_type_gives_ports_back() {
    let store = Mvcc::in_memory();
    let alloc = alloc(&*store).await;
    let ports = json!([{"port": 80, "protocol": "TCP"}]);
    let mut old = service(json!({"type": "NodePort", "ports": ports}));
    alloc.reserve(Some(&mut old), None).unwrap().commit();
    let mut new = service(json!({"type": "NodePort", "ports": ports}));
    let same = alloc.reserve(Some(&mut new), Some(&old)).unwrap();
    assert!(same.claims.is_empty() && same.releases.is_empty());
    assert_eq!(new, old);
    drop(same);
    let mut internal = old.clone();
    internal.0["spec"]["type"] = "ClusterIP".into();
    let change = alloc.reserve(Some(&mut internal), Some(&old)).unwrap();
    assert_eq!((change.claims.len(), change.releases.len()), (0, 1));
    assert!(internal.0["spec"]["ports"][0].get("nodePort").is_none());
    let mut external = service(json!({"type": "ExternalName", "externalName": "a.b"}));
    let change = alloc.reserve(Some(&mut external), Some(&old)).unwrap();
    assert_eq!(change.releases.len(), 2);
}

#[tokio::test]
async fn headless_services_take_nothing() {
    let store = Mvcc::in_memory();
    let alloc = alloc(&*store).await;
    let mut plain = service(json!({"clusterIP": "None", "selector": {"a": "b"}}));
    let reservation = alloc.reserve(Some(&mut plain), None).unwrap();
    assert!(reservation.claims.is_empty());
    assert_eq!(plain.0["spec"]["clusterIPs"], json!(["None"]));
    assert_eq!(plain.0["spec"]["ipFamilyPolicy"], "SingleStack");
    let mut bare = service(json!({"clusterIP": "None"}));
    alloc.reserve(Some(&mut bare), None).unwrap();
    assert_eq!(bare.0["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    let mut dual = service(json!({"ipFamilyPolicy": "RequireDualStack"}));
    let error = alloc.reserve(Some(&mut dual), None).unwrap_err();
    let why = "this cluster is not configured for dual-stack services";
    assert!(error.message.contains(why));
}

#[tokio::test]
async fn a_new_start_knows_what_is_taken_and_a_lost_race_is_remembered() {
    let store = Mvcc::in_memory();
    let (first, stale) = (alloc(&*store).await, alloc(&*store).await);
    let mut web = service(json!({"clusterIP": "10.96.0.10"}));
    let reservation = first.reserve(Some(&mut web), None).unwrap();
    let (preconditions, writes) = reservation.changes("ns/web");
    let txn = Txn {
        preconditions,
        writes,
        ..Txn::default()
    };
    store.txn(txn.clone()).await.unwrap();
    reservation.commit();
    assert!(alloc(&*store).await.reserve(Some(&mut web), None).is_err());

    let mut reservation = stale.reserve(Some(&mut web), None).unwrap();
    let Err(store::Error::Conflict { key, .. }) = store.txn(txn).await else {
        panic!("the address is taken");
    };
    assert!(reservation.lost(&key));
    drop(reservation);
    assert!(stale.reserve(Some(&mut web), None).is_err());
}
