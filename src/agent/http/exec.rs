//! Commands in containers, and attaching to them, as frames on one exchange.
//!
//! The answer's head comes at once; what goes wrong afterwards is the `Status` on the error
//! channel, as with the kubelet. When the client goes away the command is left to itself: its
//! input ends and its output goes nowhere.

use std::time::Duration;

use http::Response;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};

use super::{Answer, Call, NodeApi, boxed};
use crate::agent::seam::ContainerView;
use crate::api::status::ApiError;
use crate::client::Body;
use crate::runtime::{ExecSpec, Process};
use crate::util::frames::{self, FrameReader, FrameSender};

/// Bytes read from a stream at once.
const READ_BYTES: usize = 32 << 10;

/// How long output may come after the end of a process; longer is something it left running.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

impl NodeApi {
    pub(super) fn exec(&self, container: &ContainerView, call: &Call<'_>, body: Body) -> Answer {
        let spec = ExecSpec {
            container: container.id.clone().unwrap_or_default(),
            args: call.all("command"),
            tty: call.is_set("tty"),
            stdin: call.is_set("input"),
        };
        if spec.args.is_empty() {
            return Err(ApiError::bad_request(
                "you must specify at least one command for the container",
            ));
        }
        let (sender, answer) = frames::channel();
        let api = self.clone();
        self.0.tasks.job("exec", async move {
            let status = match api.0.runtime.exec(&spec).await {
                Ok(process) => {
                    let code = carry(process, FrameReader::new(body), &sender).await;
                    ended(code, &spec.args)
                }
                Err(error) => internal(&format!("error executing command in container: {error}")),
            };
            finish(&sender, &status).await;
        });
        Ok(Response::new(boxed(answer)))
    }

    pub(super) async fn attach(
        &self,
        container: &ContainerView,
        call: &Call<'_>,
        body: Body,
    ) -> Answer {
        let id = container.id.clone().unwrap_or_default();
        let wants_input = call.is_set("input");
        let attached = self.0.runtime.attach(&id, wants_input).await;
        let process = attached.map_err(ApiError::internal)?;
        let (sender, answer) = frames::channel();
        self.0.tasks.job("attach", async move {
            carry(process, FrameReader::new(body), &sender).await;
            // How the container ended is in the pod's status; attaching to it has succeeded.
            finish(&sender, &ended(None, &[])).await;
        });
        Ok(Response::new(boxed(answer)))
    }
}

async fn finish(sender: &FrameSender, status: &Value) {
    // Nobody may be there to read it.
    let _ = sender
        .send(frames::ERROR, status.to_string().as_bytes())
        .await;
}

/// What the error channel says at the end, in the kubelet's words.
fn ended(code: Option<i32>, args: &[String]) -> Value {
    match code {
        None | Some(0) => json!({"metadata": {}, "status": "Success"}),
        Some(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!(
                "command terminated with non-zero exit code: error executing command [{}], exit code {code}",
                args.join(" ")
            ),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
    }
}

fn internal(message: &str) -> Value {
    ApiError::internal(message).to_status()
}

/// Moves bytes both ways until the process has ended and said everything, or the client has gone.
/// Gives the exit code, `None` where the client has gone first.
async fn carry(process: Process, input: FrameReader<Body>, output: &FrameSender) -> Option<i32> {
    let Process {
        stdin,
        stdout,
        stderr,
        resize,
        exit,
    } = process;
    let outputs = async {
        tokio::join!(
            pour(stdout, frames::STDOUT, output),
            pour(stderr, frames::STDERR, output)
        );
    };
    let inputs = take_input(input, stdin, resize);
    tokio::pin!(outputs, inputs);
    let mut poured = false;
    let mut input_open = true;
    let ended = wait(exit);
    tokio::pin!(ended);
    let code = loop {
        tokio::select! {
            code = &mut ended => break code,
            () = &mut outputs, if !poured => poured = true,
            () = output.closed() => return None,
            gone = &mut inputs, if input_open => {
                input_open = false;
                if gone {
                    return None;
                }
            }
        }
    };
    if !poured {
        // Input is of no use any more, but whoever sends it must not wait.
        let draining = async {
            tokio::select! {
                () = &mut outputs => {}
                () = async { if input_open { (&mut inputs).await; } std::future::pending().await } => {}
            }
        };
        let _ = tokio::time::timeout(DRAIN_LIMIT, draining).await;
    }
    Some(code)
}

async fn wait(mut exit: watch::Receiver<Option<i32>>) -> i32 {
    match exit.wait_for(Option::is_some).await {
        Ok(code) => code.unwrap_or_default(),
        Err(_) => 255,
    }
}

/// Sends a stream as it comes until it ends or nobody takes it.
async fn pour(from: Option<Box<dyn AsyncRead + Send + Unpin>>, channel: u8, to: &FrameSender) {
    let Some(mut from) = from else {
        return;
    };
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                if to.send(channel, &buffer[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Takes what the client sends. `true`: the client has gone, rather than said all it had to say.
async fn take_input(
    mut from: FrameReader<Body>,
    mut stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    resize: mpsc::Sender<(u16, u16)>,
) -> bool {
    loop {
        let frame = match from.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return false,
            Err(_) => return true,
        };
        match frame.channel {
            frames::STDIN => {
                if let Some(open) = &mut stdin
                    && open.write_all(&frame.data).await.is_err()
                {
                    stdin = None;
                }
            }
            frames::CLOSE if frame.data.first() == Some(&frames::STDIN) => stdin = None,
            frames::RESIZE => {
                if let Some(size) = terminal_size(&frame.data) {
                    // The terminal is gone with the process.
                    let _ = resize.send(size).await;
                }
            }
            _ => {}
        }
    }
}

/// `{"Width":80,"Height":24}`
fn terminal_size(json: &[u8]) -> Option<(u16, u16)> {
    let size: Value = serde_json::from_slice(json).ok()?;
    let side = |name: &str| {
        size.get(name)?
            .as_u64()
            .and_then(|side| u16::try_from(side).ok())
    };
    Some((side("Width")?, side("Height")?))
}
