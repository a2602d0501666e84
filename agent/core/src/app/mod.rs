//! The state machine of one app.
