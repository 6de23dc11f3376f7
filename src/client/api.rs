//! The verbs on one collection of objects, typed or dynamic.

use std::marker::PhantomData;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use http::Method;
use http_body_util::BodyExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::{object::Object, status::ApiError};

use super::kind::segment;
use super::watch::{Event, decode_event};
use super::{
    Body, Call, Client, DeleteParams, Error, JSON, List, ListParams, PartialObjectMetadata, Patch,
    Result, decode,
};

/// Longest event of a watch; more is not an event of a sane server (objects end at 3 MiB).
const EVENT_BYTES_MAX: usize = 32 << 20;

/// Only metadata, where the server can; it says so in its own kind.
const METADATA: &str =
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
const METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// The verbs on objects of type `T` below one path.
pub struct Api<T> {
    client: Client,
    path: String,
    accept: &'static str,
    accept_list: &'static str,
    kind: PhantomData<fn() -> T>,
}

/// The verbs on objects as JSON.
pub type DynamicApi = Api<Object>;

impl<T> Clone for Api<T> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            path: self.path.clone(),
            ..*self
        }
    }
}

impl<T> std::fmt::Debug for Api<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Api").field(&self.path).finish()
    }
}

impl Api<PartialObjectMetadata> {
    pub(super) fn metadata_at(client: Client, path: String) -> Self {
        Self {
            accept: METADATA,
            accept_list: METADATA_LIST,
            ..Self::at(client, path)
        }
    }
}

impl<T> Api<T> {
    pub(super) fn at(client: Client, path: String) -> Self {
        Self {
            client,
            path,
            accept: JSON,
            accept_list: JSON,
            kind: PhantomData,
        }
    }

    /// The collection's path.
    pub fn path(&self) -> &str {
        &self.path
    }

    fn object_path(&self, name: &str) -> String {
        format!("{}/{}", self.path, segment(name))
    }

    fn sub_path(&self, name: &str, subresource: &str) -> String {
        format!("{}/{}/{subresource}", self.path, segment(name))
    }

    async fn answer<R: DeserializeOwned>(&self, call: Call<'_>) -> Result<R> {
        let path = call.path.to_owned();
        decode(&path, &self.client.call(call).await?)
    }

    async fn write<R: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<R> {
        let body = encode(path, body)?;
        let accept = self.accept;
        self.answer(Call {
            accept,
            ..Call::json(method, path, body)
        })
        .await
    }

    async fn send_patch<R: DeserializeOwned>(&self, path: &str, patch: &Patch) -> Result<R> {
        let path = patch.query().after(path);
        let body = encode(&path, patch.body())?;
        let call = Call {
            content_type: patch.content_type(),
            accept: self.accept,
            ..Call::json(Method::PATCH, &path, body)
        };
        self.answer(call).await
    }

    /// Deletes one object. That it does not exist is an error.
    pub async fn delete(&self, name: &str, params: &DeleteParams) -> Result<()> {
        let path = self.object_path(name);
        let body = params.body().to_string();
        self.client
            .call(Call::json(Method::DELETE, &path, body))
            .await?;
        Ok(())
    }

    /// Deletes every object that `select` selects.
    pub async fn delete_collection(
        &self,
        params: &DeleteParams,
        select: &ListParams,
    ) -> Result<()> {
        let path = select.query().after(&self.path);
        let body = params.body().to_string();
        self.client
            .call(Call::json(Method::DELETE, &path, body))
            .await?;
        Ok(())
    }

    /// Creates below an object: `binding`, `eviction`, `token`. The answer may be a `Status`.
    pub async fn create_subresource(
        &self,
        name: &str,
        subresource: &str,
        body: &impl Serialize,
    ) -> Result<Value> {
        let path = self.sub_path(name, subresource);
        let body = encode(&path, body)?;
        self.answer(Call::json(Method::POST, &path, body)).await
    }

    /// Replaces a subresource that has a shape of its own: `scale`, a namespace's `finalize`.
    pub async fn replace_subresource(
        &self,
        name: &str,
        subresource: &str,
        body: &impl Serialize,
    ) -> Result<Value> {
        let path = self.sub_path(name, subresource);
        let body = encode(&path, body)?;
        self.answer(Call::json(Method::PUT, &path, body)).await
    }

    /// Binds a pod to a node.
    pub async fn bind(&self, pod: &str, binding: &impl Serialize) -> Result<()> {
        self.create_subresource(pod, "binding", binding)
            .await
            .map(drop)
    }

    /// Evicts a pod: a delete that honours disruption budgets.
    pub async fn evict(&self, pod: &str, eviction: &impl Serialize) -> Result<()> {
        self.create_subresource(pod, "eviction", eviction)
            .await
            .map(drop)
    }
}

impl<T: DeserializeOwned + Serialize> Api<T> {
    /// Reads one object.
    pub async fn get(&self, name: &str) -> Result<T> {
        let path = self.object_path(name);
        let accept = self.accept;
        self.answer(Call {
            accept,
            ..Call::new(Method::GET, &path)
        })
        .await
    }

    /// Reads one object; `None` where there is none.
    pub async fn get_opt(&self, name: &str) -> Result<Option<T>> {
        match self.get(name).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates an object and returns it as stored.
    pub async fn create(&self, object: &T) -> Result<T> {
        self.write(Method::POST, &self.path, object).await
    }

    /// Replaces an object; its `resourceVersion`, where set, must be the stored one.
    pub async fn replace(&self, name: &str, object: &T) -> Result<T> {
        self.write(Method::PUT, &self.object_path(name), object)
            .await
    }

    /// Replaces an object's status.
    pub async fn replace_status(&self, name: &str, object: &T) -> Result<T> {
        self.write(Method::PUT, &self.sub_path(name, "status"), object)
            .await
    }

    /// Changes part of an object.
    pub async fn patch(&self, name: &str, patch: &Patch) -> Result<T> {
        self.send_patch(&self.object_path(name), patch).await
    }

    /// Changes part of an object's status.
    pub async fn patch_status(&self, name: &str, patch: &Patch) -> Result<T> {
        self.send_patch(&self.sub_path(name, "status"), patch).await
    }

    /// Server-side apply of `body` as `manager`, taking fields from other owners.
    pub async fn apply(&self, name: &str, manager: &str, body: &Value) -> Result<T> {
        let patch = Patch::Apply {
            manager: manager.to_owned(),
            force: true,
            body: body.clone(),
        };
        self.patch(name, &patch).await
    }
}

impl<T: DeserializeOwned + Send + 'static> Api<T> {
    /// Reads one page, or all where `params.limit` is 0.
    pub async fn list(&self, params: &ListParams) -> Result<List<T>> {
        let path = params.query().after(&self.path);
        let accept = self.accept_list;
        self.answer(Call {
            accept,
            ..Call::new(Method::GET, &path)
        })
        .await
    }

    /// Watches from `revision` on, at most about `timeout_seconds` long. The stream ends when the
    /// server ends it; an event that tells of a failure is an error of the stream.
    pub async fn watch(
        &self,
        params: &ListParams,
        revision: &str,
        timeout_seconds: u32,
    ) -> Result<BoxStream<'static, Result<Event<T>>>> {
        let path = params
            .watch_query(revision, timeout_seconds)
            .after(&self.path);
        let accept = self.accept;
        let body = self
            .client
            .open(Call {
                accept,
                ..Call::new(Method::GET, &path)
            })
            .await?;
        Ok(events(body, path).boxed())
    }
}

fn encode(path: &str, body: &impl Serialize) -> Result<Bytes> {
    let bytes = serde_json::to_vec(body).map_err(|source| Error::Decode {
        path: path.to_owned(),
        source,
    })?;
    Ok(bytes.into())
}

/// The events of a watch's body, one a line; ends after the first failure.
fn events<T: DeserializeOwned>(
    body: Body,
    path: String,
) -> impl stream::Stream<Item = Result<Event<T>>> {
    let lines = Lines {
        body,
        buffer: BytesMut::new(),
        scanned: 0,
        path,
    };
    stream::unfold(Some(lines), |lines| async move {
        let mut lines = lines?;
        let event = match lines.next().await {
            Ok(None) => return None,
            Ok(Some(line)) => decode_event(&lines.path, &line),
            Err(error) => Err(error),
        };
        let rest = event.is_ok().then_some(lines);
        Some((event, rest))
    })
}

struct Lines {
    body: Body,
    buffer: BytesMut,
    scanned: usize,
    path: String,
}

impl Lines {
    /// The next line that is not empty; `None` at the end of the body, where half a line is
    /// dropped: the watch is resumed from the last whole event.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let unseen = &self.buffer[self.scanned..];
            if let Some(at) = unseen.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.scanned + at + 1).freeze();
                self.scanned = 0;
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return Ok(Some(line));
            }
            self.scanned = self.buffer.len();
            if self.scanned > EVENT_BYTES_MAX {
                let error = ApiError::internal("an event of the watch has no end");
                return Err(error.into());
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(source)) => {
                    return Err(Error::Transport {
                        method: "GET".to_owned(),
                        path: self.path.clone(),
                        source,
                    });
                }
            }
        }
    }
}
