//! Requests and answers, through [`Rest::handle`] on a store in memory.

mod admission;
mod deletes;
mod harness;
mod reads;
mod subresources;
mod writes;
