//! Leases: what a pull or an import has fetched so far is kept from containerd's collector.

use containerd_client::services::v1::{CreateRequest, DeleteRequest};
use jiff::{SignedDuration, Timestamp};

use super::Containerd;
use super::channel::{Step, gone_is_fine};
use crate::runtime::Result;

/// A lease that nobody ends is gone after this long.
const EXPIRY: SignedDuration = SignedDuration::from_hours(24);

impl Containerd {
    /// Makes a lease and gives its id.
    pub(super) async fn lease(&self, now: Timestamp) -> Result<String> {
        let id = format!("orch-{}", uuid::Uuid::new_v4());
        let expires = now.saturating_add(EXPIRY).unwrap_or(now);
        let labels = [("containerd.io/gc.expire".to_owned(), expires.to_string())];
        let request = self.link.request(CreateRequest {
            id: id.clone(),
            labels: labels.into(),
        });
        self.link
            .run(
                Step::image("make a lease for", &id),
                self.link.leases().create(request),
            )
            .await?;
        Ok(id)
    }

    /// Ends a lease; what nothing else refers to may be collected then.
    pub(super) async fn end_lease(&self, id: &str) -> Result<()> {
        let request = self.link.request(DeleteRequest {
            id: id.to_owned(),
            sync: false,
        });
        let step = Step::image("end the lease of", id);
        gone_is_fine(
            self.link
                .run(step, self.link.leases().delete(request))
                .await,
        )
    }
}
