//! Commits as Git stores them, taken apart into what was signed and the signature.
//!
//! What is signed is the commit without its signature, so whatever else the signature's header could look like, or
//! wherever it could stand, would be another commit id for the same signed content. Only the commit that `git commit -S`
//! writes is taken: the parts are put together again as Git does it, and must give the same bytes.

use super::Signature;
use super::sshsig::BadSignature;

/// The header that holds the signature, and what the names of its siblings begin with: Git leaves them all out of what
/// it has checked (git's commit.c, parse_buffer_signed_by_header).
const HEADER: &[u8] = b"gpgsig";

impl Signature {
    /// The signature of a commit, from the commit's own bytes; none if there is none.
    ///
    /// # Errors
    /// [`BadSignature::NotCanonical`] for a commit that Git would not have written so.
    pub fn of_commit(commit: &[u8]) -> Result<Option<Self>, BadSignature> {
        let Some(parts) = take_apart(commit)? else { return Ok(None) };
        if put_together(&parts).as_deref() != Some(commit) {
            return Err(BadSignature::NotCanonical {
                why: "its header is not the last one of the commit, or not indented as Git does it"
                    .to_owned(),
            });
        }
        Ok(Some(parts))
    }
}

/// As Git reads a commit: each header that begins with `gpgsig`, with its lines, is none of what was signed.
fn take_apart(commit: &[u8]) -> Result<Option<Signature>, BadSignature> {
    let mut parts = Signature { armored: Vec::new(), payload: Vec::with_capacity(commit.len()) };
    let (mut found, mut inside) = (0, false);
    let mut rest = commit;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
        let (line, after) = rest.split_at(end);
        match line.strip_prefix(HEADER) {
            // Behind the first empty line is the message, whatever stands there.
            _ if line == b"\n" => {
                parts.payload.extend_from_slice(rest);
                break;
            }
            Some(value) => {
                (found, inside) = (found + 1, true);
                parts.armored.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
            }
            None => match line.strip_prefix(b" ") {
                Some(more) if inside => parts.armored.extend_from_slice(more),
                _ => {
                    inside = false;
                    parts.payload.extend_from_slice(line);
                }
            },
        }
        rest = after;
    }
    match found {
        0 => Ok(None),
        1 => Ok(Some(parts)),
        _ => Err(BadSignature::NotCanonical {
            why: format!(
                "the commit has {found} signature headers, but must have only one: a signature does not cover the \
                 other headers"
            ),
        }),
    }
}

/// As Git writes a signed commit: the signature is its last header, with each of its lines indented (git's commit.c,
/// add_header_signature).
fn put_together(parts: &Signature) -> Option<Vec<u8>> {
    let end = parts.payload.windows(2).position(|pair| pair == b"\n\n")? + 1;
    let (headers, message) = parts.payload.split_at(end);
    let mut commit = [headers, HEADER].concat();
    for line in parts.armored.split_inclusive(|byte| *byte == b'\n') {
        commit.push(b' ');
        commit.extend_from_slice(line);
    }
    commit.extend_from_slice(message);
    Some(commit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TREE: &str = "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n";
    const WHO: &str = "author T <t@example> 0 +0000\ncommitter T <t@example> 0 +0000\n";
    const SIGNED: &str = "gpgsig -----BEGIN SSH SIGNATURE-----\n AAAA\n -----END SSH SIGNATURE-----\n";

    fn of(text: &str) -> Result<Option<Signature>, BadSignature> {
        Signature::of_commit(text.as_bytes())
    }

    #[test]
    fn a_signed_commit_is_what_was_signed_and_the_signature() {
        let parts =
            of(&format!("{TREE}{WHO}encoding x\n{SIGNED}\nit says gpgsig x\n\ngpgsig y\n")).unwrap().unwrap();
        assert_eq!(parts.armored, b"-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n");
        assert_eq!(
            String::from_utf8(parts.payload).unwrap(),
            format!("{TREE}{WHO}encoding x\n\nit says gpgsig x\n\ngpgsig y\n")
        );
    }

    #[test]
    fn a_commit_without_a_signature_has_none_whatever_its_message_says() {
        assert_eq!(of(&format!("{TREE}{WHO}\n{SIGNED}")).unwrap(), None);
        assert_eq!(of("").unwrap(), None);
    }

    #[test]
    fn the_same_signed_content_has_no_other_form() {
        let mergetag = "mergetag object 0\n type commit\n";
        for (text, what) in [
            (format!("{TREE}{SIGNED}{WHO}\nx\n"), "not the last header"),
            (format!("{SIGNED}{TREE}{WHO}\nx\n"), "the first header"),
            (format!("{TREE}{WHO}{SIGNED}{mergetag}\nx\n"), "before a mergetag"),
            (format!("{TREE}{WHO}{SIGNED}{SIGNED}\nx\n"), "twice"),
            (format!("{TREE}{WHO}gpgsig-sha256 x\n{SIGNED}\nx\n"), "one that Git doesn't look at"),
            (format!("{TREE}{WHO}{SIGNED}gpgsig-sha256 x\n y\n\nx\n"), "one that Git doesn't look at"),
            (format!("{TREE}{WHO}gpgsignature x\n{SIGNED}\nx\n"), "one that Git doesn't look at"),
            (format!("{TREE}{WHO}gpgsig-sha256 x\n\nx\n"), "a signature of another hash alone"),
            (format!("{TREE}{WHO}{}\nx\n", SIGNED.replacen(' ', "", 1)), "no space behind the name"),
            (format!("{TREE}{WHO}{SIGNED}"), "no end of the headers"),
        ] {
            assert!(matches!(of(&text), Err(BadSignature::NotCanonical { .. })), "{what}: {:?}", of(&text));
        }
        assert!(of(&format!("{TREE}{WHO}{mergetag}{SIGNED}\nx\n")).unwrap().is_some());
    }

    proptest! {
        #[test]
        fn what_is_taken_apart_can_be_put_together_in_one_way(
            lines in proptest::collection::vec("(gpgsig|gpgsig-sha256|tree|| )( ?)(x|gpgsig|)", 0..8)
        ) {
            let commit = lines.join("\n").into_bytes();
            if let Ok(Some(parts)) = Signature::of_commit(&commit) {
                prop_assert_eq!(put_together(&parts).unwrap(), commit);
            }
        }
    }
}
