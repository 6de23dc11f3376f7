//! Images of containers: found or pulled as their policy says
//! (kubernetes `pkg/kubelet/images/image_manager.go`).

pub(crate) mod credentials;
pub(crate) mod folder;

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ObjectReference};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::client::Recorder;
use crate::runtime::{self, Credential, Image, Runtime, registry::reference::Reference};
use crate::util::errors::chain;

/// Pulls at a time on a node: enough to use the line, few enough not to fill the disk's queue.
const PULLS_MOST: usize = 3;

/// Why there is no image: a reason as in `ContainerStateWaiting.reason`, and a text.
pub(crate) type Missing = (&'static str, String);

/// When an image is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Always,
    IfNotPresent,
    Never,
}

/// Finds and pulls images.
pub(crate) struct Images {
    runtime: Arc<dyn Runtime>,
    recorder: Recorder,
    permits: Semaphore,
    /// A pull of one image at a time: who comes second finds it present.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Images {
    pub(crate) fn new(runtime: Arc<dyn Runtime>, recorder: Recorder) -> Self {
        Self {
            runtime,
            recorder,
            permits: Semaphore::new(PULLS_MOST),
            turns: Mutex::default(),
        }
    }

    /// The image of a container, pulled where its policy asks for that. Events are about `about`.
    /// `credentials` are fetched only for a pull.
    pub(crate) async fn find<F>(
        &self,
        container: &Container,
        about: &ObjectReference,
        credentials: F,
    ) -> Result<Image, Missing>
    where
        F: Future<Output = Vec<Credential>>,
    {
        let name = container.image.as_deref().unwrap_or_default();
        if Reference::parse(name).is_err() {
            let text = format!(
                "Failed to apply default image tag \"{name}\": couldn't parse image name \
                 \"{name}\": invalid reference format"
            );
            self.recorder.warning(about, "InspectFailed", text.clone());
            self.recorder
                .warning(about, "Failed", "Error: InvalidImageName");
            return Err(("InvalidImageName", text));
        }
        let policy = policy(container);
        if policy != Policy::Always
            && let Some(image) = self.present(name, about).await?
        {
            return Ok(image);
        }
        if policy == Policy::Never {
            let text =
                format!("Container image \"{name}\" is not present with pull policy of Never");
            self.recorder
                .warning(about, "ErrImageNeverPull", text.clone());
            self.recorder
                .warning(about, "Failed", "Error: ErrImageNeverPull");
            return Err(("ErrImageNeverPull", text));
        }
        self.pull(name, policy, about, &credentials.await).await
    }

    async fn present(&self, name: &str, about: &ObjectReference) -> Result<Option<Image>, Missing> {
        let found = self.runtime.image(name).await;
        let found = found.map_err(|error| ("ImageInspectError", chain(&error)))?;
        if found.is_some() {
            let text = format!("Container image \"{name}\" already present on machine");
            self.recorder.normal(about, "Pulled", text);
        }
        Ok(found)
    }

    async fn pull(
        &self,
        name: &str,
        policy: Policy,
        about: &ObjectReference,
        credentials: &[Credential],
    ) -> Result<Image, Missing> {
        let asked_at = Instant::now();
        let turn = self
            .turns
            .lock()
            .entry(name.to_owned())
            .or_default()
            .clone();
        let held = turn.lock().await;
        if policy == Policy::IfNotPresent
            && let Some(image) = self.present(name, about).await?
        {
            return Ok(image);
        }
        // The semaphore is never closed.
        let permit = self.permits.acquire().await;
        let text = format!("Pulling image \"{name}\"");
        self.recorder.normal(about, "Pulling", text);
        let began_at = Instant::now();
        let pulled = self.runtime.pull(name, credentials).await;
        drop((permit, held));
        self.forget_turn(name, turn);
        match pulled {
            Ok(image) => {
                let text = format!(
                    "Successfully pulled image \"{name}\" in {} ({} including waiting). Image \
                     size: {} bytes.",
                    seconds(began_at.elapsed()),
                    seconds(asked_at.elapsed()),
                    image.size_bytes
                );
                self.recorder.normal(about, "Pulled", text);
                Ok(image)
            }
            Err(error) => {
                let why = match &error {
                    runtime::Error::Image(text) => text.clone(),
                    other => chain(other),
                };
                let text = format!("Failed to pull image \"{name}\": {why}");
                self.recorder.warning(about, "Failed", text);
                self.recorder
                    .warning(about, "Failed", "Error: ErrImagePull");
                Err(("ErrImagePull", why))
            }
        }
    }

    fn forget_turn(&self, name: &str, turn: Arc<tokio::sync::Mutex<()>>) {
        let mut turns = self.turns.lock();
        // Ours and the table's: nobody else waits.
        if Arc::strong_count(&turn) <= 2 {
            turns.remove(name);
        }
    }
}

/// As Go prints a short duration.
fn seconds(duration: std::time::Duration) -> String {
    let ms = duration.as_millis();
    if ms < 1000 {
        format!("{ms}ms")
    } else {
        format!("{}.{:03}s", ms / 1000, ms % 1000)
    }
}

/// The policy of a container; for one that names none: `latest` is always fetched.
pub(crate) fn policy(container: &Container) -> Policy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => Policy::Always,
        Some("Never") => Policy::Never,
        Some("IfNotPresent") => Policy::IfNotPresent,
        _ => {
            let image = container.image.as_deref().unwrap_or_default();
            let tag = image.rsplit('/').next().unwrap_or_default();
            let is_latest =
                !image.contains('@') && tag.split_once(':').is_none_or(|(_, tag)| tag == "latest");
            if is_latest {
                Policy::Always
            } else {
                Policy::IfNotPresent
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::fake::Fake as Api;
    use crate::runtime::ImageConfig;
    use crate::runtime::fake::Fake;
    use crate::util::{clock::Clock, tasks::Tasks};

    fn container(image: &str, policy: &str) -> Container {
        Container {
            name: "c".into(),
            image: Some(image.into()),
            image_pull_policy: Some(policy.into()),
            ..Container::default()
        }
    }

    fn images(runtime: &Arc<Fake>) -> Images {
        let api = Api::new();
        let clock = Clock::system();
        let recorder = Recorder::new(api.client(), &Tasks::new(), clock, ("kubelet", "n"));
        Images::new(runtime.clone(), recorder)
    }

    async fn find(images: &Images, container: &Container) -> Result<Image, Missing> {
        let about = ObjectReference::default();
        images.find(container, &about, async { vec![] }).await
    }

    #[tokio::test]
    async fn policies_say_when_to_fetch() {
        let runtime = Fake::new(Clock::system());
        runtime.add_image("here:1", ImageConfig::default());
        runtime.publish_image("there:1", ImageConfig::default());
        let images = images(&runtime);
        assert!(find(&images, &container("here:1", "Never")).await.is_ok());
        assert!(
            find(&images, &container("here:1", "IfNotPresent"))
                .await
                .is_ok()
        );
        assert_eq!(runtime.take_calls(), []);
        let reason = |result: Result<Image, Missing>| result.unwrap_err().0;
        let missing = find(&images, &container("there:1", "Never")).await;
        assert_eq!(reason(missing), "ErrImageNeverPull");
        let failed = find(&images, &container("here:1", "Always")).await;
        assert_eq!(reason(failed), "ErrImagePull");
        assert!(
            find(&images, &container("there:1", "IfNotPresent"))
                .await
                .is_ok()
        );
        let odd = find(&images, &container("Not An Image", "Always")).await;
        assert_eq!(reason(odd), "InvalidImageName");
    }

    #[tokio::test]
    async fn many_containers_of_one_image_pull_it_once() {
        let runtime = Fake::new(Clock::system());
        runtime.publish_image("there:1", ImageConfig::default());
        let images = images(&runtime);
        let wanted = container("there:1", "IfNotPresent");
        let all = (0..5).map(|_| find(&images, &wanted));
        let all = futures_util::future::join_all(all).await;
        assert!(all.iter().all(Result::is_ok));
        assert_eq!(runtime.take_calls().len(), 1);
        assert!(images.turns.lock().is_empty());
    }

    #[test]
    fn without_a_policy_latest_is_always_fetched() {
        let of = |image: &str| {
            policy(&Container {
                image: Some(image.into()),
                ..Container::default()
            })
        };
        assert_eq!(of("nginx"), Policy::Always);
        assert_eq!(of("reg:5000/nginx:latest"), Policy::Always);
        assert_eq!(of("reg:5000/nginx:1"), Policy::IfNotPresent);
        assert_eq!(of("nginx@sha256:1"), Policy::IfNotPresent);
    }
}
