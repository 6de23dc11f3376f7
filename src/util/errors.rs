//! One way to print an error with its causes. `Display` of our errors never prints the source, so
//! every log line and every exit of the program goes through [`chain`].

use std::error::Error;

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
    fn causes_follow_in_order() {
        let error = Outer(std::io::Error::other("disk on fire"));
        assert_eq!(chain(&error), "open `db`: disk on fire");
    }
}
