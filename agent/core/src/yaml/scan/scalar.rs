//! The scanner's scalars: blocks, quoted text and plain text, with their line breaks folded.

use super::cursor::{Cursor, is_break};
use crate::yaml::parse::Fault;

/// Line breaks, of which the first may become a space.
#[derive(Default)]
struct Breaks {
    first: Option<char>,
    others: String,
}

impl Breaks {
    fn add(&mut self, c: char) {
        match self.first {
            None => self.first = Some(c),
            Some(_) => self.others.push(c),
        }
    }

    /// One break between two lines is a space, and of several the first is none.
    fn fold_into(&mut self, text: &mut String) {
        match self.first.take() {
            Some('\n') if self.others.is_empty() => text.push(' '),
            Some('\n') | None => {}
            Some(c) => text.push(c),
        }
        text.push_str(&std::mem::take(&mut self.others));
    }
}

/// Text behind `|` or `>`, in a block that is indented by `parent`.
pub(super) fn block(cursor: &mut Cursor<'_>, parent: isize, literal: bool) -> Result<String, Fault> {
    let start = cursor.position();
    cursor.next();
    let (mut keep, mut digit) = (None, None);
    for _ in 0..2 {
        match cursor.peek() {
            Some(sign @ ('+' | '-')) if keep.is_none() => keep = Some(sign == '+'),
            Some('0') if digit.is_none() => return Err(Fault::new(start, "text can't be indented by 0")),
            Some(c @ '1'..='9') if digit.is_none() => digit = c.to_digit(10),
            _ => break,
        }
        cursor.next();
    }
    cursor.skip_while(|c| matches!(c, ' ' | '\t'));
    cursor.skip_comment();
    if !cursor.at_line_end() {
        return Err(Fault::new(
            start,
            "nothing may follow | or > on the same line: if this is not a block of text, quote it",
        ));
    }
    cursor.take_break();
    let parent = usize::try_from(parent).ok();
    let mut indent =
        digit.and_then(|digit| usize::try_from(digit).ok()).map(|digit| parent.unwrap_or(0) + digit);
    let least = parent.map_or(1, |parent| parent + 1);
    let mut text = String::new();
    let mut breaks = Breaks::default();
    let mut trailing = String::new();
    let column = block_breaks(cursor, &mut indent, least, &mut trailing)?;
    let mut after_blank = false;
    while cursor.column() == column && !cursor.at_end() {
        let blank = cursor.at_blank();
        match breaks.first.take() {
            Some('\n') if !literal && !after_blank && !blank => {
                if trailing.is_empty() {
                    text.push(' ');
                }
            }
            first => text.extend(first),
        }
        text.push_str(&std::mem::take(&mut trailing));
        after_blank = blank;
        cursor.take_while(&mut text, |c| !is_break(c));
        breaks.first = cursor.take_break();
        block_breaks(cursor, &mut indent, least, &mut trailing)?;
    }
    if keep != Some(false) {
        text.extend(breaks.first);
    }
    if keep == Some(true) {
        text.push_str(&trailing);
    }
    Ok(text)
}

/// Empty lines and the indentation before a line of a block; the first line that isn't empty says how deep it is.
fn block_breaks(
    cursor: &mut Cursor<'_>,
    indent: &mut Option<usize>,
    least: usize,
    breaks: &mut String,
) -> Result<usize, Fault> {
    let mut deepest = 0;
    loop {
        while cursor.is(' ') && indent.is_none_or(|indent| cursor.column() < indent) {
            cursor.next();
        }
        deepest = deepest.max(cursor.column());
        if cursor.is('\t') && indent.is_none_or(|indent| cursor.column() < indent) {
            return Err(Fault::new(cursor.position(), "a tab can't indent text: use spaces"));
        }
        match cursor.take_break() {
            Some(c) => breaks.push(c),
            None => break,
        }
    }
    Ok(*indent.get_or_insert(deepest.max(least)))
}

/// Text in quotes, which are `quote`.
pub(super) fn quoted(cursor: &mut Cursor<'_>, quote: char) -> Result<String, Fault> {
    let start = cursor.position();
    cursor.next();
    let mut text = String::new();
    loop {
        if cursor.at_marker() {
            return Err(Fault::new(start, "the closing quote is missing before the end of the document"));
        }
        let mut over_lines = false;
        while let Some(c) = cursor.peek().filter(|_| !cursor.gap_ahead(0)) {
            if quote == '\'' && c == '\'' && cursor.ahead(1) == Some('\'') {
                text.push('\'');
                cursor.skip(2);
            } else if c == quote {
                cursor.next();
                return Ok(text);
            } else if quote == '"' && c == '\\' {
                cursor.next();
                if cursor.take_break().is_some() {
                    over_lines = true;
                    break;
                }
                text.push(escaped(cursor)?);
            } else {
                text.push(c);
                cursor.next();
            }
        }
        if cursor.at_end() {
            return Err(Fault::new(start, "the closing quote is missing"));
        }
        blanks(cursor, &mut text, over_lines, |_| Ok(()))?;
    }
}

/// Blanks and line breaks between words. With `over_lines` a break was there already, and left nothing.
fn blanks(
    cursor: &mut Cursor<'_>,
    text: &mut String,
    mut over_lines: bool,
    check: impl Fn(&Cursor<'_>) -> Result<(), Fault>,
) -> Result<bool, Fault> {
    let before = text.len();
    let escaped = over_lines;
    let mut breaks = Breaks::default();
    loop {
        if let Some(c) = cursor.peek().filter(|_| cursor.at_blank()) {
            if over_lines {
                check(cursor)?;
            } else {
                text.push(c);
            }
            cursor.next();
        } else if let Some(c) = cursor.take_break() {
            if !over_lines {
                text.truncate(before);
            }
            over_lines = true;
            match escaped {
                true => breaks.others.push(c),
                false => breaks.add(c),
            }
        } else {
            break;
        }
    }
    breaks.fold_into(text);
    Ok(over_lines)
}

/// What stands for the characters behind a backslash.
fn escaped(cursor: &mut Cursor<'_>) -> Result<char, Fault> {
    let at = cursor.position();
    let c = cursor.next();
    let digits = match c {
        Some('0') => return Ok('\0'),
        Some('a') => return Ok('\u{7}'),
        Some('b') => return Ok('\u{8}'),
        Some('t' | '\t') => return Ok('\t'),
        Some('n') => return Ok('\n'),
        Some('v') => return Ok('\u{b}'),
        Some('f') => return Ok('\u{c}'),
        Some('r') => return Ok('\r'),
        Some('e') => return Ok('\u{1b}'),
        Some(c @ (' ' | '"' | '\'' | '\\')) => return Ok(c),
        Some('N') => return Ok('\u{85}'),
        Some('_') => return Ok('\u{a0}'),
        Some('L') => return Ok('\u{2028}'),
        Some('P') => return Ok('\u{2029}'),
        Some('x') => 2,
        Some('u') => 4,
        Some('U') => 8,
        _ => {
            let message = "unknown escape: write \\\\ for a backslash, or use single quotes";
            return Err(Fault::new(at, message));
        }
    };
    let mut number = 0u32;
    for _ in 0..digits {
        let digit = cursor.next().and_then(|c| c.to_digit(16));
        let shifted = number.checked_mul(16).zip(digit).map(|(number, digit)| number + digit);
        number =
            shifted.ok_or_else(|| Fault::new(at, &format!("{digits} hexadecimal digits must follow")))?;
    }
    char::from_u32(number).ok_or_else(|| Fault::new(at, "there is no such character"))
}

/// Text without quotes in a block that is indented by `parent`; and whether a line ended behind it.
pub(super) fn plain(cursor: &mut Cursor<'_>, parent: isize, flow: bool) -> Result<(String, bool), Fault> {
    let start = cursor.position();
    let least = usize::try_from(parent + 1).unwrap_or(0);
    let mut text = String::new();
    // How much of it is text: blanks behind the last word are none.
    let (mut end, mut over_lines) = (0, false);
    while !cursor.at_marker() && !cursor.is('#') {
        let before = cursor.mark().index;
        while let Some(c) = cursor.peek().filter(|_| !cursor.gap_ahead(0)) {
            let ends = (c == ':' && cursor.gap_ahead(1)) || (flow && ",?[]{}".contains(c));
            if ends {
                break;
            }
            text.push(c);
            cursor.next();
        }
        if cursor.mark().index > before {
            (end, over_lines) = (text.len(), false);
        }
        if !cursor.at_blank() && !cursor.at_break() {
            break;
        }
        over_lines =
            blanks(cursor, &mut text, false, |cursor| match cursor.is('\t') && cursor.column() < least {
                true => Err(Fault::new(start, "a tab can't indent text: use spaces")),
                false => Ok(()),
            })?;
        if !flow && cursor.column() < least {
            break;
        }
    }
    text.truncate(end);
    Ok((text, over_lines))
}
