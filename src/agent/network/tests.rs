//! On the real kernel, inside a network namespace of the test's own: needs root.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A node's namespace with a loopback and no way out; removed at the end, also after a failure.
struct Node {
    folder: tempfile::TempDir,
    network: PathBuf,
}

impl Node {
    async fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pins = netns::pin(&folder.path().join("node"), "node", &[])
            .await
            .unwrap();
        Self {
            folder,
            network: pins.network,
        }
    }

    async fn run<F: Future<Output = io::Result<()>>>(
        &self,
        work: impl FnOnce(PathBuf) -> F + Send + 'static,
    ) {
        let folder = self.folder.path().to_owned();
        netns::within(&self.network, move || work(folder))
            .await
            .unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for pod in ["node", "a", "b"] {
            for kind in ["net", "ipc", "uts"] {
                let pin = self.folder.path().join(pod).join(kind);
                // Already unmounted by a test that went well.
                let _ = nix::mount::umount2(&pin, nix::mount::MntFlags::MNT_DETACH);
            }
        }
    }
}

async fn network(folder: &Path) -> io::Result<Network> {
    let config = Config {
        state_dir: folder.join("state"),
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        service_cidr: "10.96.0.0/12".parse().unwrap(),
        node_ip: Ipv4Addr::LOCALHOST,
        backend: Backend::HostGateway,
    };
    let network = Network::open(config).await?;
    network
        .set_pod_cidr("10.244.1.0/24".parse().unwrap())
        .await?;
    Ok(network)
}

async fn serve((network, port): (&Path, u16), reply: &'static [u8]) {
    let network = network.to_owned();
    let (up, is_up) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let file = std::fs::File::open(network).unwrap();
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind(("0.0.0.0", port)).await.unwrap();
            up.send(()).unwrap();
            // One connection is all a test makes; the limit ends the thread in any case.
            let _ = tokio::time::timeout(Duration::from_secs(10), async {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(reply).await.unwrap();
            })
            .await;
        });
    });
    is_up.await.unwrap();
}

async fn fetch(address: String) -> io::Result<Vec<u8>> {
    let connect = tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(&address));
    let mut stream = connect.await??;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await?;
    Ok(reply)
}

#[tokio::test]
async fn pods_reach_each_other_and_the_node_reaches_pods() {
    let node = Node::make().await;
    node.run(|folder| async move {
        let network = network(&folder).await?;
        let a = network.pin(&folder.join("a"), "a", &[]).await.unwrap();
        let b = network.pin(&folder.join("b"), "b", &[]).await.unwrap();
        network.attach("uid-a", &a.network, &[]).await.unwrap();
        let b_ip = network.attach("uid-b", &b.network, &[]).await.unwrap()[0];
        serve((&b.network, 8080), b"hello").await;
        let target = format!("{b_ip}:8080");
        let seen = netns::within(&a.network, move || fetch(target)).await?;
        assert_eq!(seen, b"hello");
        serve((&b.network, 8081), b"again").await;
        assert_eq!(fetch(format!("{b_ip}:8081")).await?, b"again");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_restart_keeps_addresses_and_detach_leaves_nothing() {
    let node = Node::make().await;
    node.run(|folder| async move {
        let before = network(&folder).await?;
        let a = before.pin(&folder.join("a"), "a", &[]).await.unwrap();
        let address = before.attach("uid-a", &a.network, &[]).await.unwrap();
        let after = network(&folder).await?;
        assert_eq!(
            after.attached().await.unwrap(),
            [("uid-a".to_owned(), address.clone())]
        );
        assert_eq!(
            after.attach("uid-a", &a.network, &[]).await.unwrap(),
            address
        );
        after.detach("uid-a").await.unwrap();
        after.detach("uid-a").await.unwrap();
        assert!(Netlink::here()?.links_named("pod").await?.is_empty());
        assert!(after.attached().await.unwrap().is_empty());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn host_ports_lead_to_the_pod() {
    let node = Node::make().await;
    node.run(|folder| async move {
        let network = network(&folder).await?;
        let a = network.pin(&folder.join("a"), "a", &[]).await.unwrap();
        let port = HostPort {
            host_ip: None,
            host_port: 9090,
            container_port: 8080,
            protocol: "TCP".into(),
        };
        network.attach("uid-a", &a.network, &[port]).await.unwrap();
        serve((&a.network, 8080), b"port").await;
        assert_eq!(fetch("10.244.1.1:9090".into()).await?, b"port");
        network.detach("uid-a").await.unwrap();
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_overlay_follows_its_peers() {
    let node = Node::make().await;
    node.run(|_| async move {
        let netlink = Netlink::here()?;
        let own = "10.244.1.0/24".parse().unwrap();
        let device = overlay::ensure_device(&netlink, own, Ipv4Addr::LOCALHOST, 1450).await?;
        let peer = |net: &str, address: &str| Peer {
            pod_cidr: net.parse().unwrap(),
            address: address.parse().unwrap(),
        };
        let two = [
            peer("10.244.2.0/24", "192.168.1.6"),
            peer("10.244.3.0/24", "192.168.1.7"),
        ];
        overlay::sync_vxlan(&netlink, device, &two).await?;
        overlay::sync_vxlan(&netlink, device, &two).await?;
        let mut routes = netlink.routes_over(device).await?;
        routes.sort();
        assert_eq!(routes, [two[0].pod_cidr, two[1].pod_cidr]);
        overlay::sync_vxlan(&netlink, device, &two[1..]).await?;
        assert_eq!(netlink.routes_over(device).await?, [two[1].pod_cidr]);
        let again = overlay::ensure_device(&netlink, own, Ipv4Addr::LOCALHOST, 1450).await?;
        assert_eq!(again, device, "an unchanged device is kept");
        Ok(())
    })
    .await;
}
