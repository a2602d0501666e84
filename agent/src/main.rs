//! The one binary that Holdfast is.

fn main() {}
