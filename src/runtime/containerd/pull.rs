//! Pulling: registry to content store to snapshots.
//!
//! Blobs are fetched several at a time and unpacked from the lowest layer up as they come. A blob
//! is written where an earlier try ended; the content store checks its digest. What a failed pull
//! has fetched stays for a day (the lease's end), so that the next try is short.

use std::time::Duration;

use bytes::Bytes;
use containerd_client::types::Descriptor;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::oneshot;

use super::Containerd;
use super::content::{Labels, Opened, Writer};
use super::images::{self, Content, Known, Manifest, choose, parse_manifest, reference_labels};
use crate::runtime::registry::reference::Reference;
use crate::runtime::registry::{Fetched, RegistryError, Session, fitting};
use crate::runtime::{Credential, Error, Image, Result};
use crate::util::backoff::Backoff;
use crate::util::errors::OrLog;
use crate::util::rng::Rng;

/// Blobs of one image fetched at a time, as containerd does it.
const BLOBS_AT_ONCE: usize = 3;

/// Tries of one request before the pull fails; the agent tries the pull again later.
const TRIES_MAX: u32 = 5;

/// Chunks from the network are gathered to messages of this size.
const MESSAGE_BYTES: usize = 1 << 20;

/// An index may hold an index; deeper is not an image.
const INDEX_DEPTH_MAX: usize = 3;

const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1";

fn in_image(error: &RegistryError) -> Error {
    Error::Image(error.to_string())
}

impl Containerd {
    pub(super) async fn pull_image(&self, text: &str, credentials: &[Credential]) -> Result<Image> {
        let reference = Reference::parse(text).map_err(|error| Error::Image(error.to_string()))?;
        let name = reference.stored_name();
        let mut tries: Vec<Option<Credential>> = fitting(credentials, &reference)
            .into_iter()
            .map(Some)
            .collect();
        if tries.is_empty() {
            tries.push(None);
        }
        let mut last = Error::Image("no credentials".to_owned());
        for credential in tries {
            let session = self.registry.session(&reference, credential.as_ref());
            match self.pull_session(&reference, &session).await {
                Ok(image) => return Ok(image),
                Err(error) => last = error,
            }
        }
        Err(match last {
            Error::Image(why) => {
                Error::Image(format!("failed to pull and unpack image \"{name}\": {why}"))
            }
            other => other,
        })
    }

    async fn pull_session(&self, reference: &Reference, session: &Session) -> Result<Image> {
        let name = reference.stored_name();
        let target = retried(|| session.resolve()).await.map_err(|error| {
            Error::Image(format!("failed to resolve reference \"{name}\": {error}"))
        })?;
        if target.media_type.starts_with(DOCKER_SCHEMA_1) {
            return Err(Error::Image(format!(
                "media type \"{}\" is no longer supported, rebuild the image in the OCI or Docker \
                 schema 2 format",
                target.media_type
            )));
        }
        let lease = self.lease(self.clock.now()).await?;
        let fetched = self.fetch_and_unpack(&lease, session, &target).await;
        let named = match fetched {
            Ok(known) => self.name_pulled(reference, &target, &known).await,
            Err(error) => Err(error),
        };
        // A failed pull's lease stays until it expires, and with it what was fetched.
        if named.is_ok() {
            self.end_lease(&lease)
                .await
                .ok_or_log("end the lease of a pull");
        }
        named
    }

    async fn name_pulled(
        &self,
        reference: &Reference,
        target: &Fetched,
        known: &Known,
    ) -> Result<Image> {
        let descriptor = Descriptor {
            media_type: target.media_type.clone(),
            digest: target.digest.clone(),
            size: i64::try_from(target.data.len()).unwrap_or(0),
            ..Descriptor::default()
        };
        let mut names = vec![reference.stored_name()];
        let by_digest = format!("{}@{}", reference.name(), target.digest);
        if !names.contains(&by_digest) {
            names.push(by_digest);
        }
        for name in &names {
            self.name_image(name, &descriptor, false).await?;
        }
        Ok(images::image(known, names, target.digest.clone(), false))
    }

    async fn fetch_and_unpack(
        &self,
        lease: &str,
        session: &Session,
        target: &Fetched,
    ) -> Result<Known> {
        let mut current = target.clone();
        for _ in 0..INDEX_DEPTH_MAX {
            let mut manifest = parse_manifest(&current.digest, &current.data)?;
            if manifest.config.is_some() {
                let known = self
                    .fetch_manifest(lease, session, &manifest, current.data.len())
                    .await?;
                self.put_blob(lease, &current.data, reference_labels(&manifest))
                    .await?;
                return Ok(known);
            }
            let chosen = choose(&manifest.manifests).cloned().ok_or_else(|| {
                Error::Image(format!(
                    "no match for platform in manifest: not found: linux/{}",
                    images::host_architecture()
                ))
            })?;
            manifest
                .manifests
                .retain(|child| child.digest == chosen.digest);
            self.put_blob(lease, &current.data, reference_labels(&manifest))
                .await?;
            current = retried(|| session.manifest(&chosen.digest))
                .await
                .map_err(|e| in_image(&e))?;
        }
        Err(Error::Image("indexes nested too deeply".to_owned()))
    }

    /// Configuration first, then layers, each unpacked as soon as those below it are.
    async fn fetch_manifest(
        &self,
        lease: &str,
        session: &Session,
        manifest: &Manifest,
        size: usize,
    ) -> Result<Known> {
        let config = manifest.config.clone().unwrap_or_default();
        self.fetch_blob(lease, session, &config).await?;
        let json = self
            .small_blob(&config.digest)
            .await?
            .ok_or_else(|| Error::Image(format!("configuration {} is missing", config.digest)))?;
        let known = images::known(manifest, i64::try_from(size).unwrap_or(0), &json)?;
        let (senders, receivers): (Vec<_>, Vec<_>) = manifest
            .layers
            .iter()
            .map(|_| oneshot::channel::<()>())
            .unzip();
        let fetching = async {
            let fetches: Vec<BoxFuture<'_, Result<()>>> = manifest
                .layers
                .iter()
                .zip(senders)
                .map(|(layer, done)| self.fetch_layer(lease, session, layer, done).boxed())
                .collect();
            let mut results = futures_util::stream::iter(fetches).buffer_unordered(BLOBS_AT_ONCE);
            while let Some(result) = results.next().await {
                result?;
            }
            Ok::<_, Error>(())
        };
        let unpacking = async {
            let mut parent = "";
            for (layer, fetched) in known.layers.iter().zip(receivers) {
                if fetched.await.is_err() {
                    // Fetching failed, and says why.
                    return Ok(());
                }
                self.unpack(lease, parent, layer).await?;
                parent = &layer.chain_id;
            }
            Ok::<_, Error>(())
        };
        tokio::try_join!(fetching, unpacking)?;
        self.keep_unpacked(&config.digest, known.chain_id()).await?;
        Ok(known)
    }

    async fn fetch_layer(
        &self,
        lease: &str,
        session: &Session,
        layer: &Content,
        done: oneshot::Sender<()>,
    ) -> Result<()> {
        self.fetch_blob(lease, session, layer).await?;
        // The unpacking side is gone only when it failed.
        let _ = done.send(());
        Ok(())
    }

    /// One blob into the content store; of several pulls only one fetches it.
    async fn fetch_blob(&self, lease: &str, session: &Session, blob: &Content) -> Result<()> {
        let _turn = self.fetching.turn(&blob.digest).await;
        let mut backoff = backoff();
        for attempt in 1..=TRIES_MAX {
            let mut writer = match self.write_blob(lease, &blob.digest, blob.size).await? {
                Opened::Exists => return Ok(()),
                Opened::Writer(writer) => writer,
            };
            if writer.offset() > blob.size {
                writer = self.restart_blob(lease, writer, &blob.digest).await?;
            }
            match copy(session, blob, &mut writer).await {
                Ok(()) => match writer.commit(&blob.digest, Labels::new()).await {
                    Ok(_) => return Ok(()),
                    // The bytes are wrong, perhaps since an earlier try: from the beginning.
                    Err(error) if attempt == TRIES_MAX => return Err(error),
                    Err(_) => self.abort_write(&blob.digest).await?,
                },
                Err(CopyError::Registry(error)) if error.is_passing() && attempt < TRIES_MAX => {}
                Err(CopyError::Registry(error)) => return Err(in_image(&error)),
                Err(CopyError::Store(error)) => return Err(error),
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
        Err(Error::Image(format!(
            "{} could not be fetched",
            blob.digest
        )))
    }
}

enum CopyError {
    Registry(RegistryError),
    Store(Error),
}

async fn copy(
    session: &Session,
    blob: &Content,
    writer: &mut Writer,
) -> std::result::Result<(), CopyError> {
    let offset = u64::try_from(writer.offset()).unwrap_or(0);
    if writer.offset() == blob.size && blob.size > 0 {
        return Ok(());
    }
    let mut from = session
        .blob(&blob.digest, offset)
        .await
        .map_err(CopyError::Registry)?;
    let mut gathered: Vec<u8> = Vec::with_capacity(MESSAGE_BYTES);
    loop {
        let chunk = from.chunk().await;
        if let Ok(Some(chunk)) = &chunk {
            gathered.extend_from_slice(chunk);
            if gathered.len() < MESSAGE_BYTES {
                continue;
            }
        }
        let message = Bytes::from(std::mem::replace(
            &mut gathered,
            Vec::with_capacity(MESSAGE_BYTES),
        ));
        writer.write(message).await.map_err(CopyError::Store)?;
        match chunk {
            Ok(Some(_)) => {}
            Ok(None) if writer.offset() < blob.size => {
                return Err(CopyError::Registry(RegistryError::Failed {
                    url: blob.digest.clone(),
                    why: "unexpected EOF".to_owned(),
                    passing: true,
                }));
            }
            Ok(None) => return Ok(()),
            Err(error) => return Err(CopyError::Registry(error)),
        }
    }
}

fn backoff() -> Backoff {
    Backoff::new(
        Duration::from_millis(200),
        Duration::from_secs(5),
        Rng::from_system(),
    )
}

/// Tries a request again while that may help.
async fn retried<T, F>(request: impl Fn() -> F) -> std::result::Result<T, RegistryError>
where
    F: Future<Output = std::result::Result<T, RegistryError>>,
{
    let mut backoff = backoff();
    for _ in 1..TRIES_MAX {
        match request().await {
            Err(error) if error.is_passing() => tokio::time::sleep(backoff.next_delay()).await,
            other => return other,
        }
    }
    request().await
}
