use proptest::prelude::*;

use super::*;

/// A literal header without Huffman's code.
fn header(name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![0, name.len() as u8];
    block.extend(name.as_bytes());
    block.push(value.len() as u8);
    block.extend(value.as_bytes());
    block
}

fn made(kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame(&mut bytes, kind, flags, stream, content);
    bytes
}

fn settings() -> Vec<u8> {
    made(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])
}

fn head() -> Vec<u8> {
    let block = [vec![0x88], header("content-type", "application/grpc")].concat();
    made(HEADERS, END_HEADERS, 1, &block)
}

fn body(message: &[u8]) -> Vec<u8> {
    made(DATA, 0, 1, &[&[0, 0, 0, 0, message.len() as u8], message].concat())
}

fn trailers(code: &str, message: &str) -> Vec<u8> {
    let block = [header("grpc-status", code), header("grpc-message", message)].concat();
    made(HEADERS, END_HEADERS | END_STREAM, 1, &block)
}

fn trailers_only(code: &str, message: &str) -> Vec<u8> {
    let block = [
        vec![0x88],
        header("content-type", "application/grpc"),
        header("grpc-status", code),
        header("grpc-message", message),
    ];
    [settings(), made(HEADERS, END_HEADERS | END_STREAM, 1, &block.concat())].concat()
}

fn serving() -> Vec<u8> {
    [settings(), head(), body(&[8, 1]), trailers("0", "")].concat()
}

/// The verdict, or what is said when the connection ends after these bytes; and what was replied.
fn played(pieces: impl IntoIterator<Item = Vec<u8>>, service: &str) -> (Result<(), String>, Vec<u8>) {
    let mut answer = Answer::new(service);
    let mut reply = Vec::new();
    for piece in pieces {
        if let Some(verdict) = answer.take(&piece, &mut reply) {
            return (verdict, reply);
        }
    }
    (Err(answer.cut_off()), reply)
}

fn said(bytes: &[u8]) -> String {
    played([bytes.to_vec()], "shop.Cart").0.expect_err("it serves")
}

#[test]
fn a_server_that_serves_is_well_and_its_settings_and_pings_are_acknowledged() {
    assert_eq!(played([serving()], ""), (Ok(()), vec![0, 0, 0, 4, 1, 0, 0, 0, 0]));
    let ping = made(PING, 0, 0, b"12345678");
    let (verdict, reply) = played([[settings(), ping, serving()].concat()], "");
    assert_eq!(verdict, Ok(()));
    let acknowledged = [made(SETTINGS, ACK, 0, &[]), made(PING, ACK, 0, b"12345678")].concat();
    assert_eq!(reply, [acknowledged, made(SETTINGS, ACK, 0, &[])].concat());
    // Acknowledgements of ours get none.
    let acks = [made(SETTINGS, ACK, 0, &[]), made(PING, ACK, 0, b"12345678")].concat();
    assert_eq!(played([[settings(), acks].concat()], "").1.len(), HEAD);
}

#[test]
fn an_answer_in_pieces_with_padding_and_priority_is_the_same_answer() {
    assert_eq!(played(serving().into_iter().map(|byte| vec![byte]), "").0, Ok(()));
    let block = [vec![0x88], header("content-type", "application/grpc+proto")].concat();
    let begin = [&[2, 0, 0, 0, 0, 16][..], &block[..4], &[0, 0]].concat();
    let frames = [
        made(HEADERS, PADDED | PRIORITY, 1, &begin),
        made(CONTINUATION, 0, 1, &block[4..6]),
        made(CONTINUATION, END_HEADERS, 1, &block[6..]),
        made(DATA, PADDED, 1, &[3, 0, 0, 0, 0, 0, 0, 0]),
        made(DATA, 0, 1, &[2, 8, 1]),
        // Frames of a later version, and of other streams.
        made(0x42, 0xff, 1, b"whatever"),
        made(RST_STREAM, 0, 3, &[0, 0, 0, 2]),
        trailers("0", ""),
    ];
    // The message's length is in its fifth byte: two are to come.
    let mut frames = frames.concat();
    let at = frames.windows(8).position(|bytes| bytes == [3, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    frames.splice(at - HEAD..at + 8, made(DATA, PADDED, 1, &[1, 0, 0, 0, 0, 4, 0]));
    let at = frames.windows(3).position(|bytes| bytes == [2, 8, 1]).unwrap();
    frames.splice(at - HEAD..at + 3, made(DATA, 0, 1, &[0x10, 7, 8, 1]));
    assert_eq!(played([[settings(), frames].concat()], "").0, Ok(()));
}

#[test]
fn a_server_that_does_not_serve_says_how_it_is() {
    let answered = |message: &[u8]| said(&[settings(), head(), body(message), trailers("0", "")].concat());
    assert_eq!(answered(&[8, 2]), "the service \"shop.Cart\" is NOT_SERVING");
    assert_eq!(answered(&[]), "the service \"shop.Cart\" is UNKNOWN");
    assert_eq!(answered(&[8, 3]), "the service \"shop.Cart\" is SERVICE_UNKNOWN");
    assert_eq!(answered(&[8, 9]), "the service \"shop.Cart\" is in the unknown status 9");
    let no_name = played([[settings(), head(), body(&[8, 2]), trailers("0", "")].concat()], "");
    assert_eq!(no_name.0, Err("the server is NOT_SERVING".to_owned()));
    for broken in
        [&[8][..], &[0x0a, 5, 1], &[0x0b], &[8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]]
    {
        assert!(answered(broken).contains("no HealthCheckResponse"), "{broken:?}");
    }
    let no_body = said(&[settings(), head(), trailers("0", "")].concat());
    assert!(no_body.contains("no HealthCheckResponse"), "{no_body}");
}

#[test]
fn a_request_that_fails_is_told_with_the_servers_own_words() {
    assert_eq!(
        said(&trailers_only("12", "unknown service grpc.health.v1.Health")),
        "it has no health service (grpc.health.v1.Health): unknown service grpc.health.v1.Health"
    );
    assert_eq!(said(&trailers_only("5", "")), "it does not know the service \"shop.Cart\"");
    assert_eq!(
        said(&trailers_only("14", "gr%C3%BC%c3%9fe%0Aund 100%")),
        "the health check failed with UNAVAILABLE: grüße und 100%"
    );
    assert_eq!(said(&trailers_only("99", "")), "the health check failed with the status 99");
    // A server may say that it serves, and then that it failed.
    let after = [settings(), head(), body(&[8, 1]), trailers("13", "late")].concat();
    assert_eq!(said(&after), "the health check failed with INTERNAL: late");
}

#[test]
fn what_is_no_grpc_server_is_told_as_what_it_is() {
    let http2 =
        |block: &[u8]| said(&[settings(), made(HEADERS, END_HEADERS | END_STREAM, 1, block)].concat());
    assert!(http2(&[0x8d]).contains("HTTP status 404"), "{}", http2(&[0x8d]));
    assert!(
        http2(&[vec![0x88], header("content-type", "text/html")].concat()).contains("content type text/html")
    );
    assert!(
        http2(&[vec![0x88], header("content-type", "application/grpc")].concat()).contains("no grpc-status")
    );
    assert!(said(b"HTTP/1.1 400 Bad Request\r\n\r\n").contains("by HTTP/1"));
    let tls_alert = [0x15, 3, 1, 0, 2, 2, 10];
    for other in [&tls_alert[..], b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTQ", &made(GOAWAY, 0, 0, &[0; 8])] {
        assert!(said(other).contains("does not answer by HTTP/2 without TLS"), "{other:?}: {}", said(other));
    }
    assert_eq!(said(b""), "the connection was closed without an answer");
    assert_eq!(said(&settings()), "the connection was closed before the answer was complete");
}

#[test]
fn a_server_that_breaks_off_says_why() {
    let after_settings = |bytes: Vec<u8>| said(&[settings(), bytes].concat());
    let ended = |code: u32, last: u32| {
        after_settings(made(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat()))
    };
    assert_eq!(ended(11, 1), "it ended the connection: ENHANCE_YOUR_CALM");
    assert_eq!(ended(0, 0), "it ended the connection: NO_ERROR");
    assert_eq!(
        after_settings(made(RST_STREAM, 0, 1, &[0, 0, 0, 7])),
        "it broke off the request: REFUSED_STREAM"
    );
    assert_eq!(after_settings(made(RST_STREAM, 0, 1, &[])), "it broke off the request: it does not say why");
    // A server that goes still answers what it has taken.
    let graceful = made(GOAWAY, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    assert_eq!(played([[settings(), graceful, serving()].concat()], "").0, Ok(()));
}

#[test]
fn what_breaks_http2_or_never_ends_is_an_error() {
    let after_settings = |bytes: Vec<u8>| said(&[settings(), bytes].concat());
    for broken in [
        vec![0x00, 0x40, 0x01, DATA, 0, 0, 0, 0, 1],
        made(DATA, PADDED, 1, &[5, 0]),
        made(DATA, PADDED, 1, &[]),
        made(HEADERS, PRIORITY, 1, &[0]),
        made(CONTINUATION, 0, 1, &[]),
        [made(HEADERS, 0, 1, &[]), made(DATA, 0, 1, &[])].concat(),
        made(PUSH_PROMISE, 0, 1, &[]),
        // An index beyond the static table, of nothing, a text that is cut off, one with a whole byte of padding.
        made(HEADERS, END_HEADERS, 1, &[0xbe]),
        made(HEADERS, END_HEADERS, 1, &[0x80]),
        made(HEADERS, END_HEADERS, 1, &[0, 5, b'a']),
        made(HEADERS, END_HEADERS, 1, &[0, 0x81, 0xff, 0]),
        made(HEADERS, END_HEADERS, 1, &[0, 0x7f, 0xff, 0xff, 0xff, 0xff]),
    ] {
        let why = after_settings(broken.clone());
        assert!(why.starts_with("it broke HTTP/2: "), "{broken:?}: {why}");
    }
    let endless = std::iter::once(settings()).chain(std::iter::repeat(made(0x42, 0, 0, &[0; 1000])));
    assert!(played(endless.take(1000), "").0.unwrap_err().contains("more than 65536 bytes"));
}

#[test]
fn texts_in_huffmans_code_are_read_as_the_specification_shows_them() {
    // RFC 7541, C.6.1: an answer with the status 302, a date and a place; and the word `www.example.com` of C.4.1.
    let block = hex::decode(
        "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
    );
    let moved = [settings(), made(HEADERS, END_HEADERS | END_STREAM, 1, &block.unwrap())].concat();
    assert!(said(&moved).contains("HTTP status 302"), "{}", said(&moved));
    let mut block = vec![0, 12];
    block.extend(b"grpc-message");
    block.push(0x8c);
    block.extend(hex::decode("f1e3c2e5f23a6ba0ab90f4ff").unwrap());
    block.extend(header("grpc-status", "14"));
    let coded = [settings(), made(HEADERS, END_HEADERS | END_STREAM, 1, &block)].concat();
    assert_eq!(said(&coded), "the health check failed with UNAVAILABLE: www.example.com");
}

#[test]
fn the_question_names_the_service_and_how_long_there_is() {
    let service = "s".repeat(SERVICE_LIMIT);
    let bytes = question("10.88.0.7:50051", &service, Duration::from_millis(1500));
    let mut rest = bytes.strip_prefix(PREFACE).unwrap();
    let mut frames = Vec::new();
    while let Some((frame, after)) = whole_frame(rest) {
        frames.push((frame.kind, frame.flags, frame.stream, frame.content.to_vec()));
        rest = after;
    }
    assert!(rest.is_empty());
    assert_eq!(frames.iter().map(|frame| frame.0).collect::<Vec<_>>(), [SETTINGS, HEADERS, DATA]);
    let has = |words: &str| frames[1].3.windows(words.len()).any(|part| part == words.as_bytes());
    assert!(has("10.88.0.7:50051") && has("/grpc.health.v1.Health/Check") && has("1500m"));
    // A thousand and three bytes: the field, its length in two, the name.
    assert_eq!(frames[2].3[..8], [0, 0, 0, 4, 3, 0x0a, 0x80, 8]);
    assert_eq!(frames[2].3.len(), 5 + 3 + SERVICE_LIMIT);
    let nobody = question("a:1", "", Duration::ZERO);
    assert_eq!(nobody[nobody.len() - 5..], [0; 5]);
}

/// Frames as a server may send them, and as none may.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        settings(),
        head(),
        body(&[8, 1]),
        body(&[]),
        trailers("0", ""),
        trailers("12", "no"),
        made(PING, 0, 0, &[1; 8]),
        made(HEADERS, 0, 1, &[0x88]),
        made(CONTINUATION, END_HEADERS, 1, &header("grpc-status", "0")),
    ]);
    let some = (0_u8..12, any::<u8>(), 0_u32..3, prop::collection::vec(any::<u8>(), 0..40));
    let some = some.prop_map(|(kind, flags, stream, content)| made(kind, flags, stream, &content));
    prop_oneof![4 => known, 3 => some, 1 => prop::collection::vec(any::<u8>(), 0..12)]
}

proptest! {
    #[test]
    fn any_bytes_are_judged_alike_whole_and_in_pieces(
        begins in any::<bool>(),
        frames in prop::collection::vec(frames(), 0..12),
        cut in 1_usize..50,
    ) {
        let mut bytes = if begins { settings() } else { Vec::new() };
        bytes.extend(frames.concat());
        let whole = played([bytes.clone()], "shop.Cart");
        let pieces = played(bytes.chunks(cut).map(<[u8]>::to_vec), "shop.Cart");
        prop_assert_eq!(&whole.0, &pieces.0);
        prop_assert_eq!(&whole.1, &pieces.1);
        prop_assert!(whole.1.len() <= bytes.len(), "it says more than it was told");
    }

    #[test]
    fn any_text_in_any_code_ends_with_a_text_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let mut block = vec![0, 1, b'x', 0x80 | bytes.len() as u8 & 0x7f];
        block.extend(&bytes);
        let _ = Headers::default().read(&block);
        let _ = Headers::default().read(&bytes);
    }
}
