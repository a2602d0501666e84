//! Standard output and error. A reader that goes away early (`holdfast events | head`) is no error.

use std::io::{self, Write};

use serde::Serialize;

/// Prints text and a line's end.
pub(super) fn print(text: &str) {
    let _ = try_print(text);
}

/// The same; `false` when nobody reads any more.
pub(super) fn try_print(text: &str) -> bool {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush()).is_ok()
}

/// Prints a value as JSON for scripts, indented for whoever looks.
pub(super) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Prints to standard error. Each line may quote foreign text, so nothing in it reaches the terminal.
pub(super) fn print_error(text: &str) {
    let mut out = io::stderr().lock();
    for line in text.lines() {
        let _ = writeln!(out, "{}", holdfast_core::report::text::printable(line));
    }
}
