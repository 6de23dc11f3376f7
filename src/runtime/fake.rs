//! A runtime in memory, for tests and hollow nodes.
//!
//! Containers run at once and until a test ends them; calls are recorded, and the next calls of a
//! kind can be made to fail. It is strict where containerd is: an image that is not there, an id
//! that is taken and a start of what runs are errors.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::util::clock::Clock;

use super::events::Hub;
use super::registry::reference::Reference;
use super::{
    ContainerSpec, ContainerState, Credential, Error, ExecOutput, ExecSpec, Exit, Image,
    ImageConfig, Phase, Process, Resources, Result, Runtime, RuntimeEvent, Stats, Version,
};

/// Answers [`Runtime::exec_sync`] for a container id and arguments.
pub type ExecAnswer = Box<dyn Fn(&str, &[String]) -> Result<ExecOutput> + Send + Sync>;

/// An in-memory runtime.
pub struct Fake {
    clock: Clock,
    hub: Hub,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    present: BTreeMap<String, Image>,
    published: BTreeMap<String, Image>,
    pull_anything: bool,
    archives: HashMap<PathBuf, Vec<Image>>,
    containers: BTreeMap<String, Container>,
    failures: HashMap<&'static str, VecDeque<Error>>,
    calls: Vec<(&'static str, String)>,
    exec: Option<ExecAnswer>,
    stats: HashMap<String, Stats>,
    next_pid: u32,
}

struct Container {
    spec: ContainerSpec,
    state: ContainerState,
    exit: watch::Sender<Option<i32>>,
    signals: Vec<i32>,
    ends_on_signal: bool,
}

impl Fake {
    /// Nothing is present and nothing can be pulled.
    pub fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            clock,
            hub: Hub::default(),
            state: Mutex::default(),
        })
    }

    /// Every reference can be pulled: what a hollow node wants.
    pub fn hollow(clock: Clock) -> Arc<Self> {
        let fake = Self::new(clock);
        fake.state.lock().pull_anything = true;
        fake
    }

    /// Makes an image present, as if it had been pulled.
    pub fn add_image(&self, reference: &str, config: ImageConfig) -> Image {
        let image = made_image(reference, config);
        self.state
            .lock()
            .present
            .insert(image.id.clone(), image.clone());
        image
    }

    /// Makes an image that can be pulled.
    pub fn publish_image(&self, reference: &str, config: ImageConfig) -> Image {
        let image = made_image(reference, config);
        self.state
            .lock()
            .published
            .insert(normalized(reference), image.clone());
        image
    }

    /// Says what [`Runtime::import`] of this path gives; the images are pinned.
    pub fn add_archive(&self, path: &Path, references: &[&str]) {
        let images = references
            .iter()
            .map(|reference| Image {
                pinned: true,
                ..made_image(reference, ImageConfig::default())
            })
            .collect();
        self.state.lock().archives.insert(path.to_owned(), images);
    }

    /// The next call of `call` (a method name of [`Runtime`]) fails with `error`; may be repeated.
    pub fn fail_next(&self, call: &'static str, error: Error) {
        let mut state = self.state.lock();
        state.failures.entry(call).or_default().push_back(error);
    }

    /// Every call so far: method name and id or reference. `container`, `containers`, `image`,
    /// `images`, `version` and `stats` only look and are not recorded.
    pub fn calls(&self) -> Vec<(&'static str, String)> {
        self.state.lock().calls.clone()
    }

    /// Forgets the recorded calls and gives them.
    pub fn take_calls(&self) -> Vec<(&'static str, String)> {
        std::mem::take(&mut self.state.lock().calls)
    }

    /// Ends a container's process with `code`.
    pub fn exit(&self, id: &str, code: i32) {
        self.end(id, code, false);
    }

    /// The kernel ends a container's process for want of memory.
    pub fn oom_kill(&self, id: &str) {
        self.end(id, 137, true);
    }

    /// Makes a container ignore every signal but SIGKILL.
    pub fn ignore_signals(&self, id: &str) {
        if let Some(container) = self.state.lock().containers.get_mut(id) {
            container.ends_on_signal = false;
        }
    }

    /// Signals a container was sent.
    pub fn signals(&self, id: &str) -> Vec<i32> {
        let state = self.state.lock();
        state
            .containers
            .get(id)
            .map(|c| c.signals.clone())
            .unwrap_or_default()
    }

    /// The spec a container was made of.
    pub fn spec(&self, id: &str) -> Option<ContainerSpec> {
        self.state.lock().containers.get(id).map(|c| c.spec.clone())
    }

    /// Answers `exec_sync`; without this every command ends with 0 and prints nothing.
    pub fn on_exec(&self, answer: ExecAnswer) {
        self.state.lock().exec = Some(answer);
    }

    /// Sets what `stats` says of a container.
    pub fn set_stats(&self, id: &str, stats: Stats) {
        self.state.lock().stats.insert(id.to_owned(), stats);
    }

    /// Sends an event by hand, for instance [`RuntimeEvent::Resync`].
    pub fn send(&self, event: &RuntimeEvent) {
        self.hub.publish(event);
    }

    fn end(&self, id: &str, code: i32, oom_killed: bool) {
        let at = self.clock.now();
        if let Some(container) = self.state.lock().containers.get_mut(id) {
            container.state.phase = Phase::Exited(Exit {
                code,
                at,
                oom_killed,
            });
            container.exit.send_replace(Some(code));
        }
        self.hub.container(id);
    }

    /// Records the call and gives the failure a test asked for.
    fn enter(&self, call: &'static str, id: &str) -> Result<()> {
        let mut state = self.state.lock();
        if !LOOKS.contains(&call) {
            state.calls.push((call, id.to_owned()));
        }
        match state.failures.get_mut(call).and_then(VecDeque::pop_front) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

const LOOKS: [&str; 6] = [
    "version",
    "image",
    "images",
    "container",
    "containers",
    "stats",
];

fn normalized(reference: &str) -> String {
    Reference::parse(reference).map_or_else(|_| reference.to_owned(), |r| r.stored_name())
}

/// A digest that differs for each text, so that tests see which image is which.
fn made_digest(text: &str) -> String {
    let sum = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |sum, b| {
        (sum ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("sha256:{sum:064x}")
}

fn made_image(reference: &str, config: ImageConfig) -> Image {
    let name = normalized(reference);
    Image {
        digest: made_digest(&format!("manifest {name}")),
        id: made_digest(&name),
        names: vec![name],
        size_bytes: 1_000_000,
        pinned: false,
        config,
    }
}

fn no_container(id: &str) -> Error {
    Error::NotFound {
        what: "container",
        id: id.to_owned(),
    }
}

impl State {
    fn find_image(&self, reference: &str) -> Option<&Image> {
        let name = normalized(reference);
        self.present.values().find(|image| {
            image.names.contains(&name)
                || image.id == reference
                || image.digest == reference
                || reference
                    .split_once('@')
                    .is_some_and(|(_, digest)| digest == image.digest)
        })
    }

    fn container_mut(&mut self, id: &str) -> Result<&mut Container> {
        self.containers.get_mut(id).ok_or_else(|| no_container(id))
    }

    fn running(&mut self, id: &str, doing: &'static str) -> Result<&mut Container> {
        let container = self.container_mut(id)?;
        if matches!(container.state.phase, Phase::Running { .. }) {
            return Ok(container);
        }
        Err(Error::Failed {
            doing,
            id: id.to_owned(),
            why: "its process does not run".to_owned(),
        })
    }
}

fn process(exit: watch::Receiver<Option<i32>>, spec: (bool, bool)) -> Process {
    let (stdin, tty) = spec;
    let (ours, theirs) = tokio::io::duplex(4096);
    let (resize, _) = mpsc::channel(1);
    // An echo: what is written to standard input comes out of standard output.
    let (stdout, stdin_half): (Box<dyn tokio::io::AsyncRead + Send + Unpin>, _) = if stdin {
        (Box::new(theirs), Some(ours))
    } else {
        (Box::new(tokio::io::empty()), None)
    };
    Process {
        stdin: stdin_half
            .map(|half| Box::new(half) as Box<dyn tokio::io::AsyncWrite + Send + Unpin>),
        stdout: Some(stdout),
        stderr: (!tty)
            .then(|| Box::new(tokio::io::empty()) as Box<dyn tokio::io::AsyncRead + Send + Unpin>),
        resize,
        exit,
    }
}

#[async_trait]
impl Runtime for Fake {
    async fn version(&self) -> Result<Version> {
        self.enter("version", "")?;
        Ok(Version {
            name: "fake".to_owned(),
            version: "1.0.0".to_owned(),
        })
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>> {
        self.enter("image", reference)?;
        Ok(self.state.lock().find_image(reference).cloned())
    }

    async fn images(&self) -> Result<Vec<Image>> {
        self.enter("images", "")?;
        Ok(self.state.lock().present.values().cloned().collect())
    }

    async fn pull(&self, reference: &str, _credentials: &[Credential]) -> Result<Image> {
        self.enter("pull", reference)?;
        let name = normalized(reference);
        let mut state = self.state.lock();
        let image = match state.published.get(&name) {
            Some(image) => image.clone(),
            None if state.pull_anything => made_image(reference, ImageConfig::default()),
            None => {
                return Err(Error::Image(format!(
                    "failed to pull and unpack image \"{name}\": failed to resolve reference \
                     \"{name}\": {name}: not found"
                )));
            }
        };
        state.present.insert(image.id.clone(), image.clone());
        Ok(image)
    }

    async fn import(&self, archive: &Path) -> Result<Vec<Image>> {
        self.enter("import", &archive.to_string_lossy())?;
        let mut state = self.state.lock();
        let Some(images) = state.archives.get(archive).cloned() else {
            return Err(Error::Image(format!(
                "open {}: no such file or directory",
                archive.display()
            )));
        };
        for image in &images {
            state.present.insert(image.id.clone(), image.clone());
        }
        Ok(images)
    }

    async fn remove_image(&self, id: &str) -> Result<()> {
        self.enter("remove_image", id)?;
        let mut state = self.state.lock();
        if let Some(id) = state.find_image(id).map(|image| image.id.clone()) {
            state.present.remove(&id);
        }
        Ok(())
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<()> {
        self.enter("create", &spec.id)?;
        let mut state = self.state.lock();
        if state.containers.contains_key(&spec.id) {
            return Err(Error::AlreadyExists {
                what: "container",
                id: spec.id.clone(),
            });
        }
        if state.find_image(&spec.image).is_none() {
            return Err(Error::NotFound {
                what: "image",
                id: spec.image.clone(),
            });
        }
        let made = ContainerState {
            id: spec.id.clone(),
            image: spec.image.clone(),
            labels: spec.labels.clone(),
            created_at: self.clock.now(),
            started_at: None,
            phase: Phase::Created,
        };
        let container = Container {
            spec: spec.clone(),
            state: made,
            exit: watch::Sender::new(None),
            signals: Vec::new(),
            ends_on_signal: true,
        };
        state.containers.insert(spec.id.clone(), container);
        drop(state);
        self.hub.container(&spec.id);
        Ok(())
    }

    async fn start(&self, id: &str) -> Result<()> {
        self.enter("start", id)?;
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.next_pid += 1;
        let pid = 1000 + state.next_pid;
        let container = state.container_mut(id)?;
        if container.state.phase != Phase::Created {
            return Err(Error::Failed {
                doing: "start container",
                id: id.to_owned(),
                why: "cannot start a container that was started before".to_owned(),
            });
        }
        container.state.phase = Phase::Running { pid };
        container.state.started_at = Some(now);
        drop(state);
        self.hub.container(id);
        Ok(())
    }

    async fn signal(&self, id: &str, signal: i32, _all: bool) -> Result<()> {
        self.enter("signal", id)?;
        let ends = {
            let mut state = self.state.lock();
            let container = state.container_mut(id)?;
            container.signals.push(signal);
            let runs = matches!(container.state.phase, Phase::Running { .. });
            let ignorable = [libc::SIGWINCH, libc::SIGCHLD, libc::SIGURG, libc::SIGCONT];
            runs && (signal == libc::SIGKILL
                || (container.ends_on_signal && !ignorable.contains(&signal)))
        };
        if ends {
            self.end(id, 128 + signal, false);
        }
        Ok(())
    }

    async fn remove(&self, id: &str) -> Result<()> {
        self.enter("remove", id)?;
        if let Some(container) = self.state.lock().containers.remove(id) {
            container.exit.send_replace(Some(137));
        }
        self.hub.container(id);
        Ok(())
    }

    async fn container(&self, id: &str) -> Result<Option<ContainerState>> {
        self.enter("container", id)?;
        let state = self.state.lock();
        Ok(state.containers.get(id).map(|c| c.state.clone()))
    }

    async fn containers(&self) -> Result<Vec<ContainerState>> {
        self.enter("containers", "")?;
        let state = self.state.lock();
        Ok(state.containers.values().map(|c| c.state.clone()).collect())
    }

    async fn update(&self, id: &str, resources: &Resources) -> Result<()> {
        self.enter("update", id)?;
        let mut state = self.state.lock();
        state.container_mut(id)?.spec.resources = resources.clone();
        Ok(())
    }

    async fn exec(&self, spec: &ExecSpec) -> Result<Process> {
        self.enter("exec", &spec.container)?;
        let mut state = self.state.lock();
        state.running(&spec.container, "exec in container")?;
        let code = match &state.exec {
            Some(answer) => answer(&spec.container, &spec.args)?.code,
            None => 0,
        };
        let exit = watch::Sender::new(Some(code)).subscribe();
        Ok(process(exit, (spec.stdin, spec.tty)))
    }

    async fn exec_sync(&self, id: &str, args: &[String], _limit: Duration) -> Result<ExecOutput> {
        self.enter("exec_sync", id)?;
        let mut state = self.state.lock();
        state.running(id, "exec in container")?;
        match &state.exec {
            Some(answer) => answer(id, args),
            None => Ok(ExecOutput::default()),
        }
    }

    async fn attach(&self, id: &str, stdin: bool) -> Result<Process> {
        self.enter("attach", id)?;
        let mut state = self.state.lock();
        let container = state.running(id, "attach to container")?;
        let streams = (stdin && container.spec.stdin, container.spec.tty);
        Ok(process(container.exit.subscribe(), streams))
    }

    async fn stats(&self, id: &str) -> Result<Option<Stats>> {
        self.enter("stats", id)?;
        let mut state = self.state.lock();
        if state.running(id, "read figures of").is_err() {
            return Ok(None);
        }
        Ok(Some(state.stats.get(id).cloned().unwrap_or_default()))
    }

    fn events(&self) -> mpsc::Receiver<RuntimeEvent> {
        self.hub.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::tests::container_spec as spec;

    #[tokio::test]
    async fn a_container_lives_from_create_to_remove() {
        let fake = Fake::new(Clock::system());
        let mut events = fake.events();
        assert!(
            fake.create(&spec("a", "web"))
                .await
                .unwrap_err()
                .is_not_found()
        );
        fake.add_image("web", ImageConfig::default());
        fake.create(&spec("a", "web")).await.unwrap();
        fake.start("a").await.unwrap();
        fake.ignore_signals("a");
        fake.signal("a", 15, false).await.unwrap();
        let running = fake.container("a").await.unwrap().unwrap();
        assert!(matches!(running.phase, Phase::Running { .. }));
        fake.signal("a", 9, true).await.unwrap();
        let ended = fake.container("a").await.unwrap().unwrap();
        assert!(matches!(ended.phase, Phase::Exited(Exit { code: 137, .. })));
        fake.remove("a").await.unwrap();
        fake.remove("a").await.unwrap();
        assert_eq!(fake.container("a").await.unwrap(), None);
        assert_eq!(
            events.recv().await,
            Some(RuntimeEvent::Container { id: "a".to_owned() })
        );
    }

    #[tokio::test]
    async fn asked_failures_come_once_each_and_calls_are_recorded() {
        let fake = Fake::new(Clock::system());
        fake.publish_image("web", ImageConfig::default());
        fake.fail_next("pull", Error::Image("no".to_owned()));
        assert!(fake.pull("web", &[]).await.is_err());
        assert_eq!(
            fake.pull("web", &[]).await.unwrap().names,
            ["docker.io/library/web:latest"]
        );
        assert!(fake.image("web:latest").await.unwrap().is_some());
        assert_eq!(fake.take_calls().len(), 2);
    }
}
