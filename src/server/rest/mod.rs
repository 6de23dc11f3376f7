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
mod connect;
mod convert;
mod create;
mod delete;
mod delete_collection;
mod errors;
mod filter;
mod get;
mod list;
mod negotiate;
mod part;
mod patch;
mod prepare;
mod read;
mod render;
mod scale;
mod subresource;
mod token;
mod update;
mod watch;
mod write;

use std::sync::{Arc, OnceLock};

use http::{Request, Response};

use crate::api::status::ApiError;
use crate::client::Body;
use crate::server::admission::{Chain, Lookup};
use crate::server::alloc::Alloc;
use crate::server::authz::Authz;
use crate::server::cacher::Cacher;
use crate::server::registry::{Registry, ResourceDef};
use crate::server::request::{RequestInfo, User};
use crate::server::webhook::Webhooks;
use crate::store::{self, Store};
use crate::util::clock::Clock;
use crate::util::rng::Rng;
use crate::util::tasks::Tasks;

pub use subresource::token::{NameAndUid, TokenIssuer, TokenWish};

use call::Call;
use convert::Converter;
use part::Part;

/// Whether a user may do something: asked where a request turns out to be another one, as an
/// update of what is not there is a create.
pub trait Permission: Send + Sync + 'static {
    /// Errors: 403.
    fn check(&self, user: &User, info: &RequestInfo) -> Result<(), ApiError>;
}

/// What the verbs need to know of the cluster.
#[derive(Clone)]
pub struct RestConfig {
    /// Where ClusterIPs come from.
    pub service_cidr: ipnet::Ipv4Net,
    /// Where NodePorts come from, both ends included.
    pub node_port_range: std::ops::RangeInclusive<u16>,
    /// Signs the tokens of service accounts.
    pub tokens: Arc<dyn TokenIssuer>,
}

/// Serves requests on resources. Clones share everything.
#[derive(Clone, Debug)]
pub struct Rest {
    core: Arc<Core>,
}

/// What every verb works with.
pub(crate) struct Core {
    registry: Arc<Registry>,
    store: Arc<dyn Store>,
    cacher: Cacher,
    admission: Chain,
    alloc: Arc<Alloc>,
    tokens: Arc<dyn TokenIssuer>,
    converter: Converter,
    /// Set once the authorizer, which reads the cache, is there; before, nothing more is allowed.
    permission: OnceLock<Arc<dyn Permission>>,
    clock: Clock,
    rng: Rng,
    tasks: Tasks,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").finish_non_exhaustive()
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
        let (cidr, ports) = (config.service_cidr, config.node_port_range);
        let alloc = Alloc::load(&*store, cidr, ports, rng.clone()).await?;
        let lookup = Lookup::new(cacher.clone(), Arc::clone(&store), Arc::clone(&registry));
        let core = Core {
            admission: Chain::new(&lookup, &rng),
            alloc: Arc::new(alloc),
            tokens: config.tokens,
            converter: Converter::new(rng.clone()),
            permission: OnceLock::new(),
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

    /// Who says what users may do.
    pub(crate) fn authz(&self) -> &Arc<Authz> {
        self.core.admission.authz()
    }

    /// Says how webhooks are called. Counts once.
    pub(crate) fn set_webhooks(&self, webhooks: Webhooks) {
        self.core.converter.set_webhooks(webhooks.clone());
        self.core.admission.set_webhooks(webhooks);
    }

    /// Says who is asked whether a user may do more than the request itself says. Counts once.
    pub fn set_permission(&self, permission: Arc<dyn Permission>) {
        // A second call would be a mistake of the wiring; the first stays.
        let _ = self.core.permission.set(permission);
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
        let is_binding = info.group.is_empty() && info.resource == "bindings";
        let resource = if is_binding { "pods" } else { &info.resource };
        let def = registry
            .find(&info.group, &info.version, resource)
            .filter(|def| !def.storage.is_empty())
            .ok_or_else(ApiError::no_such_path)?;
        let (mut call, body) = Call::new(Arc::clone(def), info, user, request)?;
        call.warn(deprecation(&call.def).map(str::to_owned));
        let custom = call.def.rules.custom();
        call.warn(custom.and_then(|custom| custom.deprecation.clone()));
        let answered = if is_binding {
            subresource::binding::bind(core, &mut call, body).await
        } else {
            dispatch(core, &mut call, body).await
        };
        let mut response = match answered {
            Ok(response) => response,
            // Only an answer can carry headers.
            Err(error) if call.notes.has_warnings() => errors::answer(&error),
            Err(error) => return Err(error),
        };
        call.add_warnings(&mut response);
        response
            .extensions_mut()
            .insert(call.notes.take_annotations());
        Ok(response)
    }
}

/// What every request on a deprecated API is told (`APILifecycleDeprecated`).
fn deprecation(def: &ResourceDef) -> Option<&'static str> {
    match (def.gvr.group.as_str(), def.gvr.resource.as_str()) {
        ("", "endpoints") => {
            Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
        }
        ("", "componentstatuses") => Some("v1 ComponentStatus is deprecated in v1.19+"),
        _ => None,
    }
}

async fn dispatch(core: &Core, call: &mut Call, body: Body) -> Result<Response<Body>, ApiError> {
    let verb = call.info.verb.clone();
    let subresource = call.info.subresource.clone();
    if !is_served(call, &verb, &subresource)? {
        return Err(not_allowed(call));
    }
    match (verb.as_str(), subresource.as_str()) {
        ("create", "binding") => return subresource::binding::bind(core, call, body).await,
        ("create", "eviction") => return subresource::eviction::evict(core, call, body).await,
        ("create", "token") => return subresource::token::issue(core, call, body).await,
        _ => {}
    }
    let part = Part::of(&subresource).ok_or_else(ApiError::no_such_path)?;
    match verb.as_str() {
        "get" => get::get(core, call, part).await,
        "update" => update::update(core, call, part, body).await,
        "patch" => patch::patch(core, call, part, body).await,
        "list" => list::list(core, call).await,
        "watch" => watch::serve(core, call).await,
        "create" => create::create(core, call, body).await,
        "delete" => delete::delete(core, call, body).await,
        "deletecollection" => delete_collection::delete_collection(core, call, body).await,
        _ => Err(not_allowed(call)),
    }
}

/// Whether the verb is served at the path; 404 where there is no such path.
fn is_served(call: &Call, verb: &str, subresource: &str) -> Result<bool, ApiError> {
    let def = &call.def;
    // Objects are made, and deleted all together, in one namespace at a time.
    let needs_place = matches!(verb, "create" | "deletecollection") && def.is_namespaced();
    if needs_place && call.info.namespace.is_empty() {
        return Ok(false);
    }
    if subresource.is_empty() {
        return Ok(def.serves(verb));
    }
    let sub = def.subresource(subresource);
    let sub = sub.ok_or_else(ApiError::no_such_path)?;
    Ok(sub.verbs.iter().any(|served| served == verb))
}

impl Core {
    /// Whether the user of an update or apply may make the object, too.
    fn may_create(&self, call: &Call) -> Result<(), ApiError> {
        let info = RequestInfo {
            verb: "create".to_owned(),
            ..call.info.clone()
        };
        match self.permission.get() {
            Some(permission) => permission.check(&call.user, &info),
            None => Err(errors::not_found(&call.def, &call.info.name)),
        }
    }
}

fn not_allowed(call: &Call) -> ApiError {
    let gvr = &call.def.gvr;
    ApiError::method_not_allowed(&gvr.group, &gvr.resource, &call.info.verb)
}

#[cfg(test)]
mod tests;
