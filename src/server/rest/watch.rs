//! `watch`: the changes of a resource as a body that does not end.
//!
//! The body pulls: when the connection takes more bytes, the watcher reads the ring from where it
//! was, joins what is there into one chunk, and waits where there is nothing. So a client that
//! reads slowly holds back nobody and needs no queue; when it loses its place it gets the ERROR
//! event 410 and lists again.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::api::codec::protobuf;
use crate::api::options::ListOptions;
use crate::api::status::ApiError;
use crate::api::table::{ListMeta, TableWriter};
use crate::api::watch;
use crate::client::Body;
use crate::server::cacher::{Event, Item, Watcher};
use crate::server::registry::{Registry, ResourceDef};
use crate::store::Revision;

use super::call::Call;
use super::convert::Converter;
use super::filter::Filter;
use super::negotiate::{Encoding, Form};
use super::render::{self, Renderer};
use super::{Core, errors, read};

/// How often a client that understands bookmarks gets one, as upstream.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// How long before its end a watch gets a last bookmark, as upstream.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// A watch without `timeoutSeconds` ends after this to twice this, as upstream.
const LIFE_MIN: Duration = Duration::from_secs(1800);
const PROTOBUF_STREAM: &str = "application/vnd.kubernetes.protobuf;stream=watch";
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
            return Err(ApiError::not_acceptable(&[
                "application/json;stream=watch",
                PROTOBUF_STREAM,
            ]));
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
    let ends = now + life;
    // Watches that were opened together do not get their bookmarks together.
    let first_bookmark = now + BOOKMARK_EVERY.mul_f64(0.8 + 0.2 * core.rng.fraction());
    let bookmarks = options.allow_watch_bookmarks;
    let encoding = renderer.output.encoding;
    // In a box: there may be very many watches, and what runs them would hold it several times.
    let watch = Box::new(Watch {
        start,
        watcher: None,
        lines: Lines {
            renderer,
            filter,
            columns: true,
        },
        ends,
        alarm: Box::pin(sleep_until(if bookmarks {
            bookmark_time(first_bookmark, now, ends)
        } else {
            ends
        })),
        cancelled: Box::pin(core.tasks.cancelled().cancelled_owned()),
        defined: call.def.rules.custom().map(|_| {
            Box::new(Defined {
                table: core.registry.generation(),
                registry: Arc::clone(&core.registry),
                converter: core.converter.clone(),
            })
        }),
    });
    let frames = stream::unfold(watch, |mut watch| async move {
        let chunk = watch.next().await?;
        Some((Ok(http_body::Frame::data(chunk)), watch))
    });
    let body = StreamBody::new(frames).boxed_unsync();
    let mut response = render::respond(StatusCode::OK, encoding, body);
    if encoding == Encoding::Protobuf {
        let media = HeaderValue::from_static(PROTOBUF_STREAM);
        response.headers_mut().insert(CONTENT_TYPE, media);
    }
    Ok(response)
}

/// When the next bookmark is due: at `regular`, or shortly before the watch ends if that is
/// earlier, so that its client resumes from where it was; at the end where it has had that one (`cacheWatcher.nextBookmarkTime`).
fn bookmark_time(regular: Instant, now: Instant, ends: Instant) -> Instant {
    let last = ends.checked_sub(BOOKMARK_BEFORE_END).unwrap_or(ends);
    if last > now {
        regular.min(last)
    } else {
        regular.min(ends)
    }
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
    ends: Instant,
    /// The next bookmark, or the end. Kept over events: to set a timer is dearer than an event.
    alarm: Pin<Box<Sleep>>,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Of a custom resource.
    defined: Option<Box<Defined>>,
}

/// What a watch of a custom resource follows besides.
struct Defined {
    /// Raised when the table changes: the resource may have another schema, or be gone.
    table: tokio::sync::watch::Receiver<u64>,
    registry: Arc<Registry>,
    converter: Converter,
}

impl Defined {
    /// A stored object, ready to be rendered.
    async fn served(
        this: Option<&Self>,
        def: &ResourceDef,
        stored: Bytes,
    ) -> Result<Bytes, ApiError> {
        match this {
            Some(this) => this.converter.served(def, stored).await,
            None => Ok(stored),
        }
    }

    /// Until the table changes; for ever for what is built in.
    async fn changed(this: Option<&mut Box<Self>>) {
        let is_told = match this {
            Some(this) => this.table.changed().await.is_ok(),
            None => false,
        };
        if !is_told {
            std::future::pending().await
        }
    }
}

impl Watch {
    /// The next bytes; `None`: the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let chunk = match self.begin().await {
                Some(chunk) => chunk.freeze(),
                None => self.follow().await?,
            };
            if !chunk.is_empty() {
                return Some(chunk);
            }
        }
    }

    /// A part of what comes before the events; `None`: that is over.
    async fn begin(&mut self) -> Option<BytesMut> {
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
                        let def = Arc::clone(&self.lines.renderer.def);
                        let stored = item.bytes().clone();
                        match Defined::served(self.defined.as_deref(), &def, stored).await {
                            Ok(bytes) => self.lines.object(&mut chunk, "ADDED", &bytes),
                            Err(error) => self.lines.error(&mut chunk, &error),
                        }
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
    async fn follow(&mut self) -> Option<Bytes> {
        let watcher = self.watcher.as_mut()?;
        let mut chunk = BytesMut::new();
        tokio::select! {
            biased;
            () = &mut self.cancelled => return None,
            () = &mut self.alarm => {
                let now = Instant::now();
                if now >= self.ends {
                    return None;
                }
                let next = bookmark_time(now + BOOKMARK_EVERY, now, self.ends);
                self.alarm.as_mut().reset(next);
                if let Some(revision) = watcher.progress() {
                    self.lines.bookmark(&mut chunk, revision, false);
                }
            }
            events = watcher.next(EVENTS_PER_CHUNK_MAX) => match events {
                Ok(events) if self.defined.is_none() => {
                    return Some(self.lines.events(watcher, &events));
                }
                Ok(events) => {
                    let def = Arc::clone(&self.lines.renderer.def);
                    for event in &events {
                        let Some(what) = self.lines.what(event) else {
                            continue;
                        };
                        let stored = what.object(event);
                        match Defined::served(self.defined.as_deref(), &def, stored).await {
                            Ok(bytes) => self.lines.object(&mut chunk, what.name(), &bytes),
                            Err(error) => self.lines.error(&mut chunk, &error),
                        }
                    }
                }
                Err(_) => {
                    let error = ApiError::expired("too old resource version: the watch fell behind");
                    self.lines.error(&mut chunk, &error);
                    self.watcher = None;
                }
            },
            () = Defined::changed(self.defined.as_mut()) => {
                let gvr = &self.lines.renderer.def.gvr;
                let table = self.defined.as_ref()?.registry.snapshot();
                // What is no longer served is no longer watched.
                let def = table.find(&gvr.group, &gvr.version, &gvr.resource)?;
                self.lines.renderer.def = Arc::clone(def);
            }
        }
        Some(chunk.freeze())
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
    /// A single event in its plain form, as most are, is the same bytes for all watchers.
    fn events(&mut self, watcher: &Watcher, events: &[Arc<Event>]) -> Bytes {
        let output = self.renderer.output;
        let is_shared = self.renderer.is_plain() && output.encoding == Encoding::Json;
        let mut chunk = BytesMut::new();
        for event in events {
            let Some(what) = self.what(event) else {
                continue;
            };
            if is_shared && events.len() == 1 {
                return watcher.line(event, what as u8, || {
                    let mut chunk = BytesMut::new();
                    line(&mut chunk, what.name(), &what.object(event));
                    chunk.freeze()
                });
            }
            self.object(&mut chunk, what.name(), &what.object(event));
        }
        chunk.freeze()
    }

    /// What the event is for this client's selectors: an object that begins to match is added, one
    /// that ceases to is deleted.
    fn what(&self, event: &Event) -> Option<What> {
        let matches = |item: &Option<Arc<Item>>| {
            let item = item.as_ref();
            item.is_some_and(|item| self.filter.matches(item))
        };
        match (matches(&event.item), matches(&event.previous)) {
            (true, false) => Some(What::Added),
            (true, true) => Some(What::Modified),
            (false, true) => Some(What::Deleted),
            (false, false) => None,
        }
    }

    fn object(&mut self, out: &mut BytesMut, kind: &str, stored: &Bytes) {
        let columns = std::mem::take(&mut self.columns);
        let item = self.renderer.item(stored, columns);
        match item.and_then(|json| self.line(out, kind, &json)) {
            Ok(()) => {}
            Err(error) => self.error(out, &error),
        }
    }

    /// Frames an event around `object`, which is JSON.
    fn line(&self, out: &mut BytesMut, kind: &str, object: &Bytes) -> Result<(), ApiError> {
        if self.renderer.output.encoding == Encoding::Protobuf {
            let object = render::encode(object.clone(), Encoding::Protobuf)?;
            out.put_slice(&protobuf::write::frame(kind, &object));
        } else {
            line(out, kind, object);
        }
        Ok(())
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
        if let Err(error) = self.line(out, "BOOKMARK", &object.into()) {
            self.error(out, &error);
        }
    }

    fn error(&self, out: &mut BytesMut, error: &ApiError) {
        let status = Bytes::from(error.to_status().to_string());
        if self.line(out, "ERROR", &status).is_err() {
            // A Status has a form in each encoding.
            out.put_slice(&watch::error(error));
        }
    }
}

/// What an event is for one client.
#[derive(Clone, Copy, Debug)]
enum What {
    Added,
    Modified,
    Deleted,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            What::Added => "ADDED",
            What::Modified => "MODIFIED",
            What::Deleted => "DELETED",
        }
    }

    /// The object it shows: as it is now, or, of one that went, as it was.
    fn object(self, event: &Event) -> Bytes {
        let (now, before) = (event.item.as_ref(), event.previous.as_ref());
        match self {
            What::Added | What::Modified => now.map(|item| item.bytes().clone()),
            What::Deleted => before.map(|item| item.bytes_at(event.revision)),
        }
        .unwrap_or_default()
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
