//! Snapshots: an image's layers laid on one another, and the writable layer of a container.

use std::collections::HashMap;

use containerd_client::services::v1::ApplyRequest;
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, ListSnapshotsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
    StatSnapshotRequest, ViewSnapshotRequest,
};
use containerd_client::types::{Descriptor, Mount};
use sha2::{Digest, Sha256};

use super::Containerd;
use super::channel::{LONG, Step, existing_is_fine, gone_is_fine};
use crate::runtime::{Error, Result};
use crate::util::errors::OrLog;

/// Unpacking a layer of some gigabytes on a slow disk.
const UNPACK_LIMIT: std::time::Duration = std::time::Duration::from_secs(1800);

/// Keeps a snapshot from being collected until we remove it.
const ROOT_LABEL: &str = "containerd.io/gc.root";

/// One layer of an image, ready to be unpacked.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub media_type: String,
    pub digest: String,
    pub size: i64,
    /// Digest of the uncompressed layer.
    pub diff_id: String,
    /// Name of the snapshot of this layer and all below it.
    pub chain_id: String,
}

/// The chain ids of layers from the lowest up.
pub(super) fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(below) => format!(
                "sha256:{}",
                hex::encode(Sha256::digest(format!("{below} {diff_id}")))
            ),
        };
        chain.push(next);
    }
    chain
}

impl Containerd {
    pub(super) async fn has_snapshot(&self, key: &str) -> Result<bool> {
        let request = self.link.request(StatSnapshotRequest {
            snapshotter: self.config.snapshotter.clone(),
            key: key.to_owned(),
        });
        let step = Step::image("look up snapshot", key);
        match self
            .link
            .run(step, self.link.snapshots().stat(request))
            .await
        {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Unpacks one layer on those below it; only one unpack of a chain id runs at a time.
    pub(super) async fn unpack(&self, lease: &str, parent: &str, layer: &Layer) -> Result<()> {
        let _turn = self.unpacking.turn(&layer.chain_id).await;
        if self.has_snapshot(&layer.chain_id).await? {
            return Ok(());
        }
        let key = format!("extract-{} {}", uuid::Uuid::new_v4(), layer.chain_id);
        let unpacked = self.unpack_as(lease, parent, layer, &key).await;
        if unpacked.as_ref().is_ok_and(|committed| *committed) {
            return Ok(());
        }
        self.remove_snapshot(&key)
            .await
            .ok_or_log("remove an unfinished layer");
        unpacked.map(|_| ())
    }

    /// `false`: somebody else was first.
    async fn unpack_as(&self, lease: &str, parent: &str, layer: &Layer, key: &str) -> Result<bool> {
        let request = PrepareSnapshotRequest {
            snapshotter: self.config.snapshotter.clone(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: HashMap::from([(
                "containerd.io/snapshot.ref".to_owned(),
                layer.chain_id.clone(),
            )]),
        };
        let step = Step::image("prepare a layer of", &layer.digest);
        let request = self.link.leased(request, lease);
        let mounts = self
            .link
            .run(step, self.link.snapshots().prepare(request))
            .await?
            .mounts;
        let request = ApplyRequest {
            diff: Some(Descriptor {
                media_type: layer.media_type.clone(),
                digest: layer.digest.clone(),
                size: layer.size,
                ..Descriptor::default()
            }),
            mounts,
            ..ApplyRequest::default()
        };
        let step = Step::image("unpack layer", &layer.digest).limit(UNPACK_LIMIT);
        let request = self.link.leased(request, lease);
        let applied = self
            .link
            .run(step, self.link.diff().apply(request))
            .await?
            .applied;
        let got = applied
            .map(|descriptor| descriptor.digest)
            .unwrap_or_default();
        if got != layer.diff_id {
            return Err(Error::Image(format!(
                "wrong diff id calculated on extraction \"{got}\", the image says \"{}\"",
                layer.diff_id
            )));
        }
        let request = CommitSnapshotRequest {
            snapshotter: self.config.snapshotter.clone(),
            name: layer.chain_id.clone(),
            key: key.to_owned(),
            ..CommitSnapshotRequest::default()
        };
        let step = Step::image("commit layer", &layer.digest).limit(LONG);
        let request = self.link.leased(request, lease);
        existing_is_fine(
            self.link
                .run(step, self.link.snapshots().commit(request))
                .await,
        )
    }

    /// The writable layer of a container, anew.
    pub(super) async fn prepare_root(&self, id: &str, chain_id: &str) -> Result<Vec<Mount>> {
        let request = || {
            self.link.request(PrepareSnapshotRequest {
                snapshotter: self.config.snapshotter.clone(),
                key: id.to_owned(),
                parent: chain_id.to_owned(),
                labels: HashMap::new(),
            })
        };
        let step = Step::container("prepare root file system of", id).limit(LONG);
        let prepared = self
            .link
            .run(step, self.link.snapshots().prepare(request()))
            .await;
        if !matches!(prepared, Err(Error::AlreadyExists { .. })) {
            return Ok(prepared?.mounts);
        }
        // Left behind by a crash between removing the container and its layer.
        self.remove_snapshot(id).await?;
        let prepared = self
            .link
            .run(step, self.link.snapshots().prepare(request()))
            .await?;
        Ok(prepared.mounts)
    }

    /// A read-only look at an image; remove it by its key afterwards.
    pub(super) async fn view(&self, key: &str, chain_id: &str) -> Result<Vec<Mount>> {
        let request = self.link.request(ViewSnapshotRequest {
            snapshotter: self.config.snapshotter.clone(),
            key: key.to_owned(),
            parent: chain_id.to_owned(),
            labels: HashMap::from([(ROOT_LABEL.to_owned(), "orch".to_owned())]),
        });
        let step = Step::image("look into", chain_id);
        let view = self
            .link
            .run(step, self.link.snapshots().view(request))
            .await?;
        Ok(view.mounts)
    }

    pub(super) async fn remove_snapshot(&self, key: &str) -> Result<()> {
        let request = self.link.request(RemoveSnapshotRequest {
            snapshotter: self.config.snapshotter.clone(),
            key: key.to_owned(),
        });
        let step = Step::container("remove root file system of", key).limit(LONG);
        gone_is_fine(
            self.link
                .run(step, self.link.snapshots().remove(request))
                .await,
        )
    }

    /// Removes looks into images that a crash has left.
    pub(super) async fn remove_left_views(&self) -> Result<()> {
        let request = self.link.request(ListSnapshotsRequest {
            snapshotter: self.config.snapshotter.clone(),
            filters: vec![format!("labels.\"{ROOT_LABEL}\"==orch")],
        });
        let mut client = self.link.snapshots();
        let list = async {
            let mut stream = client.list(request).await?.into_inner();
            let mut names = Vec::new();
            while let Some(part) = stream.message().await? {
                names.extend(part.info.into_iter().map(|info| info.name));
            }
            Ok(tonic::Response::new(names))
        };
        let step = Step::image("list snapshots", "");
        for name in self.link.run(step, list).await? {
            self.remove_snapshot(&name).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_follow_the_image_specification() {
        let diff_ids = ["sha256:a".to_owned(), "sha256:b".to_owned()];
        let chain = chain_ids(&diff_ids);
        assert_eq!(chain[0], "sha256:a");
        assert_eq!(
            chain[1],
            format!(
                "sha256:{}",
                hex::encode(Sha256::digest("sha256:a sha256:b"))
            )
        );
    }
}
