//! The control plane: API server, scheduler, controllers.
//!
//! Start: read or make the cluster's identity, open the store, fill the cache, listen, make the
//! first objects, then be ready. Until the first objects are there `/readyz` says no and `/livez`
//! yes, and requests are served already.

pub mod admission;
pub mod alloc;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod cacher;
pub mod config;
pub mod controllers;
pub mod crd;
pub mod discovery;
pub mod http;
pub mod join;
pub mod manifests;
pub mod openapi;
pub mod pki;
pub mod proxy;
pub mod registry;
pub mod request;
pub mod rest;
pub mod review;
pub mod scheduler;
pub mod snapshot;
pub mod storage;
pub mod streams;
pub mod webhook;

mod datastore;
mod error;
mod grant;
mod health;
mod identity;
mod kubeconfig;
mod leadership;
mod quotas;
mod servers;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::api::kinds;
use crate::client::{Client, Informers};
use crate::util::clock::Clock;
use crate::util::errors::OrLog;
use crate::util::metrics::Metrics;
use crate::util::net;
use crate::util::rng::Rng;
use crate::util::tasks::Tasks;
use crate::util::x509::Authority;

use audit::Audit;
use authn::Authn;
use authn::service_account::Tokens;
use config::Config;
use crd::Definitions;
use datastore::Kept;
use http::health::Health;
use http::listener::Listener;
use http::route::Upstream;
use http::{Direct, Handler, Parts};
use join::{Join, Network};
use pki::{Names, Pki};
use proxy::{NodeProxy, Tunnels};
use registry::Registry;
use request::User;
use rest::{Rest, RestConfig};
use scheduler::explain::Explainer;
use servers::Servers;
use snapshot::Snapshots;
use webhook::Webhooks;

pub use error::Error;

/// For everything below the server to end by itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A running control plane.
pub struct Server {
    handler: Handler,
    pki: Arc<Pki>,
    network: Network,
    secret: String,
    address: SocketAddr,
    advertise: IpAddr,
    is_shared: bool,
    kept: Kept,
    tunnels: Tunnels,
    explainer: Explainer,
    tasks: Tasks,
}

/// What the first half of the start leaves for the second.
struct Opened {
    pki: Arc<Pki>,
    secret: String,
    network: Network,
    advertise: IpAddr,
    kept: Kept,
    registry: Arc<Registry>,
    tokens: Arc<Tokens>,
    rest: Rest,
    tunnels: Tunnels,
    explainer: Explainer,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Starts everything; ready when this returns. What it starts ends with `tasks`, or with
    /// [`Server::stop`].
    ///
    /// Errors: nothing is left running.
    pub async fn start(config: Config, clock: Clock, tasks: &Tasks) -> Result<Self, Error> {
        let tasks = tasks.child();
        match Self::start_in(&config, &clock, &tasks).await {
            Ok(server) => Ok(server),
            Err(error) => {
                tasks.shutdown(STOP_TIMEOUT).await;
                Err(error)
            }
        }
    }

    async fn start_in(config: &Config, clock: &Clock, tasks: &Tasks) -> Result<Self, Error> {
        let rng = Rng::from_system();
        let opened = Self::open(config, clock, &rng, tasks).await?;
        let listener = Listener::bind(config.bind)
            .await
            .map_err(|source| Error::Listen {
                address: config.bind,
                source,
            })?;
        let address = listener.address();
        let health = Health::new();
        let ready = health::add(&health, &opened.kept.store, tasks);
        let definitions = Definitions::load(opened.rest.cacher(), &opened.registry);
        let handler = Self::handler_of(config, &opened, (clock, &rng), (health, tasks))?;
        listener.serve(opened.pki.serving(), handler.clone(), tasks)?;
        kubeconfig::keep(config, &opened.pki, address, clock, tasks)?;
        let server = Self {
            handler,
            pki: opened.pki,
            network: opened.network,
            secret: opened.secret,
            address,
            advertise: opened.advertise,
            is_shared: config.is_shared(),
            kept: opened.kept,
            tunnels: opened.tunnels,
            explainer: opened.explainer,
            tasks: tasks.clone(),
        };
        server.make_first(config).await?;
        let client = server.client("system:apiserver");
        definitions.start(client, clock.clone(), tasks);
        server.start_controllers(config, clock, &rng)?;
        ready.set();
        tracing::info!(%address, "API server is ready");
        Ok(server)
    }

    async fn open(
        config: &Config,
        clock: &Clock,
        rng: &Rng,
        tasks: &Tasks,
    ) -> Result<Opened, Error> {
        let advertise = advertise_address(config);
        let folder = config.data_dir.join("server");
        let (tls, token_file) = (folder.join("tls"), folder.join("token"));
        let token = config.token.as_deref();
        let open_pki = || Pki::open(&tls, names(config, advertise), clock.clone());
        let kept = Kept::open(config, clock).await?;
        if config.is_shared() {
            let make = || open_pki().map(|_| ());
            identity::share(&*kept.store, (&tls, &token_file), token, make).await?;
        }
        let pki = open_pki()?;
        let secret = pki::server_secret(&token_file, token, pki.ca_pem())?;
        let registry = Arc::new(Registry::of(kinds::all()));
        let issuer = format!("https://kubernetes.default.svc.{}", config.cluster_domain);
        let tokens = Arc::new(Tokens::new(pki.service_account_key(), &issuer));
        let limits = RestConfig {
            service_cidr: config.service_cidr,
            node_port_range: config.node_port_range.clone(),
            tokens: Arc::clone(&tokens) as _,
        };
        let rest = Rest::new(
            limits,
            Arc::clone(&registry),
            Arc::clone(&kept.store),
            clock.clone(),
            rng.clone(),
            tasks,
        )
        .await?;
        Ok(Opened {
            pki: Arc::new(pki),
            secret,
            network: network(config),
            advertise,
            kept,
            registry,
            tokens,
            rest,
            tunnels: Tunnels::new(tasks),
            explainer: Explainer::default(),
        })
    }

    fn handler_of(
        config: &Config,
        opened: &Opened,
        (clock, rng): (&Clock, &Rng),
        (health, tasks): (Health, &Tasks),
    ) -> Result<Handler, Error> {
        let tokens = Arc::clone(&opened.tokens);
        let cacher = opened.rest.cacher().clone();
        let ca_pem = opened.pki.ca_pem().to_owned();
        let authn = Authn::new(&ca_pem, Arc::clone(&tokens), cacher.clone(), clock.clone())?;
        let rest: Arc<dyn Upstream> = Arc::new(opened.rest.clone());
        let direct = Client::new(Arc::new(Direct::new(Arc::clone(&rest)))).named("orch-join");
        let secrets = join::Secrets {
            server: opened.secret.clone(),
            agent: config.agent_token.clone(),
            server_file: config.data_dir.join("server/token").display().to_string(),
        };
        let join = Join::new(
            Arc::clone(&opened.pki),
            secrets,
            opened.network.clone(),
            (direct, cacher.clone()),
            clock.clone(),
        );
        let store = Arc::clone(&opened.kept.store);
        let snapshots = Snapshots::new(store, &config.data_dir.join("server"), clock.clone());
        let tunnels = opened.tunnels.clone();
        let nodes = NodeProxy::new(cacher.clone(), tunnels.clone(), rng.clone(), tasks);
        let flow_cacher = cacher.clone();
        let dial = Arc::new(tunnels.clone());
        let webhooks = Webhooks::new(cacher, dial, rng.clone(), tasks);
        opened.rest.set_webhooks(webhooks);
        let authz = Arc::clone(opened.rest.authz());
        opened.rest.set_permission(Arc::clone(&authz) as _);
        let metrics = Metrics::new();
        let audit = config.audit.as_ref();
        let audit = audit.map(|audit| start_audit(audit, clock, &metrics, tasks));
        Ok(Handler::new(Parts {
            authn: Arc::new(authn),
            authz,
            registry: Arc::clone(&opened.registry),
            rest,
            nodes: Arc::new(nodes),
            join: Arc::new(join),
            snapshots,
            explainer: opened.explainer.clone(),
            tunnel: Arc::new(tunnels),
            tokens,
            health,
            metrics,
            audit: audit.transpose()?,
            cacher: flow_cacher,
            ca_pem,
            address: SocketAddr::new(opened.advertise, config.bind.port()).to_string(),
            rng: rng.clone(),
            tasks: tasks.clone(),
        }))
    }

    async fn make_first(&self, config: &Config) -> Result<(), Error> {
        let first = bootstrap::First {
            service_cidr: config.service_cidr,
            service_address: config.api_service_address(),
            advertise_address: self.advertise,
            port: self.address.port(),
            is_alone: !self.is_shared,
            ca_pem: self.pki.ca_pem().to_owned(),
            flow_control: http::default_flow_control(),
        };
        let client = self.client("system:apiserver");
        bootstrap::run(&client, &first).await.map_err(Error::First)
    }

    /// Begins what only one server of a cluster does, where this is the one.
    fn start_controllers(&self, config: &Config, clock: &Clock, rng: &Rng) -> Result<(), Error> {
        let work = Work {
            handler: self.handler.clone(),
            cluster_cidr: config.cluster_cidr,
            manifests: config.manifests.clone(),
            ca_pem: self.pki.ca_pem().to_owned(),
            authority: Arc::clone(self.pki.authority()),
            explainer: self.explainer.clone(),
            clock: clock.clone(),
            rng: rng.clone(),
        };
        if !self.is_shared {
            return work.start(&self.tasks);
        }
        let servers = Servers {
            client: self.client("system:apiserver"),
            clock: clock.clone(),
            address: self.advertise,
            port: self.address.port(),
        };
        servers.start(&self.tasks);
        let client = self.client("system:kube-controller-manager");
        let work = move |tasks: &Tasks| work.start(tasks);
        leadership::compete(client, (clock, rng), &self.tasks, work);
        Ok(())
    }

    /// A client in this process, as a user `name` in `system:masters`. Goes through every filter
    /// but needs no socket and no credentials.
    pub fn client(&self, name: &str) -> Client {
        Client::new(self.handler.transport(User::system(name)))
    }

    /// Serves requests; also its health checks.
    pub fn handler(&self) -> &Handler {
        &self.handler
    }

    /// The authority's certificate.
    pub fn ca_pem(&self) -> &str {
        self.pki.ca_pem()
    }

    /// Keys and certificates.
    pub fn pki(&self) -> &Arc<Pki> {
        &self.pki
    }

    /// The server token in its long form.
    pub fn token(&self) -> String {
        pki::long_token(self.pki.ca_pem(), "server", &self.secret)
    }

    /// The connections that nodes keep; the agent of this process brings its own.
    pub fn tunnels(&self) -> &Tunnels {
        &self.tunnels
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where a program on this machine reaches it.
    pub fn url(&self) -> String {
        kubeconfig::local_url(self.address)
    }

    /// Where others reach it, as `host:port`.
    pub fn advertised(&self) -> String {
        SocketAddr::new(self.advertise, self.address.port()).to_string()
    }

    /// Whether other servers may serve the same cluster.
    pub fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// What every node is told of the network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Ends everything it started; what was answered is on disk. `false`: something had to be cut.
    pub async fn stop(self) -> bool {
        let ended = self.tasks.shutdown(STOP_TIMEOUT).await;
        self.kept.close().await && ended
    }
}

/// What only one server of a cluster does.
struct Work {
    handler: Handler,
    cluster_cidr: ipnet::Ipv4Net,
    manifests: PathBuf,
    ca_pem: String,
    authority: Arc<Authority>,
    explainer: Explainer,
    clock: Clock,
    rng: Rng,
}

impl Work {
    /// The one place where controllers, scheduler and the manifests folder begin.
    fn start(&self, tasks: &Tasks) -> Result<(), Error> {
        let client = |name: &str| Client::new(self.handler.transport(User::system(name)));
        let setup = controllers::Setup {
            client: client("system:kube-controller-manager"),
            informers: Informers::new(client("system:apiserver"), tasks.clone()),
            tasks: tasks.clone(),
            clock: self.clock.clone(),
            rng: self.rng.clone(),
            cluster_cidr: self.cluster_cidr,
            ca_pem: self.ca_pem.clone(),
            authority: Some(Arc::clone(&self.authority)),
            node_grace: controllers::NODE_GRACE,
            served: self.handler.served(),
        };
        controllers::start(&setup);
        quotas::start(
            client("system:kube-controller-manager"),
            &setup.informers,
            Arc::clone(self.handler.registry()),
            tasks,
        );
        scheduler::start(
            client("system:kube-scheduler"),
            &setup.informers,
            tasks,
            &self.explainer,
            (self.clock.clone(), self.rng.clone()),
        );
        let folder = self.manifests.clone();
        manifests::start(folder, client("orch:manifests"), &self.clock, tasks)?;
        Ok(())
    }
}

fn start_audit(
    config: &config::AuditConfig,
    clock: &Clock,
    metrics: &Metrics,
    tasks: &Tasks,
) -> Result<Audit, Error> {
    let file = &config.policy_file;
    let wrong = |source: Box<dyn std::error::Error + Send + Sync>| Error::File {
        flag: "audit-policy-file",
        path: file.display().to_string(),
        source,
    };
    let text = std::fs::read_to_string(file).map_err(|e| wrong(e.into()))?;
    let policy = audit::policy::Policy::read(&text).map_err(|e| wrong(e.into()))?;
    let log = audit::LogConfig {
        path: config.log_path.clone(),
        size_mib_max: config.size_mib_max,
        backups_max: config.backups_max,
        age_days_max: config.age_days_max,
    };
    Ok(Audit::start(policy, log, clock, metrics, tasks))
}

/// What was asked for, or what the bind address says, or the address of the default route.
fn advertise_address(config: &Config) -> IpAddr {
    let bound = config.bind.ip();
    let bound = (!bound.is_unspecified()).then_some(bound);
    config
        .advertise_address
        .or(bound)
        .or_else(|| {
            let own = net::default_address().ok_or_log("find this machine's address");
            own.map(IpAddr::V4)
        })
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Every name and address the API server is reached at.
fn names(config: &Config, advertise: IpAddr) -> Names {
    let mut names = Names::default();
    let domain = &config.cluster_domain;
    for name in [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        &format!("kubernetes.default.svc.{domain}"),
        "localhost",
        "127.0.0.1",
        "::1",
        &config.api_service_address().to_string(),
        &advertise.to_string(),
        &config.bind.ip().to_string(),
    ] {
        names.add(name);
    }
    for name in net::host_name().iter().chain(&config.tls_san) {
        names.add(name);
    }
    names
}

fn network(config: &Config) -> Network {
    Network {
        cluster_cidr: config.cluster_cidr.to_string(),
        service_cidr: config.service_cidr.to_string(),
        cluster_dns: config.cluster_dns.to_string(),
        cluster_domain: config.cluster_domain.clone(),
        network_backend: config.network_backend.clone(),
    }
}
