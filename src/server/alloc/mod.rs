//! Addresses and ports of Services: each is handed out once.
//!
//! What is taken is a key in the store, written in the transaction that writes the Service and
//! deleted in the one that deletes it. So an allocation cannot be lost or leak, whatever crashes,
//! and two servers cannot hand out the same. The pools in memory only say quickly what is worth
//! trying; a [`Reservation`] holds its items there until the write is done or given up.

mod pool;
mod service;

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::Ipv4Net;
use parking_lot::Mutex;

use crate::api::object::Object;
use crate::api::status::ApiError;
use crate::server::storage::keys;
use crate::store::{self, Precondition, Store, Write};
use crate::util::rng::Rng;

use pool::{Pool, Refusal};

/// Which pool an item is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ip,
    Port,
}

/// One address or port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Claim {
    kind: Kind,
    number: u32,
}

impl Claim {
    fn key(self) -> bytes::Bytes {
        match self.kind {
            Kind::Ip => keys::allocation("ip", &Ipv4Addr::from(self.number).to_string()),
            Kind::Port => keys::allocation("port", &self.number.to_string()),
        }
    }

    /// Reads the key of a claim.
    fn of(key: &[u8]) -> Option<Self> {
        let (_, local) = keys::parse(key)?;
        let (pool, item) = local.split_once('/')?;
        Some(match pool {
            "ip" => Self {
                kind: Kind::Ip,
                number: item.parse::<Ipv4Addr>().ok()?.into(),
            },
            "port" => Self {
                kind: Kind::Port,
                number: item.parse().ok()?,
            },
            _ => return None,
        })
    }
}

/// The pools of the cluster.
#[derive(Debug)]
pub(crate) struct Alloc {
    ips: Mutex<Pool>,
    ports: Mutex<Pool>,
    rng: Rng,
}

impl Alloc {
    /// With what the store says is taken.
    pub(crate) async fn load(
        store: &dyn Store,
        cidr: Ipv4Net,
        ports: RangeInclusive<u16>,
        rng: Rng,
    ) -> store::Result<Self> {
        let alloc = Self {
            ips: Mutex::new(Pool::of_addresses(cidr)),
            ports: Mutex::new(Pool::of_ports(&ports)),
            rng,
        };
        let page = store.range(keys::allocations(), None, None).await?;
        for claim in page.items.iter().filter_map(|item| Claim::of(&item.key)) {
            alloc.pool(claim.kind).lock().mark(claim.number);
        }
        Ok(alloc)
    }

    /// Gives `service` what it needs and still lacks; `old` is what is stored of it. `None`: it is
    /// deleted. Fields are filled in as upstream's Service storage fills them in.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        service: Option<&mut Object>,
        old: Option<&Object>,
    ) -> Result<Reservation, ApiError> {
        service::reserve(self, service, old)
    }

    fn pool(&self, kind: Kind) -> &Mutex<Pool> {
        match kind {
            Kind::Ip => &self.ips,
            Kind::Port => &self.ports,
        }
    }
}

/// What one write takes and gives back. Dropped without [`Reservation::commit`], it takes nothing.
#[derive(Debug)]
pub(crate) struct Reservation {
    alloc: Arc<Alloc>,
    claims: Vec<Claim>,
    releases: Vec<Claim>,
}

impl Reservation {
    fn new(alloc: &Arc<Alloc>) -> Self {
        Self {
            alloc: Arc::clone(alloc),
            claims: Vec::new(),
            releases: Vec::new(),
        }
    }

    fn take(&mut self, kind: Kind, number: u32) -> Result<(), Refusal> {
        self.alloc.pool(kind).lock().take(number)?;
        self.claims.push(Claim { kind, number });
        Ok(())
    }

    fn take_any(&mut self, kind: Kind) -> Result<u32, Refusal> {
        let number = self.alloc.pool(kind).lock().take_any(&self.alloc.rng)?;
        self.claims.push(Claim { kind, number });
        Ok(number)
    }

    fn release(&mut self, kind: Kind, number: u32) {
        self.releases.push(Claim { kind, number });
    }

    /// What must hold and be written together with the Service.
    pub(crate) fn changes(&self, owner: &str) -> (Vec<Precondition>, Vec<Write>) {
        let absent = self.claims.iter().map(|c| Precondition::Absent(c.key()));
        let puts = self.claims.iter().map(|claim| Write::Put {
            key: claim.key(),
            value: owner.to_owned().into(),
            ttl: None,
        });
        let deletes = self.releases.iter().map(|c| Write::Delete { key: c.key() });
        (absent.collect(), puts.chain(deletes).collect())
    }

    /// The write was done.
    pub(crate) fn commit(mut self) {
        self.claims.clear();
        for claim in self.releases.drain(..) {
            self.alloc.pool(claim.kind).lock().free(claim.number);
        }
    }

    /// Another server took `key` before: it is remembered as taken. `false`: not one of ours.
    pub(crate) fn lost(&mut self, key: &[u8]) -> bool {
        let lost = Claim::of(key);
        let before = self.claims.len();
        // Dropped from the claims, it stays marked in the pool.
        self.claims.retain(|claim| Some(*claim) != lost);
        self.claims.len() != before
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        for claim in self.claims.drain(..) {
            self.alloc.pool(claim.kind).lock().free(claim.number);
        }
    }
}

#[cfg(test)]
mod tests;
