//! `list`: a page of a resource at one revision, joined from the bytes of its objects.
//!
//! The first page comes from the cache. A page behind it is read at the same revision: from the
//! cache while nothing of the resource has changed since, else from the store's history. Where
//! that is no longer kept, the refusal carries a token for the rest as it is now.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};

use crate::api::options::{ListOptions, VersionMatch};
use crate::api::status::ApiError;
use crate::api::table::ListMeta;
use crate::client::{Body, body_from};
use crate::server::cacher::{Item, Snapshot};
use crate::server::registry::ResourceDef;
use crate::server::storage::keys;
use crate::store::{self, Revision};

use super::call::Call;
use super::filter::Filter;
use super::negotiate::Encoding;
use super::render::{self, Renderer};
use super::token::Continue;
use super::{Core, errors, read};

/// Of a streamed list; small ones are one chunk with a length.
const CHUNK_BYTES: usize = 64 << 10;
/// Read from the history at once, where a selector leaves out some.
const HISTORY_PAGE: usize = 500;

/// Objects at one revision.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) items: Vec<Arc<Item>>,
    pub(super) revision: Revision,
    /// The last key of a page that is not the last one.
    pub(super) next: Option<String>,
    /// How many follow, where that is known.
    pub(super) remaining: Option<u64>,
}

/// Where a page is read and how long it may be.
#[derive(Clone, Debug)]
struct Span<'a> {
    filter: &'a Filter,
    after: Option<&'a str>,
    /// 0: all.
    limit: usize,
}

pub(super) async fn list(core: &Core, call: &Call) -> Result<Response<Body>, ApiError> {
    let options = ListOptions::from_query(&call.query)?;
    let page = page(core, call, &options).await?;
    respond(core, &call.renderer(core), page).await
}

/// The page `options` ask for.
pub(super) async fn page(
    core: &Core,
    call: &Call,
    options: &ListOptions,
) -> Result<Page, ApiError> {
    let def = &call.def;
    let filter = Filter::new(def, call.namespace(), "", options)?;
    let wanted = read::revision("resourceVersion", &options.resource_version)?;
    let token = match options.continue_token.as_str() {
        "" => None,
        text => Some(Continue::decode(text)?),
    };
    let span = Span {
        filter: &filter,
        after: token.as_ref().map(|token| token.after.as_str()),
        limit: usize::try_from(options.limit).unwrap_or(0),
    };
    if token.is_some() && wanted.is_some_and(|revision| revision.0 > 0) {
        return Err(ApiError::bad_request(
            "specifying resource version is not allowed when using continue",
        ));
    }
    if let Some(token) = &token
        && let Some(revision) = token.revision
    {
        let page = page_at(core, def, &span, revision).await;
        return page.map_err(|error| match error.is_gone() {
            true => inconsistent(token),
            false => error,
        });
    }
    // A token without a revision goes on now.
    let wanted = wanted.filter(|_| token.is_none());
    let exact = match (options.resource_version_match, wanted) {
        (Some(VersionMatch::Exact), _) => true,
        // As before there was `resourceVersionMatch`.
        (None, Some(revision)) => span.limit > 0 && revision.0 > 0,
        _ => false,
    };
    match wanted {
        Some(revision) if exact => return page_at(core, def, &span, revision).await,
        Some(revision) => core.wait_for(revision).await?,
        None => core.wait_for_now(def).await?,
    }
    let snapshot = core.cacher.snapshot(&def.storage);
    let revision = snapshot.revision;
    Ok(page_of(&snapshot, def, &span, revision))
}

/// The refusal of a token that is too old, with one for the rest as it is now
/// (`storage/etcd3.handleCompactedErrorForPaging`).
fn inconsistent(token: &Continue) -> ApiError {
    let rest = Continue {
        revision: None,
        after: token.after.clone(),
    };
    ApiError {
        continue_token: rest.encode(),
        ..ApiError::expired(
            "The provided continue parameter is too old to display a consistent list result. \
             You can start a new list without the continue parameter, or use the continue token \
             in this response to retrieve the remainder of the results. Continuing with the \
             provided token results in an inconsistent list - objects that were created, \
             modified, or deleted between the time the first chunk was returned and now may \
             show up in the list.",
        )
    }
}

async fn page_at(
    core: &Core,
    def: &ResourceDef,
    span: &Span<'_>,
    revision: Revision,
) -> Result<Page, ApiError> {
    let snapshot = core.cacher.snapshot(&def.storage);
    if (snapshot.last_change()..=snapshot.revision).contains(&revision) {
        return Ok(page_of(&snapshot, def, span, revision));
    }
    page_of_history(core, def, span, revision).await
}

fn page_of(snapshot: &Snapshot, def: &ResourceDef, span: &Span<'_>, revision: Revision) -> Page {
    let filter = span.filter;
    if let Some(key) = filter.only_key(def) {
        let item = snapshot.get(&key).filter(|item| filter.matches(item));
        let item = item.filter(|item| span.after.is_none_or(|after| &*item.key > after));
        return Page {
            items: item.cloned().into_iter().collect(),
            revision,
            next: None,
            remaining: None,
        };
    }
    let all = snapshot.items(&filter.namespace, span.after);
    let mut matching = all.filter(|item| filter.is_empty() || filter.matches(item));
    if span.limit == 0 {
        return Page {
            items: matching.cloned().collect(),
            revision,
            next: None,
            remaining: None,
        };
    }
    let items: Vec<_> = matching.by_ref().take(span.limit).cloned().collect();
    let mut page = Page {
        items,
        revision,
        next: None,
        remaining: None,
    };
    if matching.next().is_some() {
        page.next = page.items.last().map(|item| item.key.to_string());
        page.remaining = filter.is_empty().then(|| 1 + matching.count() as u64);
    }
    page
}

async fn page_of_history(
    core: &Core,
    def: &ResourceDef,
    span: &Span<'_>,
    revision: Revision,
) -> Result<Page, ApiError> {
    let filter = span.filter;
    let registry = core.registry.snapshot();
    // Cached items carry the fields of the stored form, so these do too.
    let stored = registry.stored(&def.storage);
    let fields_of = stored.and_then(|stored| stored.rules.fields_of());
    let mut page = Page {
        items: Vec::new(),
        revision,
        next: None,
        remaining: None,
    };
    let mut after = span.after.map(str::to_owned);
    loop {
        let range = keys::collection(&def.storage, &filter.namespace, after.as_deref());
        let limit = match span.limit {
            0 => None,
            limit if filter.is_empty() => Some(limit),
            _ => Some(HISTORY_PAGE),
        };
        let read = core.store.range(range, Some(revision), limit).await;
        let read = read.map_err(|e: store::Error| errors::storage(e.into(), def, ""))?;
        let found = read.items.len();
        for (at, stored) in read.items.iter().enumerate() {
            let Some((_, key)) = keys::parse(&stored.key) else {
                continue;
            };
            let item = Item::read(key, stored, fields_of);
            let item = item.map_err(|error| errors::storage(error, def, key))?;
            after = Some(key.to_owned());
            if filter.matches(&item) {
                page.items.push(Arc::new(item));
            }
            if span.limit > 0 && page.items.len() == span.limit {
                let left = (found - at - 1) as u64 + read.remaining;
                page.next = after.filter(|_| left > 0);
                page.remaining = (left > 0 && filter.is_empty()).then_some(left);
                return Ok(page);
            }
        }
        if read.remaining == 0 {
            return Ok(page);
        }
    }
}

/// The answer that carries `page`.
pub(super) async fn respond(
    core: &Core,
    renderer: &Renderer,
    page: Page,
) -> Result<Response<Body>, ApiError> {
    let revision = page.revision;
    let token = |after| Continue {
        revision: Some(revision),
        after,
    };
    let next = page.next.map(|after| token(after).encode());
    let meta = ListMeta {
        resource_version: revision.0.to_string(),
        continue_token: next.unwrap_or_default(),
        remaining: page.remaining,
    };
    let encoding = renderer.output.encoding;
    let body = if renderer.is_plain() && encoding == Encoding::Json {
        joined(&renderer.def, &meta, page.items)
    } else {
        let stored = page.items.iter().map(|item| item.bytes().clone()).collect();
        let items = core.converter.all_served(&renderer.def, stored).await?;
        body_from(renderer.list(&meta, items.iter())?)
    };
    Ok(render::respond(StatusCode::OK, encoding, body))
}

/// The objects' bytes with commas between them: nothing is parsed or encoded.
fn joined(def: &ResourceDef, meta: &ListMeta, items: Vec<Arc<Item>>) -> Body {
    let head = render::list_head(&def.list_kind, &def.gvk.api_version(), meta);
    let total: usize = items.iter().map(|item| item.bytes().len() + 1).sum();
    let mut joiner = Joiner {
        pending: Some(head.into()),
        items: items.into_iter(),
        is_first: true,
    };
    if total <= CHUNK_BYTES {
        return body_from(joiner.chunk(usize::MAX).unwrap_or_default());
    }
    let chunks = std::iter::from_fn(move || joiner.chunk(CHUNK_BYTES));
    let frames = stream::iter(chunks.map(|chunk| Ok(http_body::Frame::data(chunk))));
    StreamBody::new(frames).boxed_unsync()
}

struct Joiner {
    /// The head before the first chunk; `None` after the last.
    pending: Option<Bytes>,
    items: std::vec::IntoIter<Arc<Item>>,
    is_first: bool,
}

impl Joiner {
    /// The next bytes, about `size` of them.
    fn chunk(&mut self, size: usize) -> Option<Bytes> {
        let head = self.pending.take()?;
        let mut chunk = BytesMut::with_capacity(size.min(CHUNK_BYTES + (CHUNK_BYTES >> 3)));
        chunk.put_slice(&head);
        for item in self.items.by_ref() {
            if !std::mem::take(&mut self.is_first) {
                chunk.put_u8(b',');
            }
            chunk.put_slice(item.bytes());
            if chunk.len() >= size {
                self.pending = Some(Bytes::new());
                return Some(chunk.freeze());
            }
        }
        chunk.put_slice(b"]}");
        Some(chunk.freeze())
    }
}
