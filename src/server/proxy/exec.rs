//! `pods/exec` and `pods/attach`: the client's channels joined to the node's frames.

use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{NodeProxy, Query, part};
use crate::api::status::ApiError;
use crate::client::Body;
use crate::server::request::RequestInfo;
use crate::server::streams::{self, ChannelWriter, ExecSession, Reader, Session, Wish};
use crate::util::frames::{self, FrameReader, FrameSender};

/// Bytes moved at once.
const CHUNK_BYTES: usize = 32 << 10;

/// How long a client may take to read how a command ended.
const FINISH_LIMIT: Duration = Duration::from_secs(30);

/// Which streams a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wants {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl NodeProxy {
    pub(super) async fn exec(
        &self,
        info: &RequestInfo,
        mut request: Request<Body>,
        is_exec: bool,
    ) -> Result<Response<Body>, ApiError> {
        let query = Query(request.uri().query().unwrap_or_default());
        let found = self.pod(info)?;
        let container = found.container(query.get("container"))?;
        let node = found.node_required()?.to_owned();
        let wants = wants(&query)?;
        let (verb, commands) = if is_exec {
            ("exec", query.all("command"))
        } else {
            ("attach", Vec::new())
        };
        if is_exec && commands.is_empty() {
            return Err(ApiError::bad_request(
                "you must specify at least one command for the container",
            ));
        }
        let path = format!(
            "/{verb}/{}/{}/{}?{}",
            part(&found.namespace),
            part(&found.name),
            part(&container),
            node_query(wants, &commands)
        );
        let (response, session) = streams::accept(&mut request, wants.wish(), &self.tasks)?;
        let (to_node, body) = frames::channel();
        let body: Body = body.map_err(|never| match never {}).boxed_unsync();
        let to_send = Request::post(path)
            .body(body)
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        // Before the client is answered: what the node refuses is still an ordinary answer.
        let answer = self.ask(&node, to_send).await?;
        self.tasks.job(verb, async move {
            match session.await {
                Ok(Session::Exec(session)) => {
                    join(session, to_node, FrameReader::new(answer.into_body())).await;
                }
                Ok(Session::Forward(_)) => {}
                Err(error) => tracing::debug!(error = %error, "no channels to the client"),
            }
        });
        Ok(response)
    }
}

impl Wants {
    fn wish(self) -> Wish {
        Wish::Exec {
            stdin: self.stdin,
            stdout: self.stdout,
            stderr: self.stderr,
            tty: self.tty,
        }
    }
}

/// Which streams are asked for; a terminal has no standard error of its own.
fn wants(query: &Query<'_>) -> Result<Wants, ApiError> {
    let tty = query.is_set("tty");
    let wants = Wants {
        stdin: query.is_set("stdin"),
        stdout: query.is_set("stdout"),
        stderr: query.is_set("stderr") && !tty,
        tty,
    };
    if !wants.stdin && !wants.stdout && !wants.stderr {
        return Err(ApiError::bad_request(
            "you must specify at least 1 of stdin, stdout, stderr",
        ));
    }
    Ok(wants)
}

/// As the kubelet calls them.
fn node_query(wants: Wants, commands: &[String]) -> String {
    let mut out = form_urlencoded::Serializer::new(String::new());
    for (name, is_set) in [
        ("input", wants.stdin),
        ("output", wants.stdout),
        ("error", wants.stderr),
        ("tty", wants.tty),
    ] {
        if is_set {
            out.append_pair(name, "1");
        }
    }
    for command in commands {
        out.append_pair("command", command);
    }
    out.finish()
}

/// Moves everything both ways until the node has said how it ended, or the client has gone.
async fn join(
    mut session: ExecSession,
    to_node: FrameSender,
    mut from_node: FrameReader<Incoming>,
) {
    let closed = session.closed();
    let stdin = session.stdin.take();
    let mut resize = std::mem::replace(&mut session.resize, tokio::sync::mpsc::channel(1).1);
    let (mut stdout, mut stderr) = (session.stdout.take(), session.stderr.take());
    let sizes = async {
        while let Some((columns, rows)) = resize.recv().await {
            let size = format!("{{\"Width\":{columns},\"Height\":{rows}}}");
            if to_node.send(frames::RESIZE, size.as_bytes()).await.is_err() {
                return;
            }
        }
    };
    let inputs = async {
        tokio::join!(type_in(stdin, &to_node), sizes);
        // How it ended comes the other way.
        std::future::pending::<()>().await;
    };
    let outputs = show(&mut from_node, &mut stdout, &mut stderr);
    let status = tokio::select! {
        status = outputs => status,
        () = inputs => return,
        () = closed => return,
    };
    drop((stdout, stderr));
    // A client that does not read any more is let go.
    let _ = tokio::time::timeout(FINISH_LIMIT, session.finish(status)).await;
}

/// What the user types, until its end or that of the node.
async fn type_in(stdin: Option<Reader>, to_node: &FrameSender) {
    let Some(mut stdin) = stdin else {
        return;
    };
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let sent = match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => {
                // The node may have ended first.
                let _ = to_node.close(frames::STDIN).await;
                return;
            }
            Ok(count) => to_node.send(frames::STDIN, &buffer[..count]).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// What the node says, until it says how it ended.
async fn show(
    from_node: &mut FrameReader<Incoming>,
    stdout: &mut Option<ChannelWriter>,
    stderr: &mut Option<ChannelWriter>,
) -> Value {
    loop {
        let frame = match from_node.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) | Err(_) => {
                return ApiError::internal("the connection to the node was lost").to_status();
            }
        };
        let writer = match frame.channel {
            frames::ERROR => return serde_json::from_slice(&frame.data).unwrap_or_default(),
            frames::STDOUT => &mut *stdout,
            frames::STDERR => &mut *stderr,
            _ => continue,
        };
        if let Some(open) = writer
            && open.write_all(&frame.data).await.is_err()
        {
            *writer = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_and_command_are_passed_on() {
        let wanted = wants(&Query("stdin=true&stdout=1&stderr=true&tty=true")).unwrap();
        assert!(wanted.stdin && wanted.stdout && !wanted.stderr && wanted.tty);
        let commands = ["sh".to_owned(), "-c".to_owned(), "a b".to_owned()];
        assert_eq!(
            node_query(wanted, &commands),
            "input=1&output=1&tty=1&command=sh&command=-c&command=a+b"
        );
        assert!(wants(&Query("tty=true")).is_err());
    }
}
