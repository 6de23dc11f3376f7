//! `watch`: the changes of a resource as a body that does not end.
//!
//! The body pulls: when the connection takes more bytes, the watcher reads the ring from where it
//! was, joins what is there into one chunk, and waits where there is nothing. So a client that
//! reads slowly holds back nobody and needs no queue; when it loses its place it gets the ERROR
//! event 410 and lists again.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::options::ListOptions;
use crate::api::status::ApiError;
use crate::api::table::{ListMeta, TableWriter};
use crate::api::watch;
use crate::client::Body;
use crate::server::cacher::{Event, Item, Watcher};
use crate::store::Revision;

use super::call::Call;
use super::filter::Filter;
use super::negotiate::{Encoding, Form};
use super::render::{self, Renderer};
use super::{Core, errors, read};

/// How often a client that understands bookmarks gets one, as upstream.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// A watch without `timeoutSeconds` ends after this to twice this, as upstream.
const LIFE_MIN: Duration = Duration::from_secs(1800);
/// Joined into one chunk, where so many are waiting.
const EVENTS_PER_CHUNK_MAX: usize = 128;
/// A chunk is sent when it has grown beyond this.
const CHUNK_BYTES: usize = 64 << 10;

pub(super) async fn serve(core: &Core, call: &Call) -> Result<Response<Body>, ApiError> {
    // The verb may come from the path (`/watch/`); the options are those of a watch all the same.
    let options = ListOptions::from_query(&format!("watch=1&{}", call.query))?;
    let mut renderer = call.renderer(core);
    match renderer.output.encoding {
        Encoding::Yaml => {
            return Err(ApiError::not_acceptable(&["application/json;stream=watch"]));
        }
        // One event a line, whoever reads it.
        encoding => {
            renderer.output.encoding = match encoding {
                Encoding::Pretty => Encoding::Json,
                encoding => encoding,
            }
        }
    }
    let filter = Filter::new(&call.def, call.namespace(), &call.info.name, &options)?;
    let life = match options.timeout_seconds {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds.unsigned_abs()),
        _ => LIFE_MIN.mul_f64(1.0 + core.rng.fraction()),
    };
    let start = start(core, call, &options).await?;
    let now = Instant::now();
    let watch = Watch {
        start,
        watcher: None,
        lines: Lines {
            renderer,
            filter,
            columns: true,
        },
        bookmarks: options.allow_watch_bookmarks,
        ends: now + life,
        // Watches that were opened together do not get their bookmarks together.
        next_bookmark: now + BOOKMARK_EVERY.mul_f64(0.8 + 0.2 * core.rng.fraction()),
        cancelled: core.tasks.cancelled(),
    };
    let frames = stream::unfold(watch, |mut watch| async move {
        let chunk = watch.next().await?;
        Some((Ok(http_body::Frame::data(chunk)), watch))
    });
    let body = StreamBody::new(frames).boxed_unsync();
    Ok(render::respond(StatusCode::OK, Encoding::Json, body))
}

/// What a watch delivers first.
#[derive(Debug)]
enum Start {
    /// The objects that are there, then events.
    Initial {
        items: std::vec::IntoIter<Arc<Item>>,
        /// Where their end is to be marked.
        end: Option<Revision>,
        watcher: Watcher,
    },
    /// Events only.
    Events(Watcher),
    /// An error, then nothing: upstream answers a watch with an event, not with a code.
    Failed(ApiError),
    /// The first part is over; an error ended the watch where there is no watcher.
    Over,
}

async fn start(core: &Core, call: &Call, options: &ListOptions) -> Result<Start, ApiError> {
    let storage = &call.def.storage;
    let wanted = read::revision("resourceVersion", &options.resource_version)?;
    let initial = match options.send_initial_events {
        Some(wish) => wish,
        None => wanted.is_none_or(|revision| revision.0 == 0),
    };
    let lists = initial || wanted.is_none_or(|revision| revision.0 == 0);
    if !lists && let Some(revision) = wanted {
        return Ok(match core.cacher.watch_after(storage, revision) {
            Ok(watcher) => Start::Events(watcher),
            Err(_) => Start::Failed(errors::too_old(revision, core.cacher.applied())),
        });
    }
    match wanted {
        None => core.wait_for_now(&call.def).await?,
        Some(revision) => core.wait_for(revision).await?,
    }
    let (snapshot, watcher) = core.cacher.watch_from_now(storage);
    if !initial {
        return Ok(Start::Events(watcher));
    }
    let items: Vec<_> = snapshot.items(call.namespace(), None).cloned().collect();
    let marked = options.send_initial_events == Some(true) && options.allow_watch_bookmarks;
    Ok(Start::Initial {
        items: items.into_iter(),
        end: marked.then_some(snapshot.revision),
        watcher,
    })
}

struct Watch {
    start: Start,
    watcher: Option<Watcher>,
    lines: Lines,
    bookmarks: bool,
    ends: Instant,
    next_bookmark: Instant,
    cancelled: CancellationToken,
}

impl Watch {
    /// The next bytes; `None`: the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let chunk = match self.begin() {
                Some(chunk) => chunk,
                None => self.follow().await?,
            };
            if !chunk.is_empty() {
                return Some(chunk.freeze());
            }
        }
    }

    /// A part of what comes before the events; `None`: that is over.
    fn begin(&mut self) -> Option<BytesMut> {
        let mut chunk = BytesMut::new();
        match std::mem::replace(&mut self.start, Start::Over) {
            Start::Over => return None,
            Start::Events(watcher) => {
                self.watcher = Some(watcher);
                return None;
            }
            Start::Failed(error) => self.lines.error(&mut chunk, &error),
            Start::Initial {
                mut items,
                end,
                watcher,
            } => {
                for item in items.by_ref() {
                    if self.lines.filter.matches(&item) {
                        self.lines.object(&mut chunk, "ADDED", item.bytes());
                    }
                    if chunk.len() >= CHUNK_BYTES {
                        self.start = Start::Initial {
                            items,
                            end,
                            watcher,
                        };
                        return Some(chunk);
                    }
                }
                if let Some(revision) = end {
                    self.lines.bookmark(&mut chunk, revision, true);
                }
                self.watcher = Some(watcher);
            }
        }
        Some(chunk)
    }

    /// Events, or a bookmark; `None`: the watch is over.
    async fn follow(&mut self) -> Option<BytesMut> {
        let watcher = self.watcher.as_mut()?;
        let mut chunk = BytesMut::new();
        let bookmarks = self.bookmarks;
        tokio::select! {
            biased;
            () = self.cancelled.cancelled() => return None,
            () = tokio::time::sleep_until(self.ends) => return None,
            () = tokio::time::sleep_until(self.next_bookmark), if bookmarks => {
                self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
                if let Some(revision) = watcher.progress() {
                    self.lines.bookmark(&mut chunk, revision, false);
                }
            }
            events = watcher.next(EVENTS_PER_CHUNK_MAX) => match events {
                Ok(events) => {
                    for event in &events {
                        self.lines.event(&mut chunk, event);
                    }
                }
                Err(_) => {
                    let error = ApiError::expired("too old resource version: the watch fell behind");
                    self.lines.error(&mut chunk, &error);
                    self.watcher = None;
                }
            },
        }
        Some(chunk)
    }
}

/// Writes events, one a line.
struct Lines {
    renderer: Renderer,
    filter: Filter,
    /// Whether the next Table carries its columns: the first one does.
    columns: bool,
}

impl Lines {
    /// What the event is for this client's selectors: an object that begins to match is added, one
    /// that ceases to is deleted.
    fn event(&mut self, out: &mut BytesMut, event: &Event) {
        let now = event.item.as_ref().filter(|i| self.filter.matches(i));
        let before = event.previous.as_ref().filter(|i| self.filter.matches(i));
        match (now, before) {
            (Some(item), None) => self.object(out, "ADDED", item.bytes()),
            (Some(item), Some(_)) => self.object(out, "MODIFIED", item.bytes()),
            (None, Some(item)) => self.object(out, "DELETED", &item.bytes_at(event.revision)),
            (None, None) => {}
        }
    }

    fn object(&mut self, out: &mut BytesMut, kind: &str, stored: &Bytes) {
        let columns = std::mem::take(&mut self.columns);
        match self.renderer.item(stored, columns) {
            Ok(bytes) => line(out, kind, &bytes),
            Err(error) => self.error(out, &error),
        }
    }

    fn bookmark(&self, out: &mut BytesMut, revision: Revision, is_initial_end: bool) {
        let def = &self.renderer.def;
        let revision = revision.0.to_string();
        let of = |api_version: &str, kind: &str| {
            watch::bookmark(api_version, kind, &revision, is_initial_end)
        };
        let metadata =
            |version: &str| of(&format!("meta.k8s.io/{version}"), "PartialObjectMetadata");
        let object = match self.renderer.output.form {
            Form::Object => of(&def.gvk.api_version(), &def.gvk.kind),
            Form::Metadata(version) => metadata(version),
            Form::Table(version) => {
                let meta = ListMeta {
                    resource_version: revision.clone(),
                    ..ListMeta::default()
                };
                let mut table = TableWriter::new(version, &meta, None);
                table.push(&[], &metadata(version));
                table.finish()
            }
        };
        line(out, "BOOKMARK", &object);
    }

    fn error(&self, out: &mut BytesMut, error: &ApiError) {
        out.put_slice(&watch::error(error));
    }
}

fn line(out: &mut BytesMut, kind: &str, object: &[u8]) {
    out.reserve(object.len() + kind.len() + 32);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object);
    out.put_slice(b"}\n");
}
