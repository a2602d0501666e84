//! gRPC's health protocol as a client that asks once: the bytes of the question, and a reader of what comes back. Pure, so
//! that any bytes of a workload can be played to it; whoever has the connection carries them.
//!
//! It is HTTP/2 (RFC 9113) as far as one request on a connection of its own needs it. That is a fraction of a client
//! for general use, and the static binary has no room for one.

mod headers;
mod status;
#[cfg(test)]
mod tests;

use std::time::Duration;

use self::headers::Headers;

/// More than any answer to a health check has, frames and headers and all, in bytes.
const ANSWER_LIMIT: usize = 64 << 10;
/// What a frame may carry unless the receiver has said otherwise, and it hasn't (RFC 9113, 4.2), in bytes.
const FRAME_LIMIT: usize = 16 << 10;
/// How long the name of a service may be, in bytes: the question is to fit into one frame.
pub const SERVICE_LIMIT: usize = 1024;
/// A frame's length, type, flags and stream.
const HEAD: usize = 9;
/// The one stream: the first that a client may open.
const STREAM: u32 = 1;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// Types of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

// Flags of frames.
const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// What to send first, and all at once, to the server at `authority` (`host:port`): the question whether `service`
/// is well, or with an empty one the server as a whole. `limit` is how long the server has.
pub fn question(authority: &str, service: &str, limit: Duration) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    // Headers by reference to earlier ones (1) could only be read with a memory of these, and pushed streams (2) not at all.
    let settings = [(1_u16, 0_u32), (2, 0)].map(|(key, value)| {
        let mut setting = key.to_be_bytes().to_vec();
        setting.extend(value.to_be_bytes());
        setting
    });
    frame(&mut bytes, SETTINGS, 0, 0, &settings.concat());
    let milliseconds = limit.as_millis().clamp(1, 99_999_999);
    let headers = headers::encode(authority, &format!("{milliseconds}m"));
    frame(&mut bytes, HEADERS, END_HEADERS, STREAM, &headers);
    frame(&mut bytes, DATA, END_STREAM, STREAM, &message(service));
    bytes
}

/// `HealthCheckRequest { service = 1 }`, with gRPC's prefix: not compressed, and how long it is.
fn message(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend(service.as_bytes());
    }
    let mut bytes = vec![0];
    bytes.extend((message.len() as u32).to_be_bytes());
    bytes.extend(message);
    bytes
}

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, content: &[u8]) {
    bytes.extend(&(content.len() as u32).to_be_bytes()[1..]);
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(content);
}

/// Reads what the server says to a [`question`].
#[derive(Debug)]
pub struct Answer {
    service: String,
    /// What came and isn't a whole frame yet.
    waiting: Vec<u8>,
    /// How much came.
    total: usize,
    /// Whether the server has begun as HTTP/2 wants it.
    begun: bool,
    /// Headers that go on in the next frame, and whether nothing comes after them.
    block: Option<(Vec<u8>, bool)>,
    headers: Headers,
    body: Vec<u8>,
}

/// A frame that came.
struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    content: &'a [u8],
}

impl Answer {
    /// Nothing came yet.
    pub fn new(service: &str) -> Self {
        Answer {
            service: service.to_owned(),
            waiting: Vec::new(),
            total: 0,
            begun: false,
            block: None,
            headers: Headers::default(),
            body: Vec::new(),
        }
    }

    /// Takes what came, in pieces as they come. What is to be sent is added to `reply`. None is that more must come; else
    /// what the server says of itself: that it serves, or why it doesn't, for people.
    pub fn take(&mut self, bytes: &[u8], reply: &mut Vec<u8>) -> Option<Result<(), String>> {
        self.total += bytes.len();
        if self.total > ANSWER_LIMIT {
            return Some(Err(format!("it answered with more than {ANSWER_LIMIT} bytes")));
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.extend_from_slice(bytes);
        let mut rest = &waiting[..];
        while let Some((frame, after)) = whole_frame(rest) {
            rest = after;
            match self.take_frame(&frame, reply) {
                Ok(false) => {}
                Ok(true) => return Some(self.verdict()),
                Err(why) => return Some(Err(why)),
            }
        }
        // What is too long, or another protocol, is told before all of it is there.
        if let Err(why) = self.check_head(rest) {
            return Some(Err(why));
        }
        self.waiting = rest.to_vec();
        None
    }

    /// What is to be said where the connection ended before [`Answer::take`] had a verdict.
    pub fn cut_off(&self) -> String {
        match self.begun {
            false if self.total == 0 => "the connection was closed without an answer".to_owned(),
            false => no_http2(),
            true => "the connection was closed before the answer was complete".to_owned(),
        }
    }

    /// Whether what begins with `bytes` can be a frame that is to come.
    fn check_head(&self, bytes: &[u8]) -> Result<(), String> {
        // Of HTTP/1 the first letter is enough: as a length it would be far beyond any frame's.
        if !self.begun && bytes.starts_with(b"HTTP/") {
            return Err("it answered by HTTP/1: nothing that speaks gRPC listens there".to_owned());
        }
        let Some(length) = bytes.first_chunk::<3>() else { return Ok(()) };
        let length = usize::from(length[0]) << 16 | usize::from(length[1]) << 8 | usize::from(length[2]);
        let is_settings = bytes.get(3).is_none_or(|kind| *kind == SETTINGS);
        if !self.begun && (length > FRAME_LIMIT || !is_settings) {
            // The beginning of a status line may still come.
            if b"HTTP/".starts_with(bytes) { Ok(()) } else { Err(no_http2()) }
        } else if length > FRAME_LIMIT {
            Err(format!("it broke HTTP/2: a frame of {length} bytes"))
        } else {
            Ok(())
        }
    }

    /// Whether the answer is complete.
    fn take_frame(&mut self, frame: &Frame<'_>, reply: &mut Vec<u8>) -> Result<bool, String> {
        if !std::mem::replace(&mut self.begun, true) && (frame.kind != SETTINGS || frame.flags & ACK != 0) {
            return Err(no_http2());
        }
        if self.block.is_some() && frame.kind != CONTINUATION {
            return Err(broken("other frames among those of its headers"));
        }
        let of_the_answer = frame.stream == STREAM;
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => self::frame(reply, SETTINGS, ACK, 0, &[]),
            PING if frame.flags & ACK == 0 && frame.content.len() == 8 => {
                self::frame(reply, PING, ACK, 0, frame.content);
            }
            HEADERS if of_the_answer => {
                let mut content = unpadded(frame)?;
                if frame.flags & PRIORITY != 0 {
                    content =
                        content.get(5..).ok_or_else(|| broken("headers shorter than their priority"))?;
                }
                return self.take_headers(content.to_vec(), frame.flags & END_STREAM != 0, frame.flags);
            }
            CONTINUATION if of_the_answer => {
                let Some((mut block, last)) = self.block.take() else {
                    return Err(broken("the end of headers that never began"));
                };
                block.extend_from_slice(frame.content);
                return self.take_headers(block, last, frame.flags);
            }
            DATA if of_the_answer => {
                self.body.extend_from_slice(unpadded(frame)?);
                return Ok(frame.flags & END_STREAM != 0);
            }
            RST_STREAM if of_the_answer => {
                return Err(format!("it broke off the request: {}", status::of_http2(frame.content)));
            }
            GOAWAY => {
                let (last, code) = frame.content.split_at_checked(4).unwrap_or_default();
                // It names the last stream that it still answers.
                if last.iter().all(|byte| *byte == 0) || code.iter().take(4).any(|byte| *byte != 0) {
                    return Err(format!("it ended the connection: {}", status::of_http2(code)));
                }
            }
            PUSH_PROMISE => return Err(broken("it pushes what it was told not to")),
            // Windows, priorities, and what later versions may have: nothing for one small request.
            _ => {}
        }
        Ok(false)
    }

    fn take_headers(&mut self, block: Vec<u8>, last: bool, flags: u8) -> Result<bool, String> {
        if flags & END_HEADERS == 0 {
            self.block = Some((block, last));
            return Ok(false);
        }
        self.headers.read(&block).map_err(broken)?;
        Ok(last)
    }

    fn verdict(&self) -> Result<(), String> {
        self.headers.judge(&self.service)?;
        status::of_health(&self.body, &self.service)
    }
}

/// The first frame, if all of it is there and it isn't too long, and what comes after.
fn whole_frame(bytes: &[u8]) -> Option<(Frame<'_>, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
    let [a, b, c, kind, flags, s, t, u, v] = *head;
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    if length > FRAME_LIMIT {
        return None;
    }
    let (content, rest) = rest.split_at_checked(length)?;
    // The first bit of the stream is reserved.
    let stream = u32::from_be_bytes([s, t, u, v]) & 0x7fff_ffff;
    Some((Frame { kind, flags, stream, content }, rest))
}

fn unpadded<'a>(frame: &Frame<'a>) -> Result<&'a [u8], String> {
    if frame.flags & PADDED == 0 {
        return Ok(frame.content);
    }
    let content = frame.content.split_first().and_then(|(padding, content)| {
        content.len().checked_sub(usize::from(*padding)).and_then(|length| content.get(..length))
    });
    content.ok_or_else(|| broken("more padding than there is room for"))
}

fn no_http2() -> String {
    "it does not answer by HTTP/2 without TLS, which gRPC probes speak".to_owned()
}

fn broken(what: &str) -> String {
    format!("it broke HTTP/2: {what}")
}
