//! From the file as written to a [`Config`]: defaults, paths, and what serde can't check.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;

use super::error::{Checker, ConfigError};
use super::{Api, Config, Device, Drivers, Kubernetes, Log, LogLevel, Podman, Reference, Simulated};
use super::{Source, State, Trust, TrustMode, Wasm, file, registries};

const INTERVAL: Duration = Duration::from_secs(300);
const TIMEOUT: Duration = Duration::from_secs(60);
const DISK_BUDGET: u64 = 2 << 30;
/// Below this a box can't hold two generations of anything.
const LEAST_BUDGET: u64 = 16 << 20;
/// `sun_path` of a unix socket holds 107 bytes and a zero (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

pub(super) fn check(path: &Path, text: &str, file: file::File) -> Result<Config, ConfigError> {
    let base = path.parent().unwrap_or(Path::new("")).to_owned();
    let mut c = Checker { path, text, problems: Vec::new() };
    let trust = check_trust(&mut c, &base, file.trust);
    let config = Config {
        device: Device { name: file.device.into_inner().name },
        source: check_source(&mut c, &base, file.source),
        trust,
        state: check_state(&mut c, &base, file.state),
        api: check_api(&mut c, &base, file.api),
        log: Log { level: file.log.level.unwrap_or(LogLevel::Info) },
        drivers: check_drivers(&mut c, &base, file.drivers),
        registries: registries::check(&mut c, &base, file.registries),
    };
    c.finish().map(|()| config)
}

/// Relative paths are relative to the file.
pub(super) fn resolve(base: &Path, path: impl AsRef<Path>) -> PathBuf {
    base.join(path)
}

fn check_trust(c: &mut Checker<'_>, base: &Path, trust: Option<Spanned<file::Trust>>) -> Trust {
    const ADVICE: &str = "write mode = \"signed\" and allowed_signers = FILE under [trust], or mode = \"none\" \
                          to run whatever the source says, unsigned";
    let span = trust.as_ref().map(Spanned::span);
    let trust = trust.map(Spanned::into_inner);
    let (mode, signers) = trust.map_or((None, None), |t| (t.mode, t.allowed_signers));
    let Some(mode) = mode else {
        c.report(span, format!("it isn't said which revisions are trusted: {ADVICE}"));
        return Trust { mode: TrustMode::Signed, allowed_signers: None };
    };
    let allowed_signers = match (mode, signers) {
        (TrustMode::None, Some(signers)) => {
            c.report(
                Some(signers.span()),
                "allowed_signers has no effect with mode = \"none\": remove it, or write mode = \"signed\"",
            );
            None
        }
        (TrustMode::None, None) => None,
        (TrustMode::Signed, signers) => {
            let default = || PathBuf::from("/etc/holdfast/allowed_signers");
            Some(resolve(base, signers.map_or_else(default, Spanned::into_inner)))
        }
    };
    Trust { mode, allowed_signers }
}

fn check_source(c: &mut Checker<'_>, base: &Path, source: Spanned<file::Source>) -> Source {
    let span = source.span();
    let source = source.into_inner();
    check_url(c, &source.url);
    if let Some(proxy) = &source.proxy {
        check_proxy(c, proxy);
    }
    check_credentials(c, &source);
    let reference = check_reference(c, span, &source);
    let path = source.path.as_ref().map_or(".", |path| path.get_ref().as_str()).to_owned();
    if let Some(written) = &source.path
        && let Err(why) = check_folder(written.get_ref())
    {
        c.report(Some(written.span()), why);
    }
    Source {
        url: source.url.into_inner(),
        reference,
        path,
        interval: at_least_a_second(c, "interval", source.interval, INTERVAL),
        timeout: at_least_a_second(c, "timeout", source.timeout, TIMEOUT),
        ca_file: source.ca_file.map(|path| resolve(base, path)),
        proxy: source.proxy.map(Spanned::into_inner),
        username: source.username.map(Spanned::into_inner),
        password_file: source.password_file.map(|path| resolve(base, path.into_inner())),
        token_file: source.token_file.map(|path| resolve(base, path.into_inner())),
    }
}

fn check_url(c: &mut Checker<'_>, url: &Spanned<String>) {
    let span = Some(url.span());
    let later = ["oci://", "s3://", "az://"];
    let Some((scheme, rest)) = url.get_ref().split_once("://") else {
        return c
            .report(span, "the url has no scheme: write https://…, ssh://user@host/path or file:///path");
    };
    if !["https", "http", "ssh", "file"].contains(&scheme) {
        let known = if later.iter().any(|known| url.get_ref().starts_with(known)) {
            "not there yet"
        } else {
            "unknown"
        };
        return c.report(span, format!("{scheme}:// is {known}: write https://…, ssh://… or file:///path"));
    }
    let authority = rest.split('/').next().unwrap_or("");
    let user = authority.rsplit_once('@').map(|(user, _)| user);
    if user.is_some_and(|user| user.contains(':') || scheme.starts_with("http")) {
        // The text isn't repeated: it may hold a password.
        c.report(
            span.clone(),
            "credentials don't belong in the url: use username and password_file, or token_file",
        );
    }
    if scheme == "file" && !rest.starts_with('/') {
        c.report(span, "a file:// url needs an absolute path: write file:///path/to/repository.git");
    } else if scheme != "file" && authority.is_empty() {
        c.report(span, "the url names no host");
    }
}

fn check_proxy(c: &mut Checker<'_>, proxy: &Spanned<String>) {
    let text = proxy.get_ref();
    if !(text.starts_with("http://") || text.starts_with("https://")) || text.contains('@') {
        c.report(Some(proxy.span()), "a proxy is http://host:port or https://host:port, without credentials");
    }
}

fn check_credentials(c: &mut Checker<'_>, source: &file::Source) {
    if let (Some(_), Some(token)) = (&source.password_file, &source.token_file) {
        c.report(Some(token.span()), "give password_file or token_file, not both");
    }
    match (&source.username, &source.password_file) {
        (None, Some(password)) => {
            c.report(
                Some(password.span()),
                "password_file needs a username beside it; for a token use token_file",
            );
        }
        (Some(user), None) if source.token_file.is_none() => {
            c.report(Some(user.span()), "username needs a password_file (or token_file) beside it");
        }
        _ => {}
    }
    let secret = source.password_file.as_ref().or(source.token_file.as_ref());
    if let Some(secret) = secret.filter(|_| source.url.get_ref().starts_with("http://")) {
        c.report(
            Some(secret.span()),
            "a password is not sent over http://, where everyone can read it: use https://",
        );
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
                Err("git allows no such name (git check-ref-format): write it as in \"main\"")
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
    written: Option<Spanned<file::DurationText>>,
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

fn check_state(c: &mut Checker<'_>, base: &Path, state: file::State) -> State {
    let disk_budget = state.disk_budget.map_or(DISK_BUDGET, |written| {
        let bytes = written.get_ref().0;
        if bytes < LEAST_BUDGET {
            c.report(Some(written.span()), "disk_budget must be at least \"16MiB\"");
        }
        bytes
    });
    State { dir: resolve(base, state.dir.unwrap_or_else(|| "/var/lib/holdfast".into())), disk_budget }
}

fn check_api(c: &mut Checker<'_>, base: &Path, api: file::Api) -> Api {
    let span = api.socket.as_ref().map(Spanned::span);
    let socket =
        resolve(base, api.socket.map_or_else(|| "/run/holdfast/api.sock".into(), Spanned::into_inner));
    if socket.as_os_str().len() > SOCKET_PATH_MAX {
        c.report(
            span,
            format!("the path of a socket may have {SOCKET_PATH_MAX} bytes at most: choose a shorter one"),
        );
    }
    Api { socket }
}

fn check_drivers(c: &mut Checker<'_>, base: &Path, drivers: file::Drivers) -> Drivers {
    let built_in = cfg!(feature = "wasm");
    if let Some(enabled) = drivers.wasm.enabled.as_ref().filter(|enabled| *enabled.get_ref() && !built_in) {
        c.report(
            Some(enabled.span()),
            "this holdfast was built without WebAssembly: remove the line, or install a build with it",
        );
    }
    if drivers.podman.is_some() && !cfg!(feature = "podman") {
        c.report(
            None,
            "this holdfast was built without podman: remove [drivers.podman], or install a build with it",
        );
    }
    Drivers {
        wasm: Wasm {
            enabled: drivers.wasm.enabled.map_or(built_in, Spanned::into_inner),
            run_dir: resolve(base, drivers.wasm.run_dir.unwrap_or_else(|| "/run/holdfast/wasm".into())),
            user: drivers.wasm.user.unwrap_or_else(|| "holdfast-wasm".to_owned()),
        },
        podman: drivers.podman.map(|p| Podman {
            socket: resolve(base, p.socket.unwrap_or_else(|| "/run/podman/podman.sock".into())),
            run_dir: resolve(base, p.run_dir.unwrap_or_else(|| "/run/holdfast/podman".into())),
        }),
        kubernetes: drivers.kubernetes.map(|kubernetes| check_kubernetes(c, base, kubernetes)),
        simulated: drivers.simulated.map(|s| Simulated { dir: resolve(base, s.dir) }),
    }
}

fn check_kubernetes(c: &mut Checker<'_>, base: &Path, kubernetes: file::Kubernetes) -> Kubernetes {
    if !cfg!(feature = "kubernetes") {
        c.report(
            None,
            "this holdfast was built without Kubernetes: remove [drivers.kubernetes], or install a build with it",
        );
    }
    if let Some(context) = kubernetes.context.as_ref().filter(|context| context.get_ref().is_empty()) {
        c.report(Some(context.span()), "context is empty: name one of the kubeconfig's, or remove the line");
    }
    if let Some(dir) = kubernetes.images_dir.as_ref().filter(|dir| dir.get_ref().as_os_str().is_empty()) {
        c.report(
            Some(dir.span()),
            "images_dir is empty: write the folder that the cluster imports image archives from, such as \
             \"/var/lib/rancher/k3s/agent/images\", or remove the line",
        );
    }
    let kubeconfig = kubernetes.kubeconfig.unwrap_or_else(|| "/etc/rancher/k3s/k3s.yaml".into());
    Kubernetes {
        kubeconfig: resolve(base, kubeconfig),
        context: kubernetes.context.map(Spanned::into_inner),
        cluster: kubernetes.cluster,
        images_dir: kubernetes.images_dir.map(|dir| resolve(base, dir.into_inner())),
    }
}
