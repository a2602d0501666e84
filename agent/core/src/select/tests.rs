//! What runs on a box, and what an error in a document holds.
