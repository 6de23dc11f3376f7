//! API Priority and Fairness: how many requests are served at a time, and whose turn is next
//! (`k8s.io/apiserver/pkg/util/flowcontrol`).
//!
//! Terms. A *FlowSchema* says which requests belong to which *priority level*, and what makes a
//! *flow* of them. A level has a part of the server's *seats*, and may use what others lend and do
//! not need. What finds no seat waits in a fair queue ([`queues`]) or is told to come back (429).
//!
//! Watches and streams do not count: they hardly work. The program itself and administrators are
//! exempt, so that an overloaded server can be repaired.

mod defaults;
mod queues;
mod schema;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::api::status::ApiError;
use crate::server::cacher::{Cacher, Snapshot};
use crate::server::request::{RequestInfo, User};
use crate::util::metrics::{Counters, Gauge, Gauges, Metrics};

use defaults::{flow_schemas, priority_levels};
use queues::{Arrival, Queues, Ticket};
use schema::{Kind, Level, Schema};

/// Seats of the whole server: upstream's `--max-requests-inflight` and
/// `--max-mutating-requests-inflight` together.
const SEATS: u64 = 600;
/// Longer in a queue, and the client is better off knowing (a quarter of the deadline, as upstream).
const WAIT_MAX: Duration = Duration::from_secs(15);
const RETRY_AFTER_SECONDS: u32 = 1;
/// Where the objects are kept: schemas, levels.
const STORAGES: [&str; 2] = [
    "flowschemas.flowcontrol.apiserver.k8s.io",
    "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io",
];

/// Gives seats.
#[derive(Debug)]
pub(crate) struct Flow {
    cacher: Option<Cacher>,
    state: Arc<Mutex<State>>,
    metrics: FlowMetrics,
}

#[derive(Debug)]
struct FlowMetrics {
    inflight: Gauges,
    dispatched: Counters,
    rejected: Counters,
}

#[derive(Debug)]
struct State {
    /// Last changes of the objects the table was made of.
    changes: [u64; 2],
    table: Arc<Table>,
    levels: BTreeMap<String, Seats>,
    waiting: BTreeMap<Ticket, oneshot::Sender<()>>,
    tickets: Ticket,
}

/// Schemas in the order they are asked, and levels.
#[derive(Debug)]
struct Table {
    schemas: Vec<Schema>,
    levels: BTreeMap<String, Level>,
}

/// The seats of one limited level.
#[derive(Debug)]
struct Seats {
    nominal: usize,
    lendable: usize,
    borrowable: usize,
    may_wait: bool,
    queues: Queues,
}

/// A seat, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    inflight: Gauge,
    _seat: Option<Seat>,
    /// `X-Kubernetes-PF-FlowSchema-UID` and `X-Kubernetes-PF-PriorityLevel-UID`.
    pub(crate) uids: (String, String),
}

#[derive(Debug)]
struct Seat {
    state: Arc<Mutex<State>>,
    level: String,
    queue: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.inflight.add(-1);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if let Some(seats) = state.levels.get_mut(&self.level) {
            seats.queues.done(self.queue);
        }
        state.call();
    }
}

/// A place in a queue, given up when dropped.
struct Waiting<'a> {
    state: &'a Mutex<State>,
    level: &'a str,
    queue: usize,
    ticket: Ticket,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        // Called and not taken: the seat goes to the next.
        let was_called = state.waiting.remove(&self.ticket).is_none();
        if let Some(seats) = state.levels.get_mut(self.level) {
            match was_called {
                true => seats.queues.done(self.queue),
                false => seats.queues.leave(self.ticket, self.queue),
            }
        }
        state.call();
    }
}

impl Flow {
    /// By the objects in `cacher`, where there are some, and upstream's defaults.
    pub(crate) fn new(metrics: &Metrics, cacher: Option<Cacher>) -> Self {
        let labels: &[&str] = &["flow_schema", "priority_level"];
        Self {
            cacher,
            state: Arc::new(Mutex::new(State::of(Table::default_table()))),
            metrics: FlowMetrics {
                inflight: metrics.gauges(
                    "apiserver_current_inflight_requests",
                    "Maximal number of currently used inflight request limit of this apiserver per \
                     request kind in last second.",
                    &["request_kind"],
                ),
                dispatched: metrics.counters(
                    "apiserver_flowcontrol_dispatched_requests_total",
                    "Number of requests executed by API Priority and Fairness subsystem",
                    labels,
                ),
                rejected: metrics.counters(
                    "apiserver_flowcontrol_rejected_requests_total",
                    "Number of requests rejected by API Priority and Fairness subsystem",
                    &["flow_schema", "priority_level", "reason"],
                ),
            },
        }
    }

    /// A seat for a request; 429 where there is none for too long.
    pub(crate) async fn enter(&self, info: &RequestInfo, user: &User) -> Result<Place, ApiError> {
        let table = self.table();
        let (schema, level) = table.classify(user, info);
        let names = [schema.name.as_str(), level.name.as_str()];
        let seat = match level.kind {
            Kind::Exempt => None,
            Kind::Limited { .. } => {
                let flow = schema.flow(user, info);
                let seat = self.seat(&level.name, flow).await.map_err(|reason| {
                    self.metrics
                        .rejected
                        .increment(&[names[0], names[1], reason]);
                    let message = "too many requests, please try again later.";
                    ApiError::too_many_requests(message, RETRY_AFTER_SECONDS)
                });
                Some(seat?)
            }
        };
        self.metrics.dispatched.increment(&names);
        let is_reading = matches!(info.verb.as_str(), "get" | "list" | "head");
        let kind = if is_reading { "readOnly" } else { "mutating" };
        let inflight = self.metrics.inflight.with(&[kind]);
        inflight.add(1);
        Ok(Place {
            inflight,
            _seat: seat,
            uids: (schema.uid.clone(), level.uid.clone()),
        })
    }

    async fn seat(&self, level: &str, flow: u64) -> Result<Seat, &'static str> {
        let seat = |queue: usize| Seat {
            state: Arc::clone(&self.state),
            level: level.to_owned(),
            queue,
        };
        let (waiting, called) = {
            let mut state = self.state.lock();
            match state.arrive(level, flow) {
                (Arrival::Runs(queue), _) => return Ok(seat(queue)),
                (Arrival::Full, _) => return Err("queue-full"),
                (Arrival::Waits(queue), ticket) => {
                    let (call, called) = oneshot::channel();
                    state.waiting.insert(ticket, call);
                    let waiting = Waiting {
                        state: &self.state,
                        level,
                        queue,
                        ticket,
                    };
                    (waiting, called)
                }
            }
        };
        match tokio::time::timeout(WAIT_MAX, called).await {
            Ok(Ok(())) => {
                let queue = waiting.queue;
                // The seat is ours now; what waited must not give it up.
                std::mem::forget(waiting);
                Ok(seat(queue))
            }
            Ok(Err(_)) => Err("cancelled"),
            Err(_) => Err("time-out"),
        }
    }

    /// The table of this moment: compiled again only after a change.
    fn table(&self) -> Arc<Table> {
        let Some(cacher) = &self.cacher else {
            return Arc::clone(&self.state.lock().table);
        };
        let snapshots = STORAGES.map(|storage| cacher.snapshot(storage));
        let changes = [0, 1].map(|at: usize| snapshots[at].last_change().0);
        let mut state = self.state.lock();
        if state.changes != changes {
            state.changes = changes;
            state.adopt(Table::compile(&snapshots));
        }
        Arc::clone(&state.table)
    }
}

impl State {
    fn of(table: Table) -> Self {
        let mut state = Self {
            changes: [0; 2],
            table: Arc::new(Table {
                schemas: Vec::new(),
                levels: BTreeMap::new(),
            }),
            levels: BTreeMap::new(),
            waiting: BTreeMap::new(),
            tickets: 0,
        };
        state.adopt(table);
        state
    }

    /// Takes a new table. What runs or waits in a level that is still there and has the same queues
    /// stays; a level whose queues changed begins anew, and who waited in it is told to come back in the end.
    fn adopt(&mut self, table: Table) {
        let limited = table.levels.values().filter_map(|level| match level.kind {
            Kind::Exempt => None,
            Kind::Limited { shares, .. } => Some(u64::from(shares)),
        });
        let all = limited.sum::<u64>().max(1);
        let mut old = std::mem::take(&mut self.levels);
        for level in table.levels.values() {
            let Some(mut seats) = Seats::of(level, all) else {
                continue;
            };
            if let Some(kept) = old.remove(&level.name)
                && kept.queues.shape() == seats.queues.shape()
            {
                seats.queues = kept.queues;
            }
            self.levels.insert(level.name.clone(), seats);
        }
        self.table = Arc::new(table);
        self.call();
    }

    fn arrive(&mut self, level: &str, flow: u64) -> (Arrival, Ticket) {
        self.tickets += 1;
        let ticket = self.tickets;
        let seats_max = self.limit(level);
        let Some(seats) = self.levels.get_mut(level) else {
            return (Arrival::Full, ticket);
        };
        let arrival = seats.queues.arrive(ticket, flow, seats_max);
        if let (Arrival::Waits(queue), false) = (arrival, seats.may_wait) {
            seats.queues.leave(ticket, queue);
            return (Arrival::Full, ticket);
        }
        (arrival, ticket)
    }

    /// How many of a level may run now: its own seats, and what others lend and do not use.
    fn limit(&self, level: &str) -> usize {
        let Some(seats) = self.levels.get(level) else {
            return 0;
        };
        let others = self.levels.iter().filter(|(name, _)| *name != level);
        let free: usize = others
            .map(|(_, other)| {
                let idle = other.nominal.saturating_sub(other.queues.running());
                idle.min(other.lendable)
            })
            .sum();
        seats.nominal + free.min(seats.borrowable)
    }

    /// Calls everybody there is a seat for.
    fn call(&mut self) {
        let names: Vec<String> = self
            .levels
            .iter()
            .filter(|(_, seats)| seats.queues.waiting() > 0)
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            loop {
                let seats_max = self.limit(&name);
                let next = self
                    .levels
                    .get_mut(&name)
                    .and_then(|s| s.queues.next(seats_max));
                let Some(ticket) = next else { break };
                // Who does not hear gives the seat back by the drop of its `Waiting`.
                if let Some(call) = self.waiting.remove(&ticket) {
                    let _ = call.send(());
                }
            }
        }
    }
}

impl Seats {
    fn of(level: &Level, all_shares: u64) -> Option<Self> {
        let Kind::Limited {
            shares,
            lendable_percent,
            borrowing_percent,
            queues,
        } = &level.kind
        else {
            return None;
        };
        let nominal = (SEATS * u64::from(*shares)).div_ceil(all_shares) as usize;
        let percent = |of: u32| (nominal * of as usize).div_ceil(100);
        let shape = queues.unwrap_or(queues::Shape {
            queues: 1,
            hand: 1,
            length_max: 1,
        });
        Some(Self {
            nominal,
            lendable: percent(*lendable_percent),
            borrowable: borrowing_percent.map_or(usize::MAX, percent),
            may_wait: queues.is_some(),
            queues: Queues::new(shape),
        })
    }
}

impl Table {
    fn default_table() -> Self {
        let read = |objects: Vec<serde_json::Value>| -> Vec<serde_json::Map<_, _>> {
            let objects = objects.into_iter();
            objects.filter_map(|o| o.as_object().cloned()).collect()
        };
        let (schemas, levels) = (read(flow_schemas()), read(priority_levels()));
        Self::of(
            schemas.iter().map(Schema::read).collect(),
            levels.iter().map(Level::read).collect(),
        )
    }

    /// What is stored, and upstream's defaults where nothing of their name is.
    /// They are stored at the start; this is for the time before, and for one somebody deleted.
    fn compile([schemas, levels]: &[Snapshot; 2]) -> Self {
        let objects = |snapshot: &Snapshot| -> Vec<_> {
            let items = snapshot.items("", None);
            items.filter_map(|item| item.object().ok()).collect()
        };
        let mut table = Self::of(
            objects(schemas)
                .iter()
                .map(|o| Schema::read(&o.0))
                .collect(),
            objects(levels).iter().map(|o| Level::read(&o.0)).collect(),
        );
        let defaults = Self::default_table();
        for (name, level) in defaults.levels {
            table.levels.entry(name).or_insert(level);
        }
        for schema in defaults.schemas {
            if !table.schemas.iter().any(|own| own.name == schema.name) {
                table.schemas.push(schema);
            }
        }
        table.sorted()
    }

    fn of(schemas: Vec<Schema>, levels: Vec<Level>) -> Self {
        let levels = levels.into_iter().map(|level| (level.name.clone(), level));
        let table = Self {
            schemas,
            levels: levels.collect(),
        };
        table.sorted()
    }

    fn sorted(mut self) -> Self {
        self.schemas.sort_by(|a, b| a.order().cmp(&b.order()));
        self
    }

    /// The first schema that matches and whose level is there; `catch-all` matches everything.
    fn classify(&self, user: &User, info: &RequestInfo) -> (&Schema, &Level) {
        let matching = self
            .schemas
            .iter()
            .filter(|schema| schema.matches(user, info));
        let mut found = matching.filter_map(|s| Some((s, self.levels.get(&s.level)?)));
        found.next().unwrap_or_else(|| self.last_resort())
    }

    fn last_resort(&self) -> (&Schema, &Level) {
        let schema = self.schemas.last();
        let level = self.levels.values().next();
        // Both tables hold at least what is mandatory.
        schema
            .zip(level)
            .expect("the mandatory objects are in every table")
    }
}

/// Every FlowSchema and PriorityLevelConfiguration there is from the start.
pub fn default_objects() -> Vec<serde_json::Value> {
    let mut objects = priority_levels();
    objects.extend(flow_schemas());
    objects
}

#[cfg(test)]
mod tests;
