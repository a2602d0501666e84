//! Servers that hang, drip, never end, lie and redirect; and proxies.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use holdfast::config::Credentials;
use holdfast::source::{GitConfig, GitSource, Reference, Source, SourceError};
use holdfast_core::digest::Revision;

use crate::support::git_repo::{SignedRepo, Signer, objects};
use crate::support::git_server::{GitServer, Options};
use crate::support::hostile::{Hostile, packet};

fn config(url: &str) -> GitConfig {
    let mut config = GitConfig::new(url, Reference::Branch("main".to_owned()));
    config.timeout = Duration::from_millis(300);
    config.limits.fetch = Duration::from_secs(2);
    // More than a script drips in the time that it is given.
    config.limits.slowest = 1_000_000;
    config.limits.talk = 100_000;
    config.limits.pack = 200_000;
    config
}

fn poll(config: GitConfig) -> SourceError {
    let mirror = tempfile::tempdir().unwrap();
    GitSource::open(config, mirror.path()).unwrap().poll().unwrap_err()
}

/// What comes of asking for a commit: of a server that can leave things out, and of one that can't.
fn fetch(config: &GitConfig) -> [SourceError; 2] {
    ["edge.git", "plain.git"].map(|name| {
        let mirror = tempfile::tempdir().unwrap();
        let config = GitConfig { url: config.url.replace("edge.git", name), ..config.clone() };
        let mut source = GitSource::open(config, mirror.path()).unwrap();
        let error = source.fetch(&Revision("1".repeat(40)), None).unwrap_err();
        assert!(!source.has(&Revision("1".repeat(40))));
        assert!(objects(mirror.path()).is_empty(), "nothing of it was kept");
        error
    })
}

fn ends(error: &SourceError) -> bool {
    matches!(error, SourceError::TimedOut { .. } | SourceError::TooLarge { .. })
}

#[test]
fn nobody_there_is_said() {
    let port = crate::support::ports::free_port();
    let error = poll(config(&format!("http://127.0.0.1:{port}/x.git")));
    assert!(matches!(error, SourceError::Unreachable { .. }), "{error}");
    let error = poll(config("http://nobody.invalid/x.git"));
    assert!(matches!(error, SourceError::Unreachable { .. } | SourceError::TimedOut { .. }), "{error}");
}

#[test]
fn a_server_that_takes_no_connection_is_given_up() {
    // An address of a network for documentation (RFC 5737), which no route leads to.
    let error = poll(config("http://192.0.2.1/x.git"));
    assert!(matches!(error, SourceError::TimedOut { .. } | SourceError::Unreachable { .. }), "{error}");
}

#[test]
fn a_server_that_is_silent_is_given_up() {
    let silent = Hostile::start(|mut peer| peer.hang());
    let error = poll(config(&silent.url()));
    assert!(matches!(error, SourceError::TimedOut { .. }), "{error}");
}

#[test]
fn a_server_that_is_silent_in_the_tls_handshake_is_given_up() {
    let silent = Hostile::start(|mut peer| peer.hang());
    let ca = tempfile::tempdir().unwrap();
    crate::support::git_server::make_certificates(ca.path());
    let mut config = config(&format!("https://127.0.0.1:{}/x.git", silent.port()));
    config.ca_file = Some(ca.path().join("ca.pem"));
    let error = poll(config);
    assert!(matches!(error, SourceError::TimedOut { .. }), "{error}");
}

#[test]
fn a_head_that_never_ends_is_given_up() {
    let dripping = Hostile::start(|mut peer| {
        peer.read_request();
        peer.send(b"HTTP/1.1 200 OK\r\n");
        while peer.send(b"X: y\r\n") {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let error = poll(config(&dripping.url()));
    assert!(matches!(error, SourceError::TimedOut { .. }), "{error}");
    let flooding = Hostile::start(|mut peer| {
        peer.read_request();
        peer.send(b"HTTP/1.1 200 OK\r\n");
        while peer.send(b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n") {}
    });
    let error = poll(config(&flooding.url()));
    assert!(matches!(error, SourceError::Protocol { .. }), "{error}");
}

#[test]
fn an_advertisement_that_never_ends_is_given_up() {
    for pause in [0, 50] {
        let endless = Hostile::start(move |mut peer| {
            peer.read_request();
            peer.send(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\n\r\n",
            );
            while peer.send(packet("something that means nothing\n").as_bytes()) {
                std::thread::sleep(Duration::from_millis(pause));
            }
        });
        let error = poll(config(&endless.url()));
        assert!(ends(&error), "{pause}: {error}");
    }
}

/// A server that advertises well, and then does `then` with what is asked.
fn after_advertising(
    then: impl Fn(&mut crate::support::hostile::Conversation) + Send + Sync + 'static,
) -> Hostile {
    Hostile::start(move |mut peer| {
        loop {
            let last = peer.read_request();
            if last.is_empty() {
                return;
            }
            if last.starts_with("GET") {
                peer.advertise(last.contains("edge.git"));
            } else {
                then(&mut peer);
                return;
            }
        }
    })
}

#[test]
fn a_server_that_hangs_or_drips_after_the_first_request_is_given_up() {
    let silent = after_advertising(|peer| peer.hang());
    assert!(matches!(poll(config(&silent.url())), SourceError::TimedOut { .. }));
    for error in fetch(&config(&silent.url())) {
        assert!(matches!(error, SourceError::TimedOut { .. }), "{error}");
    }
    let midway = after_advertising(|peer| {
        peer.begin_result();
        peer.send(b"000dpack");
        peer.hang();
    });
    for error in fetch(&config(&midway.url())) {
        assert!(matches!(error, SourceError::TimedOut { .. }), "{error}");
    }
    let dripping = after_advertising(|peer| {
        peer.begin_result();
        peer.send(packet("packfile\n").as_bytes());
        // Side band 2: messages for people.
        while peer.send(packet("\u{2}still at it\n").as_bytes()) {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    for error in fetch(&config(&dripping.url())) {
        assert!(matches!(error, SourceError::TimedOut { .. }), "{error}");
    }
}

#[test]
fn a_server_that_sends_for_ever_is_cut_off() {
    let references = after_advertising(|peer| {
        peer.begin_result();
        let line = packet(&format!("{} refs/heads/mainly\n", "1".repeat(40)));
        while peer.send(line.as_bytes()) {}
    });
    let error = poll(config(&references.url()));
    assert!(matches!(error, SourceError::TooLarge { .. }), "{error}");
    let packs = after_advertising(|peer| {
        peer.begin_result();
        peer.send(packet("packfile\n").as_bytes());
        peer.send(packet("\u{1}PACK\0\0\0\u{2}\0\u{1}\0\0").as_bytes());
        // Empty blobs without end.
        let entries: Vec<u8> = [0x30, 0x78, 0x9c, 0x03, 0, 0, 0, 0, 1].repeat(1000);
        let mut line = format!("{:04x}\u{1}", entries.len() + 5).into_bytes();
        line.extend(entries);
        while peer.send(&line) {}
    });
    for error in fetch(&config(&packs.url())) {
        assert!(matches!(error, SourceError::TooLarge { .. }), "{error}");
    }
    let acknowledgements = after_advertising(|peer| {
        peer.begin_result();
        peer.send(packet("acknowledgments\n").as_bytes());
        while peer.send(packet("NAK\n").as_bytes()) {}
    });
    for error in fetch(&config(&acknowledgements.url())) {
        assert!(matches!(error, SourceError::TooLarge { .. }), "{error}");
    }
}

#[test]
fn nonsense_truncation_and_lies_are_errors() {
    type Script = fn(&mut crate::support::hostile::Conversation);
    let scripts: [(&str, Script); 6] = [
        ("no packet", |peer| assert!(peer.send(b"zzzz"))),
        ("cut in a packet", |peer| assert!(peer.send(b"00ffpackfile"))),
        ("nothing", |_| ()),
        ("an error message", |peer| assert!(peer.send(packet("ERR go away\n").as_bytes()))),
        ("a pack that is cut off", |peer| {
            peer.send(packet("packfile\n").as_bytes());
            peer.send(packet("\u{1}PACK\0\0\0\u{2}\0\0\0\u{1}").as_bytes());
            peer.send(b"0000");
        }),
        ("an object that would unpack to gigabytes", |peer| {
            peer.send(packet("packfile\n").as_bytes());
            let mut pack = b"\x01PACK\0\0\0\x02\0\0\0\x01".to_vec();
            // A blob that claims 2^40 bytes.
            pack.extend([0xb0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10, 0x78, 0x9c, 0x03, 0, 0, 0, 0, 1]);
            pack.extend([0; 20]);
            let mut line = format!("{:04x}", pack.len() + 4).into_bytes();
            line.extend(pack);
            peer.send(&line);
            peer.send(b"0000");
        }),
    ];
    for (what, script) in scripts {
        let server = after_advertising(move |peer| {
            peer.begin_result();
            script(peer);
        });
        for error in fetch(&config(&server.url())) {
            let said = match what.contains("gigabytes") {
                true => matches!(error, SourceError::TooLarge { .. }),
                false => matches!(error, SourceError::Protocol { .. } | SourceError::Unreachable { .. }),
            };
            assert!(said, "{what}: {error:?}");
        }
    }
}

#[test]
fn a_server_without_protocol_version_2_is_told_from_others() {
    let old = Hostile::start(|mut peer| {
        peer.read_request();
        let id = "1".repeat(40);
        let body = format!(
            "{}0000{}0000",
            packet("# service=git-upload-pack\n"),
            packet(&format!("{id} refs/heads/main\0side-band-64k ofs-delta\n")),
        );
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\n";
        peer.send(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
        peer.hang();
    });
    let error = poll(config(&old.url()));
    assert!(error.to_string().contains("version 2"), "{error}");
}

#[test]
fn a_redirect_is_followed_but_takes_no_secret_along() {
    let repo = SignedRepo::new();
    let id = repo.commit(&[("a", "1")], Signer::Ops);
    let thief = Hostile::start(|mut peer| drop(peer.read_request()));
    let extra = format!(
        "location ~ ^/old\\.git/(.*)$ {{ return 301 /edge.git/$1$is_args$args; }}
         location ~ ^/away\\.git/(.*)$ {{ return 302 https://127.0.0.1:{}/edge.git/$1$is_args$args; }}
         location ~ ^/loop\\.git/(.*)$ {{ return 302 /loop.git/$1$is_args$args; }}",
        thief.port()
    );
    let server = GitServer::with(&repo, &Options { extra, ..Options::default() });
    let at = |path: &str| {
        let mut config = config(&format!("https://localhost:{}/{path}", server.port()));
        config.ca_file = Some(server.ca_file());
        config.timeout = Duration::from_secs(20);
        config.limits.slowest = 0;
        config
    };
    let mirror = tempfile::tempdir().unwrap();
    let mut moved = GitSource::open(at("old.git"), mirror.path()).unwrap();
    let revision = moved.poll().unwrap();
    assert_eq!(revision.0, id);
    assert_eq!(moved.poll().unwrap(), revision);
    moved.fetch(&revision, None).unwrap();
    let error = poll(at("loop.git"));
    assert!(matches!(&error, SourceError::Protocol { why, .. } if why.contains("too many times")), "{error}");
    let token = repo.beside("token");
    std::fs::write(&token, "s3cret").unwrap();
    let mut away = at("away.git");
    away.credentials = Some(Credentials::Token { username: None, token_file: token });
    let error = poll(away);
    assert!(
        matches!(&error, SourceError::Protocol { why, .. } if why.contains("source.url only")),
        "{error}"
    );
    assert!(thief.heads().is_empty());
}

/// A proxy that knows CONNECT.
fn proxy() -> Hostile {
    Hostile::start(|mut peer| {
        let head = peer.read_request();
        let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
        let Some(Ok(mut up)) = target.map(TcpStream::connect) else {
            peer.send(b"HTTP/1.1 502 Bad Gateway\r\n\r\n");
            return;
        };
        peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n");
        let (mut down, mut back) = (peer.into_stream(), up.try_clone().unwrap());
        let mut forth = down.try_clone().unwrap();
        std::thread::spawn(move || pipe(&mut back, &mut down));
        pipe(&mut forth, &mut up);
    })
}

fn pipe(from: &mut TcpStream, to: &mut TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..bytes]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

#[test]
fn a_proxy_is_used_and_a_proxy_that_is_gone_is_said() {
    let repo = SignedRepo::new();
    let id = repo.commit(&[("a", "1")], Signer::Ops);
    let server = GitServer::start(&repo);
    let proxy = proxy();
    let mut config = GitConfig::new(server.url(), Reference::Branch("main".to_owned()));
    config.ca_file = Some(server.ca_file());
    config.proxy = Some(format!("http://127.0.0.1:{}", proxy.port()));
    let mirror = tempfile::tempdir().unwrap();
    let mut source = GitSource::open(config.clone(), mirror.path()).unwrap();
    let revision = source.poll().unwrap();
    assert_eq!(revision.0, id);
    source.fetch(&revision, None).unwrap();
    assert!(proxy.heads()[0].starts_with(&format!("CONNECT localhost:{} ", server.port())));
    config.proxy = Some(format!("http://127.0.0.1:{}", crate::support::ports::free_port()));
    let error = poll(config.clone());
    assert!(matches!(error, SourceError::Unreachable { .. }), "{error}");
    config.proxy = Some("socks5://user:s3cret@127.0.0.1:1".to_owned());
    let error = GitSource::open(config, mirror.path()).err().unwrap();
    assert!(matches!(error, SourceError::Config(_)), "{error}");
    assert!(!error.to_string().contains("s3cret"));
}
