//! The grammar: from tokens to events, which tell a tree from top to bottom.

use super::parse::Fault;
use super::scan::{Kind, Scanner, Tag};
use crate::diagnostic::Position;

/// What happens while a tree is walked.
#[derive(Debug)]
pub(super) enum Event {
    /// A document begins. What it holds follows.
    Document,
    /// A scalar; `plain` without quotes.
    Scalar { text: String, plain: bool, marks: Marks },
    /// A list begins. Its items follow.
    Sequence(Marks),
    /// A map begins. A key and a value follow, and so on.
    Mapping(Marks),
    /// What began last ends.
    End,
    /// What was marked by this name, once more.
    Alias(String),
}

/// What a node carries.
#[derive(Debug, Default)]
pub(super) struct Marks {
    pub(super) anchor: Option<String>,
    pub(super) tag: Option<Tag>,
}

/// Who is told of events. What it refuses ends the reading.
pub(super) trait Sink {
    fn take(&mut self, event: Event, at: Position) -> Result<(), Fault>;
}

/// Reads documents and tells `sink` of them. How deep they may be nested is for the sink to refuse.
pub(super) fn read(scanner: &mut Scanner<'_>, sink: &mut impl Sink) -> Result<(), Fault> {
    let mut reader = Reader { scanner, sink };
    let mut first = true;
    loop {
        while !first && reader.is(&Kind::DocumentEnd)? {
            reader.scanner.take()?;
        }
        let (at, explicit) = (reader.at()?, reader.is(&Kind::DocumentStart)?);
        if reader.is(&Kind::End)? {
            return Ok(());
        }
        reader.tell(Event::Document, at)?;
        if explicit {
            reader.scanner.take()?;
        } else if !first {
            return Err(Fault::new(
                at,
                "there is content after the end of the document: separate documents with a line of ---",
            ));
        }
        match reader.scanner.peek()?.kind {
            Kind::DocumentStart | Kind::DocumentEnd | Kind::End if explicit => reader.empty(at)?,
            _ => reader.node(true, false)?,
        }
        first = false;
    }
}

struct Reader<'r, 'a, S> {
    scanner: &'r mut Scanner<'a>,
    sink: &'r mut S,
}

impl<S: Sink> Reader<'_, '_, S> {
    fn is(&mut self, kind: &Kind) -> Result<bool, Fault> {
        Ok(self.scanner.peek()?.kind == *kind)
    }

    fn at(&mut self) -> Result<Position, Fault> {
        Ok(self.scanner.peek()?.at)
    }

    fn tell(&mut self, event: Event, at: Position) -> Result<(), Fault> {
        self.sink.take(event, at)
    }

    /// A value that isn't written.
    fn empty(&mut self, at: Position) -> Result<(), Fault> {
        let event = Event::Scalar { text: String::new(), plain: true, marks: Marks::default() };
        self.tell(event, at)
    }

    /// A node; in flow collections without blocks in it. Where a key stands before it, a list may stand at the key's
    /// own column.
    fn node(&mut self, block: bool, at_key: bool) -> Result<(), Fault> {
        let at = self.at()?;
        if matches!(self.scanner.peek()?.kind, Kind::Alias(_)) {
            let Kind::Alias(name) = self.scanner.take()?.kind else { return Ok(()) };
            return self.tell(Event::Alias(name), at);
        }
        let marks = self.marks()?;
        let token = self.scanner.peek()?;
        let here = token.at;
        match token.kind {
            Kind::BlockEntry if at_key => self.list_at_key(marks, at),
            Kind::Scalar { .. } => {
                let Kind::Scalar { text, plain } = self.scanner.take()?.kind else { return Ok(()) };
                self.tell(Event::Scalar { text, plain, marks }, at)
            }
            Kind::FlowSequence => self.flow_sequence(marks, at),
            Kind::FlowMapping => self.flow_mapping(marks, at),
            Kind::BlockSequence if block => self.block_sequence(marks, at),
            Kind::BlockMapping if block => self.block_mapping(marks, at),
            _ if marks.anchor.is_some() || marks.tag.is_some() => {
                self.tell(Event::Scalar { text: String::new(), plain: true, marks }, at)
            }
            _ => Err(Fault::new(here, "a value is expected here")),
        }
    }

    /// An anchor and a tag, in whatever order.
    fn marks(&mut self) -> Result<Marks, Fault> {
        let mut marks = Marks::default();
        loop {
            match self.scanner.peek()?.kind {
                Kind::Anchor(_) if marks.anchor.is_none() => {
                    if let Kind::Anchor(name) = self.scanner.take()?.kind {
                        marks.anchor = Some(name);
                    }
                }
                Kind::Tag(_) if marks.tag.is_none() => {
                    if let Kind::Tag(tag) = self.scanner.take()?.kind {
                        marks.tag = Some(tag);
                    }
                }
                _ => return Ok(marks),
            }
        }
    }

    fn end(&mut self) -> Result<(), Fault> {
        let token = self.scanner.take()?;
        self.tell(Event::End, token.at)
    }

    fn block_sequence(&mut self, marks: Marks, at: Position) -> Result<(), Fault> {
        self.scanner.take()?;
        self.tell(Event::Sequence(marks), at)?;
        while self.is(&Kind::BlockEntry)? {
            let at = self.scanner.take()?.at;
            match self.scanner.peek()?.kind {
                Kind::BlockEntry | Kind::BlockEnd => self.empty(at)?,
                _ => self.node(true, false)?,
            }
        }
        match self.is(&Kind::BlockEnd)? {
            true => self.end(),
            false => Err(Fault::new(self.at()?, "a list item, beginning with '-', is expected here")),
        }
    }

    /// A list whose items stand at the column of the key before it: no token ends it.
    fn list_at_key(&mut self, marks: Marks, at: Position) -> Result<(), Fault> {
        self.tell(Event::Sequence(marks), at)?;
        while self.is(&Kind::BlockEntry)? {
            let at = self.scanner.take()?.at;
            match self.scanner.peek()?.kind {
                Kind::BlockEntry | Kind::Key | Kind::Value | Kind::BlockEnd => self.empty(at)?,
                _ => self.node(true, false)?,
            }
        }
        let at = self.at()?;
        self.tell(Event::End, at)
    }

    fn block_mapping(&mut self, marks: Marks, at: Position) -> Result<(), Fault> {
        self.scanner.take()?;
        self.tell(Event::Mapping(marks), at)?;
        loop {
            match self.scanner.peek()?.kind {
                Kind::Key => {
                    let at = self.scanner.take()?.at;
                    self.node_or_empty(at)?;
                    if self.is(&Kind::Value)? {
                        let at = self.scanner.take()?.at;
                        self.node_or_empty(at)?;
                    } else {
                        let at = self.at()?;
                        self.empty(at)?;
                    }
                }
                Kind::BlockEnd => return self.end(),
                _ => {
                    return Err(Fault::new(
                        self.at()?,
                        "a key is expected here; is it indented as the others are?",
                    ));
                }
            }
        }
    }

    fn node_or_empty(&mut self, at: Position) -> Result<(), Fault> {
        match self.scanner.peek()?.kind {
            Kind::Key | Kind::Value | Kind::BlockEnd => self.empty(at),
            _ => self.node(true, true),
        }
    }

    fn flow_sequence(&mut self, marks: Marks, at: Position) -> Result<(), Fault> {
        self.scanner.take()?;
        self.tell(Event::Sequence(marks), at)?;
        let mut first = true;
        while !self.is(&Kind::FlowSequenceEnd)? {
            if !first {
                self.comma("']'")?;
            }
            first = false;
            match self.scanner.peek()?.kind {
                Kind::FlowSequenceEnd => {}
                Kind::Key => self.pair()?,
                _ => self.node(false, false)?,
            }
        }
        self.end()
    }

    /// A map of one key, as in `[a: b]`.
    fn pair(&mut self) -> Result<(), Fault> {
        let at = self.scanner.take()?.at;
        self.tell(Event::Mapping(Marks::default()), at)?;
        match self.scanner.peek()?.kind {
            // As it is read everywhere: what ends the pair is passed over with it.
            Kind::Value | Kind::FlowEntry | Kind::FlowSequenceEnd => {
                let at = self.scanner.take()?.at;
                self.empty(at)?;
            }
            _ => self.node(false, false)?,
        }
        self.flow_value(&Kind::FlowSequenceEnd)?;
        let at = self.at()?;
        self.tell(Event::End, at)
    }

    /// What stands behind a key of a flow collection that `end` ends.
    fn flow_value(&mut self, end: &Kind) -> Result<(), Fault> {
        if self.is(&Kind::Value)? {
            self.scanner.take()?;
            if !self.is(&Kind::FlowEntry)? && !self.is(end)? {
                return self.node(false, false);
            }
        }
        let at = self.at()?;
        self.empty(at)
    }

    fn flow_mapping(&mut self, marks: Marks, at: Position) -> Result<(), Fault> {
        self.scanner.take()?;
        self.tell(Event::Mapping(marks), at)?;
        let mut first = true;
        while !self.is(&Kind::FlowMappingEnd)? {
            if !first {
                self.comma("'}'")?;
            }
            first = false;
            match self.scanner.peek()?.kind {
                Kind::FlowMappingEnd => {}
                Kind::Key => {
                    self.scanner.take()?;
                    let at = self.at()?;
                    match self.scanner.peek()?.kind {
                        Kind::Value | Kind::FlowEntry | Kind::FlowMappingEnd => self.empty(at)?,
                        _ => self.node(false, false)?,
                    }
                    self.flow_value(&Kind::FlowMappingEnd)?;
                }
                _ => {
                    self.node(false, false)?;
                    let at = self.at()?;
                    self.empty(at)?;
                }
            }
        }
        self.end()
    }

    fn comma(&mut self, end: &str) -> Result<(), Fault> {
        let token = self.scanner.peek()?;
        if token.kind != Kind::FlowEntry {
            return Err(Fault::new(token.at, &format!("a ',' or {end} is expected here")));
        }
        self.scanner.take().map(drop)
    }
}
