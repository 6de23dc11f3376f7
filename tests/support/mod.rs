//! What the tests of whole programs share: hosts made of network namespaces, programs in them, and
//! waiting for conditions.

pub mod hosts;
pub mod program;
pub mod wait;
