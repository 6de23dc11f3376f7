//! Forwarded connections over SPDY: two streams each, for data and for an error.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::Opened;
use crate::server::streams::OPEN_TIMEOUT;
use crate::server::streams::channels::{Failure, Forwarded, Stream, Writer};

/// For the second stream of a connection.
const PAIR_TIMEOUT: Duration = OPEN_TIMEOUT;
/// First streams that wait for a second one; the oldest gives way.
const LONE_MAX: usize = 64;

/// Puts opened streams together.
pub(in crate::server::streams) struct Pairs {
    opened: mpsc::Receiver<Opened>,
    /// Oldest first.
    lone: Vec<Lone>,
}

struct Lone {
    request: String,
    deadline: Instant,
    half: Half,
}

enum Half {
    Data { port: u16, stream: Stream },
    Error { writer: Writer },
}

impl Pairs {
    pub(super) fn new(opened: mpsc::Receiver<Opened>) -> Self {
        Self {
            opened,
            lone: Vec::new(),
        }
    }

    /// The next connection; `None` once the client is gone. Cancel safe.
    pub(in crate::server::streams) async fn next(&mut self) -> Option<Forwarded> {
        loop {
            let opened = match self.lone.first().map(|lone| lone.deadline) {
                None => self.opened.recv().await?,
                Some(deadline) => match timeout_at(deadline, self.opened.recv()).await {
                    Ok(opened) => opened?,
                    Err(_) => {
                        tracing::debug!(request = %self.lone[0].request, "stream stayed alone");
                        self.lone.remove(0);
                        continue;
                    }
                },
            };
            if let Some(forwarded) = self.take(opened) {
                return Some(forwarded);
            }
        }
    }

    /// A stream that makes no sense is dropped, which ends it.
    fn take(&mut self, opened: Opened) -> Option<Forwarded> {
        let (request, half) = half(opened)?;
        let other = self.lone.iter().position(|lone| {
            lone.request == request
                && matches!(
                    (&lone.half, &half),
                    (Half::Data { .. }, Half::Error { .. })
                        | (Half::Error { .. }, Half::Data { .. })
                )
        });
        let Some(other) = other else {
            if self.lone.len() >= LONE_MAX {
                self.lone.remove(0);
            }
            let deadline = Instant::now() + PAIR_TIMEOUT;
            self.lone.push(Lone {
                request,
                deadline,
                half,
            });
            return None;
        };
        match (half, self.lone.remove(other).half) {
            (Half::Data { port, stream }, Half::Error { writer })
            | (Half::Error { writer }, Half::Data { port, stream }) => Some(Forwarded {
                port,
                data: Box::new(stream),
                error: Failure(writer),
            }),
            _ => None,
        }
    }
}

/// Which connection a stream is of, and which half.
fn half(opened: Opened) -> Option<(String, Half)> {
    let Opened {
        id,
        headers,
        stream,
    } = opened;
    let port: u16 = headers.get("port")?.parse().ok().filter(|port| *port > 0)?;
    // Without the header, the data stream is the one right after the error stream.
    let request = |error_id: u32| {
        let named = headers.get("requestid").filter(|name| !name.is_empty());
        named.map_or_else(|| error_id.to_string(), str::to_owned)
    };
    match headers.get("streamtype")? {
        "data" => Some((request(id.saturating_sub(2)), Half::Data { port, stream })),
        "error" => {
            let writer = stream.writer;
            Some((request(id), Half::Error { writer }))
        }
        _ => None,
    }
}
