//! From the file as written to a [`Config`]: defaults, paths, and what serde can't check.

use std::path::{Path, PathBuf};

use toml::Spanned;

use super::error::{Checker, ConfigError};
use super::{Api, Config, Device, Drivers, Kubernetes, Log, LogLevel, Podman, Simulated};
use super::{State, Trust, TrustMode, Wasm, file, registries, source};

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
        source: source::check(&mut c, &base, file.source),
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
    const ADVICE: &str = "write mode = \"signed\" and allowed_signers = FILE under [trust], or mode = \"none\" to \
                          apply every revision without checking a signature";
    let span = trust.as_ref().map(Spanned::span);
    let trust = trust.map(Spanned::into_inner);
    let (mode, signers) = trust.map_or((None, None), |t| (t.mode, t.allowed_signers));
    let Some(mode) = mode else {
        c.report(span, format!("[trust] doesn't say which revisions to trust: {ADVICE}"));
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
