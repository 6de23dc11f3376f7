//! List, then watch from there, for ever: the state machine behind every cache.
//!
//! States: *unlisted* (nothing is known; the next step is a list) and *listed* at a revision (the
//! next step is a watch from it). An event or bookmark moves the revision on. The end of a watch,
//! also a broken one, is followed by a watch from the same revision. Only 410 (the revision is no
//! longer kept) leads back to unlisted; the consumer then gets the whole list and works out what
//! changed. Failures are followed by a jittered pause, except the ordinary end of a watch.
//!
//! No event is lost: the revision moves only with what was delivered.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::api::{object::Object, status::ApiError};
use crate::util::{backoff::Backoff, errors::chain, rng::Rng};

use super::{Api, Error, HasMeta, ListParams, Result, decode};

/// Watches are asked to last between this and twice this, so that they do not all end at once.
const WATCH_SECONDS: u32 = 1800;
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MOST: Duration = Duration::from_secs(10);

/// One event of a watch.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<T> {
    /// The object came to be, or came to match.
    Added(T),
    /// The object changed.
    Modified(T),
    /// The object is gone, or no longer matches. This is its last state.
    Deleted(T),
    /// Everything up to this revision was delivered.
    Bookmark(String),
}

/// What a consumer of [`run`] is told.
#[derive(Debug)]
pub enum Step<T> {
    /// All there is: what is not in it is gone.
    Listed(Vec<T>),
    /// One change since.
    Changed(Event<T>),
}

#[derive(Debug, PartialEq)]
enum State {
    Unlisted,
    Listed { revision: String },
}

/// Lists and watches `api` for ever and tells `consume` of every step, in order. Returns only by
/// being dropped.
pub async fn run<T: HasMeta>(
    api: &Api<T>,
    params: &ListParams,
    rng: Rng,
    mut consume: impl FnMut(Step<T>) + Send,
) {
    let mut state = State::Unlisted;
    let mut pause = Backoff::new(PAUSE_FIRST, PAUSE_MOST, rng.clone());
    loop {
        let seconds = WATCH_SECONDS + u32::try_from(rng.below(WATCH_SECONDS as usize)).unwrap_or(0);
        let before = revision_of(&state).to_owned();
        let result = step(api, params, &mut state, seconds, &mut consume).await;
        if revision_of(&state) != before {
            pause.reset();
        }
        let Err(error) = result else { continue };
        if error.is_gone() {
            tracing::debug!(path = api.path(), "history is gone, listing again");
            state = State::Unlisted;
        } else {
            tracing::debug!(path = api.path(), error = %chain(&error), "watch failed");
        }
        tokio::time::sleep(pause.next_delay()).await;
    }
}

async fn step<T: HasMeta>(
    api: &Api<T>,
    params: &ListParams,
    state: &mut State,
    seconds: u32,
    consume: &mut (impl FnMut(Step<T>) + Send),
) -> Result<()> {
    let State::Listed { revision } = state else {
        let list = api.list(params).await?;
        let revision = list.revision().to_owned();
        consume(Step::Listed(list.items));
        *state = State::Listed { revision };
        return Ok(());
    };
    let mut events = api.watch(params, revision, seconds).await?;
    let mut delivered = false;
    while let Some(event) = events.next().await {
        let event = event?;
        let at = match &event {
            Event::Added(o) | Event::Modified(o) | Event::Deleted(o) => o.revision(),
            Event::Bookmark(at) => at,
        };
        at.clone_into(revision);
        delivered = true;
        consume(Step::Changed(event));
    }
    if delivered {
        return Ok(());
    }
    // A server that ends every watch at once must not be asked again at once.
    Err(ApiError::unavailable("the watch ended before its first event").into())
}

fn revision_of(state: &State) -> &str {
    match state {
        State::Unlisted => "",
        State::Listed { revision } => revision,
    }
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(rename = "type", borrow)]
    kind: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// Reads one line of a watch. An `ERROR` event is the error it tells of.
pub(super) fn decode_event<T: DeserializeOwned>(path: &str, line: &Bytes) -> Result<Event<T>> {
    let wire: Wire<'_> = decode_str(path, line)?;
    let object = wire.object.get().as_bytes();
    match &*wire.kind {
        "ADDED" => Ok(Event::Added(decode(path, object)?)),
        "MODIFIED" => Ok(Event::Modified(decode(path, object)?)),
        "DELETED" => Ok(Event::Deleted(decode(path, object)?)),
        "BOOKMARK" => {
            let object: Object = decode(path, object)?;
            Ok(Event::Bookmark(object.resource_version().to_owned()))
        }
        "ERROR" => {
            let status: serde_json::Value = decode(path, object)?;
            let code = status.get("code").and_then(serde_json::Value::as_u64);
            let code = code
                .and_then(|code| u16::try_from(code).ok())
                .unwrap_or(500);
            Err(ApiError::from_status(code, &status).into())
        }
        other => {
            let text = format!("unknown event type `{other}` in a watch");
            Err(ApiError::internal(text).into())
        }
    }
}

fn decode_str<'a, T: Deserialize<'a>>(path: &str, bytes: &'a [u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|source| Error::Decode {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::fake::Fake;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;
    use std::sync::Arc;
    use tokio::sync::mpsc;

    fn line(kind: &str, name: &str, revision: &str) -> Bytes {
        let event = json!({"type": kind, "object":
            {"metadata": {"name": name, "namespace": "d", "resourceVersion": revision}}});
        format!("{event}\n").into()
    }

    fn list(names: &[&str], revision: &str) -> serde_json::Value {
        let items: Vec<_> = names
            .iter()
            .map(|name| json!({"metadata": {"name": name, "namespace": "d"}}))
            .collect();
        json!({"metadata": {"resourceVersion": revision}, "items": items})
    }

    fn start(fake: &Arc<Fake>) -> mpsc::Receiver<String> {
        let (told, steps) = mpsc::channel(16);
        let api = fake.client().all::<ConfigMap>();
        let tasks = crate::util::tasks::Tasks::new();
        tasks.service("watch", async move {
            run(&api, &ListParams::default(), Rng::seeded(1), |step| {
                let text = match step {
                    Step::Listed(items) => format!("list {}", items.len()),
                    Step::Changed(Event::Bookmark(at)) => format!("mark {at}"),
                    Step::Changed(Event::Added(o)) => format!("add {}", o.object_key()),
                    Step::Changed(Event::Modified(o)) => format!("change {}", o.object_key()),
                    Step::Changed(Event::Deleted(o)) => format!("delete {}", o.object_key()),
                };
                told.try_send(text).unwrap();
            })
            .await;
        });
        steps
    }

    fn watches(fake: &Fake) -> Vec<String> {
        let seen = fake.seen().into_iter().map(|(line, _)| line);
        seen.filter_map(|line| {
            let (_, rest) = line.split_once("resourceVersion=")?;
            Some(rest.split('&').next()?.to_owned())
        })
        .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_ends_is_resumed_after_the_last_event_or_bookmark() {
        let fake = Fake::new();
        fake.answer("GET /api/v1/configmaps", list(&["a"], "5"));
        let mut steps = start(&fake);
        assert_eq!(steps.recv().await.unwrap(), "list 1");
        let mut first = fake.stream("/api/v1/configmaps");
        first.send_data(line("ADDED", "b", "6")).await.unwrap();
        first.send_data(line("BOOKMARK", "", "9")).await.unwrap();
        assert_eq!(steps.recv().await.unwrap(), "add d/b");
        assert_eq!(steps.recv().await.unwrap(), "mark 9");
        let mut second = fake.stream("/api/v1/configmaps");
        drop(first);
        second.send_data(line("DELETED", "b", "10")).await.unwrap();
        assert_eq!(steps.recv().await.unwrap(), "delete d/b");
        assert_eq!(watches(&fake).last().unwrap(), "9");
    }

    #[tokio::test(start_paused = true)]
    async fn a_revision_that_is_gone_leads_to_a_new_list() {
        let fake = Fake::new();
        fake.answer("GET /api/v1/configmaps", list(&["a"], "5"));
        let mut steps = start(&fake);
        assert_eq!(steps.recv().await.unwrap(), "list 1");
        let mut first = fake.stream("/api/v1/configmaps");
        fake.answer("GET /api/v1/configmaps", list(&["a", "b"], "50"));
        let gone = ApiError::expired("too old").to_status();
        let event = json!({"type": "ERROR", "object": gone});
        let sent = first.send_data(format!("{event}\n").into()).await;
        sent.unwrap();
        assert_eq!(steps.recv().await.unwrap(), "list 2");
    }
}
