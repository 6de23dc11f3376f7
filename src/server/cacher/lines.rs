//! What was made of the last events for their watchers, so that an event that many are told is
//! written once.
//!
//! Only the very last ones are kept: watchers that keep up ask for the same event at almost the
//! same time, and one that is behind makes its own.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::ring::Event;

/// Events that are told at a time, each in a form or two.
const LINES_MAX: usize = 8;

/// The lines of one resource.
#[derive(Debug, Default)]
pub(super) struct Lines(Mutex<VecDeque<Line>>);

#[derive(Debug)]
struct Line {
    event: Arc<Event>,
    form: u8,
    bytes: Bytes,
}

impl Lines {
    /// What `make` makes of `event`; `form` tells apart what else may be made of it.
    pub(super) fn get(&self, event: &Arc<Event>, form: u8, make: impl FnOnce() -> Bytes) -> Bytes {
        let mut lines = self.0.lock();
        let same = |line: &&Line| line.form == form && Arc::ptr_eq(&line.event, event);
        if let Some(line) = lines.iter().rev().find(same) {
            return line.bytes.clone();
        }
        // Made under the lock: whoever else asks now asks for the same.
        let bytes = make();
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(Line {
            event: Arc::clone(event),
            form,
            bytes: bytes.clone(),
        });
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Revision;

    #[test]
    fn each_form_of_an_event_is_made_once_while_it_is_recent() {
        let lines = Lines::default();
        let event = || {
            Arc::new(Event {
                revision: Revision(1),
                item: None,
                previous: None,
            })
        };
        let (first, second) = (event(), event());
        let text = |text: &'static str| move || Bytes::from_static(text.as_bytes());
        let never = || -> Bytes { panic!("made twice") };
        assert_eq!(lines.get(&first, 0, text("a")), "a");
        assert_eq!(lines.get(&first, 1, text("b")), "b");
        assert_eq!(lines.get(&second, 0, text("c")), "c");
        assert_eq!(lines.get(&first, 0, never), "a");
        (0..LINES_MAX).for_each(|_| drop(lines.get(&event(), 0, text("x"))));
        assert_eq!(lines.get(&first, 0, text("again")), "again");
    }
}
