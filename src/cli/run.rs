//! `orch server` and `orch agent`: from flags to a running process and to its end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use super::args::{AgentArgs, AuditArgs, NetworkBackend, NodeArgs, Part, ServerArgs};
use super::node::Facts;
use super::wire::{self, Cluster};
use super::{Failure, node, peers, usage};
use crate::agent::http::NodeApi;
use crate::agent::node::register;
use crate::agent::servers::{self, Servers};
use crate::agent::tunnel;
use crate::client::https::HttpsTransport;
use crate::client::{Client, Patch, Transport};
use crate::server::config::{AuditOptions, Config, Options};
use crate::server::request::User;
use crate::server::{Server, join};
use crate::util::backoff::Backoff;
use crate::util::clock::Clock;
use crate::util::rng::Rng;
use crate::util::tasks::Tasks;
use crate::util::{errors, memory, signal};

/// How long everything may take to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// First and longest pause while the server's own node is not registered.
const MARK_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Bytes on their way between server and node in one process.
const TUNNEL_BYTES: usize = 256 << 10;

/// Runs the control plane, and a node unless told not to.
pub(crate) fn server(args: ServerArgs) -> Result<(), Failure> {
    let node_args = args.node.clone();
    let facts = match args.disable_agent {
        true => None,
        false => Some(node::facts(&node_args)?),
    };
    let config = server_config(args)?;
    let disabled: Vec<_> = config.disable.iter().cloned().collect();
    run(async |tasks| {
        let clock = Clock::system();
        let server = Server::start(config, clock.clone(), tasks).await?;
        systemd_ready();
        let ended = match &facts {
            None => until_told(tasks).await,
            Some(facts) => {
                let cluster = Cluster {
                    disabled,
                    ..cluster_of(server.network())?
                };
                let transport = server.handler().transport(node_user(&facts.name));
                let time = (&clock, tasks);
                with_node(
                    (&node_args, facts),
                    &cluster,
                    Link::Inside(&server, transport),
                    time,
                )
                .await
            }
        };
        if !server.stop().await {
            tracing::warn!("not everything ended in time");
        }
        ended
    })
}

/// Runs a node.
pub(crate) fn agent(args: AgentArgs) -> Result<(), Failure> {
    let facts = node::facts(&args.node)?;
    let token = token_of(args.token.clone(), args.token_file.clone())?.unwrap_or_default();
    run(async |tasks| {
        let clock = Clock::system();
        let known = servers::remembered(&args.node.data_dir.join("agent"));
        let wish = register::Join {
            known: &known,
            url: &args.join,
            token: &token,
            node_name: &facts.name,
            data_dir: &args.node.data_dir,
        };
        let joining = register::join(wish, &clock, Rng::from_system(), tasks);
        let credentials = tokio::select! {
            joined = joining => joined?,
            told = signal::terminated() => return Ok(told?),
        };
        let told = &credentials.cluster;
        let cluster = Cluster::parse(
            (&told.cluster_cidr, &told.service_cidr),
            (&told.cluster_dns, &told.cluster_domain),
            &told.network_backend,
        )?;
        let transport = credentials.transport(tasks)?;
        let joined = credentials.servers.first().cloned();
        let renewal =
            credentials.keep_renewed(transport.clone(), clock.clone(), Rng::from_system());
        let cancelled = tasks.cancelled();
        tasks.service("node-certificate", async move {
            cancelled.run_until_cancelled(renewal).await;
        });
        let time = (&clock, tasks);
        with_node(
            (&args.node, &facts),
            &cluster,
            Link::Outside(transport, joined),
            time,
        )
        .await
    })
}

/// How a node and its server are connected.
enum Link<'a> {
    /// In one process.
    Inside(&'a Server, Arc<dyn Transport>),
    /// Over TLS, to the server that was joined and those it knows.
    Outside(HttpsTransport, Option<String>),
}

/// Starts the node and lets it run until the process is told to end.
async fn with_node(
    node: (&NodeArgs, &Facts),
    cluster: &Cluster,
    link: Link<'_>,
    time: (&Clock, &Tasks),
) -> Result<(), Failure> {
    let transport: Arc<dyn Transport> = match &link {
        Link::Inside(_, transport) => transport.clone(),
        Link::Outside(transport, _) => Arc::new(transport.clone()),
    };
    let starting = wire::start(node, cluster, transport, time);
    let (agent, runtime) = tokio::select! {
        started = starting => started?,
        told = signal::terminated() => return Ok(told?),
    };
    let pods = Arc::new(agent.pods());
    let folder = node.0.data_dir.join("agent");
    let api = NodeApi::new(&node.1.name, runtime, pods, time.0.clone(), time.1);
    match link {
        Link::Inside(server, _) => {
            let (near, far) = tokio::io::duplex(TUNNEL_BYTES);
            server.tunnels().take(node.1.name.clone(), near);
            tunnel::serve_in(far, api.clone(), time.1);
            if server.is_shared() {
                let servers = Servers {
                    transport: peers::transport(server, &node.1.name, time)?,
                    joined: None,
                    own: Some(server.advertised()),
                    api,
                    folder,
                };
                servers.follow(agent.informers().cache(), time.1);
            }
            let client = server.client("orch:node-roles");
            let marking = mark_control_plane(client, node.1.name.clone());
            let cancelled = time.1.cancelled();
            time.1.job("node-roles", async move {
                cancelled.run_until_cancelled(marking).await;
            });
        }
        Link::Outside(transport, joined) => {
            let servers = Servers {
                transport,
                joined,
                own: None,
                api,
                folder,
            };
            servers.follow(agent.informers().cache(), time.1);
            systemd_ready();
        }
    }
    let ended = until_told(time.1).await;
    agent.stop().await;
    ended
}

/// Labels the server's own node as such, once it is registered: a node may not say that of itself.
async fn mark_control_plane(client: Client, name: String) {
    let labels = json!({"metadata": {"labels": {
        "node-role.kubernetes.io/control-plane": "true",
        "node-role.kubernetes.io/master": "true",
    }}});
    let mut backoff = Backoff::new(MARK_AGAIN.0, MARK_AGAIN.1, Rng::from_system());
    let patch = Patch::Merge(labels);
    while let Err(error) = client.all::<Node>().patch(&name, &patch).await {
        tracing::debug!(error = %errors::chain(&error), "node not labelled yet");
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// The identity of the server's own node: that of any node, no more.
fn node_user(name: &str) -> User {
    User {
        name: format!("system:node:{name}"),
        groups: vec!["system:nodes".to_owned(), "system:authenticated".to_owned()],
        ..User::default()
    }
}

fn cluster_of(network: &join::Network) -> Result<Cluster, Failure> {
    let join::Network {
        cluster_cidr,
        service_cidr,
        cluster_dns,
        cluster_domain,
        network_backend,
    } = network;
    let cidrs = (cluster_cidr.as_str(), service_cidr.as_str());
    Ok(Cluster::parse(
        cidrs,
        (cluster_dns, cluster_domain),
        network_backend,
    )?)
}

fn server_config(args: ServerArgs) -> Result<Config, Failure> {
    let ServerArgs {
        log: _,
        bind_address,
        https_listen_port,
        advertise_address,
        tls_san,
        token,
        token_file,
        agent_token,
        cluster_cidr,
        service_cidr,
        service_node_port_range,
        cluster_dns,
        cluster_domain,
        network_backend,
        datastore_endpoint,
        datastore_cafile,
        datastore_certfile,
        datastore_keyfile,
        manifests,
        write_kubeconfig,
        write_kubeconfig_mode,
        disable,
        disable_agent: _,
        encryption_provider_config,
        audit,
        node,
    } = args;
    let NodeArgs {
        data_dir, node_ip, ..
    } = node;
    let options = Options {
        data_dir,
        advertise_address: advertise_address.or(node_ip),
        bind_address,
        https_listen_port,
        tls_san,
        token: token_of(token, token_file)?,
        agent_token,
        cluster_cidr,
        service_cidr,
        service_node_port_range,
        cluster_dns,
        cluster_domain,
        network_backend: backend_name(network_backend).to_owned(),
        datastore_endpoint: datastore_endpoint.unwrap_or_default(),
        datastore_cafile,
        datastore_certfile,
        datastore_keyfile,
        manifests,
        write_kubeconfig,
        write_kubeconfig_mode,
        disable: disable
            .into_iter()
            .map(|part| part_name(part).to_owned())
            .collect(),
        encryption_provider_config,
        audit: audit_options(audit),
    };
    Config::check(options).map_err(usage)
}

fn audit_options(args: AuditArgs) -> AuditOptions {
    let AuditArgs {
        audit_policy_file,
        audit_log_path,
        audit_log_maxsize,
        audit_log_maxbackup,
        audit_log_maxage,
    } = args;
    AuditOptions {
        policy_file: audit_policy_file,
        log_path: audit_log_path,
        log_maxsize: audit_log_maxsize,
        log_maxbackup: audit_log_maxbackup,
        log_maxage: audit_log_maxage,
    }
}

fn token_of(
    token: Option<String>,
    file: Option<std::path::PathBuf>,
) -> Result<Option<String>, Failure> {
    let Some(file) = file else { return Ok(token) };
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("read `--token-file` `{}`", file.display()))
        .map_err(usage)?;
    Ok(Some(text.trim().to_owned()))
}

fn backend_name(backend: NetworkBackend) -> &'static str {
    match backend {
        NetworkBackend::Vxlan => "vxlan",
        NetworkBackend::HostGw => "host-gw",
        NetworkBackend::None => "none",
    }
}

fn part_name(part: Part) -> &'static str {
    match part {
        Part::Dns => "dns",
        Part::ServiceProxy => "service-proxy",
        Part::ServiceLb => "service-lb",
        Part::LocalStorage => "local-storage",
        Part::Metrics => "metrics",
        Part::NetworkPolicy => "network-policy",
        Part::Ingress => "ingress",
    }
}

/// Runs `work` to its end with a group of tasks, and ends the group.
fn run(work: impl AsyncFnOnce(&Tasks) -> Result<(), Failure>) -> Result<(), Failure> {
    memory::use_small_pages();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(async {
        let tasks = Tasks::new();
        let done = work(&tasks).await;
        if !tasks.shutdown(STOP_LIMIT).await {
            tracing::warn!("some tasks did not end in time");
        }
        done
    });
    // A call that blocks (a hung mount) must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

/// Resolves at SIGTERM or SIGINT, or fails when a task that must not end has panicked.
async fn until_told(tasks: &Tasks) -> Result<(), Failure> {
    tokio::select! {
        told = signal::terminated() => Ok(told?),
        () = tasks.failed() => Err(anyhow!("a part of the program failed; see the log").into()),
    }
}

/// Tells systemd that the service is up, where systemd started it.
fn systemd_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let told = notify(path.as_encoded_bytes());
    if let Err(error) = told {
        tracing::warn!(error = %errors::chain(&error), "systemd was not told that orch is ready");
    }
}

fn notify(path: &[u8]) -> std::io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let address = match path.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1\n", &address)?;
    Ok(())
}
