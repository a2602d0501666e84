//! The text of a Prometheus page, 0.0.4 and OpenMetrics: samples, line by line, keeping none of the text. A line
//! that is none is an error for the whole page, as Prometheus has it.
//!
//! Native histograms are in the text only as OpenMetrics 2.0 writes them: one value in braces.

use std::borrow::Cow;

use super::native::{Native, Spans};
use super::scan::{Operator, Scan};

/// The largest page, in bytes.
pub const PAGE_LIMIT: usize = 4 << 20;
/// The most lines of a page.
const LINES_LIMIT: usize = 100_000;

/// Why a page can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the page: {why}")]
pub struct BadPage {
    /// Which line, from 1 on.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

/// A label's name and its value.
pub(super) type Label<'a> = (Cow<'a, str>, Cow<'a, str>);

/// One sample.
#[derive(Debug)]
pub(super) struct Sample<'a> {
    pub(super) line: usize,
    pub(super) name: Cow<'a, str>,
    pub(super) labels: Vec<Label<'a>>,
    pub(super) value: Value,
}

/// What a sample says.
#[derive(Debug)]
pub(super) enum Value {
    Number(f64),
    /// What stood in braces.
    Composite(Composite),
}

/// A histogram, or a summary, in one value.
#[derive(Debug, Default)]
pub(super) struct Composite {
    pub(super) count: Option<f64>,
    /// Upper bounds, and how many are below.
    pub(super) buckets: Vec<(f64, f64)>,
    pub(super) native: Option<Native>,
}

/// The samples of a page.
pub(super) fn samples(page: &str) -> impl Iterator<Item = Result<Sample<'_>, BadPage>> {
    page.split('\n').enumerate().filter_map(|(index, line)| {
        let bad = |why| BadPage { line: index + 1, why };
        let line = line.trim_matches(['\r', ' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        if index >= LINES_LIMIT {
            return Some(Err(bad(format!("a page has at most {LINES_LIMIT} lines"))));
        }
        Some(sample(line, index + 1).map_err(bad))
    })
}

fn sample(line: &str, number_of_line: usize) -> Result<Sample<'_>, String> {
    let mut scan = Scan(line);
    let bare = scan.bare_name();
    scan.blanks();
    // Between a name and a value in braces there is a blank, and between a name and its labels none.
    let has_labels =
        scan.0.starts_with('{') && (bare.is_empty() || !line[bare.len()..].starts_with([' ', '\t']));
    let braces = if has_labels || !is_composite(scan.0) { scan.braces()? } else { Default::default() };
    let name = match braces.name {
        Some(name) if bare.is_empty() => name,
        None if !bare.is_empty() => Cow::Borrowed(bare),
        _ => return Err("it does not begin with the name of a metric".to_owned()),
    };
    let labels = braces.labels.into_iter().map(|(label, operator, value)| match operator {
        Operator::Is => Ok((label, value)),
        _ => Err(format!("the label {label} has no '='")),
    });
    let labels = labels.collect::<Result<_, String>>()?;
    if scan.0.len() == line.len() - bare.len() {
        return Err(format!("{name} is followed by neither a space nor a label"));
    }
    scan.blanks();
    // What follows a value, a time or an exemplar, is not of interest.
    let value = match scan.0.strip_prefix('{').map(|rest| rest.split_once('}')) {
        Some(Some((fields, _))) => Value::Composite(composite(fields)?),
        Some(None) => return Err("a closing brace is missing after a value".to_owned()),
        None => Value::Number(number(scan.0.split([' ', '\t']).next().unwrap_or_default())?),
    };
    Ok(Sample { line: number_of_line, name, labels, value })
}

/// Whether what is in these braces is a value: `{count:…`, where labels have `=`.
fn is_composite(text: &str) -> bool {
    let inside = text.strip_prefix('{').unwrap_or_default();
    inside.find(':').is_some_and(|colon| inside[..colon].bytes().all(|byte| byte.is_ascii_lowercase()))
}

fn number(text: &str) -> Result<f64, String> {
    let short: String = text.chars().take(40).collect();
    text.parse().map_err(|_| format!("{short:?} is not a number"))
}

fn whole<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    let short: String = text.chars().take(40).collect();
    text.strip_prefix('+').unwrap_or(text).parse().map_err(|_| format!("{short:?} is not a whole number"))
}

/// The parts of a list in square brackets.
fn list<T>(text: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    let inside = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let inside = inside.ok_or_else(|| "a list in a value is not in square brackets".to_owned())?;
    inside.split(',').filter(|part| !part.is_empty()).map(read).collect()
}

/// Two values with a colon between them.
fn pair<A, B>(
    text: &str,
    first: impl Fn(&str) -> Result<A, String>,
    second: impl Fn(&str) -> Result<B, String>,
) -> Result<(A, B), String> {
    let (left, right) = text.split_once(':').ok_or("a pair in a value has no ':'")?;
    Ok((first(left)?, second(right)?))
}

/// Native buckets as they are written.
#[derive(Default)]
struct Written {
    schema: Option<i64>,
    zero_threshold: f64,
    zero: f64,
    below: Vec<f64>,
    spans: Spans,
    counts: Vec<f64>,
}

fn composite(fields: &str) -> Result<Composite, String> {
    let mut composite = Composite::default();
    let mut written = Written::default();
    let mut rest = fields;
    while !rest.is_empty() {
        let (name, after) = rest.split_once(':').ok_or("a field of a value has no ':'")?;
        // A list holds commas of its own.
        let from = if after.starts_with('[') { after.find(']').unwrap_or(0) } else { 0 };
        let end = after[from..].find(',').map_or(after.len(), |comma| from + comma);
        field(name, &after[..end], &mut composite, &mut written)?;
        rest = after.get(end + 1..).unwrap_or_default();
    }
    if let Some(schema) = written.schema {
        let below = written.below.iter().sum();
        let native = Native::new(schema, written.zero_threshold, written.zero, below)?;
        composite.native = Some(native.with(&written.spans, &written.counts)?);
    }
    Ok(composite)
}

fn field(name: &str, text: &str, composite: &mut Composite, written: &mut Written) -> Result<(), String> {
    match name {
        "count" => composite.count = Some(number(text)?),
        "bucket" => composite.buckets = list(text, |text| pair(text, number, number))?,
        "schema" => written.schema = Some(whole(text)?),
        "zero_threshold" => written.zero_threshold = number(text)?,
        "zero_count" => written.zero = number(text)?,
        "positive_spans" => written.spans = list(text, |text| pair(text, whole, whole))?,
        "positive_buckets" => written.counts = list(text, number)?,
        "positive_deltas" => written.counts = summed(&list(text, number)?),
        "negative_buckets" => written.below = list(text, number)?,
        "negative_deltas" => written.below = summed(&list(text, number)?),
        // The sum, the quantiles of a summary, and what is yet to come.
        _ => {}
    }
    Ok(())
}

/// Counts that were written as differences.
fn summed(deltas: &[f64]) -> Vec<f64> {
    let add = |sum: &mut f64, delta: &f64| {
        *sum += delta;
        Some(*sum)
    };
    deltas.iter().scan(0.0, add).collect()
}
