//! Logs as podman sends them: frames with a head of eight bytes (Docker's attach stream), of which only the text
//! is wanted.

/// The head of a frame, in bytes: the stream, three zeros, the length.
const HEAD: usize = 8;

/// The lines in `frames`. What is cut off at the end is left out.
pub(super) fn lines_of(frames: &[u8]) -> Vec<String> {
    let mut text = Vec::new();
    let mut rest = frames;
    while let Some((head, after)) = rest.split_at_checked(HEAD) {
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some((frame, after)) = after.split_at_checked(length) else { break };
        text.extend_from_slice(frame);
        if !frame.ends_with(b"\n") {
            text.push(b'\n');
        }
        rest = after;
    }
    String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_whole_frames_is_read_line_by_line() {
        let frame = |text: &str| {
            let length = u32::try_from(text.len()).unwrap().to_be_bytes();
            [&[1, 0, 0, 0][..], &length, text.as_bytes()].concat()
        };
        let mut bytes = [frame("hello\n"), frame("two\nthree"), frame("cut off")].concat();
        bytes.truncate(bytes.len() - 2);
        assert_eq!(lines_of(&bytes), ["hello", "two", "three"]);
        assert!(lines_of(b"short").is_empty());
    }
}
