//! The verbs: what is done with a request on any stored resource once it is known who asks and
//! that they may.
//!
//! One file a verb, no file a kind: everything that differs between kinds is in their row of the
//! table. The path of a write is the same everywhere and can be read in one function per verb:
//! decode, default, prepare, mutating admission, validation, validating admission, write with a
//! precondition, answer.
//!
//! Invariants. An answered write is in the store. Nothing is written for a dry run or for an update
//! that changes nothing. A read without `resourceVersion` sees every write answered before it.

mod call;
mod errors;
mod filter;
mod get;
mod list;
mod negotiate;
mod read;
mod render;
mod token;
mod watch;

use std::sync::Arc;

use http::{Request, Response};

use crate::api::status::ApiError;
use crate::client::Body;
use crate::server::cacher::Cacher;
use crate::server::registry::Registry;
use crate::server::request::{RequestInfo, User};
use crate::store::{self, Store};
use crate::util::clock::Clock;
use crate::util::rng::Rng;
use crate::util::tasks::Tasks;

use call::Call;

/// What the verbs need to know of the cluster.
#[derive(Clone, Debug)]
pub struct RestConfig {
    /// Where ClusterIPs come from.
    pub service_cidr: ipnet::Ipv4Net,
    /// Where NodePorts come from, both ends included.
    pub node_port_range: std::ops::RangeInclusive<u16>,
}

/// Serves requests on resources. Clones share everything.
#[derive(Clone, Debug)]
pub struct Rest {
    core: Arc<Core>,
}

/// What every verb works with.
pub(crate) struct Core {
    config: RestConfig,
    registry: Arc<Registry>,
    store: Arc<dyn Store>,
    cacher: Cacher,
    clock: Clock,
    rng: Rng,
    tasks: Tasks,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Rest {
    /// Fills the cache from `store` and serves until `tasks` end.
    ///
    /// Errors: the store cannot be read.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a part of the server, joined here"
    )]
    pub async fn new(
        config: RestConfig,
        registry: Arc<Registry>,
        store: Arc<dyn Store>,
        clock: Clock,
        rng: Rng,
        tasks: &Tasks,
    ) -> store::Result<Self> {
        let source = Arc::clone(&store);
        let cacher = Cacher::start(source, Arc::clone(&registry), rng.clone(), tasks).await?;
        let core = Core {
            config,
            registry,
            store,
            cacher,
            clock,
            rng,
            tasks: tasks.clone(),
        };
        let core = Arc::new(core);
        Ok(Self { core })
    }

    /// The cache, for who decides by what is stored.
    pub fn cacher(&self) -> &Cacher {
        &self.core.cacher
    }

    /// Serves one authenticated and authorized request on a stored resource.
    pub async fn handle(
        &self,
        info: RequestInfo,
        user: User,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let core = &*self.core;
        let registry = core.registry.snapshot();
        let def = registry
            .find(&info.group, &info.version, &info.resource)
            .filter(|def| !def.storage.is_empty())
            .ok_or_else(ApiError::no_such_path)?;
        let (call, body) = Call::new(Arc::clone(def), info, user, request)?;
        let mut response = dispatch(core, &call, body).await?;
        call.add_warnings(&mut response);
        Ok(response)
    }
}

async fn dispatch(core: &Core, call: &Call, body: Body) -> Result<Response<Body>, ApiError> {
    let verb = call.info.verb.as_str();
    if !call.def.serves(verb) {
        return Err(not_allowed(call));
    }
    match verb {
        "get" => get::get(core, call).await,
        "list" => list::list(core, call).await,
        "watch" => watch::serve(core, call).await,
        _ => Err(not_allowed(call)),
    }
}

fn not_allowed(call: &Call) -> ApiError {
    let gvr = &call.def.gvr;
    ApiError::method_not_allowed(&gvr.group, &gvr.resource, &call.info.verb)
}
