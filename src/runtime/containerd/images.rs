//! Images in containerd's store: what a name leads to, and what is in it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use containerd_client::services::v1::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, Image as Record, ListImagesRequest,
    UpdateImageRequest,
};
use containerd_client::types::Descriptor;
use serde::Deserialize;

use super::Containerd;
use super::channel::{Step, gone_is_fine};
use super::content::Labels;
use super::snapshots::{Layer, chain_ids};
use crate::runtime::registry::reference::{Reference, is_digest};
use crate::runtime::{Error, Image, ImageConfig, Result};

/// An image that containerd's own collector and ours leave alone; CRI's label for it.
pub(super) const PINNED_LABEL: &str = "io.cri-containerd.pinned";

/// An index may hold an index; deeper is not an image.
const INDEX_DEPTH_MAX: usize = 3;

/// Facts of images kept in memory, by the digest that leads to them. They never change.
const KNOWN_MAX: usize = 1024;

/// What a manifest says, checked.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// Digest of the configuration: the image's identity.
    pub id: String,
    pub size_bytes: u64,
    pub config: ImageConfig,
    pub layers: Vec<Layer>,
}

impl Known {
    /// The snapshot of all layers; empty for an image without any.
    pub(super) fn chain_id(&self) -> &str {
        self.layers
            .last()
            .map_or("", |layer| layer.chain_id.as_str())
    }
}

/// A manifest or an index.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Manifest {
    pub media_type: String,
    pub config: Option<Content>,
    pub layers: Vec<Content>,
    pub manifests: Vec<Content>,
}

/// A descriptor.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Content {
    pub media_type: String,
    pub digest: String,
    pub size: i64,
    pub platform: Option<Platform>,
    pub annotations: Option<BTreeMap<String, String>>,
}

/// Which machines a manifest is for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Platform {
    pub architecture: String,
    pub os: String,
    pub variant: String,
}

/// An image's configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ConfigFile {
    config: Option<ConfigPart>,
    rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RootFs {
    diff_ids: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ConfigPart {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
}

/// This machine, as images call it.
pub(super) fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// The entry of an index for this machine: its platform, else one that names none.
pub(super) fn choose(manifests: &[Content]) -> Option<&Content> {
    let fits = |platform: &Platform| {
        platform.os == "linux" && platform.architecture == host_architecture()
    };
    // Of several variants the last is the most demanding; images list the plain one first.
    manifests
        .iter()
        .find(|m| m.platform.as_ref().is_some_and(fits))
        .or_else(|| manifests.iter().find(|m| m.platform.is_none()))
}

/// Labels that keep everything a manifest or an index refers to from being collected.
pub(super) fn reference_labels(manifest: &Manifest) -> Labels {
    let mut labels = HashMap::new();
    if let Some(config) = &manifest.config {
        labels.insert(
            "containerd.io/gc.ref.content.config".to_owned(),
            config.digest.clone(),
        );
    }
    for (number, layer) in manifest.layers.iter().enumerate() {
        labels.insert(
            format!("containerd.io/gc.ref.content.l.{number}"),
            layer.digest.clone(),
        );
    }
    for (number, child) in manifest.manifests.iter().enumerate() {
        labels.insert(
            format!("containerd.io/gc.ref.content.m.{number}"),
            child.digest.clone(),
        );
    }
    labels
}

/// Reads a manifest and its configuration together.
pub(super) fn known(manifest: &Manifest, manifest_size: i64, config_json: &[u8]) -> Result<Known> {
    let broken = |why: String| Error::Image(format!("invalid image: {why}"));
    let config = manifest
        .config
        .as_ref()
        .ok_or_else(|| broken("the manifest names no configuration".to_owned()))?;
    let file: ConfigFile = serde_json::from_slice(config_json)
        .map_err(|error| broken(format!("configuration {}: {error}", config.digest)))?;
    if file.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(broken(format!(
            "mismatched image rootfs and manifest layers: {} and {}",
            file.rootfs.diff_ids.len(),
            manifest.layers.len()
        )));
    }
    let chain = chain_ids(&file.rootfs.diff_ids);
    let layers: Vec<Layer> = manifest
        .layers
        .iter()
        .zip(file.rootfs.diff_ids)
        .zip(chain)
        .map(|((layer, diff_id), chain_id)| Layer {
            media_type: layer.media_type.clone(),
            digest: layer.digest.clone(),
            size: layer.size,
            diff_id,
            chain_id,
        })
        .collect();
    let sizes = layers.iter().map(|layer| layer.size).sum::<i64>() + config.size + manifest_size;
    let part = file.config.unwrap_or_default();
    Ok(Known {
        id: config.digest.clone(),
        size_bytes: u64::try_from(sizes).unwrap_or(0),
        config: ImageConfig {
            user: part.user.unwrap_or_default(),
            env: part.env.unwrap_or_default(),
            entrypoint: part.entrypoint.unwrap_or_default(),
            cmd: part.cmd.unwrap_or_default(),
            working_dir: part.working_dir.unwrap_or_default(),
            stop_signal: part.stop_signal.unwrap_or_default(),
        },
        layers,
    })
}

pub(super) fn parse_manifest(digest: &str, json: &[u8]) -> Result<Manifest> {
    serde_json::from_slice(json)
        .map_err(|error| Error::Image(format!("invalid manifest {digest}: {error}")))
}

impl Containerd {
    /// What a digest (of a manifest or index) leads to; `None` where parts of it are missing.
    pub(super) async fn known(&self, target: &str) -> Result<Option<Arc<Known>>> {
        if let Some(known) = self.images.lock().get(target) {
            return Ok(Some(known.clone()));
        }
        let mut digest = target.to_owned();
        for _ in 0..INDEX_DEPTH_MAX {
            let Some(json) = self.small_blob(&digest).await? else {
                return Ok(None);
            };
            let manifest = parse_manifest(&digest, &json)?;
            if manifest.config.is_none() {
                let Some(child) = choose(&manifest.manifests) else {
                    return Ok(None);
                };
                digest.clone_from(&child.digest);
                continue;
            }
            let config = manifest
                .config
                .as_ref()
                .map(|c| c.digest.clone())
                .unwrap_or_default();
            let Some(config_json) = self.small_blob(&config).await? else {
                return Ok(None);
            };
            let size = i64::try_from(json.len()).unwrap_or(0);
            let known = Arc::new(known(&manifest, size, &config_json)?);
            let mut images = self.images.lock();
            if images.len() >= KNOWN_MAX {
                images.clear();
            }
            images.insert(target.to_owned(), known.clone());
            return Ok(Some(known));
        }
        Err(Error::Image(format!(
            "invalid image {target}: indexes nested too deeply"
        )))
    }

    /// Present and unpacked, by reference, manifest digest or id.
    pub(super) async fn find_image(&self, reference: &str) -> Result<Option<Image>> {
        if is_digest(reference) {
            let all = self.list_images().await?;
            return Ok(all
                .into_iter()
                .find(|image| image.id == reference || image.digest == reference));
        }
        let name = Reference::parse(reference).map_err(|e| Error::Image(e.to_string()))?;
        let Some(record) = self.image_record(&name.stored_name()).await? else {
            return Ok(None);
        };
        let target = record.target.unwrap_or_default().digest;
        let Some(known) = self.known(&target).await? else {
            return Ok(None);
        };
        if !known.chain_id().is_empty() && !self.has_snapshot(known.chain_id()).await? {
            return Ok(None);
        }
        let mut names = vec![record.name];
        let pinned = record
            .labels
            .get(PINNED_LABEL)
            .is_some_and(|v| v == "pinned");
        let by_digest = format!("{}@{target}", name.name());
        if !names.contains(&by_digest) {
            names.push(by_digest);
        }
        Ok(Some(image(&known, names, target, pinned)))
    }

    pub(super) async fn image_record(&self, name: &str) -> Result<Option<Record>> {
        let request = self.link.request(GetImageRequest {
            name: name.to_owned(),
        });
        let step = Step::image("look up image", name);
        match self.link.run(step, self.link.images().get(request)).await {
            Ok(found) => Ok(found.image),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn image_records(&self) -> Result<Vec<Record>> {
        let request = self.link.request(ListImagesRequest::default());
        let step = Step::image("list images", "");
        Ok(self
            .link
            .run(step, self.link.images().list(request))
            .await?
            .images)
    }

    /// Every image that is whole and unpacked, its names together.
    pub(super) async fn list_images(&self) -> Result<Vec<Image>> {
        let mut by_id: BTreeMap<String, Image> = BTreeMap::new();
        for record in self.image_records().await? {
            let target = record.target.unwrap_or_default().digest;
            // An image that somebody else left half done is not ours to report.
            let Ok(Some(known)) = self.known(&target).await else {
                continue;
            };
            if !by_id.contains_key(&known.id) {
                let whole =
                    known.chain_id().is_empty() || self.has_snapshot(known.chain_id()).await?;
                if !whole {
                    continue;
                }
            }
            let pinned = record
                .labels
                .get(PINNED_LABEL)
                .is_some_and(|v| v == "pinned");
            let entry = by_id
                .entry(known.id.clone())
                .or_insert_with(|| image(&known, Vec::new(), target, false));
            entry.pinned |= pinned;
            // CRI's own name for an image is its id, which is not a reference.
            if !is_digest(&record.name) {
                entry.names.push(record.name);
            }
        }
        Ok(by_id.into_values().collect())
    }

    /// Makes `name` lead to `target`.
    pub(super) async fn name_image(
        &self,
        name: &str,
        target: &Descriptor,
        pinned: bool,
    ) -> Result<()> {
        let mut labels = HashMap::new();
        let mut paths = vec!["target".to_owned()];
        if pinned {
            labels.insert(PINNED_LABEL.to_owned(), "pinned".to_owned());
            paths.push(format!("labels.{PINNED_LABEL}"));
        }
        let record = Record {
            name: name.to_owned(),
            labels,
            target: Some(target.clone()),
            ..Record::default()
        };
        let request = self.link.request(CreateImageRequest {
            image: Some(record.clone()),
            ..CreateImageRequest::default()
        });
        let step = Step::image("name image", name);
        match self
            .link
            .run(step, self.link.images().create(request))
            .await
        {
            Err(Error::AlreadyExists { .. }) => {}
            other => return other.map(|_| ()),
        }
        let request = self.link.request(UpdateImageRequest {
            image: Some(record),
            update_mask: Some(prost_types::FieldMask { paths }),
            ..UpdateImageRequest::default()
        });
        self.link
            .run(step, self.link.images().update(request))
            .await
            .map(|_| ())
    }

    /// Removes every name that leads to the image.
    pub(super) async fn forget_image(&self, id: &str) -> Result<()> {
        let wanted = match self.find_image(id).await? {
            Some(image) => image.id,
            None => id.to_owned(),
        };
        let normalized = Reference::parse(id)
            .map(|r| r.stored_name())
            .unwrap_or_default();
        let mut names = Vec::new();
        for record in self.image_records().await? {
            let target = record.target.unwrap_or_default().digest;
            let known = self.known(&target).await.ok().flatten();
            let same = known.is_some_and(|known| known.id == wanted);
            if same || record.name == wanted || record.name == normalized {
                names.push(record.name);
            }
        }
        // Only the last waits for the collector, which then frees all at once.
        let last = names.len().saturating_sub(1);
        for (number, name) in names.iter().enumerate() {
            let request = self.link.request(DeleteImageRequest {
                name: name.clone(),
                sync: number == last,
                target: None,
            });
            let step = Step::image("remove image", name).limit(super::channel::LONG);
            let mut images = self.link.images();
            let delete = images.delete(request);
            gone_is_fine(self.link.run(step, delete).await.map(|_| ()))?;
        }
        self.images.lock().retain(|_, known| known.id != wanted);
        Ok(())
    }
}

pub(super) fn image(known: &Known, names: Vec<String>, digest: String, pinned: bool) -> Image {
    Image {
        names,
        digest,
        id: known.id.clone(),
        size_bytes: known.size_bytes,
        pinned,
        config: known.config.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(os: &str, architecture: &str, digest: &str) -> Content {
        Content {
            digest: digest.to_owned(),
            platform: Some(Platform {
                architecture: architecture.to_owned(),
                os: os.to_owned(),
                variant: String::new(),
            }),
            ..Content::default()
        }
    }

    #[test]
    fn an_index_gives_the_manifest_for_this_machine() {
        let host = host_architecture();
        let list = [
            content("windows", host, "w"),
            content("linux", "mips", "m"),
            content("linux", host, "l"),
        ];
        assert_eq!(choose(&list).unwrap().digest, "l");
        assert!(choose(&list[..2]).is_none());
    }

    #[test]
    fn a_configuration_with_nulls_is_read_and_a_wrong_layer_count_refused() {
        let manifest: Manifest = serde_json::from_str(
            r#"{"config":{"digest":"sha256:c","size":5},"layers":[{"digest":"sha256:l","size":7}]}"#,
        )
        .unwrap();
        let config =
            br#"{"config":{"Cmd":["a"],"Env":null,"User":""},"rootfs":{"diff_ids":["sha256:d"]}}"#;
        let known = known(&manifest, 3, config).unwrap();
        assert_eq!(known.size_bytes, 15);
        assert_eq!(known.config.cmd, ["a"]);
        assert_eq!(known.chain_id(), "sha256:d");
        let error = super::known(&manifest, 3, b"{}").unwrap_err();
        assert!(error.to_string().contains("0 and 1"), "{error}");
    }
}
