//! `[source]`: where the state comes from. [`Place`] has one form for each kind of place, which the scheme of the url tells
//! apart; what is written beside the url and means nothing there is refused.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use toml::Spanned;

use super::check::resolve;
use super::error::Checker;
use super::{as_text, file};

const INTERVAL: Duration = Duration::from_secs(300);
const TIMEOUT: Duration = Duration::from_secs(60);

/// `[source]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Source {
    /// Such as `https://git.example/retail/edge.git`. Carries no password.
    pub url: String,
    /// The folder in what is fetched that is the repository's root, `.` for all of it; never leaves it.
    pub path: String,
    /// Between two polls.
    #[serde(serialize_with = "as_text")]
    pub interval: Duration,
    /// How long the other side may be silent at each step, and how long a poll may take.
    #[serde(serialize_with = "as_text")]
    pub timeout: Duration,
    /// What the url leads to.
    #[serde(flatten)]
    pub place: Place,
}

/// What a url leads to, by its scheme.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Place {
    /// `https://` and `http://`
    GitServer(GitServer),
    /// `file://`
    GitFolder(GitFolder),
}

/// A Git repository on a server.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GitServer {
    /// Which line of history.
    #[serde(flatten)]
    pub reference: Reference,
    /// Certificates (PEM) that are trusted instead of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// `http://host:port` of a proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// Who asks; never over `http://`.
    #[serde(flatten)]
    pub credentials: Option<Credentials>,
}

/// A Git repository in a folder of this box.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GitFolder {
    /// Which line of history.
    #[serde(flatten)]
    pub reference: Reference,
    /// The folder; the url has it.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// What is followed in a Git repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reference {
    /// `refs/heads/…`
    Branch(String),
    /// `refs/tags/…`
    Tag(String),
    /// One commit, by its whole id.
    Revision(String),
}

/// Who asks a server. The files are read again for each connection, so that what is in them can be changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Credentials {
    /// A user with a password.
    Password {
        /// The user.
        username: String,
        /// The file with the password.
        password_file: PathBuf,
    },
    /// A token, which forges take in a password's place.
    Token {
        /// The user, where the server doesn't take any.
        #[serde(skip_serializing_if = "Option::is_none")]
        username: Option<String>,
        /// The file with the token.
        token_file: PathBuf,
    },
}

impl Credentials {
    /// The file with the secret.
    pub fn file(&self) -> &Path {
        match self {
            Credentials::Password { password_file, .. } => password_file,
            Credentials::Token { token_file, .. } => token_file,
        }
    }
}

/// How a url begins that can be followed.
enum Scheme {
    Https,
    Http,
    File,
}

pub(super) fn check(c: &mut Checker<'_>, base: &Path, source: Spanned<file::Source>) -> Source {
    let span = source.span();
    let source = source.into_inner();
    let scheme = check_url(c, &source.url);
    let path = source.path.as_ref().map_or(".", |path| path.get_ref().as_str()).to_owned();
    if let Some(written) = &source.path
        && let Err(why) = check_folder(written.get_ref())
    {
        c.report(Some(written.span()), why);
    }
    let reference = check_reference(c, span, &source);
    let interval = at_least_a_second(c, "interval", &source.interval, INTERVAL);
    let timeout = at_least_a_second(c, "timeout", &source.timeout, TIMEOUT);
    let url = source.url.get_ref().clone();
    let place = match scheme {
        Some(Scheme::File) => {
            refuse_what_only_servers_have(c, &source);
            let folder = url.strip_prefix("file://").unwrap_or_default().into();
            Place::GitFolder(GitFolder { reference, folder })
        }
        scheme => Place::GitServer(check_server(c, base, scheme, reference, source)),
    };
    Source { url, path, interval, timeout, place }
}

fn check_server(
    c: &mut Checker<'_>,
    base: &Path,
    scheme: Option<Scheme>,
    reference: Reference,
    source: file::Source,
) -> GitServer {
    if let Some(proxy) = &source.proxy {
        check_proxy(c, proxy);
    }
    let secret = source.password_file.as_ref().or(source.token_file.as_ref());
    if let (Some(Scheme::Http), Some(secret)) = (scheme, secret) {
        c.report(
            Some(secret.span()),
            "a password is not sent over http://, where everyone can read it: use https://",
        );
    }
    GitServer {
        reference,
        ca_file: source.ca_file.map(|path| resolve(base, path.into_inner())),
        proxy: source.proxy.map(Spanned::into_inner),
        credentials: check_credentials(c, base, source.username, source.password_file, source.token_file),
    }
}

fn check_url(c: &mut Checker<'_>, url: &Spanned<String>) -> Option<Scheme> {
    const KNOWN: &str = "write https://… or file:///path";
    let span = Some(url.span());
    let Some((scheme, rest)) = url.get_ref().split_once("://") else {
        c.report(span, format!("the url has no scheme: {KNOWN}"));
        return None;
    };
    let authority = rest.split('/').next().unwrap_or("");
    let user = authority.rsplit_once('@').map(|(user, _)| user);
    let known = match scheme {
        "https" => Scheme::Https,
        "http" => Scheme::Http,
        "file" => Scheme::File,
        "ssh" => {
            c.report(
                span,
                "ssh:// is not supported yet (Holdfast runs no ssh program): write https://…, with token_file",
            );
            return None;
        }
        "oci" | "s3" | "az" => {
            c.report(span, format!("{scheme}:// is not supported yet: {KNOWN}"));
            return None;
        }
        _ => {
            c.report(span, format!("{scheme}:// is unknown: {KNOWN}"));
            return None;
        }
    };
    match known {
        Scheme::File if !rest.starts_with('/') => {
            c.report(span, "a file:// url needs an absolute path: write file:///path/to/repository.git");
        }
        Scheme::Https | Scheme::Http if user.is_some() => {
            // The text isn't repeated: it may hold a password.
            c.report(
                span,
                "credentials don't belong in the url: use username and password_file, or token_file",
            );
        }
        Scheme::Https | Scheme::Http if authority.is_empty() => c.report(span, "the url names no host"),
        _ => {}
    }
    Some(known)
}

/// What says how a server is reached says nothing of a folder: whoever wrote it means something else.
fn refuse_what_only_servers_have(c: &mut Checker<'_>, source: &file::Source) {
    let spans = [
        ("ca_file", source.ca_file.as_ref().map(Spanned::span)),
        ("proxy", source.proxy.as_ref().map(Spanned::span)),
        ("username", source.username.as_ref().map(Spanned::span)),
        ("password_file", source.password_file.as_ref().map(Spanned::span)),
        ("token_file", source.token_file.as_ref().map(Spanned::span)),
    ];
    for (key, span) in spans {
        if span.is_some() {
            c.report(span, format!("{key} has no effect with a file:// url: remove it"));
        }
    }
}

fn check_proxy(c: &mut Checker<'_>, proxy: &Spanned<String>) {
    let text = proxy.get_ref();
    if !(text.starts_with("http://") || text.starts_with("https://")) || text.contains('@') {
        c.report(
            Some(proxy.span()),
            "write the proxy as http://host:port or https://host:port, without credentials",
        );
    }
}

fn check_credentials(
    c: &mut Checker<'_>,
    base: &Path,
    username: Option<Spanned<String>>,
    password_file: Option<Spanned<PathBuf>>,
    token_file: Option<Spanned<PathBuf>>,
) -> Option<Credentials> {
    if let Some(user) = &username
        && (user.get_ref().contains(':') || user.get_ref().chars().any(char::is_control))
    {
        c.report(
            Some(user.span()),
            "username contains a colon or a control character, which no server accepts",
        );
    }
    let path = |path: Spanned<PathBuf>| resolve(base, path.into_inner());
    match (username, password_file, token_file) {
        (None, None, None) => None,
        (_, Some(_), Some(token)) => {
            c.report(Some(token.span()), "give password_file or token_file, not both");
            None
        }
        (None, Some(password), None) => {
            c.report(Some(password.span()), "password_file also needs username; for a token use token_file");
            None
        }
        (Some(user), None, None) => {
            c.report(Some(user.span()), "username also needs password_file (or token_file)");
            None
        }
        (Some(user), Some(password), None) => {
            Some(Credentials::Password { username: user.into_inner(), password_file: path(password) })
        }
        (user, None, Some(token)) => {
            Some(Credentials::Token { username: user.map(Spanned::into_inner), token_file: path(token) })
        }
    }
}

fn check_reference(c: &mut Checker<'_>, span: Range<usize>, source: &file::Source) -> Reference {
    let given: Vec<_> = [
        source.branch.as_ref().map(|b| (b.span(), Reference::Branch(b.get_ref().clone()))),
        source.tag.as_ref().map(|t| (t.span(), Reference::Tag(t.get_ref().clone()))),
        source.revision.as_ref().map(|r| (r.span(), Reference::Revision(r.get_ref().clone()))),
    ]
    .into_iter()
    .flatten()
    .collect();
    if given.len() > 1 {
        c.report(Some(span), "give one of branch, tag and revision under [source], not several");
    }
    for (span, reference) in &given {
        if let Err(why) = check_reference_name(reference) {
            c.report(Some(span.clone()), why);
        }
    }
    given.into_iter().next().map_or_else(|| Reference::Branch("main".to_owned()), |(_, reference)| reference)
}

/// The parts of git's rules for names (git-check-ref-format(1)) that could do harm.
fn check_reference_name(reference: &Reference) -> Result<(), &'static str> {
    match reference {
        Reference::Revision(id) => {
            let hex = id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            let whole = id.len() == 40 || id.len() == 64;
            if hex && whole {
                Ok(())
            } else {
                Err("a revision is the whole id of a commit: 40 hexadecimal digits")
            }
        }
        Reference::Branch(name) | Reference::Tag(name) => {
            let bad = name.is_empty()
                || name.starts_with(['/', '-', '.'])
                || name.ends_with(['/', '.'])
                || name.ends_with(".lock")
                || ["..", "//", "@{", "/."].iter().any(|part| name.contains(part))
                || name.contains(|ch: char| ch.is_control() || " ~^:?*[\\".contains(ch));
            if bad {
                Err("git doesn't allow this name (git check-ref-format): write one such as \"main\"")
            } else {
                Ok(())
            }
        }
    }
}

fn check_folder(path: &str) -> Result<(), &'static str> {
    let leaves = path.starts_with('/') || path.split('/').any(|part| part == "..");
    if leaves || path.is_empty() || path.contains('\0') {
        return Err(
            "path is a folder in the repository, relative to its root: write \".\" or \"clusters/edge\"",
        );
    }
    Ok(())
}

fn at_least_a_second(
    c: &mut Checker<'_>,
    key: &str,
    written: &Option<Spanned<file::DurationText>>,
    default: Duration,
) -> Duration {
    let Some(written) = written else { return default };
    let duration = written.get_ref().0;
    let range = Duration::from_secs(1)..=Duration::from_secs(366 * 86_400);
    if !range.contains(&duration) {
        c.report(Some(written.span()), format!("{key} must be at least \"1s\" and at most \"366d\""));
    }
    duration
}
