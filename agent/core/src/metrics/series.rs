//! Series selectors: a name and label matchers, as in PromQL.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use regex_lite::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use super::scan::{Operator, Scan};
use crate::diagnostic::quoted;

/// No honest selector is longer, in bytes.
const LENGTH_LIMIT: usize = 1024;
/// What one pattern may become, in bytes.
const PATTERN_LIMIT: usize = 256 << 10;

/// A selector of series, such as `http_requests_total{code=~"5.."}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Series(String);

impl FromStr for Series {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let told = |why: String| {
            format!("{} is not a series selector: {why}; write name{{label=~\"pattern\"}}", quoted(text))
        };
        Matcher::read(text).map(|_| Series(text.trim().to_owned())).map_err(told)
    }
}

impl TryFrom<String> for Series {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Series> for String {
    fn from(series: Series) -> String {
        series.0
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Series {
    /// The metric's name.
    pub(crate) fn name(&self) -> Option<String> {
        self.matcher().map(|matcher| matcher.name)
    }

    /// What decides whether a series is meant.
    pub(super) fn matcher(&self) -> Option<Matcher> {
        // It was read once before.
        Matcher::read(&self.0).ok()
    }
}

/// A selector with its patterns compiled.
#[derive(Clone, Debug)]
pub(super) struct Matcher {
    name: String,
    labels: Vec<(String, bool, Test)>,
}

#[derive(Clone, Debug)]
enum Test {
    Text(String),
    Pattern(Regex),
}

impl Matcher {
    fn read(text: &str) -> Result<Self, String> {
        if text.len() > LENGTH_LIMIT {
            return Err(format!("it is longer than {LENGTH_LIMIT} bytes"));
        }
        let mut scan = Scan(text.trim());
        let bare = scan.bare_name();
        let braces = scan.braces()?;
        if !scan.0.trim().is_empty() {
            return Err(format!("{} is not allowed: functions and ranges are not supported", quoted(scan.0)));
        }
        let name = match braces.name {
            Some(name) if bare.is_empty() => name,
            None if !bare.is_empty() => Cow::Borrowed(bare),
            _ => return Err("it must have exactly one metric name".to_owned()),
        };
        let labels = braces.labels.into_iter().map(|(label, operator, value)| {
            let test = match operator {
                Operator::Is | Operator::IsNot => Test::Text(value.into_owned()),
                Operator::Matches | Operator::MatchesNot => Test::Pattern(pattern(&value)?),
            };
            let wanted = matches!(operator, Operator::Is | Operator::Matches);
            Ok((label.into_owned(), wanted, test))
        });
        Ok(Matcher { name: name.into_owned(), labels: labels.collect::<Result<_, String>>()? })
    }

    /// Whether the series of this name and these labels is meant. A label that isn't there is an empty one.
    pub(super) fn fits(&self, name: &str, labels: &[(Cow<'_, str>, Cow<'_, str>)]) -> bool {
        self.name == name
            && self.labels.iter().all(|(label, wanted, test)| {
                let value = labels.iter().find(|(name, _)| name == label).map_or("", |(_, value)| value);
                let fits = match test {
                    Test::Text(text) => text == value,
                    Test::Pattern(pattern) => pattern.is_match(value),
                };
                fits == *wanted
            })
    }
}

/// A pattern that must fit all of a value.
fn pattern(text: &str) -> Result<Regex, String> {
    let build = |text: &str| {
        let built = RegexBuilder::new(text).size_limit(PATTERN_LIMIT).build();
        built.map_err(|error| format!("{} is not a regular expression: {error}", quoted(text)))
    };
    // By itself first: no bracket of its own may close ours.
    build(text)?;
    build(&format!("^(?s:{text})$"))
}
