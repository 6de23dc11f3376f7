//! Log files of containers, read as `kubectl logs` asks for them.
//!
//! Rotated files are read too, the oldest first: what is on disk is what is shown. (The kubelet
//! reads the newest file only.)

use http::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use jiff::{SignedDuration, Timestamp};

use super::follow::{self, Source};
use super::{Answer, Call, NodeApi, boxed};
use crate::agent::seam::{ContainerView, Shown};
use crate::api::status::ApiError;

/// What of a log is wanted (`v1.PodLogOptions`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LogOptions {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    /// Nothing older.
    pub since: Option<Timestamp>,
    /// Only so many lines from the end.
    pub tail_lines: Option<u64>,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
    /// `Stdout` or `Stderr` alone.
    pub stream: Option<String>,
}

impl LogOptions {
    fn read(call: &Call<'_>, now: Timestamp) -> Result<Self, ApiError> {
        let number = |name: &str| -> Result<Option<u64>, ApiError> {
            match call.get(name) {
                None => Ok(None),
                Some(text) => text.parse().map(Some).map_err(|_| {
                    ApiError::bad_request(format!(
                        "invalid value `{text}` for {name}: not a whole number"
                    ))
                }),
            }
        };
        let seconds = number("sinceSeconds")?;
        let time = match call.get("sinceTime") {
            None => None,
            Some(text) => Some(text.parse::<Timestamp>().map_err(|_| {
                ApiError::bad_request(format!("invalid value `{text}` for sinceTime: not a time"))
            })?),
        };
        let ago = seconds.map(|seconds| {
            let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
            now.saturating_sub(SignedDuration::from_secs(seconds))
                .unwrap_or(Timestamp::MIN)
        });
        Ok(Self {
            follow: call.is_set("follow"),
            previous: call.is_set("previous"),
            timestamps: call.is_set("timestamps"),
            since: time.or(ago),
            tail_lines: number("tailLines")?,
            limit_bytes: number("limitBytes")?,
            stream: call
                .get("stream")
                .filter(|stream| stream == "Stdout" || stream == "Stderr"),
        })
    }
}

impl NodeApi {
    pub(super) async fn logs(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        call: &Call<'_>,
    ) -> Answer {
        let options = LogOptions::read(call, self.0.clock.now())?;
        let view = self.pod(namespace, pod)?;
        let found = view.containers.iter().find(|view| view.name == container);
        let Some(view) = found else {
            return Err(ApiError::bad_request(format!(
                "container \"{container}\" in pod \"{pod}\" is not available"
            )));
        };
        let path = log_of(view, pod, &options)?;
        // Only the present run can still write.
        let running = (!options.previous).then(|| view.id.clone()).flatten();
        let source = Source::open(path, &options).await.map_err(|error| {
            ApiError::internal(format!(
                "failed to try resolving symlinks in path {path:?}: {error}"
            ))
        })?;
        let (sender, body) = follow::channel();
        let api = self.clone();
        self.0.tasks.job("logs", async move {
            // The client may go at any time.
            let _ = follow::pour(source, options, running, &*api.0.runtime, &sender).await;
        });
        let mut response = Response::new(boxed(body));
        *response.status_mut() = StatusCode::OK;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        Ok(response)
    }
}

/// The file to read, or why there is none, in the kubelet's words
/// (`kubelet.validateContainerLogStatus`).
fn log_of<'a>(
    view: &'a ContainerView,
    pod: &str,
    options: &LogOptions,
) -> Result<&'a std::path::Path, ApiError> {
    let name = &view.name;
    let why = if options.previous {
        if let Some(path) = &view.previous_log {
            return Ok(path);
        }
        format!("previous terminated container \"{name}\" in pod \"{pod}\" not found")
    } else {
        if let Some(path) = &view.log {
            return Ok(path);
        }
        match &view.shown {
            Shown::Waiting(reason) => {
                let reason = match reason.as_str() {
                    "ErrImagePull" => "image can't be pulled",
                    "ImagePullBackOff" => "trying and failing to pull image",
                    "" => "no logs yet",
                    other => other,
                };
                format!("container \"{name}\" in pod \"{pod}\" is waiting to start: {reason}")
            }
            Shown::Terminated => format!("container \"{name}\" in pod \"{pod}\" is terminated"),
            Shown::Running => format!("container \"{name}\" in pod \"{pod}\" is not available"),
        }
    };
    Err(ApiError::bad_request(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(shown: Shown) -> ContainerView {
        ContainerView {
            name: "c".to_owned(),
            shown,
            id: None,
            log: None,
            previous_log: None,
        }
    }

    #[test]
    fn why_there_is_no_log_is_said_as_the_kubelet_says_it() {
        let message = |shown: Shown, previous: bool| {
            let options = LogOptions {
                previous,
                ..LogOptions::default()
            };
            log_of(&view(shown), "p", &options).unwrap_err().message
        };
        assert_eq!(
            message(Shown::Waiting("ContainerCreating".to_owned()), false),
            "container \"c\" in pod \"p\" is waiting to start: ContainerCreating"
        );
        assert_eq!(
            message(Shown::Waiting("ImagePullBackOff".to_owned()), false),
            "container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image"
        );
        assert_eq!(
            message(Shown::Running, true),
            "previous terminated container \"c\" in pod \"p\" not found"
        );
    }

    #[test]
    fn options_are_read_and_wrong_ones_named() {
        let call = |query| Call {
            parts: Vec::new(),
            query,
        };
        let now = Timestamp::new(100, 0).unwrap();
        let options =
            LogOptions::read(&call("follow=true&tailLines=3&sinceSeconds=40"), now).unwrap();
        assert!(options.follow && !options.timestamps);
        assert_eq!(options.tail_lines, Some(3));
        assert_eq!(options.since, Timestamp::new(60, 0).ok());
        let error = LogOptions::read(&call("tailLines=x"), now).unwrap_err();
        assert!(
            error.message.contains("`x` for tailLines"),
            "{}",
            error.message
        );
    }
}
