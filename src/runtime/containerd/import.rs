//! Loading an archive into containerd: store, recognize, unpack, name, pin.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use containerd_client::types::Descriptor;
use serde::{Deserialize, Serialize};

use super::Containerd;
use super::archive::{self, Found, Part};
use super::content::{Labels, Opened, Writer, digest_of};
use super::images::{self, Content, Manifest, choose, parse_manifest, reference_labels};
use super::turns::Turn;
use crate::runtime::registry::reference::Reference;
use crate::runtime::{Error, Image, Result};
use crate::util::errors::OrLog;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
const NAME_ANNOTATION: &str = "io.containerd.image.name";
const REF_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// An entry of `docker save`'s `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An image in an archive.
struct Candidate {
    target: Descriptor,
    names: Vec<Reference>,
}

/// What was loaded from a file, so that the same file is not read again at each start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Imported {
    size: u64,
    modified: (i64, i64),
    inode: u64,
    names: Vec<String>,
}

impl Containerd {
    /// Loads an archive, or finds that it was loaded before and everything is still there.
    pub(super) async fn import_archive(&self, path: &Path) -> Result<Vec<Image>> {
        let unreadable =
            |error: std::io::Error| Error::Image(format!("open {}: {error}", path.display()));
        let mark = tokio::fs::metadata(path).await.map_err(unreadable)?;
        let mut mark = Imported {
            size: mark.len(),
            modified: (mark.mtime(), mark.mtime_nsec()),
            inode: mark.ino(),
            names: Vec::new(),
        };
        if let Some(images) = self.imported_before(path, &mark).await? {
            return Ok(images);
        }
        let lease = self.lease(self.clock.now()).await?;
        let loaded = self.load(&lease, path).await;
        self.end_lease(&lease)
            .await
            .ok_or_log("end the lease of an import");
        let images = loaded?;
        mark.names = images
            .iter()
            .flat_map(|image| image.names.clone())
            .collect();
        self.records.remember_import(path, mark);
        Ok(images)
    }

    async fn imported_before(&self, path: &Path, mark: &Imported) -> Result<Option<Vec<Image>>> {
        let Some(before) = self.records.imported(path) else {
            return Ok(None);
        };
        let same = Imported {
            names: before.names.clone(),
            ..mark.clone()
        };
        if same != before || before.names.is_empty() {
            return Ok(None);
        }
        let mut images: Vec<Image> = Vec::new();
        for name in &before.names {
            match self.find_image(name).await? {
                Some(image) if image.pinned => {
                    if images.iter().all(|have| have.id != image.id) {
                        images.push(image);
                    }
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(images))
    }

    async fn load(&self, lease: &str, path: &Path) -> Result<Vec<Image>> {
        let found = self.store_files(lease, path).await?;
        let candidates = if found.small.contains_key("index.json") {
            layout_candidates(&found)?
        } else if found.small.contains_key("manifest.json") {
            self.docker_candidates(lease, &found).await?
        } else {
            return Err(Error::Image(format!(
                "{}: unrecognized image format: neither index.json nor manifest.json in it",
                path.display()
            )));
        };
        let mut images = Vec::new();
        for candidate in candidates {
            images.push(self.take_candidate(lease, &found, candidate).await?);
        }
        if images.is_empty() {
            return Err(Error::Image(format!(
                "{}: no image for linux/{} with a name in it",
                path.display(),
                images::host_architecture()
            )));
        }
        Ok(images)
    }

    /// Puts every file that may be a blob into the content store.
    async fn store_files(&self, lease: &str, path: &Path) -> Result<Found> {
        let mut parts = archive::read(path);
        let mut found = Found::default();
        let mut current: Option<Current<'_>> = None;
        while let Some(part) = parts.recv().await {
            match part {
                Part::File(name, size) => {
                    self.finish(&mut found, current.take()).await?;
                    current = Some(self.begin(lease, name, size).await?);
                }
                Part::Data(data) => {
                    if let Some(file) = &mut current {
                        if let Some(small) = &mut file.small {
                            small.extend_from_slice(&data);
                        }
                        if let Some(writer) = &mut file.writer {
                            writer.write(data).await?;
                        }
                    }
                }
                Part::Link(name, target) => {
                    found.links.insert(name, target);
                }
                Part::Failed(why) => return Err(Error::Image(format!("read archive {why}"))),
            }
        }
        self.finish(&mut found, current.take()).await?;
        Ok(found)
    }

    async fn begin(&self, lease: &str, name: String, size: u64) -> Result<Current<'_>> {
        let by_name = archive::digest_by_name(&name);
        let turn = match &by_name {
            Some(digest) => Some(self.fetching.turn(digest).await),
            None => None,
        };
        let is_layer = name.ends_with(".tar");
        let writer = match &by_name {
            Some(digest) => {
                let expected = i64::try_from(size).unwrap_or(i64::MAX);
                match self.write_blob(lease, digest, expected).await? {
                    Opened::Exists => None,
                    Opened::Writer(writer) if writer.offset() == 0 => Some(writer),
                    Opened::Writer(writer) => Some(self.restart_blob(lease, writer, digest).await?),
                }
            }
            None if is_layer => Some(self.write_unknown(lease).await?),
            None => None,
        };
        Ok(Current {
            small: archive::is_small(&name, size).then(Vec::new),
            digest: by_name,
            _turn: turn,
            writer,
            name,
            size,
        })
    }

    async fn finish(&self, found: &mut Found, file: Option<Current<'_>>) -> Result<()> {
        let Some(file) = file else {
            return Ok(());
        };
        let mut digest = file.digest;
        if let Some(writer) = file.writer {
            let expected = digest.clone().unwrap_or_default();
            let stored = writer
                .commit(&expected, Labels::new())
                .await
                .map_err(|error| {
                    Error::Image(format!("file {} of the archive: {error}", file.name))
                })?;
            digest = Some(stored);
        }
        if let Some(digest) = digest {
            found.sizes.insert(digest.clone(), file.size);
            found.digests.insert(file.name.clone(), digest);
        }
        if let Some(data) = file.small {
            found.keep(file.name, data)?;
        }
        Ok(())
    }

    /// `docker save` before version 25: configuration and layers by file name, no manifest.
    async fn docker_candidates(&self, lease: &str, found: &Found) -> Result<Vec<Candidate>> {
        let list: Vec<Saved> = serde_json::from_slice(&found.small["manifest.json"])
            .map_err(|error| Error::Image(format!("manifest.json of the archive: {error}")))?;
        let mut candidates = Vec::new();
        for saved in list {
            let missing = |name: &str| Error::Image(format!("`{name}` is missing in the archive"));
            let config = found
                .small
                .get(&saved.config)
                .ok_or_else(|| missing(&saved.config))?;
            let mut layers = Vec::new();
            for name in &saved.layers {
                let digest = found.digest(name).ok_or_else(|| missing(name))?;
                layers.push(serde_json::json!({
                    "mediaType": LAYER_TYPE, "digest": digest, "size": found.sizes.get(digest),
                }));
            }
            self.put_blob(lease, config, Labels::new()).await?;
            let manifest = serde_json::json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": {
                    "mediaType": CONFIG_TYPE, "digest": digest_of(config), "size": config.len(),
                },
                "layers": layers,
            });
            let json = manifest.to_string().into_bytes();
            let digest = self.put_blob(lease, &json, Labels::new()).await?;
            let tags = saved.repo_tags.unwrap_or_default();
            candidates.push(Candidate {
                target: Descriptor {
                    media_type: MANIFEST_TYPE.to_owned(),
                    digest,
                    size: i64::try_from(json.len()).unwrap_or(0),
                    ..Descriptor::default()
                },
                names: tags
                    .iter()
                    .filter_map(|tag| Reference::parse(tag).ok())
                    .collect(),
            });
        }
        candidates.retain(|candidate| !candidate.names.is_empty());
        Ok(candidates)
    }

    /// Labels, unpacks and names one image.
    async fn take_candidate(
        &self,
        lease: &str,
        found: &Found,
        candidate: Candidate,
    ) -> Result<Image> {
        let target = &candidate.target;
        let mut digest = target.digest.clone();
        let mut known = None;
        for _ in 0..3 {
            let json = self
                .small_blob(&digest)
                .await?
                .ok_or_else(|| Error::Image(format!("{digest} is missing in the archive")))?;
            let mut manifest = parse_manifest(&digest, &json)?;
            if manifest.config.is_some() {
                self.label_blob(&digest, reference_labels(&manifest))
                    .await?;
                known = Some(self.unpack_manifest(lease, &manifest, json.len()).await?);
                break;
            }
            // An archive may hold an index for many platforms and the blobs of one.
            manifest
                .manifests
                .retain(|child| found.sizes.contains_key(&child.digest));
            self.label_blob(&digest, reference_labels(&manifest))
                .await?;
            digest = choose(&manifest.manifests)
                .ok_or_else(|| wrong_platform(&candidate.names))?
                .digest
                .clone();
        }
        let known = known.ok_or_else(|| wrong_platform(&candidate.names))?;
        let mut names = Vec::new();
        for name in &candidate.names {
            for name in [
                name.stored_name(),
                format!("{}@{}", name.name(), target.digest),
            ] {
                if !names.contains(&name) {
                    self.name_image(&name, target, true).await?;
                    names.push(name);
                }
            }
        }
        Ok(images::image(&known, names, target.digest.clone(), true))
    }

    /// Unpacks every layer of a manifest whose blobs are all in the content store.
    pub(super) async fn unpack_manifest(
        &self,
        lease: &str,
        manifest: &Manifest,
        size: usize,
    ) -> Result<images::Known> {
        let config = manifest
            .config
            .as_ref()
            .map(|c| c.digest.clone())
            .unwrap_or_default();
        let json = self
            .small_blob(&config)
            .await?
            .ok_or_else(|| Error::Image(format!("configuration {config} is missing")))?;
        let known = images::known(manifest, i64::try_from(size).unwrap_or(0), &json)?;
        let mut parent = "";
        for layer in &known.layers {
            self.unpack(lease, parent, layer).await?;
            parent = &layer.chain_id;
        }
        self.keep_unpacked(&config, known.chain_id()).await?;
        Ok(known)
    }

    /// Ties the unpacked layers to the image's configuration.
    pub(super) async fn keep_unpacked(&self, config: &str, chain_id: &str) -> Result<()> {
        if chain_id.is_empty() {
            return Ok(());
        }
        let label = format!("containerd.io/gc.ref.snapshot.{}", self.config.snapshotter);
        let labels = HashMap::from([(label, chain_id.to_owned())]);
        self.label_blob(config, labels).await
    }
}

struct Current<'a> {
    name: String,
    size: u64,
    digest: Option<String>,
    _turn: Option<Turn<'a>>,
    writer: Option<Box<Writer>>,
    small: Option<Vec<u8>>,
}

fn wrong_platform(names: &[Reference]) -> Error {
    let name = names.first().map(ToString::to_string).unwrap_or_default();
    Error::Image(format!(
        "image {name}: no match for platform linux/{} in it",
        images::host_architecture()
    ))
}

/// The images of an OCI layout (and of `docker save` from version 25 on, which is one too), by
/// annotation or by the tags of a `manifest.json` beside it.
fn layout_candidates(found: &Found) -> Result<Vec<Candidate>> {
    let index = parse_manifest("index.json", &found.small["index.json"])?;
    let mut candidates: Vec<Candidate> = Vec::new();
    for entry in index.manifests {
        if !found.sizes.contains_key(&entry.digest) {
            continue;
        }
        let names = names_of(&entry, found);
        if names.is_empty() {
            tracing::warn!(
                digest = entry.digest,
                "image in an archive has no name, passed over"
            );
            continue;
        }
        let target = Descriptor {
            media_type: entry.media_type,
            digest: entry.digest,
            size: entry.size,
            ..Descriptor::default()
        };
        match candidates
            .iter_mut()
            .find(|c| c.target.digest == target.digest)
        {
            Some(same) => same.names.extend(names),
            None => candidates.push(Candidate { target, names }),
        }
    }
    Ok(candidates)
}

fn names_of(entry: &Content, found: &Found) -> Vec<Reference> {
    let annotation = |key: &str| {
        let annotations = entry.annotations.as_ref()?;
        annotations.get(key).filter(|value| !value.is_empty())
    };
    let full = annotation(NAME_ANNOTATION);
    // A reference name may be a mere tag, which names no image.
    let reference = annotation(REF_ANNOTATION).filter(|name| name.contains(['/', ':']));
    if let Some(name) = full
        .or(reference)
        .and_then(|name| Reference::parse(name).ok())
    {
        return vec![name];
    }
    docker_tags(entry, found)
}

/// Tags that `manifest.json` gives to the image whose manifest `entry` is.
fn docker_tags(entry: &Content, found: &Found) -> Vec<Reference> {
    let file = |digest: &str| {
        found
            .small
            .get(&format!("blobs/{}", digest.replacen(':', "/", 1)))
    };
    let config = file(&entry.digest)
        .and_then(|json| parse_manifest(&entry.digest, json).ok())
        .and_then(|manifest| manifest.config)
        .map(|config| config.digest);
    let saved: Vec<Saved> = found
        .small
        .get("manifest.json")
        .and_then(|json| serde_json::from_slice(json).ok())
        .unwrap_or_default();
    saved
        .into_iter()
        .filter(|saved| config.is_some() && found.digest(&saved.config) == config.as_ref())
        .flat_map(|saved| saved.repo_tags.unwrap_or_default())
        .filter_map(|tag| Reference::parse(&tag).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(annotations: &[(&str, &str)]) -> Content {
        Content {
            digest: "sha256:m".to_owned(),
            annotations: Some(
                annotations
                    .iter()
                    .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                    .collect(),
            ),
            ..Content::default()
        }
    }

    #[test]
    fn the_full_name_wins_and_a_bare_tag_is_no_name() {
        let found = Found::default();
        let names = names_of(
            &entry(&[(REF_ANNOTATION, "a:1"), (NAME_ANNOTATION, "x.io/b:2")]),
            &found,
        );
        assert_eq!(names[0].to_string(), "x.io/b:2");
        assert_eq!(
            names_of(&entry(&[(REF_ANNOTATION, "a:1")]), &found)[0].to_string(),
            "docker.io/library/a:1"
        );
        assert!(names_of(&entry(&[(REF_ANNOTATION, "latest")]), &found).is_empty());
    }

    #[test]
    fn a_docker_layout_gets_its_tags_from_the_manifest_beside_it() {
        let mut found = Found::default();
        found.small.insert(
            "blobs/sha256/m".to_owned(),
            br#"{"config":{"digest":"sha256:c"}}"#.to_vec(),
        );
        found.small.insert(
            "manifest.json".to_owned(),
            br#"[{"Config":"blobs/sha256/c","RepoTags":["web:1","web:2"],"Layers":[]}]"#.to_vec(),
        );
        found
            .digests
            .insert("blobs/sha256/c".to_owned(), "sha256:c".to_owned());
        let names = names_of(&entry(&[]), &found);
        assert_eq!(names.len(), 2);
        assert_eq!(names[1].to_string(), "docker.io/library/web:2");
    }
}
