//! Hands runtime events to several readers, none of which can hold up the others.
//!
//! A reader that is too slow loses events but never silently: the last free place of its queue is
//! kept for [`RuntimeEvent::Resync`], which stands for everything dropped after it.

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::RuntimeEvent;

/// Events a reader may be behind: a node has some hundred containers, and a burst of them starting
/// gives three events each.
const BACKLOG_EVENTS_MAX: usize = 1024;

/// The readers.
#[derive(Default)]
pub(crate) struct Hub {
    readers: Mutex<Vec<Reader>>,
}

struct Reader {
    sender: mpsc::Sender<RuntimeEvent>,
    lagged: bool,
}

impl Hub {
    pub(crate) fn subscribe(&self) -> mpsc::Receiver<RuntimeEvent> {
        let (sender, receiver) = mpsc::channel(BACKLOG_EVENTS_MAX);
        self.readers.lock().push(Reader {
            sender,
            lagged: false,
        });
        receiver
    }

    pub(crate) fn publish(&self, event: &RuntimeEvent) {
        self.readers.lock().retain_mut(|reader| reader.give(event));
    }

    pub(crate) fn container(&self, id: &str) {
        self.publish(&RuntimeEvent::Container { id: id.to_owned() });
    }
}

impl Reader {
    /// `false`: the reader is gone.
    fn give(&mut self, event: &RuntimeEvent) -> bool {
        if self.sender.is_closed() {
            return false;
        }
        if self.sender.capacity() > 1 {
            self.lagged = false;
            return self.sender.try_send(event.clone()).is_ok();
        }
        if self.lagged {
            return true;
        }
        self.lagged = true;
        self.sender.try_send(RuntimeEvent::Resync).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_reader_is_told_to_look_at_everything() {
        let hub = Hub::default();
        let mut events = hub.subscribe();
        for _ in 0..2 * BACKLOG_EVENTS_MAX {
            hub.container("a");
        }
        let mut last = None;
        let mut count = 0;
        while let Ok(event) = events.try_recv() {
            last = Some(event);
            count += 1;
        }
        assert_eq!(last, Some(RuntimeEvent::Resync));
        assert_eq!(count, BACKLOG_EVENTS_MAX);
        hub.container("b");
        assert_eq!(
            events.try_recv().unwrap(),
            RuntimeEvent::Container { id: "b".to_owned() }
        );
    }

    #[test]
    fn readers_that_are_gone_are_forgotten() {
        let hub = Hub::default();
        drop(hub.subscribe());
        hub.container("a");
        assert!(hub.readers.lock().is_empty());
    }
}
