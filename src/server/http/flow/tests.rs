//! Which level requests go to, and that a flood starves nobody.

use futures_util::FutureExt;

use super::*;

fn asks(verb: &str, resource: &str, namespace: &str) -> RequestInfo {
    RequestInfo {
        is_resource: true,
        verb: verb.into(),
        resource: resource.into(),
        namespace: namespace.into(),
        ..RequestInfo::default()
    }
}

fn user(name: &str, groups: &[&str]) -> User {
    User {
        name: name.into(),
        groups: groups.iter().map(|g| (*g).to_owned()).collect(),
        ..User::default()
    }
}

const ALL: &str = "system:authenticated";

#[test]
fn the_defaults_send_requests_where_upstream_does() {
    let table = Table::default_table();
    let of = |user: &User, info: &RequestInfo| {
        let (schema, level) = table.classify(user, info);
        format!("{} {}", schema.name, level.name)
    };
    let node = user("system:node:a", &["system:nodes", ALL]);
    let pods = asks("list", "pods", "default");
    assert_eq!(of(&User::system("x"), &pods), "exempt exempt");
    assert_eq!(
        of(&node, &asks("patch", "nodes", "")),
        "system-node-high node-high"
    );
    assert_eq!(of(&node, &pods), "system-nodes system");
    let account = user(
        "system:serviceaccount:a:b",
        &["system:serviceaccounts", ALL],
    );
    assert_eq!(of(&account, &pods), "service-accounts workload-low");
    let own = user(
        "system:serviceaccount:kube-system:b",
        &["system:serviceaccounts", ALL],
    );
    assert_eq!(
        of(&own, &pods),
        "kube-system-service-accounts workload-high"
    );
    assert_eq!(
        of(&user("jane", &[ALL]), &pods),
        "global-default global-default"
    );
    assert_eq!(of(&user("jane", &[]), &pods), "catch-all catch-all");
    let path = RequestInfo {
        verb: "get".into(),
        path: "/livez".into(),
        ..RequestInfo::default()
    };
    assert_eq!(of(&user("jane", &[ALL]), &path), "probes exempt");
}

#[test]
fn seats_are_given_out_by_shares() {
    let state = State::of(Table::default_table());
    let nominal = |name: &str| state.levels[name].nominal;
    // As upstream computes them of 600 seats.
    assert_eq!(nominal("workload-low"), 245);
    assert_eq!(nominal("catch-all"), 13);
    assert_eq!(state.levels["workload-low"].lendable, 221);
    assert!(!state.levels.contains_key("exempt"));
}

#[tokio::test(start_paused = true)]
async fn a_flood_by_one_user_starves_nobody() {
    let flow = Arc::new(Flow::new(&Metrics::new(), None));
    let pods = asks("list", "pods", "default");
    let (flood, jane) = (user("flood", &[ALL]), user("jane", &[ALL]));
    let mut held = Vec::new();
    let mut waiting = Vec::new();
    let mut refused = 0;
    for _ in 0..2000 {
        let (flow, flood, pods) = (Arc::clone(&flow), flood.clone(), pods.clone());
        let mut entering = Box::pin(async move { flow.enter(&pods, &flood).await });
        match (&mut entering).now_or_never() {
            Some(Ok(place)) => held.push(place),
            Some(Err(error)) => {
                assert_eq!(error.code, 429);
                refused += 1;
            }
            None => waiting.push(entering),
        }
    }
    assert_eq!(waiting.len(), 300);
    assert!(refused > 0 && held.len() > 49);
    let mut hers = Box::pin(flow.enter(&pods, &jane));
    assert!((&mut hers).now_or_never().is_none());
    // Other levels have their own seats.
    let account = user(
        "system:serviceaccount:a:b",
        &["system:serviceaccounts", ALL],
    );
    assert!(flow.enter(&pods, &account).await.is_ok());
    assert!(flow.enter(&pods, &User::system("admin")).await.is_ok());
    // Of the flood's requests one ends: the next seat is not the flood's.
    while (&mut hers).now_or_never().is_none() {
        held.pop().expect("a seat is free before all are");
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_is_told_to_come_back() {
    let flow = Flow::new(&Metrics::new(), None);
    let pods = asks("list", "pods", "default");
    let user = user("a", &[ALL]);
    let mut held = Vec::new();
    loop {
        let mut entering = Box::pin(flow.enter(&pods, &user));
        match (&mut entering).now_or_never() {
            Some(place) => held.push(place.unwrap()),
            None => {
                let error = entering.await.unwrap_err();
                assert_eq!(error.code, 429);
                break;
            }
        }
    }
    assert_eq!(flow.state.lock().waiting.len(), 0);
    held.clear();
    let running: usize = flow
        .state
        .lock()
        .levels
        .values()
        .map(|s| s.queues.running())
        .sum();
    assert_eq!(running, 0);
    assert!(flow.enter(&pods, &user).await.is_ok());
}

#[tokio::test]
async fn a_level_that_changes_keeps_count_of_what_runs() {
    let flow = Flow::new(&Metrics::new(), None);
    let place = flow
        .enter(&asks("list", "pods", "a"), &user("a", &[ALL]))
        .await
        .unwrap();
    flow.state.lock().adopt(Table::default_table());
    let running = |flow: &Flow| flow.state.lock().levels["global-default"].queues.running();
    assert_eq!(running(&flow), 1);
    drop(place);
    assert_eq!(running(&flow), 0);
}
