//! HTTP/2's headers (HPACK, RFC 7541): those of the question are written without any compression, and of the answer's those
//! are read that matter. The server was told to keep no table of its own, so that each block can be read by itself.

use super::status;

/// Headers of an answer, its trailers among them.
#[derive(Debug, Default)]
pub(super) struct Headers {
    http_status: Option<String>,
    content_type: Option<String>,
    grpc_status: Option<String>,
    grpc_message: Option<String>,
}

/// The headers of a question. `timeout` is in gRPC's own notation.
pub(super) fn encode(authority: &str, timeout: &str) -> Vec<u8> {
    // Two that the table of names has with their values: `:method: POST`, `:scheme: http`.
    let mut block = vec![0x83, 0x86];
    let mut header = |name: &str, value: &str| {
        // A name and a value as they are, to be kept in no table.
        block.push(0);
        for text in [name, value] {
            integer(&mut block, 7, text.len());
            block.extend(text.as_bytes());
        }
    };
    header(":path", "/grpc.health.v1.Health/Check");
    header(":authority", authority);
    header("te", "trailers");
    header("content-type", "application/grpc");
    header("user-agent", concat!("holdfast/", env!("CARGO_PKG_VERSION")));
    header("grpc-timeout", timeout);
    block
}

/// Appends a number whose first byte has so many bits for it, and zeros before (RFC 7541, 5.1).
fn integer(bytes: &mut Vec<u8>, bits: u32, number: usize) {
    let most = (1_usize << bits) - 1;
    if number < most {
        return bytes.push(number as u8);
    }
    bytes.push(most as u8);
    let mut rest = number - most;
    while rest >= 0x80 {
        bytes.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
}

impl Headers {
    /// Reads a block. Of what stands in several blocks the last one counts: an answer may be announced by others.
    pub(super) fn read(&mut self, block: &[u8]) -> Result<(), &'static str> {
        let mut reader = Reader(block);
        while let Some(first) = reader.0.first().copied() {
            let (name, value) = if first & 0x80 != 0 {
                let index = reader.integer(7)?;
                (name_of(index)?, value_of(index).to_owned())
            } else if first & 0xe0 == 0x20 {
                // Another size of a table that isn't used.
                reader.integer(5)?;
                continue;
            } else {
                // 01: to be kept in the table; 0000 and 0001: not to be. It makes no difference without one.
                let index = reader.integer(if first & 0x40 != 0 { 6 } else { 4 })?;
                let name = if index == 0 { Name::of(&reader.text()?) } else { name_of(index)? };
                (name, reader.text()?)
            };
            match name {
                Name::Status => self.http_status = Some(value),
                Name::ContentType => self.content_type = Some(value),
                Name::GrpcStatus => self.grpc_status = Some(value),
                Name::GrpcMessage => self.grpc_message = Some(value),
                Name::Other => {}
            }
        }
        Ok(())
    }

    /// Whether they say that the request itself went well; else why not, for people.
    pub(super) fn judge(&self, service: &str) -> Result<(), String> {
        if let Some(code) = &self.grpc_status {
            return status::of_grpc(code, self.grpc_message.as_deref().unwrap_or_default(), service);
        }
        let http_status = self.http_status.as_deref().unwrap_or("none");
        if http_status != "200" {
            return Err(format!(
                "it answered with the HTTP status {}, which no gRPC server does",
                short(http_status)
            ));
        }
        let content_type = self.content_type.as_deref().unwrap_or("none");
        if !content_type.starts_with("application/grpc") {
            return Err(format!(
                "it answered with the content type {}: it is no gRPC server",
                short(content_type)
            ));
        }
        Err("its answer has no grpc-status".to_owned())
    }
}

/// What is told of a text that came from outside.
pub(super) fn short(text: &str) -> String {
    text.chars().take(60).flat_map(char::escape_default).collect()
}

/// The names that matter.
#[derive(Clone, Copy)]
enum Name {
    Status,
    ContentType,
    GrpcStatus,
    GrpcMessage,
    Other,
}

impl Name {
    fn of(text: &str) -> Self {
        match text {
            ":status" => Name::Status,
            "content-type" => Name::ContentType,
            "grpc-status" => Name::GrpcStatus,
            "grpc-message" => Name::GrpcMessage,
            _ => Name::Other,
        }
    }
}

/// A name of the static table (RFC 7541, appendix A).
fn name_of(index: usize) -> Result<Name, &'static str> {
    match index {
        8..=14 => Ok(Name::Status),
        31 => Ok(Name::ContentType),
        1..=61 => Ok(Name::Other),
        _ => Err("its headers refer to a table that it was told not to keep"),
    }
}

/// A value of the static table, for the names that matter.
fn value_of(index: usize) -> &'static str {
    match index {
        8 => "200",
        9 => "204",
        10 => "206",
        11 => "304",
        12 => "400",
        13 => "404",
        14 => "500",
        _ => "",
    }
}

const CUT_OFF: &str = "its headers are cut off";

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, &'static str> {
        let (first, rest) = self.0.split_first().ok_or(CUT_OFF)?;
        self.0 = rest;
        Ok(*first)
    }

    /// A number whose first byte has so many bits for it (RFC 7541, 5.1).
    fn integer(&mut self, bits: u32) -> Result<usize, &'static str> {
        let most = (1_usize << bits) - 1;
        let mut number = usize::from(self.byte()?) & most;
        if number < most {
            return Ok(number);
        }
        // Three more bytes are 2 MB: far beyond any block.
        for shift in [0, 7, 14] {
            let byte = self.byte()?;
            number += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err("a number in its headers is too large")
    }

    /// A text, as it is or in Huffman's code (RFC 7541, 5.2). What isn't UTF-8 is replaced: none of what matters has it.
    fn text(&mut self) -> Result<String, &'static str> {
        let is_coded = self.0.first().is_some_and(|first| first & 0x80 != 0);
        let length = self.integer(7)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(CUT_OFF)?;
        self.0 = rest;
        let bytes = if is_coded { &huffman(bytes)? } else { bytes };
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }
}

/// How many bits each byte has in the code of RFC 7541's appendix B, and at last its end. The code is canonical: shorter
/// ones come first, and of the same length those of smaller bytes; so the lengths say all of it.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7,
    8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7,
    15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24,
    23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23,
    23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26,
    26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20,
    21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27,
    27, 27, 26, 30,
];
/// The longest, in bits.
const LONGEST: usize = 30;

fn huffman(bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut text = Vec::with_capacity(bytes.len() * 8 / 5);
    let of_length = code_lengths();
    // The bits of a code so far, how many they are, and where the codes of this many bits begin.
    let (mut code, mut length, mut first) = (0_u32, 0, 0_u32);
    for bit in bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| u32::from(byte >> at & 1))) {
        (code, length) = (code << 1 | bit, length + 1);
        first <<= 1;
        let Some(same) = of_length.get(length).copied().filter(|_| length <= LONGEST) else {
            return Err("a text in its headers is in no code");
        };
        // Codes are given in their order, so what is behind the last of this length goes on.
        match code.checked_sub(first) {
            Some(place) if place < same => {
                text.push(symbol(length, place).ok_or("a text in its headers ends too early")?);
                (code, length, first) = (0, 0, 0);
            }
            _ => first += same,
        }
    }
    // The last byte is filled up with ones: the beginning of the end's code.
    if length < 8 && code == (1 << length) - 1 { Ok(text) } else { Err("a text in its headers is cut off") }
}

/// How many codes there are of each length.
fn code_lengths() -> [u32; LONGEST + 1] {
    let mut counts = [0; LONGEST + 1];
    for length in LENGTHS {
        if let Some(count) = counts.get_mut(usize::from(length)) {
            *count += 1;
        }
    }
    counts
}

/// The byte with the code at this place among those of a length; none is the end.
fn symbol(length: usize, place: u32) -> Option<u8> {
    let mut same = (0_u32..).zip(LENGTHS).filter(|(_, of)| usize::from(*of) == length);
    same.nth(place as usize).and_then(|(symbol, _)| u8::try_from(symbol).ok())
}
