//! Processes in containers: commands with streams, and attaching to the container's own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use containerd_client::services::v1::{
    CloseIoRequest, DeleteProcessRequest, ExecProcessRequest, GetContainerRequest,
    ResizePtyRequest, StartRequest, WaitRequest,
};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};

use super::Containerd;
use super::channel::{LONG, Link, Step, gone_is_fine};
use crate::runtime::log::{self, AttachFrame};
use crate::runtime::spec::Process as OciProcess;
use crate::runtime::{Error, ExecOutput, ExecSpec, Phase, Process, Result};
use crate::util::errors::{OrLog, chain};
use crate::util::tasks::Tasks;

const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// What a probe or a hook may print, as the kubelet keeps it.
const OUTPUT_BYTES_MAX: usize = 16 << 10;

/// How long output may come after the end of a command: the shim gives up after 2 s itself.
const DRAIN_LIMIT: Duration = Duration::from_secs(4);

/// Terminal sizes waiting to be set; only the newest matters.
const SIZES_MAX: usize = 4;

/// Bytes between the log program's socket and whoever reads an attached stream.
const ATTACH_BUFFER_BYTES: usize = 64 << 10;

/// Names a process: a container's own where `exec_id` is empty.
#[derive(Clone)]
struct Target {
    link: Link,
    container: String,
    exec_id: String,
}

impl Target {
    async fn close_stdin(&self) -> Result<()> {
        let request = self.link.request(CloseIoRequest {
            container_id: self.container.clone(),
            exec_id: self.exec_id.clone(),
            stdin: true,
        });
        let step = Step::container("close standard input of", &self.container);
        gone_is_fine(
            self.link
                .run(step, self.link.tasks().close_io(request))
                .await,
        )
    }

    async fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        let request = self.link.request(ResizePtyRequest {
            container_id: self.container.clone(),
            exec_id: self.exec_id.clone(),
            width: columns.into(),
            height: rows.into(),
        });
        let step = Step::container("resize the terminal of", &self.container);
        gone_is_fine(
            self.link
                .run(step, self.link.tasks().resize_pty(request))
                .await,
        )
    }

    /// Waits for the end of a command however long it takes, over restarts of containerd.
    async fn wait(&self) -> i32 {
        let unknown = 255;
        loop {
            let request = self.link.request(WaitRequest {
                container_id: self.container.clone(),
                exec_id: self.exec_id.clone(),
            });
            let step =
                Step::container("wait for a command in", &self.container).limit(Duration::MAX);
            match self.link.run(step, self.link.tasks().wait(request)).await {
                Ok(end) => return i32::try_from(end.exit_status).unwrap_or(unknown),
                Err(Error::Unavailable { .. }) => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(error) => {
                    if !error.is_not_found() {
                        tracing::warn!(error = %chain(&error), "end of a command unknown");
                    }
                    return unknown;
                }
            }
        }
    }

    async fn delete(&self) -> Result<()> {
        let request = self.link.request(DeleteProcessRequest {
            container_id: self.container.clone(),
            exec_id: self.exec_id.clone(),
        });
        let step = Step::container("remove a command from", &self.container).limit(LONG);
        let mut tasks = self.link.tasks();
        let delete = tasks.delete_process(request);
        gone_is_fine(self.link.run(step, delete).await.map(|_| ()))
    }

    /// Takes sizes until nobody sends any.
    fn resizer(&self, jobs: &Tasks) -> mpsc::Sender<(u16, u16)> {
        let (sender, mut receiver) = mpsc::channel(SIZES_MAX);
        let target = self.clone();
        jobs.job("resize terminal", async move {
            while let Some((columns, rows)) = receiver.recv().await {
                target
                    .resize(columns, rows)
                    .await
                    .ok_or_log("resize a terminal");
            }
        });
        sender
    }
}

/// The writing end of a standard input; dropping it closes the process' input.
struct Stdin {
    pipe: Option<pipe::Sender>,
    /// `None`: others may attach later, the input stays open.
    close: Option<(Target, Tasks)>,
}

impl Stdin {
    fn end(&mut self) {
        self.pipe = None;
        if let Some((target, jobs)) = self.close.take() {
            jobs.job("close standard input", async move {
                target
                    .close_stdin()
                    .await
                    .ok_or_log("close a standard input");
            });
        }
    }
}

impl Drop for Stdin {
    fn drop(&mut self) {
        self.end();
    }
}

impl AsyncWrite for Stdin {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.pipe {
            Some(pipe) => Pin::new(pipe).poll_write(cx, data),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end();
        Poll::Ready(Ok(()))
    }
}

/// The FIFOs of a command.
struct Fifos {
    folder: PathBuf,
    stdin: Option<pipe::Sender>,
    stdout: pipe::Receiver,
    stderr: Option<pipe::Receiver>,
}

impl Fifos {
    /// Makes and opens them. Ours are open before the shim opens its ends, or it would wait.
    fn make(folder: PathBuf, stdin: bool, tty: bool) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let made = |name: &str| -> io::Result<PathBuf> {
            let path = folder.join(name);
            mkfifo(&path, Mode::from_bits_truncate(0o600))?;
            Ok(path)
        };
        let reader = |name: &str| pipe::OpenOptions::new().open_receiver(made(name)?);
        let stdout = reader("stdout")?;
        let stderr = if tty { None } else { Some(reader("stderr")?) };
        let stdin = match stdin {
            // Read-write, so that opening does not need a reader yet.
            true => Some(
                pipe::OpenOptions::new()
                    .read_write(true)
                    .open_sender(made("stdin")?)?,
            ),
            false => None,
        };
        Ok(Self {
            folder,
            stdin,
            stdout,
            stderr,
        })
    }

    fn path(&self, name: &str, there: bool) -> String {
        if there {
            self.folder.join(name).to_string_lossy().into_owned()
        } else {
            String::new()
        }
    }
}

fn failed(doing: &'static str, id: &str, why: impl ToString) -> Error {
    Error::Failed {
        doing,
        id: id.to_owned(),
        why: why.to_string(),
    }
}

impl Containerd {
    fn runs(&self, id: &str, doing: &'static str) -> Result<super::records::Entry> {
        let entry = self.records.get(id).ok_or_else(|| Error::NotFound {
            what: "container",
            id: id.to_owned(),
        })?;
        match entry.phase {
            Phase::Running { .. } => Ok(entry),
            _ => Err(failed(doing, id, "container is not running")),
        }
    }

    /// The process a command is made of: the container's own with other arguments.
    async fn exec_process(&self, spec: &ExecSpec) -> Result<Vec<u8>> {
        let id = spec.container.as_str();
        let request = self.link.request(GetContainerRequest { id: id.to_owned() });
        let step = Step::container("look up container", id);
        let found = self
            .link
            .run(step, self.link.containers().get(request))
            .await?;
        let json = found
            .container
            .and_then(|c| c.spec)
            .map(|any| any.value)
            .unwrap_or_default();
        #[derive(serde::Deserialize)]
        struct Part {
            process: OciProcess,
        }
        let part: Part = serde_json::from_slice(&json)
            .map_err(|e| failed("read the specification of", id, e))?;
        let mut process = part.process;
        process.args.clone_from(&spec.args);
        process.terminal = spec.tty;
        if spec.tty && !process.env.iter().any(|entry| entry.starts_with("TERM=")) {
            process.env.push("TERM=xterm".to_owned());
        }
        serde_json::to_vec(&process).map_err(|e| failed("exec in container", id, e))
    }

    pub(super) async fn run_exec(&self, spec: &ExecSpec) -> Result<Process> {
        let (process, _) = self.run_command(spec).await?;
        Ok(process)
    }

    async fn run_command(&self, spec: &ExecSpec) -> Result<(Process, Target)> {
        let id = spec.container.as_str();
        self.runs(id, "exec in container")?;
        let target = Target {
            link: self.link.clone(),
            container: id.to_owned(),
            exec_id: uuid::Uuid::new_v4().simple().to_string(),
        };
        let folder = self.records.exec_folder(&target.exec_id);
        let started = match Fifos::make(folder.clone(), spec.stdin, spec.tty) {
            Ok(fifos) => self.start_command(spec, &target, fifos).await,
            Err(error) => Err(failed("make the streams of a command in", id, error)),
        };
        let fifos = match started {
            Ok(fifos) => fifos,
            Err(error) => {
                // Nothing runs that could use it.
                let _ = fs::remove_dir_all(&folder);
                return Err(error);
            }
        };
        let process = Process {
            stdin: fifos.stdin.map(|pipe| {
                Box::new(Stdin {
                    pipe: Some(pipe),
                    close: Some((target.clone(), self.jobs.clone())),
                }) as Box<dyn AsyncWrite + Send + Unpin>
            }),
            stdout: Some(Box::new(fifos.stdout)),
            stderr: fifos
                .stderr
                .map(|pipe| Box::new(pipe) as Box<dyn AsyncRead + Send + Unpin>),
            resize: target.resizer(&self.jobs),
            exit: self.watch_command(&target, folder),
        };
        Ok((process, target))
    }

    async fn start_command(&self, spec: &ExecSpec, target: &Target, fifos: Fifos) -> Result<Fifos> {
        let id = spec.container.as_str();
        let request = self.link.request(ExecProcessRequest {
            container_id: id.to_owned(),
            stdin: fifos.path("stdin", spec.stdin),
            stdout: fifos.path("stdout", true),
            stderr: fifos.path("stderr", !spec.tty),
            terminal: spec.tty,
            spec: Some(prost_types::Any {
                type_url: PROCESS_TYPE.to_owned(),
                value: self.exec_process(spec).await?,
            }),
            exec_id: target.exec_id.clone(),
        });
        let step = Step::container("failed to exec in container", id).limit(LONG);
        self.link.run(step, self.link.tasks().exec(request)).await?;
        let request = self.link.request(StartRequest {
            container_id: id.to_owned(),
            exec_id: target.exec_id.clone(),
        });
        let step = Step::container("failed to start exec in container", id).limit(LONG);
        if let Err(error) = self.link.run(step, self.link.tasks().start(request)).await {
            target
                .delete()
                .await
                .ok_or_log("remove a command that did not start");
            return Err(error);
        }
        Ok(fifos)
    }

    /// Tells the exit code and removes the command afterwards, whether anybody listens or not.
    fn watch_command(&self, target: &Target, folder: PathBuf) -> watch::Receiver<Option<i32>> {
        let (sender, receiver) = watch::channel(None);
        let target = target.clone();
        self.jobs.job("wait for command", async move {
            let code = target.wait().await;
            sender.send_replace(Some(code));
            target.delete().await.ok_or_log("remove a command");
            // Readers hold the FIFOs open; only the names go.
            let _ = fs::remove_dir_all(folder);
        });
        receiver
    }

    pub(super) async fn run_exec_sync(
        &self,
        id: &str,
        args: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput> {
        let spec = ExecSpec {
            container: id.to_owned(),
            args: args.to_vec(),
            tty: false,
            stdin: false,
        };
        let deadline = tokio::time::Instant::now() + timeout;
        let too_long = Error::Timeout {
            doing: "command in the container",
            seconds: timeout.as_secs(),
        };
        let (process, target) = self.run_command(&spec).await?;
        let mut output = Vec::new();
        let mut exit = process.exit;
        let mut reading = Box::pin(read_both(process.stdout, process.stderr, &mut output));
        let mut read = false;
        let code = loop {
            let now = *exit.borrow_and_update();
            if let Some(code) = now {
                break code;
            }
            tokio::select! {
                () = &mut reading, if !read => read = true,
                changed = exit.changed() => if changed.is_err() { break 255 },
                () = tokio::time::sleep_until(deadline) => {
                    self.kill(id, &target.exec_id, libc::SIGKILL, false)
                        .await
                        .ok_or_log("end a command that took too long");
                    return Err(too_long);
                }
            }
        };
        if !read {
            // What comes later belongs to something the command left running.
            let _ = tokio::time::timeout(DRAIN_LIMIT, &mut reading).await;
        }
        drop(reading);
        Ok(ExecOutput { code, output })
    }

    /// The container's own streams: output from its log program, input by its FIFO.
    pub(super) async fn attach_container(&self, id: &str, stdin: bool) -> Result<Process> {
        let entry = self.runs(id, "attach to container")?;
        let folder = self.records.folder_of(id);
        let cannot = |e: io::Error| failed("attach to container", id, e);
        let socket = log::connect(&folder).await.map_err(cannot)?;
        let target = Target {
            link: self.link.clone(),
            container: id.to_owned(),
            exec_id: String::new(),
        };
        let stdin = match stdin && entry.details.stdin {
            true => Some(
                self.attach_stdin(&folder, &target, entry.details.stdin_once)
                    .map_err(cannot)?,
            ),
            false => None,
        };
        let (out_write, out) = tokio::io::duplex(ATTACH_BUFFER_BYTES);
        let (err_write, err) = tokio::io::duplex(ATTACH_BUFFER_BYTES);
        self.jobs.job("attached streams", async move {
            // The end of either side is the end of the attachment.
            let _ = split_attached(socket, out_write, err_write).await;
        });
        Ok(Process {
            stdin,
            stdout: Some(Box::new(out)),
            stderr: (!entry.details.tty)
                .then(|| Box::new(err) as Box<dyn AsyncRead + Send + Unpin>),
            resize: target.resizer(&self.jobs),
            exit: self.watch_container(id),
        })
    }

    fn attach_stdin(
        &self,
        folder: &Path,
        target: &Target,
        once: bool,
    ) -> io::Result<Box<dyn AsyncWrite + Send + Unpin>> {
        let pipe = pipe::OpenOptions::new().open_sender(folder.join("stdin"))?;
        Ok(Box::new(Stdin {
            pipe: Some(pipe),
            close: once.then(|| (target.clone(), self.jobs.clone())),
        }))
    }

    /// Follows what we know of a container until it has ended.
    fn watch_container(&self, id: &str) -> watch::Receiver<Option<i32>> {
        let (sender, receiver) = watch::channel(None);
        let mut events = self.hub.subscribe();
        let records = self.records.clone();
        let id = id.to_owned();
        self.jobs.job("wait for container", async move {
            loop {
                match records.get(&id).map(|entry| entry.phase) {
                    Some(Phase::Exited(exit)) => {
                        sender.send_replace(Some(exit.code));
                        return;
                    }
                    Some(_) => {}
                    None => {
                        sender.send_replace(Some(137));
                        return;
                    }
                }
                tokio::select! {
                    event = events.recv() => if event.is_none() { return },
                    () = sender.closed() => return,
                }
            }
        });
        receiver
    }
}

/// Reads both streams as they come, keeping the beginning and throwing away the rest.
async fn read_both(
    stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    into: &mut Vec<u8>,
) {
    let (mut stdout, mut stderr) = (stdout, stderr);
    let mut out_buffer = vec![0_u8; 4096];
    let mut err_buffer = vec![0_u8; 4096];
    while stdout.is_some() || stderr.is_some() {
        let (got, from_out) = tokio::select! {
            got = read_some(&mut stdout, &mut out_buffer), if stdout.is_some() => (got, true),
            got = read_some(&mut stderr, &mut err_buffer), if stderr.is_some() => (got, false),
        };
        let buffer = if from_out { &out_buffer } else { &err_buffer };
        let room = OUTPUT_BYTES_MAX - into.len();
        into.extend_from_slice(&buffer[..got.min(room)]);
        if got == 0 {
            if from_out {
                stdout = None;
            } else {
                stderr = None;
            }
        }
    }
}

async fn read_some(
    from: &mut Option<Box<dyn AsyncRead + Send + Unpin>>,
    buffer: &mut [u8],
) -> usize {
    match from {
        Some(from) => from.read(buffer).await.unwrap_or(0),
        None => 0,
    }
}

/// Hands frames to the stream they are for, until the socket ends or nobody reads either stream.
async fn split_attached(
    mut socket: tokio::net::UnixStream,
    out: tokio::io::DuplexStream,
    err: tokio::io::DuplexStream,
) -> io::Result<()> {
    let mut streams = [Some(out), Some(err)];
    while let Some(frame) = AttachFrame::read(&mut socket).await? {
        let stream = &mut streams[usize::from(frame.is_stderr)];
        if let Some(open) = stream
            && open.write_all(&frame.data).await.is_err()
        {
            *stream = None;
        }
        if streams.iter().all(Option::is_none) {
            break;
        }
    }
    Ok(())
}
