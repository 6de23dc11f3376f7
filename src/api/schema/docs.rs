//! Descriptions of the built-in types and their fields: the second part of the asset, decoded for
//! the making of a document and dropped with it.

use super::{TypeId, load};

/// Descriptions, in the order of the types and of their fields.
#[derive(Debug, Default)]
pub struct Docs {
    types: Vec<(Box<str>, Vec<Box<str>>)>,
}

/// Decodes the descriptions of the built-in types. This takes milliseconds and a few MiB.
pub fn docs() -> Docs {
    let line = load::part(1);
    // The asset is a part of the program; a test reads it whole.
    let types = serde_json::from_slice(&line).unwrap_or_default();
    Docs { types }
}

impl Docs {
    /// The description of a type; empty where there is none.
    pub fn of(&self, ty: TypeId) -> &str {
        self.types.get(ty.index()).map_or("", |(text, _)| text)
    }

    /// The descriptions of a type's fields, in the order of the fields.
    pub fn fields(&self, ty: TypeId) -> &[Box<str>] {
        self.types
            .get(ty.index())
            .map_or(&[], |(_, texts)| texts.as_slice())
    }
}
