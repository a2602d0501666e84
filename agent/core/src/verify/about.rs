//! How people recognise a change: its subject and its author. Both are outside input that ends up in a terminal.

/// So many characters are kept of each.
const MOST: usize = 120;

/// What a commit says of itself, fit for one line of a terminal. It is signed with the commit, and proves nothing beyond.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The first line of the message.
    pub subject: String,
    /// The author's name.
    pub author: String,
}

impl About {
    /// Of an author's name and a message, as a commit has them.
    pub fn new(author: &[u8], message: &[u8]) -> Self {
        let mut lines = message.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let subject = lines.find(|line| !line.is_empty()).unwrap_or_default();
        About { subject: one_line(subject), author: one_line(author) }
    }
}

/// What moves the cursor, or turns the direction of writing, is shown as a replacement character.
fn one_line(bytes: &[u8]) -> String {
    // A character has four bytes at most.
    let enough = &bytes[..bytes.len().min(4 * (MOST + 1))];
    let text = String::from_utf8_lossy(enough);
    let turns = |ch: char| matches!(ch, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let shown = |ch: char| if ch.is_control() || turns(ch) { char::REPLACEMENT_CHARACTER } else { ch };
    let mut line: String = text.trim().chars().take(MOST).map(shown).collect();
    if text.trim().chars().count() > MOST {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subject_is_the_first_line_that_says_something() {
        let about = About::new(b" Ada Lovelace ", b"\n pos: raise the price of tea\n\nSince it rained.\n");
        assert_eq!(about.subject, "pos: raise the price of tea");
        assert_eq!(about.author, "Ada Lovelace");
        assert_eq!(About::new(b"", b"\n\n"), About { subject: String::new(), author: String::new() });
    }

    #[test]
    fn nothing_of_it_moves_the_cursor_or_is_longer_than_a_line() {
        let about = About::new(b"\x1b[2Jops\xff", "evil \u{202e}txt\r".repeat(100).as_bytes());
        assert!(!about.author.contains('\x1b') && about.author.ends_with('\u{fffd}'), "{about:?}");
        assert_eq!(about.subject.chars().count(), MOST + 1);
        assert!(!about.subject.contains(['\u{202e}', '\r']), "{about:?}");
    }
}
