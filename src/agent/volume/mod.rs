//! The volumes of pods: made before containers start, kept up to date while they run, taken down
//! after they ended.
//!
//! A volume is a folder of the host that containers bind. What comes from Secrets, tokens and
//! projections lies in one tmpfs for the whole node, so that it never reaches a disk and costs no
//! mount per volume; everything else below the pod's folder. Making what is made already changes
//! nothing, so an agent that starts anew just makes everything again.

pub(crate) mod atomic;
pub(crate) mod fields;
pub(crate) mod host_path;
pub(crate) mod objects;
pub(crate) mod payload;
pub(crate) mod subpath;
pub(crate) mod token;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume};

use crate::agent::sys::mount;
use crate::api::quantity::Quantity;
use crate::client::Client;
use crate::util::{clock::Clock, rng::Rng, tasks::Tasks};

use fields::Place;
use objects::{Found, Objects, Wake};
use token::Tokens;

/// A volume could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {why}")]
pub(crate) struct Error {
    pub(crate) volume: String,
    pub(crate) why: String,
}

/// Where volumes are on this node.
#[derive(Clone, Debug)]
pub(crate) struct Roots {
    /// A folder per pod, by UID.
    pub(crate) pods: PathBuf,
    /// The tmpfs, with a folder per pod.
    pub(crate) memory: PathBuf,
}

/// Makes and removes volumes. Clones share what they hold.
#[derive(Clone)]
pub(crate) struct Volumes {
    roots: Roots,
    objects: Objects,
    tokens: Tokens,
    clock: Clock,
}

impl Volumes {
    pub(crate) fn new(
        roots: Roots,
        client: &Client,
        (clock, rng): (Clock, Rng),
        tasks: &Tasks,
    ) -> Self {
        Self {
            roots,
            objects: Objects::new(client.clone(), rng, tasks.child()),
            tokens: Tokens::new(client.clone(), clock.clone()),
            clock,
        }
    }

    /// Starts to fetch what the pod refers to; `wake` is called when it changes.
    pub(crate) fn hold(&self, pod: &Pod, wake: &Wake) {
        self.objects.hold(pod, wake);
    }

    /// What there is of the objects the pod refers to.
    ///
    /// Errors: the server has not answered in time.
    pub(crate) async fn found(&self, pod: &Pod) -> Result<Found, String> {
        self.objects.found(pod).await
    }

    /// Makes every volume of the pod, or brings it up to date. Returns when that must be done
    /// again even if nothing changes.
    ///
    /// Errors: the first volume that could not be made.
    pub(crate) async fn set_up(
        &self,
        pod: &Pod,
        place: &Place,
    ) -> Result<Option<Timestamp>, Error> {
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref());
        let volumes = volumes.unwrap_or_default();
        let about = |why: String, volume: Option<&Volume>| Error {
            volume: volume.map(|v| v.name.clone()).unwrap_or_default(),
            why,
        };
        let mut renew_at: Option<Timestamp> = None;
        let mut tokens = BTreeMap::new();
        let with_token = volumes.iter().find(|v| v.projected.is_some());
        for wish in payload::token_wishes(pod) {
            let (token, at) = self
                .tokens
                .get(pod, &wish)
                .await
                .map_err(|why| about(why, with_token))?;
            renew_at = Some(renew_at.map_or(at, |before| before.min(at)));
            tokens.insert(wish, token);
        }
        let first = volumes.iter().find(|volume| payload::is_payload(volume));
        let found = self.objects.found(pod).await;
        let found = found.map_err(|why| about(why, first))?;
        let sources = payload::Sources {
            pod,
            place,
            found: &found,
            tokens: &tokens,
        };
        for volume in volumes {
            self.make(volume, &sources)
                .map_err(|why| about(why, Some(volume)))?;
        }
        Ok(renew_at)
    }

    /// The folder or file of the host that a container binds for a volume of the pod.
    pub(crate) fn path(&self, pod: &Pod, volume: &str) -> Option<PathBuf> {
        let spec = pod.spec.as_ref()?;
        let found = spec.volumes.iter().flatten().find(|v| v.name == volume)?;
        Some(match &found.host_path {
            Some(host) => PathBuf::from(&host.path),
            None => self.folder(pod, found),
        })
    }

    /// Binds part of a volume for the mount number `at` of a container and returns where.
    ///
    /// Errors: a text as the kubelet shows it.
    pub(crate) fn bind_sub_path(
        &self,
        pod: &Pod,
        (volume, below): (&str, &str),
        (container, at): (&str, usize),
    ) -> Result<PathBuf, String> {
        let root = self
            .path(pod, volume)
            .ok_or_else(|| format!("volume \"{volume}\" not found"))?;
        let folder = self.pod_folder(pod).join("volume-subpaths");
        let target = folder.join(volume).join(container).join(at.to_string());
        subpath::bind(&root, below, &target).map_err(|error| {
            format!("failed to prepare subPath for volumeMount \"{volume}\" of container \"{container}\": {error}")
        })?;
        Ok(target)
    }

    /// Unmounts and removes all volumes of a pod, and holds nothing for it any more.
    pub(crate) fn tear_down(&self, uid: &str) -> io::Result<()> {
        self.objects.release(uid);
        self.tokens.release(uid);
        let folder = self.roots.pods.join(uid);
        if folder.exists() {
            mount::unmount_below(&folder)?;
        }
        for folder in [
            folder.join("volumes"),
            folder.join("volume-subpaths"),
            self.roots.memory.join(uid),
        ] {
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn pod_folder(&self, pod: &Pod) -> PathBuf {
        self.roots
            .pods
            .join(pod.metadata.uid.as_deref().unwrap_or_default())
    }

    fn folder(&self, pod: &Pod, volume: &Volume) -> PathBuf {
        if payload::is_payload(volume) && payload::is_secret(volume) {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            return self.roots.memory.join(uid).join(&volume.name);
        }
        self.pod_folder(pod).join("volumes").join(&volume.name)
    }

    fn make(&self, volume: &Volume, sources: &payload::Sources<'_>) -> Result<(), String> {
        let pod = sources.pod;
        let text = |error: io::Error| error.to_string();
        if payload::is_payload(volume) {
            let files = payload::files(volume, sources)?;
            let folder = self.folder(pod, volume);
            if payload::is_secret(volume) {
                // Other users of the node must not pass; containers bind the folder itself.
                let parent = folder.parent().unwrap_or(&self.roots.memory);
                fs::create_dir_all(parent).map_err(text)?;
                let closed = Permissions::from_mode(0o700);
                fs::set_permissions(parent, closed).map_err(text)?;
            }
            atomic::write(&folder, &files, fs_group(pod), self.clock.now()).map_err(text)?;
            return Ok(());
        }
        if let Some(source) = &volume.empty_dir {
            return empty_dir(&self.folder(pod, volume), source, fs_group(pod));
        }
        if let Some(source) = &volume.host_path {
            let kind = source.type_.as_deref().unwrap_or_default();
            return host_path::prepare(Path::new(&source.path), kind);
        }
        Err(format!(
            "volumes of this type are not supported on this node: {}",
            kind_of(volume)
        ))
    }
}

/// The field of the volume that says what it is.
fn kind_of(volume: &Volume) -> String {
    let value = serde_json::to_value(volume).unwrap_or_default();
    let fields = value.as_object().into_iter().flatten();
    let names = fields.map(|(name, _)| name.as_str());
    let kind = names.into_iter().find(|name| *name != "name");
    kind.unwrap_or("none").to_owned()
}

/// `securityContext.fsGroup`
pub(crate) fn fs_group(pod: &Pod) -> Option<u32> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    u32::try_from(context.fs_group?).ok()
}

/// An empty folder for all users, or a tmpfs.
fn empty_dir(
    folder: &Path,
    source: &EmptyDirVolumeSource,
    group: Option<u32>,
) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let is_new = !folder.exists();
    match source.medium.as_deref().unwrap_or_default() {
        "Memory" => {
            let size = match &source.size_limit {
                Some(limit) => Some(limit.0.parse::<Quantity>().map_err(|e| e.to_string())?),
                None => None,
            };
            let size = size.and_then(|size| u64::try_from(size.value()).ok());
            mount::tmpfs(folder, 0o777, size.filter(|size| *size > 0)).map_err(text)?;
        }
        "" => fs::create_dir_all(folder).map_err(text)?,
        other => return Err(format!("unknown storage medium \"{other}\"")),
    }
    if is_new {
        let mode = match source.mode {
            Some(mode) => mode.unsigned_abs() & 0o7777,
            None => 0o777,
        };
        let mode = if group.is_some() { mode | 0o2070 } else { mode };
        if group.is_some() {
            chown(folder, None, group).map_err(text)?;
        }
        fs::set_permissions(folder, Permissions::from_mode(mode)).map_err(text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
