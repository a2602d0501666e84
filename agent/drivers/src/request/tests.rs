use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(200);

/// A server that answers each connection with `answer`, again and again if `for_ever`.
async fn server(answer: &'static [u8], for_ever: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            while stream.write_all(answer).await.is_ok() && for_ever {}
        }
    });
    address
}

async fn ask(answer: &'static [u8], for_ever: bool, limit: Duration) -> Result<(), String> {
    http(&format!("http://{}/healthz", server(answer, for_ever).await), limit).await
}

#[tokio::test]
async fn an_answer_from_200_to_399_is_well() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"[..],
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nlocation: http://elsewhere.invalid/\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n",
    ] {
        assert_eq!(ask(answer, false, LONG).await, Ok(()));
    }
}

#[tokio::test]
async fn any_other_status_is_named() {
    let error =
        ask(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", false, LONG).await.unwrap_err();
    assert!(error.ends_with("/healthz: answered 503 Service Unavailable"), "{error}");
}

#[tokio::test]
async fn a_body_that_never_ends_does_not_matter() {
    assert_eq!(ask(b"HTTP/1.1 200 OK\r\n\r\nxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", true, LONG).await, Ok(()));
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off() {
    let error = ask(b"HTTP/1.1 200 OK\r\nx: y\r\nx: y", true, LONG).await.unwrap_err();
    assert!(error.contains("not HTTP/1"), "{error}");
}

#[tokio::test]
async fn silence_ends_at_the_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = http(&format!("http://{}/", listener.local_addr().unwrap()), SHORT).await.unwrap_err();
    assert!(error.ends_with("no answer within 200ms"), "{error}");
}

#[tokio::test]
async fn a_closed_connection_and_garbage_are_told_apart() {
    assert!(ask(b"", false, LONG).await.unwrap_err().contains("closed without an answer"));
    assert!(ask(b"SSH-2.0-OpenSSH_9.2\r\n", false, LONG).await.unwrap_err().contains("not HTTP/1"));
}

#[tokio::test]
async fn a_port_where_nothing_listens_is_said_to_be_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    assert_eq!(tcp(&address, LONG).await, Ok(()));
    drop(listener);
    assert!(tcp(&address, LONG).await.unwrap_err().contains("nothing listens"));
    assert!(http(&format!("http://{address}/"), LONG).await.unwrap_err().contains("nothing listens"));
}

async fn read(answer: &'static [u8], for_ever: bool) -> Result<String, String> {
    page(&format!("http://{}/metrics", server(answer, for_ever).await), 1000, LONG).await
}

#[tokio::test]
async fn a_page_is_read_to_its_end_and_no_further_than_it_may() {
    let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nup 1\nx 2\n";
    assert_eq!(read(whole, false).await, Ok("up 1\nx 2\n".to_owned()));
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nup 1\n\r\n0\r\n\r\n";
    assert_eq!(read(chunked, false).await, Ok("up 1\n".to_owned()));
    for (answer, for_ever, said) in [
        (&b"HTTP/1.1 200 OK\r\n\r\nxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"[..], true, "more than 1000 bytes"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nup", false, "the response was cut off"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n\xff", false, "not text"),
        (b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n", false, "answered 302 Found"),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", false, "answered 404 Not Found"),
    ] {
        let error = read(answer, for_ever).await.unwrap_err();
        assert!(error.contains(said) && error.contains("/metrics: "), "{error}");
    }
}

#[tokio::test]
async fn only_plain_http_is_asked() {
    for url in [
        "https://127.0.0.1/",
        "file:///etc/passwd",
        "127.0.0.1:80",
        "http://a@b/",
        "http://",
        "",
        "http://\u{1b}/",
    ] {
        assert!(http(url, SHORT).await.is_err(), "{url}");
    }
    assert!(tcp("nonsense", SHORT).await.is_err());
}

#[cfg(feature = "podman")]
#[tokio::test]
async fn a_question_by_grpc_ends_at_its_limit_and_says_what_is_there_instead() {
    let ask = async |answer, for_ever, limit| {
        grpc(&server(answer, for_ever).await.to_string(), "", limit).await.unwrap_err()
    };
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    let error = ask(b"HTTP/1.1 400 Bad Request\r\n\r\n", false, LONG).await;
    assert!(error.starts_with("gRPC health check at 127.0.0.1:") && error.contains("by HTTP/1"), "{error}");
    assert!(ask(settings, true, LONG).await.contains("more than 65536 bytes"));
    assert!(ask(settings, false, LONG).await.contains("closed before the answer was complete"));
    assert!(ask(b"", false, LONG).await.contains("closed without an answer"));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let error = grpc(&address, "", SHORT).await.unwrap_err();
    assert!(error.ends_with("no answer within 200ms"), "{error}");
    drop(listener);
    assert!(grpc(&address, "", LONG).await.unwrap_err().contains("nothing listens"));
}
