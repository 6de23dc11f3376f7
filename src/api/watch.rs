//! Events of a watch, framed for the stream: one JSON object a line.

use serde_json::json;

use super::status::ApiError;

/// What happened to the object of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// New, or newly selected.
    Added,
    /// Changed.
    Modified,
    /// Gone, or no longer selected.
    Deleted,
    /// Nothing happened up to this revision.
    Bookmark,
    /// The watch has failed and ends.
    Error,
}

impl EventType {
    /// As in the field `type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
            Self::Bookmark => "BOOKMARK",
            Self::Error => "ERROR",
        }
    }
}

/// The line of an event around `object`, which is JSON.
pub fn frame(event: EventType, object: &[u8]) -> Vec<u8> {
    let mut line = Vec::with_capacity(object.len() + 40);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(event.name().as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(object);
    line.extend_from_slice(b"}\n");
    line
}

/// The object of a bookmark. `initial_events_end`: all that was there at the start has been sent.
pub fn bookmark(
    api_version: &str,
    kind: &str,
    revision: &str,
    initial_events_end: bool,
) -> Vec<u8> {
    let mut metadata = json!({"resourceVersion": revision, "creationTimestamp": null});
    if initial_events_end {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    let object = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata});
    object.to_string().into_bytes()
}

/// The line of the event that ends a watch.
pub fn error(error: &ApiError) -> Vec<u8> {
    frame(EventType::Error, error.to_status().to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_json() {
        let line = frame(EventType::Added, br#"{"kind":"Pod"}"#);
        assert_eq!(
            line,
            b"{\"type\":\"ADDED\",\"object\":{\"kind\":\"Pod\"}}\n"
        );
        let object = bookmark("v1", "Pod", "7", true);
        let object: serde_json::Value = serde_json::from_slice(&object).unwrap();
        assert_eq!(object["metadata"]["resourceVersion"], "7");
        assert_eq!(
            object["metadata"]["annotations"]["k8s.io/initial-events-end"],
            "true"
        );
        let gone = error(&ApiError::expired("too old resource version: 1 (5)"));
        assert!(String::from_utf8(gone).unwrap().contains("\"code\":410"));
    }
}
