//! The list of keys that may sign: OpenSSH's format (ssh-keygen(1), "ALLOWED SIGNERS").
//!
//! What differs, each for a reason:
//! - A line that can't be read is an error, where ssh-keygen skips it: on a box nobody sees the warning.
//! - Times without a `Z` are UTC: what is valid must not depend on a box's time zone.
//! - `cert-authority` is refused: certificates are not checked here, and a line that silently never matches
//!   helps nobody.
//! - A commit names no principal to compare with (git asks ssh-keygen which principal fits the key), so the
//!   principals say whose key it is and are shown as they stand. A list of nothing but negations can match
//!   nobody and is an error.

use std::fmt;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use ssh_key::PublicKey;
use ssh_key::public::KeyData;

use super::refused::KeyProblem;
use super::sshsig::check_key;

/// The namespace that git signs under (git's Documentation/gitformat-signature).
pub const NAMESPACE: &str = "git";

/// The largest file that is read: about 10,000 keys.
const MAX_BYTES: usize = 4 << 20;

/// The keys that may sign.
#[derive(Clone, Debug)]
pub struct AllowedSigners {
    entries: Vec<Entry>,
}

/// Every line that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct BadAllowedSigners(pub Vec<BadLine>);

impl fmt::Display for BadAllowedSigners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, line) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            match line.line {
                0 => f.write_str(&line.cause)?,
                _ => write!(f, "{line}")?,
            }
        }
        Ok(())
    }
}

/// A line that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of allowed_signers: {cause}")]
pub struct BadLine {
    /// The line's number, from 1; 0 is the file as a whole.
    pub line: usize,
    /// What is wrong with it.
    pub cause: String,
}

/// When something was signed, as far as can be known: what it claims, and what speaks against that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedAt {
    /// It was signed no later than this: a key must have been valid by then.
    pub no_later: Timestamp,
    /// And no earlier than this: a key must not have ended before.
    pub no_earlier: Timestamp,
}

#[derive(Clone, Debug)]
struct Entry {
    line: usize,
    principals: String,
    namespaces: Option<Vec<Pattern>>,
    valid_after: Option<Timestamp>,
    valid_before: Option<Timestamp>,
    key: KeyData,
}

impl AllowedSigners {
    /// Reads the file.
    ///
    /// # Errors
    /// [`BadAllowedSigners`] with every line that can't be read, or when no key is in it at all.
    pub fn parse(text: &str) -> Result<Self, BadAllowedSigners> {
        let whole = |cause: &str| BadAllowedSigners(vec![BadLine { line: 0, cause: cause.to_owned() }]);
        if text.len() > MAX_BYTES {
            return Err(whole(&format!("the file is larger than {MAX_BYTES} bytes")));
        }
        let mut entries = Vec::new();
        let mut bad = Vec::new();
        for (index, text) in text.lines().enumerate() {
            let line = index + 1;
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            match parse_line(line, text) {
                Ok(entry) => entries.push(entry),
                Err(cause) => bad.push(BadLine { line, cause }),
            }
        }
        if !bad.is_empty() {
            return Err(BadAllowedSigners(bad));
        }
        if entries.is_empty() {
            return Err(whole("the file has no keys: nothing could ever be accepted"));
        }
        Ok(AllowedSigners { entries })
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Never: an empty list can't be read.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The principals of the first line that allows `key` to sign for `namespace` at that time.
    ///
    /// # Errors
    /// Why not; of several lines with the key, the reason of the last.
    pub fn principal_of(&self, key: &KeyData, namespace: &str, at: SignedAt) -> Result<&str, KeyProblem> {
        let mut problem = KeyProblem::Stranger;
        for entry in self.entries.iter().filter(|entry| &entry.key == key) {
            match entry.allows(namespace, at) {
                Ok(()) => return Ok(&entry.principals),
                Err(why) => problem = why,
            }
        }
        Err(problem)
    }
}

impl Entry {
    /// Both ends belong to the validity, as in OpenSSH's sshsig.c.
    fn allows(&self, namespace: &str, at: SignedAt) -> Result<(), KeyProblem> {
        let line = self.line;
        if let Some(patterns) = &self.namespaces
            && !list_matches(patterns, namespace)
        {
            let allowed = patterns.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            return Err(KeyProblem::Namespace { line, allowed, wanted: namespace.to_owned() });
        }
        match (self.valid_after, self.valid_before) {
            (Some(from), _) if at.no_later < from => {
                Err(KeyProblem::NotYetValid { line, from, at: at.no_later })
            }
            (_, Some(until)) if at.no_earlier > until => {
                Err(KeyProblem::Expired { line, until, at: at.no_earlier })
            }
            _ => Ok(()),
        }
    }
}

/// One of a comma-separated list of patterns (ssh_config(5), "PATTERNS").
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    negated: bool,
    glob: String,
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.negated { "!" } else { "" }, self.glob)
    }
}

/// A list matches when a pattern does and no negated one does.
fn list_matches(patterns: &[Pattern], text: &str) -> bool {
    let hit = |negated| patterns.iter().any(|p| p.negated == negated && glob_matches(&p.glob, text));
    hit(false) && !hit(true)
}

/// `*` is any text, `?` any one byte. Linear in memory, and at worst quadratic in time.
fn glob_matches(glob: &str, text: &str) -> bool {
    let (glob, text) = (glob.as_bytes(), text.as_bytes());
    let (mut g, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match glob.get(g) {
            Some(b'*') => {
                star = Some((g, t));
                g += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[t] => {
                g += 1;
                t += 1;
            }
            _ => match star {
                Some((at, matched)) => {
                    star = Some((at, matched + 1));
                    g = at + 1;
                    t = matched + 1;
                }
                None => return false,
            },
        }
    }
    glob[g..].iter().all(|byte| *byte == b'*')
}

fn parse_patterns(what: &str, list: &str) -> Result<Vec<Pattern>, String> {
    let patterns: Vec<Pattern> = list
        .split(',')
        .map(|item| {
            let (negated, glob) = item.strip_prefix('!').map_or((false, item), |rest| (true, rest));
            match glob {
                "" => Err(format!("the list of {what} {list:?} has an empty entry")),
                _ => Ok(Pattern { negated, glob: glob.to_owned() }),
            }
        })
        .collect::<Result<_, _>>()?;
    if patterns.iter().all(|pattern| pattern.negated) {
        return Err(format!("the list of {what} {list:?} matches nothing: it has only negated patterns"));
    }
    Ok(patterns)
}

fn parse_line(line: usize, text: &str) -> Result<Entry, String> {
    let (principals, rest) = take_principals(text)?;
    parse_patterns("principals", &principals)?;
    let mut entry = Options::default();
    let mut rest = rest.trim_start();
    if !rest.is_empty() && !starts_with_key(rest) {
        let (options, after) = take_word(rest)?;
        entry = Options::parse(options)?;
        rest = after.trim_start();
    }
    if rest.is_empty() {
        return Err("the key is missing: a line is \"principals [options] keytype base64-key\"".to_owned());
    }
    if !starts_with_key(rest) {
        let word: String = rest.chars().take_while(|c| !c.is_whitespace()).take(60).collect();
        return Err(format!("{word:?} is not a known kind of key"));
    }
    let key = PublicKey::from_openssh(rest).map_err(|error| format!("the key cannot be read ({error})"))?;
    check_key(key.key_data()).map_err(|what| {
        format!("{what} is not accepted: use ed25519, ECDSA on P-256 or P-384, or RSA of at least 2048 bits")
    })?;
    Ok(Entry {
        line,
        principals,
        namespaces: entry.namespaces,
        valid_after: entry.valid_after,
        valid_before: entry.valid_before,
        key: key.key_data().clone(),
    })
}

/// Whether a text begins with a kind of key: options never look like that.
fn starts_with_key(text: &str) -> bool {
    let word = text.split_whitespace().next().unwrap_or_default();
    ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"].iter().any(|start| word.starts_with(start))
}

/// The principals, which may stand in double quotes.
fn take_principals(text: &str) -> Result<(String, &str), String> {
    match text.strip_prefix('"') {
        Some(quoted) => {
            let (inside, rest) = quoted.split_once('"').ok_or("the quoted principals have no end")?;
            match rest.starts_with(char::is_whitespace) {
                true => Ok((inside.to_owned(), rest)),
                false => Err("after the quoted principals a space is missing".to_owned()),
            }
        }
        None => {
            let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
            Ok((word.to_owned(), rest))
        }
    }
}

/// The text up to the first space outside of double quotes.
fn take_word(text: &str) -> Result<(&str, &str), String> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if c.is_whitespace() && !quoted => return Ok((&text[..at], &text[at..])),
            _ => {}
        }
    }
    if quoted { Err("a quoted option has no end".to_owned()) } else { Ok((text, "")) }
}

#[derive(Default)]
struct Options {
    namespaces: Option<Vec<Pattern>>,
    valid_after: Option<Timestamp>,
    valid_before: Option<Timestamp>,
}

impl Options {
    fn parse(mut text: &str) -> Result<Self, String> {
        let mut options = Options::default();
        loop {
            let end = text.find([',', '=']).unwrap_or(text.len());
            let (name, rest) = text.split_at(end);
            let (value, rest) = match rest.strip_prefix('=') {
                Some(rest) => take_quoted(name, rest).map(|(value, rest)| (Some(value), rest))?,
                None => (None, rest),
            };
            options.set(name, value)?;
            match rest.strip_prefix(',') {
                Some(rest) => text = rest,
                None if rest.is_empty() => break,
                None => return Err(format!("after the option {name:?} a comma is missing")),
            }
        }
        if let (Some(after), Some(before)) = (options.valid_after, options.valid_before)
            && after >= before
        {
            return Err(format!(
                "the key is never valid: valid-after {after} is not before valid-before {before}"
            ));
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: Option<String>) -> Result<(), String> {
        let twice = || format!("the option {name:?} is given twice");
        let needed = || value.clone().ok_or_else(|| format!("the option {name:?} needs a value"));
        match name.to_ascii_lowercase().as_str() {
            "namespaces" => {
                let patterns = parse_patterns("namespaces", &needed()?)?;
                self.namespaces.replace(patterns).map_or(Ok(()), |_| Err(twice()))
            }
            "valid-after" => {
                self.valid_after.replace(parse_time(&needed()?)?).map_or(Ok(()), |_| Err(twice()))
            }
            "valid-before" => {
                self.valid_before.replace(parse_time(&needed()?)?).map_or(Ok(()), |_| Err(twice()))
            }
            "cert-authority" => {
                Err("cert-authority is not supported: certificates are not checked here; list \
                                     the keys themselves"
                    .to_owned())
            }
            _ => {
                let shown: String = name.chars().take(60).collect();
                Err(format!(
                    "the option {shown:?} is unknown: there are namespaces, valid-after and valid-before"
                ))
            }
        }
    }
}

/// A value in double quotes, in which `\"` is a quote, or a bare word up to the comma.
fn take_quoted<'a>(name: &str, text: &'a str) -> Result<(String, &'a str), String> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (word, rest) = text.split_at(text.find(',').unwrap_or(text.len()));
        return match word.contains('"') {
            true => Err(format!("the value of the option {name:?} has a stray quote")),
            false => Ok((word.to_owned(), rest)),
        };
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' if chars.peek().is_some_and(|(_, next)| *next == '"') => {
                value.push('"');
                chars.next();
            }
            '"' => return Ok((value, &quoted[at + 1..])),
            c => value.push(c),
        }
    }
    Err(format!("the value of the option {name:?} has no closing quote"))
}

/// `YYYYMMDD[Z]` or `YYYYMMDDHHMM[SS][Z]`, in UTC.
fn parse_time(text: &str) -> Result<Timestamp, String> {
    let wrong = || format!("{text:?} is not a time: write YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, in UTC");
    let digits = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    if !matches!(digits.len(), 8 | 12 | 14) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    // All are ASCII digits, at most four of them: each is a number that fits.
    let number =
        |from: usize, to: usize| digits.get(from..to).and_then(|d| d.parse::<i16>().ok()).unwrap_or(0);
    let small = |from: usize, to: usize| i8::try_from(number(from, to)).map_err(|_| wrong());
    let date = Date::new(number(0, 4), small(4, 6)?, small(6, 8)?).map_err(|_| wrong())?;
    let time = Time::new(small(8, 10)?, small(10, 12)?, small(12, 14)?, 0).map_err(|_| wrong())?;
    let zoned = DateTime::from_parts(date, time).to_zoned(TimeZone::UTC).map_err(|_| wrong())?;
    Ok(zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    fn cause(text: &str) -> String {
        AllowedSigners::parse(text).unwrap_err().to_string()
    }

    fn only(text: &str) -> Entry {
        AllowedSigners::parse(text).unwrap().entries.remove(0)
    }

    #[test]
    fn a_line_needs_principals_and_a_key_only() {
        let signers =
            AllowedSigners::parse(&format!("# the team\n\nops@example.com,*@team {KEY} laptop\n")).unwrap();
        assert_eq!(signers.len(), 1);
        assert_eq!(signers.entries[0].principals, "ops@example.com,*@team");
        assert_eq!(signers.entries[0].line, 3);
    }

    #[test]
    fn options_may_be_quoted_and_times_may_be_of_any_length() {
        let entry = only(&format!(
            "\"a b\" namespaces=\"git,file\",valid-after=20260102Z,valid-before=\"202603041506\" {KEY}"
        ));
        assert_eq!(entry.principals, "a b");
        assert_eq!(entry.valid_after.unwrap().to_string(), "2026-01-02T00:00:00Z");
        assert_eq!(entry.valid_before.unwrap().to_string(), "2026-03-04T15:06:00Z");
        assert_eq!(entry.namespaces.unwrap().len(), 2);
        let entry = only(&format!("a valid-before=20260304150607Z {KEY}"));
        assert_eq!(entry.valid_before.unwrap().to_string(), "2026-03-04T15:06:07Z");
    }

    #[test]
    fn a_broken_line_is_an_error_with_its_number_and_cause() {
        let good = format!("a {KEY}\n");
        for (line, expected) in [
            (format!("a cert-authority {KEY}"), "cert-authority is not supported"),
            (format!("a namespace=\"git\" {KEY}"), "the option \"namespace\" is unknown"),
            (format!("a valid-after=2026 {KEY}"), "is not a time"),
            (format!("a valid-after=20261301 {KEY}"), "is not a time"),
            (format!("a valid-after=20260230 {KEY}"), "is not a time"),
            (format!("a valid-after=\"20260101 {KEY}"), "has no end"),
            (format!("a valid-after=20260101,valid-after=20260101 {KEY}"), "twice"),
            (format!("a valid-after=20260101,valid-before=20260101 {KEY}"), "never valid"),
            (format!("!a {KEY}"), "matches nothing"),
            (format!("a,,b {KEY}"), "an empty entry"),
            ("a".to_owned(), "the key is missing"),
            ("a ssh-ed25519 AAAA".to_owned(), "the key cannot be read"),
            ("a namespaces=\"git\" nonsense AAAA".to_owned(), "is not a known kind of key"),
        ] {
            let text = format!("{good}{line}\n");
            let cause = cause(&text);
            assert!(cause.contains("line 2") && cause.contains(expected), "{line}: {cause}");
        }
    }

    #[test]
    fn an_empty_list_is_an_error() {
        assert!(cause("# nobody\n").contains("no keys"));
    }

    #[test]
    fn patterns_match_as_in_ssh_config() {
        let matches = |list: &str, text: &str| list_matches(&parse_patterns("x", list).unwrap(), text);
        assert!(matches("git", "git") && matches("*", "git") && matches("g?t,x", "git"));
        assert!(matches("f*e", "file") && !matches("f*e", "files"));
        assert!(!matches("*,!git", "git") && !matches("!git,*", "git") && matches("*,!git", "file"));
    }

    #[test]
    fn a_key_may_stand_on_several_lines() {
        let text = format!("old valid-before=20200101 {KEY}\nnew valid-after=20200101 {KEY}\n");
        let signers = AllowedSigners::parse(&text).unwrap();
        let key = signers.entries[0].key.clone();
        let at = |text: &str| {
            let at: Timestamp = text.parse().unwrap();
            SignedAt { no_later: at, no_earlier: at }
        };
        assert_eq!(signers.principal_of(&key, NAMESPACE, at("2019-01-01T00:00:00Z")).unwrap(), "old");
        assert_eq!(signers.principal_of(&key, NAMESPACE, at("2026-01-01T00:00:00Z")).unwrap(), "new");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC*", options in "[a-z=,\"\\\\ 0-9Z!*-]{0,40}") {
            let _ = AllowedSigners::parse(&text);
            let _ = AllowedSigners::parse(&format!("{options} {KEY}"));
            let _ = AllowedSigners::parse(&format!("a {options} {KEY}"));
        }

        #[test]
        fn a_glob_with_many_stars_ends(stars in 1usize..60, text in "[ab]{0,200}") {
            let _ = glob_matches(&format!("{}c", "*a".repeat(stars)), &text);
        }
    }
}
