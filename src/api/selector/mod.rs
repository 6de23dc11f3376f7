//! Label and field selectors: parsed once, printed in one form, matched often.

pub mod field;
pub mod label;
mod label_parser;
pub mod node;
