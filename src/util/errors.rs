//! One way to print an error with its causes. `Display` of our errors never prints the source, so
//! every log line and every exit of the program goes through [`chain`].

use std::error::Error;
use std::io;

/// `error: cause: cause of the cause`, each once.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// Why a TCP connection did not come about, as Go's dialer says it: users and tools know these
/// words.
pub fn dial(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    }
}

/// For results whose failure cannot be acted on: says so in the log and goes on.
pub trait OrLog<T> {
    /// `Some` of the value, or a warning `doing` with the error chain.
    fn ok_or_log(self, doing: &'static str) -> Option<T>;
}

impl<T, E: Error + 'static> OrLog<T> for Result<T, E> {
    fn ok_or_log(self, doing: &'static str) -> Option<T> {
        match self {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::warn!(error = %chain(&error), doing, "step failed, going on");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("open `db`")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn connections_fail_in_the_words_of_go() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(dial(&refused), "connect: connection refused");
        assert_eq!(dial(&io::ErrorKind::TimedOut.into()), "i/o timeout");
    }

    #[test]
    fn causes_follow_in_order() {
        let error = Outer(std::io::Error::other("disk on fire"));
        assert_eq!(chain(&error), "open `db`: disk on fire");
    }
}
