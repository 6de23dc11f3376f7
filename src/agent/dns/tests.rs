//! Names and answers, over caches filled by hand; and the server over loopback.

use std::sync::Arc;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use tokio::net::{TcpListener, UdpSocket};

use super::forward::Upstream;
use super::nameservers;
use super::records::{Answer, Records};
use super::server::Server;
use crate::client::cache::cache;
use crate::client::watch::Step;
use crate::util::tasks::Tasks;

fn service(name: &str, spec: Value) -> Service {
    let value = json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec});
    serde_json::from_value(value).unwrap()
}

fn slice(name: &str, endpoints: Value) -> EndpointSlice {
    let value = json!({
        "metadata": {"name": format!("{name}-1"), "namespace": "shop",
            "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "http", "port": 8080}],
    });
    serde_json::from_value(value).unwrap()
}

fn records() -> Records {
    let (mut services, service_cache) = cache::<Service>();
    let (mut slices, slice_cache) = cache::<EndpointSlice>();
    let ports = json!([{"name": "http", "port": 80}]);
    services.apply(Step::Listed(vec![
        service("web", json!({"clusterIP": "10.96.0.7", "ports": ports})),
        service("db", json!({"clusterIP": "None", "ports": ports})),
        service(
            "out",
            json!({"type": "ExternalName", "externalName": "db.example.com"}),
        ),
    ]));
    let ready = |ip: &str, host: &str| json!({"addresses": [ip], "hostname": host});
    let sick = json!({"addresses": ["10.244.1.9"], "conditions": {"ready": false}});
    let both = json!([
        ready("10.244.1.2", "db-0"),
        ready("10.244.2.2", "db-1"),
        sick
    ]);
    slices.apply(Step::Listed(vec![slice("db", both)]));
    Records::new(
        Name::from_ascii("cluster.local.").unwrap(),
        service_cache,
        slice_cache,
    )
}

fn ask(name: &str, kind: RecordType) -> Result<Vec<String>, &'static str> {
    match records().answer(&Name::from_ascii(name).unwrap(), kind) {
        Answer::Found(found) => Ok(found.iter().map(|record| record.data.to_string()).collect()),
        Answer::Alias(record, _) => Ok(vec![record.data.to_string()]),
        Answer::NoSuchName => Err("no such name"),
        Answer::Elsewhere => Err("elsewhere"),
    }
}

#[test]
fn names_mean_what_the_specification_says() {
    use RecordType::{A, AAAA, PTR, SRV, TXT};
    let none: [&str; 0] = [];
    assert_eq!(
        ask("web.shop.svc.cluster.local.", A).unwrap(),
        ["10.96.0.7"]
    );
    assert_eq!(
        ask("WEB.shop.svc.Cluster.local.", A).unwrap(),
        ["10.96.0.7"]
    );
    assert_eq!(ask("web.shop.svc.cluster.local.", AAAA).unwrap(), none);
    assert_eq!(
        ask("db.shop.svc.cluster.local.", A).unwrap(),
        ["10.244.1.2", "10.244.2.2"]
    );
    assert_eq!(
        ask("db-1.db.shop.svc.cluster.local.", A).unwrap(),
        ["10.244.2.2"]
    );
    assert_eq!(
        ask("_http._tcp.web.shop.svc.cluster.local.", SRV).unwrap(),
        ["0 100 80 web.shop.svc.cluster.local."]
    );
    assert_eq!(
        ask("_http._tcp.db.shop.svc.cluster.local.", SRV).unwrap(),
        [
            "0 100 8080 db-0.db.shop.svc.cluster.local.",
            "0 100 8080 db-1.db.shop.svc.cluster.local."
        ]
    );
    assert_eq!(
        ask("7.0.96.10.in-addr.arpa.", PTR).unwrap(),
        ["web.shop.svc.cluster.local."]
    );
    assert_eq!(
        ask("2.1.244.10.in-addr.arpa.", PTR).unwrap(),
        ["db-0.db.shop.svc.cluster.local."]
    );
    assert_eq!(
        ask("10-244-1-2.shop.pod.cluster.local.", A).unwrap(),
        ["10.244.1.2"]
    );
    assert_eq!(
        ask("out.shop.svc.cluster.local.", A).unwrap(),
        ["db.example.com."]
    );
    assert_eq!(ask("dns-version.cluster.local.", TXT).unwrap(), ["1.1.0"]);
}

#[test]
fn other_names_do_not_exist_or_are_asked_elsewhere() {
    use RecordType::A;
    assert_eq!(
        ask("nothing.shop.svc.cluster.local.", A),
        Err("no such name")
    );
    assert_eq!(
        ask("web.shop.svc.cluster.local.shop.svc.cluster.local.", A),
        Err("no such name")
    );
    assert_eq!(ask("web.other.svc.cluster.local.", A), Err("no such name"));
    assert_eq!(ask("example.com.", A), Err("elsewhere"));
    assert_eq!(
        ask("1.1.168.192.in-addr.arpa.", RecordType::PTR),
        Err("elsewhere")
    );
    assert_eq!(ask("shop.svc.cluster.local.", A), Ok(vec![]));
}

#[test]
fn nameservers_are_read_from_resolv_conf() {
    let text =
        "# nameserver 1.1.1.1\nsearch a\nnameserver 10.0.0.1\nnameserver ::1 # x\nnameserver y\n";
    let seen: Vec<_> = nameservers(text).iter().map(ToString::to_string).collect();
    assert_eq!(seen, ["10.0.0.1", "::1"]);
}

async fn query(server: std::net::SocketAddr, name: &str) -> Message {
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut question = Message::query();
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    client
        .send_to(&question.to_vec().unwrap(), server)
        .await
        .unwrap();
    let mut bytes = [0; 1500];
    let received = tokio::time::timeout(std::time::Duration::from_secs(5), client.recv(&mut bytes));
    let length = received.await.unwrap().unwrap();
    let answer = Message::from_vec(&bytes[..length]).unwrap();
    assert_eq!(answer.metadata.id, question.metadata.id);
    answer
}

#[tokio::test]
async fn the_server_answers_refuses_and_survives_rubbish() {
    let tasks = Tasks::new();
    let server = Arc::new(Server::new(records(), Upstream::new(vec![]), tasks.clone()));
    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let at = socket.local_addr().unwrap();
    let (answering, cancelled) = (server.clone(), tasks.cancelled());
    tasks.service("dns", async move {
        cancelled
            .run_until_cancelled(answering.serve_udp(socket))
            .await;
    });
    let rubbish = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for bytes in [
        &b""[..],
        b"\0",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xc0\x0c",
    ] {
        rubbish.send_to(bytes, at).await.unwrap();
    }
    let found = query(at, "web.shop.svc.cluster.local.").await;
    assert_eq!(found.answers[0].data.to_string(), "10.96.0.7");
    assert!(found.metadata.authoritative);
    let missing = query(at, "no.shop.svc.cluster.local.").await;
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(missing.authorities.len(), 1);
    let outside = query(at, "example.com.").await;
    assert_eq!(outside.metadata.response_code, ResponseCode::ServFail);
    assert!(tasks.shutdown(std::time::Duration::from_secs(5)).await);
}

#[tokio::test]
async fn the_server_speaks_tcp() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let tasks = Tasks::new();
    let server = Arc::new(Server::new(records(), Upstream::new(vec![]), tasks.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let cancelled = tasks.cancelled();
    tasks.service("dns", async move {
        cancelled
            .run_until_cancelled(server.serve_tcp(listener))
            .await;
    });
    let mut question = Message::query();
    question.add_query(Query::query(
        Name::from_ascii("db.shop.svc.cluster.local.").unwrap(),
        RecordType::A,
    ));
    let bytes = question.to_vec().unwrap();
    let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
    stream.write_u16(bytes.len() as u16).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let length = stream.read_u16().await.unwrap();
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 2);
    tasks.cancel();
}
