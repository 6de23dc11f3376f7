//! Images in registries: what they are called, and how they are fetched.

pub mod reference;
