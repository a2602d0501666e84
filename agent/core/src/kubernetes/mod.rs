//! What is the same in every Kubernetes cluster, and so can be checked before anything is sent.

pub mod images;
pub(crate) mod schema;
mod size;

pub use size::{DATA_LIMIT, OBJECT_LIMIT, too_large, too_much_data};
