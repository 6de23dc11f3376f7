//! `GET /orch/v1/snapshot`: the datastore at one revision, for those who may read that path
//! (cluster-admin; the answer holds every Secret).
//!
//! The snapshot is made as a file beside the datastore, which is unlinked as soon as it is open:
//! a client that reads slowly holds neither memory nor history, and a crash leaves at most one
//! file, which the next snapshot replaces. One is made at a time. The file's own end tells whether
//! it is whole, so an answer that broke off is never taken for a snapshot.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::TryStreamExt;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::fs::File;
use tokio::sync::Mutex;
use tokio_util::io::ReaderStream;

use crate::api::status::ApiError;
use crate::client::Body;
use crate::store::{Store, snapshot};
use crate::util::clock::Clock;

/// Where it is served.
pub const PATH: &str = "/orch/v1/snapshot";

/// Read from the file at once.
const CHUNK_BYTES: usize = 64 << 10;
/// For a client that finds another one's snapshot being made.
const RETRY_SECONDS: u32 = 5;

/// Makes snapshots of a store.
pub struct Snapshots {
    store: Arc<dyn Store>,
    file: PathBuf,
    clock: Clock,
    turn: Mutex<()>,
}

impl std::fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshots")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl Snapshots {
    /// Of `store`, made in `folder`.
    pub fn new(store: Arc<dyn Store>, folder: &Path, clock: Clock) -> Self {
        Self {
            store,
            file: folder.join("snapshot.part"),
            clock,
            turn: Mutex::new(()),
        }
    }

    /// A snapshot of the present state.
    ///
    /// Errors: 429 while another one is made, 500 where the disk does not take it.
    pub async fn serve(&self) -> Result<Response<Body>, ApiError> {
        let file = self.make().await?;
        let chunks = ReaderStream::with_capacity(file, CHUNK_BYTES);
        let body = StreamBody::new(chunks.map_ok(Frame::data).map_err(Into::into));
        let mut response = Response::new(body.boxed_unsync());
        let media_type = HeaderValue::from_static("application/octet-stream");
        response.headers_mut().insert(CONTENT_TYPE, media_type);
        Ok(response)
    }

    async fn make(&self) -> Result<File, ApiError> {
        let Ok(_turn) = self.turn.try_lock() else {
            let message = "another snapshot is being made, please try again later";
            return Err(ApiError::too_many_requests(message, RETRY_SECONDS));
        };
        let saved = snapshot::save(&*self.store, &self.file, &self.clock).await;
        saved.map_err(ApiError::internal)?;
        let file = File::open(&self.file).await.map_err(ApiError::internal)?;
        tokio::fs::remove_file(&self.file)
            .await
            .map_err(ApiError::internal)?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::mvcc::Mvcc;
    use crate::store::{Txn, Write};

    #[tokio::test]
    async fn the_answer_is_a_snapshot_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let store = Mvcc::in_memory();
        let put = |key: String| Write::Put {
            key: key.into(),
            value: vec![7; 1 << 10].into(),
            ttl: None,
        };
        let writes = (0..2000).map(|n| put(format!("/k/{n:05}"))).collect();
        let txn = Txn {
            writes,
            ..Txn::default()
        };
        store.txn(txn).await.unwrap();
        let snapshots = Snapshots::new(store, folder.path(), Clock::system());
        let answer = snapshots.serve().await.unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        let saved = folder.path().join("saved");
        std::fs::write(&saved, &bytes).unwrap();
        assert_eq!(snapshot::inspect(&saved).unwrap().keys, 2000);
        std::fs::write(&saved, &bytes[..bytes.len() - 1]).unwrap();
        assert!(snapshot::inspect(&saved).is_err());
        let held = snapshots.turn.lock().await;
        assert_eq!(snapshots.serve().await.unwrap_err().code, 429);
        drop(held);
    }
}
