//! What is wrong with an `agent.toml`: where, what, and what to write instead.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One thing that is wrong in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1; none if it concerns the whole file.
    pub line: Option<usize>,
    /// The column in characters, from 1.
    pub column: Option<usize>,
    /// What is wrong, and what to write instead.
    pub message: String,
}

/// The configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read the configuration {path}: {cause}; name another file with --config")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The file says something that can't be meant.
    #[error("{0}")]
    Invalid(Problems),
}

/// Everything that is wrong in one file.
#[derive(Debug)]
pub struct Problems {
    /// The file.
    pub path: PathBuf,
    /// In the order of the file; never empty.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}", self.path.display())?;
            if let Some(line) = problem.line {
                write!(f, ":{line}")?;
            }
            if let Some(column) = problem.column {
                write!(f, ":{column}")?;
            }
            write!(f, ": {}", problem.message)?;
        }
        Ok(())
    }
}

impl Problem {
    /// A problem at a place in `text`.
    pub(super) fn at(text: &str, span: Option<Range<usize>>, message: impl Into<String>) -> Self {
        let place = span.map(|span| position(text, span.start));
        Problem { line: place.map(|p| p.0), column: place.map(|p| p.1), message: message.into() }
    }

    /// What the TOML reader or serde found, in our words where ours are better.
    pub(super) fn of_toml(text: &str, error: &toml::de::Error) -> Self {
        let message = error.message();
        Problem::at(text, error.span(), unknown_name(message).unwrap_or_else(|| message.replace('\n', ", ")))
    }
}

/// Line and column, from 1, of the byte at `offset`.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line, column)
}

/// serde says "unknown field `a`, expected one of `b`, `c`" (or "unknown variant"): names the nearest.
fn unknown_name(message: &str) -> Option<String> {
    let (what, rest) = [("key", "unknown field "), ("value", "unknown variant ")]
        .into_iter()
        .find_map(|(what, start)| Some((what, message.strip_prefix(start)?)))?;
    let mut quoted = rest.split('`').skip(1).step_by(2);
    let wrong = quoted.next()?;
    let known: Vec<&str> = quoted.collect();
    let nearest = known
        .iter()
        .filter(|_| wrong.len() <= 100)
        .map(|name| (strsim::damerau_levenshtein(wrong, name), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 3)
        .min();
    let known_list = known.join(", ");
    Some(match (nearest, known.is_empty()) {
        (_, true) => format!("unknown {what} \"{wrong}\": nothing is allowed here"),
        (Some((_, name)), _) => {
            format!("unknown {what} \"{wrong}\": did you mean \"{name}\"? Allowed here: {known_list}")
        }
        (None, _) => format!("unknown {what} \"{wrong}\". Allowed here: {known_list}"),
    })
}

/// Collects problems while a file is checked.
pub(super) struct Checker<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
    pub(super) problems: Vec<Problem>,
}

impl Checker<'_> {
    pub(super) fn report(&mut self, span: Option<Range<usize>>, message: impl Into<String>) {
        self.problems.push(Problem::at(self.text, span, message));
    }

    pub(super) fn finish(mut self) -> Result<(), ConfigError> {
        if self.problems.is_empty() {
            return Ok(());
        }
        self.problems.sort_by_key(|problem| (problem.line, problem.column));
        Err(ConfigError::Invalid(Problems { path: self.path.to_owned(), problems: self.problems }))
    }
}
