//! Watches that read the history instead of being fed.
//!
//! The writer only says that there is something new ([`Hub`]); each watch ([`Cursor`]) knows how
//! far it got and reads on from there, out of memory when it keeps up and out of the backend when
//! it is behind. So there are no buffers that could fill, the writer never waits, and a watch that
//! is slower than the history is kept ends with `Compacted`, as one that starts too early does.

mod cursor;
mod hub;

pub(crate) use cursor::Cursor;
pub(crate) use hub::Hub;
