//! A file of manifests as kubectl splits it: what is between lines of `---` is one document.

use crate::diagnostic::{Diagnostic, Position, quoted};

/// What is parsed by itself.
pub(super) struct Chunk<'a> {
    pub(super) text: &'a str,
    /// How many lines stand before it in the file.
    pub(super) lines_before: u32,
}

/// The documents in `text`. kubectl knows no text behind `---`, and would leave out what follows `...`; the latter is
/// for whoever parses the chunk.
pub(super) fn chunks<'a>(file: &str, text: &'a str) -> Result<Vec<Chunk<'a>>, Diagnostic> {
    let mut chunks = Vec::new();
    let mut chunk = Chunk { text: "", lines_before: 0 };
    let (mut start, mut end) = (0, 0);
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        if let Some(rest) = line.strip_prefix("---") {
            let rest = rest.trim();
            if !rest.is_empty() && !rest.starts_with('#') {
                let message = format!("nothing may follow --- on the same line, found {}", quoted(rest));
                return Err(Diagnostic::new(file, Position { line: number, column: 4 }, message)
                    .hint("put it on a line of its own"));
            }
            // One that begins a document is a part of it.
            if start < end {
                chunk.text = &text[start..end];
                chunks.push(chunk);
                start = end + line.len();
                chunk = Chunk { text: "", lines_before: number };
            }
        }
        end += line.len();
    }
    chunk.text = &text[start..end];
    chunks.push(chunk);
    Ok(chunks)
}
