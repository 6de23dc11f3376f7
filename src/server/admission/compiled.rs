//! Something made of all objects of a few resources, made anew only after one of them changed: as
//! long as nothing does, asking costs a few loads.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::server::cacher::Item;
use crate::store::Revision;

use super::Lookup;

/// Makes the value of the objects of each storage folder, in their order.
type Compile<T> = fn(&[Vec<Arc<Item>>]) -> T;

/// A value that follows objects.
pub(super) struct Compiled<T> {
    lookup: Lookup,
    storages: &'static [&'static str],
    changes: Vec<watch::Receiver<Revision>>,
    compile: Compile<T>,
    value: ArcSwapOption<Made<T>>,
    /// Held while a value is made, so that many requests after a change make one.
    making: Mutex<()>,
}

struct Made<T> {
    /// Last changes it knows of.
    changes: Vec<Revision>,
    value: Arc<T>,
}

impl<T> fmt::Debug for Compiled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Compiled").field(&self.storages).finish()
    }
}

impl<T> Compiled<T> {
    pub(super) fn new(
        lookup: &Lookup,
        storages: &'static [&'static str],
        compile: Compile<T>,
    ) -> Self {
        let changes = storages.iter().map(|storage| lookup.changes(storage));
        Self {
            lookup: lookup.clone(),
            storages,
            changes: changes.collect(),
            compile,
            value: ArcSwapOption::empty(),
            making: Mutex::new(()),
        }
    }

    /// The value of this moment.
    pub(super) fn get(&self) -> Arc<T> {
        if let Some(value) = self.current() {
            return value;
        }
        let _making = self.making.lock();
        if let Some(value) = self.current() {
            return value;
        }
        // Read before the objects: a change in between is then seen as one more change.
        let changes = self.changes.iter().map(|changes| *changes.borrow());
        let changes = changes.collect();
        let objects: Vec<_> = self.storages.iter().map(|s| self.lookup.all(s)).collect();
        let value = Arc::new((self.compile)(&objects));
        self.value.store(Some(Arc::new(Made {
            changes,
            value: Arc::clone(&value),
        })));
        value
    }

    fn current(&self) -> Option<Arc<T>> {
        let made = self.value.load();
        let made = made.as_ref()?;
        let mut now = self.changes.iter().map(|changes| *changes.borrow());
        let is_current = made.changes.iter().all(|known| now.next() == Some(*known));
        is_current.then(|| Arc::clone(&made.value))
    }
}
