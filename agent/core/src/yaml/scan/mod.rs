//! The scanner: from characters to tokens.
//!
//! Of YAML 1.1 and of what libyaml and its like make of it, since that is what people's tools take: YAML 1.2 refuses
//! much of it, as quoted text that goes on at its key's column. A key is known for one only by the ':' behind it, so
//! what may be one is kept back until that is clear.

mod cursor;
mod scalar;

use std::collections::VecDeque;

use self::cursor::{Cursor, Mark};
use super::parse::Fault;
use crate::diagnostic::Position;

/// How long a key without '?' may be, in characters, with its ':'.
const KEY_LIMIT: usize = 1024;

/// A token with its place.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) at: Position,
    pub(super) kind: Kind,
}

/// What a token is.
#[derive(Debug, PartialEq)]
pub(super) enum Kind {
    End,
    DocumentStart,
    DocumentEnd,
    BlockSequence,
    BlockMapping,
    BlockEnd,
    FlowSequence,
    FlowSequenceEnd,
    FlowMapping,
    FlowMappingEnd,
    BlockEntry,
    FlowEntry,
    Key,
    Value,
    Alias(String),
    Anchor(String),
    Tag(Tag),
    Scalar { text: String, plain: bool },
}

/// A tag.
#[derive(Debug, PartialEq)]
pub(super) enum Tag {
    /// `!` alone.
    NonSpecific,
    /// One of YAML's own: what follows `!!`.
    Own(String),
    /// Any other, as it is written.
    Other(String),
}

/// A token that may turn out to be a key.
struct SimpleKey {
    /// It is one or an error: nothing else may stand there.
    required: bool,
    /// Its token, counted from the first of all.
    number: usize,
    mark: Mark,
}

pub(super) struct Scanner<'a> {
    cursor: Cursor<'a>,
    tokens: VecDeque<Token>,
    /// How many tokens were taken.
    taken: usize,
    /// The column of the block that is open, and of those around it.
    indent: isize,
    indents: Vec<isize>,
    /// What may be a key, in the block and in each flow collection.
    keys: Vec<Option<SimpleKey>>,
    /// Whether a key may begin here.
    key_allowed: bool,
    /// Nothing comes any more.
    ended: bool,
}

impl<'a> Scanner<'a> {
    /// Reads `text`, which has `line` lines before it.
    pub(super) fn new(text: &'a str, line: u32) -> Self {
        Scanner {
            cursor: Cursor::new(text, line),
            tokens: VecDeque::new(),
            taken: 0,
            indent: -1,
            indents: Vec::new(),
            keys: vec![None],
            key_allowed: true,
            ended: false,
        }
    }

    /// The next token, which stays. After the end there are only ends.
    pub(super) fn peek(&mut self) -> Result<&Token, Fault> {
        while self.tokens.is_empty() || (!self.ended && self.head_may_be_key()?) {
            self.fetch()?;
        }
        // There is one.
        self.tokens.front().ok_or_else(|| Fault::new(self.cursor.position(), "there is nothing"))
    }

    /// The next token.
    pub(super) fn take(&mut self) -> Result<Token, Fault> {
        self.peek()?;
        self.taken += 1;
        let at = self.cursor.position();
        self.tokens.pop_front().ok_or_else(|| Fault::new(at, "there is nothing"))
    }

    /// Whether the first token may yet become a key, which would put others before it.
    fn head_may_be_key(&mut self) -> Result<bool, Fault> {
        let head = self.taken;
        for level in 0..self.keys.len() {
            if self.keys[level].as_ref().is_some_and(|key| key.number == head) {
                return self.key_is_possible(level);
            }
        }
        Ok(false)
    }

    /// Whether what may be a key still may: it must end in its line and within a limit.
    fn key_is_possible(&mut self, level: usize) -> Result<bool, Fault> {
        let Some(Some(key)) = self.keys.get(level) else { return Ok(false) };
        let here = self.cursor.position();
        let over =
            key.mark.position().line < here.line || key.mark.index + KEY_LIMIT < self.cursor.mark().index;
        if over && key.required {
            return Err(no_colon(key));
        }
        if over {
            self.keys[level] = None;
        }
        Ok(!over)
    }

    fn fault(&self, message: &str) -> Fault {
        Fault::new(self.cursor.position(), message)
    }

    fn in_flow(&self) -> bool {
        self.keys.len() > 1
    }

    fn column(&self) -> isize {
        isize::try_from(self.cursor.column()).unwrap_or(isize::MAX)
    }

    fn push(&mut self, at: Position, kind: Kind) {
        self.tokens.push_back(Token { at, kind });
    }

    /// Scans one token or more.
    fn fetch(&mut self) -> Result<(), Fault> {
        self.skip_to_token();
        self.unroll(self.column());
        let at = self.cursor.position();
        let Some(c) = self.cursor.peek() else { return self.end(at) };
        if self.cursor.column() == 0 && c == '%' {
            return Err(self.fault("directives (%) are not supported"));
        }
        if self.cursor.at_marker() {
            return self.marker(at, if c == '-' { Kind::DocumentStart } else { Kind::DocumentEnd });
        }
        let flow = self.in_flow();
        let gap = self.cursor.gap_ahead(1);
        match c {
            '[' => self.open(at, Kind::FlowSequence),
            '{' => self.open(at, Kind::FlowMapping),
            ']' => self.close(at, Kind::FlowSequenceEnd),
            '}' => self.close(at, Kind::FlowMappingEnd),
            ',' => {
                self.drop_key()?;
                self.key_allowed = true;
                self.indicator(at, Kind::FlowEntry);
                Ok(())
            }
            '-' if gap => self.block_entry(at),
            '?' if flow || gap => self.explicit_key(at),
            ':' if flow || gap => self.value(at),
            '*' | '&' => self.anchor(at, c),
            '!' => self.tag(at),
            '|' | '>' if !flow => {
                self.drop_key()?;
                self.key_allowed = true;
                let text = scalar::block(&mut self.cursor, self.indent, c == '|')?;
                self.push(at, Kind::Scalar { text, plain: false });
                Ok(())
            }
            '\'' | '"' => {
                self.save_key()?;
                self.key_allowed = false;
                let text = scalar::quoted(&mut self.cursor, c)?;
                self.push(at, Kind::Scalar { text, plain: false });
                Ok(())
            }
            _ if self.begins_plain(c, flow) => {
                self.save_key()?;
                self.key_allowed = false;
                let (text, over_lines) = scalar::plain(&mut self.cursor, self.indent, flow)?;
                self.key_allowed |= over_lines;
                self.push(at, Kind::Scalar { text, plain: true });
                Ok(())
            }
            '\t' => Err(self.fault("tabs can't be used for indentation: indent with spaces")),
            _ => Err(self.fault(&format!("no value can begin with {c:?}: quote it"))),
        }
    }

    fn begins_plain(&self, c: char, flow: bool) -> bool {
        let next = self.cursor.ahead(1);
        match c {
            '-' => !matches!(next, Some(' ' | '\t')),
            '?' | ':' => !flow && !self.cursor.gap_ahead(1),
            _ => !" \t,[]{}#&*!|>'\"%@`".contains(c),
        }
    }

    /// Spaces, comments and line breaks. Tabs as well, where they can't be taken for indentation.
    fn skip_to_token(&mut self) {
        loop {
            if self.cursor.column() == 0 && self.cursor.is('\u{feff}') {
                self.cursor.next();
            }
            let tabs = self.in_flow() || !self.key_allowed;
            self.cursor.skip_while(|c| c == ' ' || (tabs && c == '\t'));
            self.cursor.skip_comment();
            if self.cursor.take_break().is_none() {
                return;
            }
            if !self.in_flow() {
                self.key_allowed = true;
            }
        }
    }

    fn end(&mut self, at: Position) -> Result<(), Fault> {
        self.unroll(-1);
        self.drop_key()?;
        self.key_allowed = false;
        self.ended = true;
        self.push(at, Kind::End);
        Ok(())
    }

    fn marker(&mut self, at: Position, kind: Kind) -> Result<(), Fault> {
        self.unroll(-1);
        self.drop_key()?;
        self.key_allowed = false;
        self.cursor.skip(3);
        self.push(at, kind);
        Ok(())
    }

    fn indicator(&mut self, at: Position, kind: Kind) {
        self.cursor.next();
        self.push(at, kind);
    }

    fn open(&mut self, at: Position, kind: Kind) -> Result<(), Fault> {
        self.save_key()?;
        self.keys.push(None);
        self.key_allowed = true;
        self.indicator(at, kind);
        Ok(())
    }

    fn close(&mut self, at: Position, kind: Kind) -> Result<(), Fault> {
        self.drop_key()?;
        if self.in_flow() {
            self.keys.pop();
        }
        self.key_allowed = false;
        self.indicator(at, kind);
        Ok(())
    }

    fn block_entry(&mut self, at: Position) -> Result<(), Fault> {
        if !self.in_flow() {
            if !self.key_allowed {
                return Err(self.fault("a list can't begin here: put it on a line of its own"));
            }
            self.roll(self.column(), None, Kind::BlockSequence, at);
        }
        self.drop_key()?;
        self.key_allowed = true;
        self.indicator(at, Kind::BlockEntry);
        Ok(())
    }

    fn explicit_key(&mut self, at: Position) -> Result<(), Fault> {
        if !self.in_flow() {
            if !self.key_allowed {
                return Err(self.fault("a key can't begin here"));
            }
            self.roll(self.column(), None, Kind::BlockMapping, at);
        }
        self.drop_key()?;
        self.key_allowed = !self.in_flow();
        self.indicator(at, Kind::Key);
        Ok(())
    }

    /// The ':' behind a key, which so turns out to be one.
    fn value(&mut self, at: Position) -> Result<(), Fault> {
        let level = self.keys.len() - 1;
        let possible = self.key_is_possible(level)?;
        if let Some(key) = self.keys[level].take().filter(|_| possible) {
            let token = Token { at: key.mark.position(), kind: Kind::Key };
            self.tokens.insert(key.number - self.taken, token);
            let column = isize::try_from(key.mark.column).unwrap_or(isize::MAX);
            self.roll(column, Some(key.number), Kind::BlockMapping, key.mark.position());
            self.key_allowed = false;
        } else {
            if !self.in_flow() {
                if !self.key_allowed {
                    return Err(self.fault("':' is not allowed here: quote the text that contains it"));
                }
                self.roll(self.column(), None, Kind::BlockMapping, at);
            }
            self.key_allowed = !self.in_flow();
        }
        self.indicator(at, Kind::Value);
        Ok(())
    }

    fn anchor(&mut self, at: Position, sign: char) -> Result<(), Fault> {
        self.save_key()?;
        self.key_allowed = false;
        self.cursor.next();
        let mut name = String::new();
        self.cursor.take_while(&mut name, is_word);
        let ends = self.cursor.gap_ahead(0) || self.cursor.peek().is_some_and(|c| "?:,]}%@`".contains(c));
        if name.is_empty() || !ends {
            let message = "the name of an anchor or alias may contain only letters, digits, '-' and '_'; if this \
                           is plain text, quote it";
            return Err(Fault::new(at, message));
        }
        self.push(at, if sign == '*' { Kind::Alias(name) } else { Kind::Anchor(name) });
        Ok(())
    }

    fn tag(&mut self, at: Position) -> Result<(), Fault> {
        self.save_key()?;
        self.key_allowed = false;
        self.cursor.next();
        let tag = if self.cursor.is('<') {
            self.cursor.next();
            let uri = self.uri()?;
            if uri.is_empty() || !self.cursor.is('>') {
                return Err(Fault::new(at, "the closing > of the tag is missing: write !<…>"));
            }
            self.cursor.next();
            match uri.strip_prefix("tag:yaml.org,2002:") {
                Some(name) => Tag::Own(name.to_owned()),
                None if uri == "!" => Tag::NonSpecific,
                None => Tag::Other(uri),
            }
        } else {
            let mut handle = String::new();
            self.cursor.take_while(&mut handle, is_word);
            let is_handle = self.cursor.is('!');
            if is_handle {
                self.cursor.next();
            }
            let suffix = self.uri()?;
            match (is_handle, handle.as_str(), suffix.as_str()) {
                (true, "", "") => return Err(Fault::new(at, "the name of the tag is missing after !!")),
                (true, "", _) => Tag::Own(suffix),
                (true, ..) => {
                    return Err(Fault::new(at, &format!("the tag !{handle}! is not known: leave it out")));
                }
                (false, "", "") => Tag::NonSpecific,
                (false, ..) => Tag::Other(format!("!{handle}{suffix}")),
            }
        };
        if !self.cursor.gap_ahead(0) {
            return Err(Fault::new(at, "a tag must be followed by a space"));
        }
        self.push(at, Kind::Tag(tag));
        Ok(())
    }

    /// What may stand in a tag; `%41` is an `A`.
    fn uri(&mut self) -> Result<String, Fault> {
        let mut bytes = Vec::new();
        while let Some(c) = self.cursor.peek().filter(|c| is_word(*c) || ";/?:@&=+$,.!~*'()[]%".contains(*c))
        {
            let at = self.cursor.position();
            self.cursor.next();
            if c != '%' {
                bytes.push(u8::try_from(c).unwrap_or(b'?'));
                continue;
            }
            let digits: Option<u32> = self
                .cursor
                .peek()
                .and_then(|c| c.to_digit(16))
                .zip(self.cursor.ahead(1).and_then(|c| c.to_digit(16)))
                .map(|(high, low)| high * 16 + low);
            let byte = digits.and_then(|byte| u8::try_from(byte).ok());
            bytes.push(byte.ok_or_else(|| Fault::new(at, "two hexadecimal digits follow a % in a tag"))?);
            self.cursor.skip(2);
        }
        String::from_utf8(bytes).map_err(|_| self.fault("the tag is not UTF-8"))
    }

    /// What begins here may be a key.
    fn save_key(&mut self) -> Result<(), Fault> {
        if !self.key_allowed {
            return Ok(());
        }
        self.drop_key()?;
        let required = !self.in_flow() && self.indent == self.column();
        let number = self.taken + self.tokens.len();
        if let Some(key) = self.keys.last_mut() {
            *key = Some(SimpleKey { required, number, mark: self.cursor.mark() });
        }
        Ok(())
    }

    /// What may have been a key is none.
    fn drop_key(&mut self) -> Result<(), Fault> {
        match self.keys.last_mut().and_then(Option::take) {
            Some(key) if key.required => Err(no_colon(&key)),
            _ => Ok(()),
        }
    }

    /// Opens a block if what begins here stands further right than the one around it.
    fn roll(&mut self, column: isize, number: Option<usize>, kind: Kind, at: Position) {
        if self.in_flow() || self.indent >= column {
            return;
        }
        self.indents.push(self.indent);
        self.indent = column;
        let index = number.map_or(self.tokens.len(), |number| number - self.taken);
        self.tokens.insert(index, Token { at, kind });
    }

    /// Closes the blocks that stand further right.
    fn unroll(&mut self, column: isize) {
        if self.in_flow() {
            return;
        }
        while self.indent > column {
            self.push(self.cursor.position(), Kind::BlockEnd);
            self.indent = self.indents.pop().unwrap_or(-1);
        }
    }
}

fn no_colon(key: &SimpleKey) -> Fault {
    Fault::new(key.mark.position(), "this key has no ':' after it")
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
}
