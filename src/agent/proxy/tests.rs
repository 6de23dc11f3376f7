//! The rules on the real kernel, in a network namespace of the test's own: needs root.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::model::{Frontend, Model, Protocol, Target};
use super::rules::{Nets, Rules};
use crate::agent::nft;
use crate::agent::sys::netlink::Netlink;
use crate::agent::sys::netns;

const SERVICE: Frontend = Frontend::Address(Ipv4Addr::new(10, 96, 0, 7), Protocol::Tcp, 80);
const NODE_PORT: Frontend = Frontend::NodePort(Protocol::Tcp, 30080);

fn nets() -> Nets {
    Nets {
        pods: "10.244.0.0/16".parse().unwrap(),
        services: "10.96.0.0/12".parse().unwrap(),
        dns: Ipv4Addr::new(10, 96, 0, 10),
    }
}

fn model(last_octets: &[u8], affinity_seconds: Option<u32>) -> Model {
    let backends = last_octets
        .iter()
        .map(|n| (Ipv4Addr::new(10, 244, 1, *n), 8080))
        .collect();
    let target = Target {
        backends,
        affinity_seconds,
        keep_client_address: false,
    };
    Model {
        frontends: [(SERVICE, target.clone()), (NODE_PORT, target)].into(),
        ..Model::default()
    }
}

/// In a namespace of a node 192.168.1.5 whose loopback holds the "pods" 10.244.1.2 to .4.
async fn in_namespace<F: Future<Output = io::Result<()>>>(
    work: impl FnOnce() -> F + Send + 'static,
) {
    let folder = tempfile::tempdir().unwrap();
    let pins = netns::pin(folder.path(), "node", &[]).await.unwrap();
    let done = netns::within(&pins.network, || async {
        let netlink = Netlink::here()?;
        let lo = netlink.index("lo").await?;
        for address in ["10.244.1.2/32", "10.244.1.3/32", "10.244.1.4/32"] {
            netlink.add_address(lo, address.parse().unwrap()).await?;
        }
        // Stands for the node's link: services are routed over it, as by a default route.
        let link = netlink
            .ensure_bridge("up0", [0x0a, 0, 0, 0, 0, 1], 1500)
            .await?;
        netlink
            .add_address(link, "192.168.1.5/24".parse().unwrap())
            .await?;
        netlink
            .set_route("10.96.0.0/12".parse().unwrap(), link, None)
            .await?;
        work().await
    })
    .await;
    netns::unpin(folder.path()).await.unwrap();
    done.unwrap();
}

async fn serve(last_octet: u8) {
    let address = Ipv4Addr::new(10, 244, 1, last_octet);
    let listener = TcpListener::bind((address, 8080)).await.unwrap();
    crate::util::tasks::Tasks::new().job("backend", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // The client may hang up first.
            let _ = stream.write_all(&[last_octet]).await;
        }
    });
}

async fn ask(address: &str) -> io::Result<u8> {
    let connect = tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(address));
    let mut reply = [0];
    connect.await??.read_exact(&mut reply).await?;
    Ok(reply[0])
}

async fn seen(address: &str, tries: usize) -> io::Result<BTreeSet<u8>> {
    let mut seen = BTreeSet::new();
    for _ in 0..tries {
        seen.insert(ask(address).await?);
    }
    Ok(seen)
}

#[tokio::test]
async fn requests_spread_over_all_backends_and_follow_changes() {
    in_namespace(|| async {
        for pod in [2, 3, 4] {
            serve(pod).await;
        }
        let two = Rules::of(&model(&[2, 3], None));
        nft::apply(&two.full(nets())).await?;
        assert_eq!(seen("10.96.0.7:80", 60).await?, [2, 3].into());
        assert_eq!(seen("192.168.1.5:30080", 60).await?, [2, 3].into());
        let other = Rules::of(&model(&[4], None));
        nft::apply(&other.change_from(&two)).await?;
        assert_eq!(seen("10.96.0.7:80", 10).await?, [4].into());
        let none = Rules::of(&model(&[], None));
        nft::apply(&none.change_from(&other)).await?;
        let refused = ask("10.96.0.7:80").await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let refused = ask("192.168.1.5:30080").await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn an_unassigned_service_address_is_refused_at_once() {
    in_namespace(|| async {
        nft::apply(&Rules::default().full(nets())).await?;
        let refused = ask("10.96.200.1:80").await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_sticky_client_stays_until_its_backend_goes() {
    in_namespace(|| async {
        for pod in [2, 3, 4] {
            serve(pod).await;
        }
        let all = Rules::of(&model(&[2, 3, 4], Some(60)));
        nft::apply(&all.full(nets())).await?;
        let first = seen("10.96.0.7:80", 20).await?;
        assert_eq!(first.len(), 1, "one client was spread: {first:?}");
        let left: Vec<u8> = [2, 3, 4]
            .into_iter()
            .filter(|n| !first.contains(n))
            .collect();
        let fewer = Rules::of(&model(&left, Some(60)));
        nft::apply(&fewer.change_from(&all)).await?;
        let second = seen("10.96.0.7:80", 20).await?;
        assert!(second.len() == 1 && left.contains(second.first().unwrap()));
        Ok(())
    })
    .await;
}
