//! How a call of the API fails.

use crate::api::status::ApiError;

/// A failure of a client call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server answered that it failed.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// There was no answer: connection, TLS, time-out.
    #[error("{method} {path}: no answer")]
    Transport {
        /// HTTP method.
        method: String,
        /// Path and query.
        path: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer is not what the request asks for.
    #[error("decode the answer of {path}")]
    Decode {
        /// Path and query.
        path: String,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// Configuration (kubeconfig, certificate, address) that cannot be used.
    #[error("{0}")]
    Config(String),
}

impl Error {
    /// The server's own answer, where there is one.
    pub fn api(&self) -> Option<&ApiError> {
        match self {
            Error::Api(error) => Some(error),
            _ => None,
        }
    }

    /// The object or path does not exist.
    pub fn is_not_found(&self) -> bool {
        self.api().is_some_and(ApiError::is_not_found)
    }

    /// The write was based on an older revision.
    pub fn is_conflict(&self) -> bool {
        self.api().is_some_and(ApiError::is_conflict)
    }

    /// The name is taken.
    pub fn is_already_exists(&self) -> bool {
        self.api().is_some_and(ApiError::is_already_exists)
    }

    /// The revision asked for is no longer kept.
    pub fn is_gone(&self) -> bool {
        self.api().is_some_and(ApiError::is_gone)
    }
}
