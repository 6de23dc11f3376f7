//! The content store: blobs by digest, with labels that say what they refer to.

use std::collections::HashMap;

use bytes::Bytes;
use containerd_client::services::v1::{
    AbortRequest, Info, ReadContentRequest, UpdateRequest, WriteAction, WriteContentRequest,
    WriteContentResponse,
};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::Containerd;
use super::channel::{LONG, Link, SHORT, Step, error, gone_is_fine};
use crate::runtime::{Error, Result};

/// The largest message sent: containerd takes at most 16 MiB.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// Chunks on their way to containerd; more would only be memory.
const CHUNKS_IN_FLIGHT_MAX: usize = 4;

/// Manifests and configurations larger than this are refused, as by docker's registry.
pub(super) const JSON_BYTES_MAX: usize = 8 << 20;

/// Between tries to write what is being written already.
const LOCKED_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Labels on content.
pub(super) type Labels = HashMap<String, String>;

/// `sha256:…` of some bytes.
pub(super) fn digest_of(data: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(data)))
}

/// A blob being written.
pub(super) struct Writer {
    requests: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
    reference: String,
    offset: i64,
}

/// Either a writer, or nothing to write because the blob is there already.
pub(super) enum Opened {
    Exists,
    Writer(Box<Writer>),
}

impl Containerd {
    /// A whole small blob; `None` where there is none.
    pub(super) async fn small_blob(&self, digest: &str) -> Result<Option<Vec<u8>>> {
        let step = Step::image("read content", digest);
        let request = self.link.request(ReadContentRequest {
            digest: digest.to_owned(),
            offset: 0,
            size: 0,
        });
        let mut client = self.link.content();
        let read = async {
            let mut stream = client.read(request).await?.into_inner();
            let mut data = Vec::new();
            while let Some(part) = stream.message().await? {
                data.extend_from_slice(&part.data);
                if data.len() > JSON_BYTES_MAX {
                    return Err(tonic::Status::out_of_range("larger than 8 MiB"));
                }
            }
            Ok(tonic::Response::new(data))
        };
        match self.link.run(step, read).await {
            Ok(data) => Ok(Some(data)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets labels on a blob that is there, beside those it has.
    pub(super) async fn label_blob(&self, digest: &str, labels: Labels) -> Result<()> {
        if labels.is_empty() {
            return Ok(());
        }
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let request = self.link.request(UpdateRequest {
            info: Some(Info {
                digest: digest.to_owned(),
                labels,
                ..Info::default()
            }),
            update_mask: Some(prost_types::FieldMask { paths }),
        });
        let step = Step::image("label content", digest);
        let mut content = self.link.content();
        let update = content.update(request);
        self.link.run(step, update).await.map(|_| ())
    }

    /// Writes a whole small blob under a lease and gives its digest.
    pub(super) async fn put_blob(
        &self,
        lease: &str,
        data: &[u8],
        labels: Labels,
    ) -> Result<String> {
        let digest = digest_of(data);
        let _turn = self.fetching.turn(&digest).await;
        let size = i64::try_from(data.len()).unwrap_or(i64::MAX);
        match self.write_blob(lease, &digest, size).await? {
            Opened::Exists => self.label_blob(&digest, labels).await?,
            Opened::Writer(mut writer) => {
                if writer.offset() > 0 {
                    writer = self.restart_blob(lease, writer, &digest).await?;
                }
                writer.write(Bytes::copy_from_slice(data)).await?;
                writer.commit(&digest, labels).await?;
            }
        }
        Ok(digest)
    }

    /// Starts writing, or goes on writing, the blob `digest` of `size` bytes (0: not known). Hold
    /// the blob's turn in `fetching` while writing.
    pub(super) async fn write_blob(&self, lease: &str, digest: &str, size: i64) -> Result<Opened> {
        let reference = format!("layer-{digest}");
        let first = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: reference.clone(),
            total: size,
            expected: digest.to_owned(),
            ..WriteContentRequest::default()
        };
        let deadline = tokio::time::Instant::now() + SHORT;
        loop {
            match open(&self.link, lease, reference.clone(), first.clone()).await {
                // A write that was given up a moment ago, or another program's.
                Err(Error::Unavailable { why, .. })
                    if why.contains("locked") && tokio::time::Instant::now() < deadline =>
                {
                    tokio::time::sleep(LOCKED_PAUSE).await;
                }
                opened => return opened,
            }
        }
    }

    /// Throws away what an earlier try has written of `digest`.
    pub(super) async fn restart_blob(
        &self,
        lease: &str,
        writer: Box<Writer>,
        digest: &str,
    ) -> Result<Box<Writer>> {
        drop(writer);
        self.abort_write(digest).await?;
        match self.write_blob(lease, digest, 0).await? {
            Opened::Writer(writer) if writer.offset() == 0 => Ok(writer),
            _ => Err(Error::Failed {
                doing: "write content again",
                id: digest.to_owned(),
                why: "somebody else writes it".to_owned(),
            }),
        }
    }

    /// Starts writing a blob whose digest is not known yet.
    pub(super) async fn write_unknown(&self, lease: &str) -> Result<Box<Writer>> {
        let reference = format!("orch-{}", uuid::Uuid::new_v4());
        let first = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: reference.clone(),
            ..WriteContentRequest::default()
        };
        match open(&self.link, lease, reference.clone(), first).await? {
            Opened::Writer(writer) => Ok(writer),
            Opened::Exists => Err(Error::AlreadyExists {
                what: "content",
                id: reference,
            }),
        }
    }

    /// Throws away what an interrupted write has left.
    pub(super) async fn abort_write(&self, digest: &str) -> Result<()> {
        let request = self.link.request(AbortRequest {
            r#ref: format!("layer-{digest}"),
        });
        let step = Step::image("drop unfinished content", digest);
        let mut content = self.link.content();
        let abort = content.abort(request);
        gone_is_fine(self.link.run(step, abort).await)
    }
}

async fn open(
    link: &Link,
    lease: &str,
    reference: String,
    first: WriteContentRequest,
) -> Result<Opened> {
    let digest = first.expected.clone();
    let step = Step::image("write content", &digest);
    let (requests, receiver) = mpsc::channel(CHUNKS_IN_FLIGHT_MAX);
    // Cannot be full: it is the first.
    let _ = requests.try_send(first);
    let mut client = link.content();
    let opening = async {
        let request = link.leased(ReceiverStream::new(receiver), lease);
        let mut answers = client.write(request).await?.into_inner();
        let status = answers.message().await?;
        Ok(tonic::Response::new((answers, status)))
    };
    let (answers, status) = match link.run(step, opening).await {
        Ok(opened) => opened,
        Err(Error::AlreadyExists { .. }) => return Ok(Opened::Exists),
        Err(error) => return Err(error),
    };
    Ok(Opened::Writer(Box::new(Writer {
        requests,
        answers,
        reference,
        offset: status.map_or(0, |status| status.offset),
    })))
}

impl Writer {
    /// Bytes that are there already, from an earlier try.
    pub(super) fn offset(&self) -> i64 {
        self.offset
    }

    /// Sends more of the blob.
    pub(super) async fn write(&mut self, mut data: Bytes) -> Result<()> {
        while !data.is_empty() {
            let part = data.split_to(data.len().min(CHUNK_BYTES_MAX));
            let length = i64::try_from(part.len()).unwrap_or(0);
            let request = WriteContentRequest {
                action: WriteAction::Write.into(),
                r#ref: self.reference.clone(),
                offset: self.offset,
                data: part.to_vec(),
                ..WriteContentRequest::default()
            };
            self.send(request).await?;
            self.offset += length;
        }
        Ok(())
    }

    /// Says that the blob is whole; containerd checks the digest (none: takes what it is). Gives
    /// the digest.
    pub(super) async fn commit(mut self, digest: &str, labels: Labels) -> Result<String> {
        let request = WriteContentRequest {
            action: WriteAction::Commit.into(),
            r#ref: self.reference.clone(),
            offset: self.offset,
            total: self.offset,
            expected: digest.to_owned(),
            labels,
            ..WriteContentRequest::default()
        };
        let step = Step::image("commit content", digest).limit(LONG);
        self.send(request).await?;
        let committed = async {
            while let Some(answer) = self.answers.message().await? {
                if answer.action == i32::from(WriteAction::Commit) {
                    return Ok(answer.digest);
                }
            }
            Err(tonic::Status::internal("the write ended before its commit"))
        };
        match tokio::time::timeout(step.limit, committed).await {
            Ok(Ok(digest)) => Ok(digest),
            Ok(Err(status)) if status.code() == tonic::Code::AlreadyExists => Ok(digest.to_owned()),
            Ok(Err(status)) => Err(error(step, &status)),
            Err(_) => Err(Error::Timeout {
                doing: step.doing,
                seconds: step.limit.as_secs(),
            }),
        }
    }

    /// Sends a request while taking the answers to earlier ones, so that neither side fills up.
    async fn send(&mut self, request: WriteContentRequest) -> Result<()> {
        let reference = self.reference.clone();
        let step = Step::image("write content", &reference);
        let sending = async {
            let place = self.requests.reserve();
            tokio::pin!(place);
            loop {
                tokio::select! {
                    place = &mut place => {
                        return match place {
                            Ok(place) => {
                                place.send(request);
                                Ok(())
                            }
                            Err(_) => Err(tonic::Status::unavailable("the write was ended")),
                        };
                    }
                    answer = self.answers.message() => match answer {
                        Ok(Some(_)) => {}
                        Ok(None) => return Err(tonic::Status::unavailable("the write was ended")),
                        Err(status) => return Err(status),
                    },
                }
            }
        };
        match tokio::time::timeout(SHORT, sending).await {
            Ok(sent) => sent.map_err(|status| error(step, &status)),
            Err(_) => Err(Error::Timeout {
                doing: step.doing,
                seconds: SHORT.as_secs(),
            }),
        }
    }
}
