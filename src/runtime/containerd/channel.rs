//! The socket to containerd: namespace and lease headers, a limit on every call, errors in our
//! words. The connection is made by the first call and made again when containerd was restarted.

use std::error::Error as _;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::namespaces_client::NamespacesClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::version_client::VersionClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::runtime::{Error, Result};

/// Limit of calls that only read or write containerd's database.
pub(super) const SHORT: Duration = Duration::from_secs(30);

/// Limit of calls that start or end processes: the shim and runc on a busy machine.
pub(super) const LONG: Duration = Duration::from_secs(120);

/// A list of containers carries every container's specification.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// What a call does, for errors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step<'a> {
    /// `container`, `image` …
    pub what: &'static str,
    /// `create container` …
    pub doing: &'static str,
    /// Container or image.
    pub id: &'a str,
    /// How long it may take.
    pub limit: Duration,
}

impl<'a> Step<'a> {
    pub(super) fn container(doing: &'static str, id: &'a str) -> Self {
        Self {
            what: "container",
            doing,
            id,
            limit: SHORT,
        }
    }

    pub(super) fn image(doing: &'static str, id: &'a str) -> Self {
        Self {
            what: "image",
            doing,
            id,
            limit: SHORT,
        }
    }

    pub(super) fn limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }
}

/// A connection that lasts as long as the program.
#[derive(Clone)]
pub(super) struct Link {
    channel: Channel,
    namespace: MetadataValue<Ascii>,
}

impl Link {
    /// Does no IO.
    pub(super) fn new(address: PathBuf, namespace: &str) -> Result<Self> {
        let failed = |why: String| Error::Failed {
            doing: "prepare the connection to",
            id: "containerd".to_owned(),
            why,
        };
        let namespace = namespace
            .parse()
            .map_err(|_| failed(format!("bad namespace `{namespace}`")))?;
        // The host is not used: the connector opens the socket.
        let endpoint = Endpoint::try_from("http://containerd")
            .map_err(|error| failed(error.to_string()))?
            .connect_timeout(Duration::from_secs(5));
        let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
            let address = address.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(address).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        }));
        Ok(Self { channel, namespace })
    }

    pub(super) fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(super) fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(super) fn diff(&self) -> DiffClient<Channel> {
        DiffClient::new(self.channel.clone())
    }

    pub(super) fn events(&self) -> EventsClient<Channel> {
        EventsClient::new(self.channel.clone())
    }

    pub(super) fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(super) fn leases(&self) -> LeasesClient<Channel> {
        LeasesClient::new(self.channel.clone())
    }

    pub(super) fn namespaces(&self) -> NamespacesClient<Channel> {
        NamespacesClient::new(self.channel.clone())
    }

    pub(super) fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(super) fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(super) fn version(&self) -> VersionClient<Channel> {
        VersionClient::new(self.channel.clone())
    }

    /// A request in our namespace.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert("containerd-namespace", self.namespace.clone());
        request
    }

    /// A request whose results `lease` keeps from being collected.
    pub(super) fn leased<T>(&self, message: T, lease: &str) -> Request<T> {
        let mut request = self.request(message);
        if let Ok(value) = lease.parse() {
            request.metadata_mut().insert("containerd-lease", value);
        }
        request
    }

    /// Waits for a call, at most as long as its step may take.
    pub(super) async fn run<T>(
        &self,
        step: Step<'_>,
        call: impl Future<Output = std::result::Result<Response<T>, Status>>,
    ) -> Result<T> {
        match tokio::time::timeout(step.limit, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(error(step, &status)),
            Err(_) => Err(Error::Timeout {
                doing: step.doing,
                seconds: step.limit.as_secs(),
            }),
        }
    }
}

/// What containerd answered, in our words.
pub(super) fn error(step: Step<'_>, status: &Status) -> Error {
    let id = step.id.to_owned();
    // A connection that could not be made or broke has the transport's error as its cause.
    if status.source().is_some() || status.code() == Code::Unavailable {
        let why = match status.source() {
            Some(cause) => crate::util::errors::chain(cause),
            None => status.message().to_owned(),
        };
        return Error::Unavailable {
            doing: step.doing,
            why,
        };
    }
    match status.code() {
        Code::NotFound => Error::NotFound {
            what: step.what,
            id,
        },
        Code::AlreadyExists => Error::AlreadyExists {
            what: step.what,
            id,
        },
        Code::DeadlineExceeded => Error::Timeout {
            doing: step.doing,
            seconds: step.limit.as_secs(),
        },
        _ => Error::Failed {
            doing: step.doing,
            id,
            why: status.message().to_owned(),
        },
    }
}

/// Makes removing what is gone a success.
pub(super) fn gone_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

/// Makes making what exists a success; `false` says it existed.
pub(super) fn existing_is_fine<T>(result: Result<T>) -> Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(Error::AlreadyExists { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
