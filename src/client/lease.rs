//! Leader election on a `Lease`: of several processes that ask, one leads.
//!
//! The record is written with its `resourceVersion`, so that of two that take an expired lease one
//! gets a conflict. Whether it is expired is judged by when *we* last saw it change, never by
//! comparing clocks of two machines. A leader that could not renew for [`Timing::renew_deadline`]
//! stops leading before anyone else may take over.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::object::ObjectKey;
use crate::util::{clock::Clock, errors::chain, tasks::Tasks};

use super::{Api, Client, Result};

/// How long a leader leads without a sign of life, and how often it gives one.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Others may take the lease this long after its last change.
    pub duration: Duration,
    /// A leader that could not renew for this long stops leading; less than `duration`.
    pub renew_deadline: Duration,
    /// Between tries.
    pub retry: Duration,
}

impl Default for Timing {
    /// Upstream's: 15 s, 10 s, 2 s.
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// One process that wants to lead.
#[derive(Clone, Debug)]
pub struct Candidate {
    client: Client,
    clock: Clock,
    lease: ObjectKey,
    identity: String,
    timing: Timing,
}

/// Leading, until [`Leadership::lost`].
#[derive(Clone, Debug)]
pub struct Leadership {
    lost: CancellationToken,
}

impl Leadership {
    /// Cancelled when this process must stop acting as leader.
    pub fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }
}

/// What to do about the lease as it is.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Create,
    /// It is ours.
    Renew,
    /// It is nobody's, or its holder gave no sign of life for too long.
    Take,
    Wait,
}

/// The lease as last seen, and when it was first seen so.
struct Observed {
    revision: Option<String>,
    since: Instant,
}

impl Candidate {
    /// `identity` must differ between processes.
    pub fn new(client: Client, clock: Clock, lease: ObjectKey, identity: &str) -> Self {
        Self {
            client,
            clock,
            lease,
            identity: identity.to_owned(),
            timing: Timing::default(),
        }
    }

    /// The same with other times.
    pub fn with_timing(self, timing: Timing) -> Self {
        Self { timing, ..self }
    }

    /// Resolves when this process leads; the lease is then renewed in `tasks` until they end,
    /// when it is given back, or until it is lost.
    pub async fn lead(&self, tasks: &Tasks) -> Leadership {
        let mut observed = Observed {
            revision: None,
            since: Instant::now(),
        };
        while !self.tried(&mut observed).await {
            tokio::time::sleep(self.timing.retry).await;
        }
        tracing::info!(lease = %self.lease, identity = self.identity, "leading");
        let leadership = Leadership {
            lost: CancellationToken::new(),
        };
        let (candidate, lost) = (self.clone(), leadership.lost());
        let cancelled = tasks.cancelled();
        tasks.service("lease", async move {
            let renewing = candidate.renew_until_lost(&mut observed);
            if cancelled.run_until_cancelled(renewing).await.is_none() {
                candidate.release().await;
            }
            lost.cancel();
        });
        leadership
    }

    async fn renew_until_lost(&self, observed: &mut Observed) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.timing.retry).await;
            let left = self.timing.renew_deadline.saturating_sub(renewed.elapsed());
            let tried = tokio::time::timeout(left, self.tried(observed)).await;
            match tried {
                Ok(true) => renewed = Instant::now(),
                Ok(false) if !left.is_zero() => {}
                _ => {
                    tracing::error!(lease = %self.lease, "leadership is lost");
                    return;
                }
            }
        }
    }

    /// One try to take or renew; a failure of the API is not having it.
    async fn tried(&self, observed: &mut Observed) -> bool {
        match self.try_once(observed).await {
            Ok(holds) => holds,
            Err(error) => {
                tracing::debug!(lease = %self.lease, error = %chain(&error), "lease");
                false
            }
        }
    }

    async fn try_once(&self, observed: &mut Observed) -> Result<bool> {
        let api = self.api();
        let lease = api.get_opt(&self.lease.name).await?;
        let revision = lease
            .as_ref()
            .and_then(|l| l.metadata.resource_version.clone());
        if revision != observed.revision {
            observed.revision = revision;
            observed.since = Instant::now();
        }
        let idle = observed.since.elapsed();
        let decision = decide(lease.as_ref(), &self.identity, idle, self.timing.duration);
        let written = match (decision, lease) {
            (Decision::Wait, _) => return Ok(false),
            (_, None) => api.create(&self.fresh()).await?,
            (decision, Some(lease)) => {
                let taken = decision == Decision::Take;
                let next = self.next(lease, taken);
                api.replace(&self.lease.name, &next).await?
            }
        };
        observed.revision = written.metadata.resource_version;
        observed.since = Instant::now();
        Ok(true)
    }

    /// Gives the lease back so that another can lead at once.
    async fn release(&self) {
        let api = self.api();
        let Ok(mut lease) = api.get(&self.lease.name).await else {
            return;
        };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(&self.identity) {
            spec.holder_identity = None;
            // Where it fails, the lease expires.
            let _ = api.replace(&self.lease.name, &lease).await;
        }
    }

    fn api(&self) -> Api<Lease> {
        self.client.namespaced(&self.lease.namespace)
    }

    fn fresh(&self) -> Lease {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.lease.name.clone()),
                namespace: Some(self.lease.namespace.clone()),
                ..ObjectMeta::default()
            },
            ..Lease::default()
        };
        self.next(lease, true)
    }

    fn next(&self, mut lease: Lease, taken: bool) -> Lease {
        let now = MicroTime(self.now());
        let old = lease.spec.take().unwrap_or_default();
        let transitions = old.lease_transitions.unwrap_or(0);
        let known = old.holder_identity.is_some();
        let seconds = i32::try_from(self.timing.duration.as_secs()).unwrap_or(i32::MAX);
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(seconds),
            renew_time: Some(now.clone()),
            acquire_time: if taken { Some(now) } else { old.acquire_time },
            lease_transitions: Some(transitions + i32::from(taken && known)),
            ..old
        });
        lease
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

fn decide(lease: Option<&Lease>, me: &str, idle: Duration, most: Duration) -> Decision {
    let Some(lease) = lease else {
        return Decision::Create;
    };
    let holder = lease
        .spec
        .as_ref()
        .and_then(|s| s.holder_identity.as_deref());
    match holder {
        None | Some("") => Decision::Take,
        Some(holder) if holder == me => Decision::Renew,
        Some(_) if idle >= most => Decision::Take,
        Some(_) => Decision::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: &str) -> Lease {
        Lease {
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        }
    }

    #[test]
    fn another_holders_lease_is_taken_only_when_it_stood_still_for_its_duration() {
        let s = Duration::from_secs;
        for (lease, idle, expected) in [
            (None, s(0), Decision::Create),
            (Some(held_by("me")), s(60), Decision::Renew),
            (Some(held_by("other")), s(14), Decision::Wait),
            (Some(held_by("other")), s(15), Decision::Take),
            (Some(held_by("")), s(0), Decision::Take),
            (Some(Lease::default()), s(0), Decision::Take),
        ] {
            assert_eq!(decide(lease.as_ref(), "me", idle, s(15)), expected);
        }
    }
}
