//! The small pieces that pages of metrics and selectors of series are both made of: names, and labels in braces.

use std::borrow::Cow;

/// More labels than any honest series has.
const LABELS_LIMIT: usize = 64;

/// How a label is compared. A page has only `=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Is,
    IsNot,
    Matches,
    MatchesNot,
}

/// What stands in braces.
#[derive(Debug, Default)]
pub(super) struct Braces<'a> {
    /// A name that had to be quoted stands there too.
    pub(super) name: Option<Cow<'a, str>>,
    pub(super) labels: Vec<(Cow<'a, str>, Operator, Cow<'a, str>)>,
}

/// What is left to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scan<'a>(pub(super) &'a str);

impl<'a> Scan<'a> {
    pub(super) fn eat(&mut self, token: &str) -> bool {
        let rest = self.0.strip_prefix(token);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    pub(super) fn blanks(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t']);
    }

    /// A name that needs no quotes; empty if there is none.
    pub(super) fn bare_name(&mut self) -> &'a str {
        let is_part = |(at, c): &(usize, char)| {
            c.is_ascii_alphabetic() || matches!(c, '_' | ':') || (*at > 0 && c.is_ascii_digit())
        };
        let length = self.0.char_indices().take_while(is_part).count();
        let (name, rest) = self.0.split_at(length);
        self.0 = rest;
        name
    }

    /// A text in quotes, if one begins here.
    fn quoted(&mut self) -> Result<Option<Cow<'a, str>>, String> {
        let Some(quote) = self.0.chars().next().filter(|c| matches!(c, '"' | '\'')) else { return Ok(None) };
        let text = &self.0[1..];
        let mut escaped = false;
        let end = text.char_indices().find(|(_, c)| {
            let ends = *c == quote && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        let (end, _) = end.ok_or("a closing quote is missing")?;
        self.0 = &text[end + 1..];
        let text = &text[..end];
        Ok(Some(if text.contains('\\') { Cow::Owned(unescaped(text)) } else { Cow::Borrowed(text) }))
    }

    fn operator(&mut self) -> Option<Operator> {
        let operators = [
            ("=~", Operator::Matches),
            ("!~", Operator::MatchesNot),
            ("!=", Operator::IsNot),
            ("=", Operator::Is),
        ];
        operators.into_iter().find(|(token, _)| self.eat(token)).map(|(_, operator)| operator)
    }

    /// What stands in braces, if they begin here.
    pub(super) fn braces(&mut self) -> Result<Braces<'a>, String> {
        let mut found = Braces::default();
        if !self.eat("{") {
            return Ok(found);
        }
        loop {
            self.blanks();
            if self.eat("}") {
                return Ok(found);
            }
            if found.labels.len() >= LABELS_LIMIT {
                return Err(format!("it has more than {LABELS_LIMIT} labels"));
            }
            self.label(&mut found)?;
            self.blanks();
            if !self.eat(",") && !self.0.starts_with('}') {
                return Err("a label is not followed by ',' or '}'".to_owned());
            }
        }
    }

    fn label(&mut self, found: &mut Braces<'a>) -> Result<(), String> {
        let bare = self.bare_name();
        let name = match self.quoted()? {
            Some(quoted) if bare.is_empty() => quoted,
            None if !bare.is_empty() => Cow::Borrowed(bare),
            _ => return Err("a label has no name".to_owned()),
        };
        self.blanks();
        match self.operator() {
            Some(operator) => {
                self.blanks();
                let value = self.quoted()?;
                let value = value.ok_or_else(|| format!("the value of the label {name} is not in quotes"))?;
                found.labels.push((name, operator, value));
            }
            None if bare.is_empty() && found.name.is_none() => found.name = Some(name),
            None => return Err(format!("the label {name} has no value")),
        }
        Ok(())
    }
}

/// What stands behind a backslash that means nothing is kept with it, as patterns need it.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, chars.clone().next()) {
            ('\\', Some(next @ ('\\' | '"' | '\''))) => {
                out.push(next);
                chars.next();
            }
            ('\\', Some('n')) => {
                out.push('\n');
                chars.next();
            }
            (c, _) => out.push(c),
        }
    }
    out
}
