//! A place in a text: characters ahead, lines and columns.

use crate::diagnostic::Position;

/// Where the scanner is.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    rest: &'a str,
    mark: Mark,
}

/// A place without the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    /// Characters before it in the whole text.
    pub(super) index: usize,
    /// Characters before it in its line.
    pub(super) column: usize,
    line: u32,
}

/// Line breaks of YAML 1.1.
pub(super) fn is_break(c: char) -> bool {
    matches!(c, '\r' | '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

impl<'a> Cursor<'a> {
    /// At the beginning of `text`, which has `line` lines before it.
    pub(super) fn new(text: &'a str, line: u32) -> Self {
        Cursor { rest: text, mark: Mark { index: 0, column: 0, line } }
    }

    /// The character here; none at the end.
    pub(super) fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    /// The character so many behind this one.
    pub(super) fn ahead(&self, count: usize) -> Option<char> {
        self.rest.chars().nth(count)
    }

    pub(super) fn mark(&self) -> Mark {
        self.mark
    }

    pub(super) fn column(&self) -> usize {
        self.mark.column
    }

    pub(super) fn position(&self) -> Position {
        self.mark.position()
    }

    pub(super) fn is(&self, c: char) -> bool {
        self.peek() == Some(c)
    }

    pub(super) fn at_end(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn at_break(&self) -> bool {
        self.peek().is_some_and(is_break)
    }

    pub(super) fn at_blank(&self) -> bool {
        self.peek().is_some_and(is_blank)
    }

    /// Whether a line ends here, or the text.
    pub(super) fn at_line_end(&self) -> bool {
        self.peek().is_none_or(is_break)
    }

    /// Whether so many characters on there is a blank, the end of a line, or that of the text.
    pub(super) fn gap_ahead(&self, count: usize) -> bool {
        self.ahead(count).is_none_or(|c| is_blank(c) || is_break(c))
    }

    /// Whether `---` or `...` stands here and nothing else.
    pub(super) fn at_marker(&self) -> bool {
        self.mark.column == 0
            && (self.rest.starts_with("---") || self.rest.starts_with("..."))
            && self.gap_ahead(3)
    }

    /// Takes a character that breaks no line.
    pub(super) fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        self.mark.index += 1;
        self.mark.column += 1;
        Some(c)
    }

    pub(super) fn skip(&mut self, count: usize) {
        for _ in 0..count {
            self.next();
        }
    }

    pub(super) fn skip_while(&mut self, mut is: impl FnMut(char) -> bool) {
        while self.peek().is_some_and(&mut is) {
            self.next();
        }
    }

    pub(super) fn skip_comment(&mut self) {
        if self.is('#') {
            self.skip_while(|c| !is_break(c));
        }
    }

    /// Takes characters as long as they are such.
    pub(super) fn take_while(&mut self, into: &mut String, mut is: impl FnMut(char) -> bool) {
        while let Some(c) = self.peek().filter(|c| is(*c)) {
            into.push(c);
            self.next();
        }
    }

    /// Takes a line break, and what it stands for in a scalar; none if there is none.
    pub(super) fn take_break(&mut self) -> Option<char> {
        let c = self.peek().filter(|c| is_break(*c))?;
        self.next();
        if c == '\r' && self.is('\n') {
            self.next();
        }
        self.mark.line = self.mark.line.saturating_add(1);
        self.mark.column = 0;
        Some(match c {
            '\u{2028}' | '\u{2029}' => c,
            _ => '\n',
        })
    }
}

impl Mark {
    pub(super) fn position(&self) -> Position {
        let column = u32::try_from(self.column).unwrap_or(u32::MAX).saturating_add(1);
        Position { line: self.line.saturating_add(1), column }
    }
}
