//! Diagnostics: what is wrong in a repository, and where. Every reader of documents collects them all
//! before it gives up, so that a person sees every error at once.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A place in a file, both counted from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

impl Position {
    /// The beginning of a file: what is said of the file as a whole points here.
    pub const START: Position = Position { line: 1, column: 1 };
}

/// One thing that is wrong, written `file:line:column: message (hint)`. Sorts by place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Diagnostic {
    /// The file's path in the repository, with `/` between its parts.
    pub file: String,
    /// Counted from 1.
    pub line: u32,
    /// Counted from 1, in characters.
    pub column: u32,
    /// What is wrong, to what, and why.
    pub message: String,
    /// What to do about it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Diagnostic {
    /// Something wrong at a place in a file.
    pub fn new(file: impl Into<String>, at: Position, message: impl Into<String>) -> Self {
        Diagnostic {
            file: file.into(),
            line: at.line,
            column: at.column,
            message: message.into(),
            hint: None,
        }
    }

    /// Something wrong with a file as a whole.
    pub fn of_file(file: impl Into<String>, message: impl Into<String>) -> Self {
        Diagnostic::new(file, Position::START, message)
    }

    /// Says as well what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// In the order of files and lines, each said once.
pub fn sorted(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    diagnostics.sort();
    diagnostics.dedup();
    diagnostics
}

/// All of them in one text, one a line.
pub fn to_text(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The name of `known` that is nearest to `text`, if one is near enough to be what was meant.
pub fn nearest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Longer texts are never near, and comparing them costs the product of their lengths.
    if text.len() > 100 {
        return None;
    }
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&text.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .min()
        .map(|(_, name)| name)
}

/// `text` as it may stand in a message: on one line and not too long.
pub fn quoted(text: &str) -> String {
    let short: String = text.chars().take(80).collect();
    if short.len() < text.len() { format!("{short:?}…") } else { format!("{short:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_reads_as_editors_expect_it() {
        let at = Position { line: 3, column: 7 };
        let diagnostic = Diagnostic::new("holdfast.yaml", at, "unknown field \"vlaues\"").hint("try values");
        assert_eq!(diagnostic.to_string(), "holdfast.yaml:3:7: unknown field \"vlaues\" (try values)");
    }

    #[test]
    fn only_a_name_that_may_have_been_meant_is_offered() {
        let known = ["values", "apps", "dependsOn"];
        assert_eq!(nearest("vlaues", known), Some("values"));
        assert_eq!(nearest("dependson", known), Some("dependsOn"));
        assert_eq!(nearest("zebra", known), None);
        assert_eq!(nearest(&"x".repeat(10_000_000), known), None);
    }
}
