//! How the container runtime fails.

/// A failure of a runtime call.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No such container, image or process.
    #[error("{what} `{id}` not found")]
    NotFound {
        /// `container`, `image` …
        what: &'static str,
        /// Its id or reference.
        id: String,
    },
    /// It exists already.
    #[error("{what} `{id}` already exists")]
    AlreadyExists {
        /// `container`, `image` …
        what: &'static str,
        /// Its id or reference.
        id: String,
    },
    /// The runtime does not answer.
    #[error("container runtime unavailable while {doing}: {why}")]
    Unavailable {
        /// The step that failed.
        doing: &'static str,
        /// The cause's text.
        why: String,
    },
    /// It took longer than it may.
    #[error("{doing} took longer than {seconds} s")]
    Timeout {
        /// The step that failed.
        doing: &'static str,
        /// The limit.
        seconds: u64,
    },
    /// A registry refused or an image cannot be used; the text is for the user.
    #[error("{0}")]
    Image(String),
    /// The runtime says no.
    #[error("{doing} `{id}`: {why}")]
    Failed {
        /// The step that failed.
        doing: &'static str,
        /// Container or image.
        id: String,
        /// The cause's text.
        why: String,
    },
}

impl Error {
    /// Whether this is [`Error::NotFound`].
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::NotFound { .. })
    }
}
