//! What Kubernetes fixes by itself, whatever the cluster: checks go by it before anything is sent.

pub mod images;
pub(crate) mod schema;
mod size;

pub use size::{DATA_LIMIT, OBJECT_LIMIT, too_large, too_much_data};
