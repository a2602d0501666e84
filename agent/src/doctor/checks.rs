//! What the doctor looks at, each a function of its own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use holdfast_core::clock::{Suspicion, Time};
use holdfast_core::release::DriverKind;
use holdfast_core::verify::AllowedSigners;
use holdfast_store::anchor;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, access, geteuid};

use super::{Finding, State, firewall};
use crate::api::{Client, ClientError};
use crate::clock::Clock;
use crate::config::units::format_size;
use crate::config::{Config, Credentials, GitFolder, Place, TrustMode};
use crate::{daemon as agent, sandbox};
use holdfast_drivers::probe;

/// How long the source's server may take to take a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// All that can be looked at, by whoever calls this and by the agent, where it runs. `path` is the configuration's.
pub async fn all(path: &Path, config: &Config) -> Vec<Finding> {
    let mut findings = vec![configuration(path, config)];
    let clock = Clock::new();
    // What the agent last had proof of, where this user may read it.
    let anchor = fs::read(config.state.dir.join("anchor")).unwrap_or_default();
    if let Some((_, _, anchor)) = anchor::decode(&anchor).newest {
        clock.not_before(anchor.time_floor);
    }
    findings.extend(with_clock(&clock));
    findings.extend(of_the_files(config));
    findings.push(source(config).await);
    findings.push(daemon(config).await);
    let of_the_agent = Client::new(&config.api.socket).doctor().await.unwrap_or_default();
    add_what_differs(&mut findings, of_the_agent);
    findings
}

/// What the agent's process finds, within the sandbox of its unit.
pub fn of_the_agent(config: &Config) -> Vec<Finding> {
    let mut findings = of_the_files(config);
    findings.push(sandbox());
    #[cfg(feature = "wasm")]
    if config.drivers.wasm.enabled {
        findings.push(workloads_cgroups());
    }
    findings
}

/// What whoever looks may read, write and reach.
fn of_the_files(config: &Config) -> Vec<Finding> {
    let mut findings = secrets(config);
    findings.push(trust(config));
    findings.extend(state(config));
    findings.extend(drivers(config));
    findings
}

/// Adds what the agent finds other than we do.
fn add_what_differs(findings: &mut Vec<Finding>, of_the_agent: Vec<Finding>) {
    let alone: Vec<Finding> = of_the_agent
        .into_iter()
        .filter(|theirs| {
            let same = |ours: &Finding| ours.check == theirs.check && ours.state >= theirs.state;
            let looked_at = findings.iter().any(|ours| ours.check == theirs.check);
            !(looked_at && (theirs.state == State::Ok || findings.iter().any(same)))
        })
        .map(|theirs| Finding { message: format!("the agent: {}", theirs.message), ..theirs })
        .collect();
    findings.extend(alone);
}

/// What the unit keeps from the agent, where that may surprise somebody.
fn sandbox() -> Finding {
    let check = "sandbox";
    let advice = "take ProtectHome=, PrivateTmp=, ProtectSystem=strict and the like from the unit (systemctl edit holdfast), \
                  or don't use these places: file gates there hold, and workloads get nothing made there";
    match sandbox::kept_from_us() {
        Err(unseen) => Finding::warn(check, unseen.to_string(), advice),
        Ok(kept) if kept.is_empty() => {
            Finding::ok(check, "it sees the files of this box, and may write to what isn't the system's")
        }
        Ok(kept) => Finding::warn(check, format!("{kept}, by its unit"), advice),
    }
}

#[cfg(feature = "wasm")]
fn workloads_cgroups() -> Finding {
    match holdfast_drivers::wasm::cgroups() {
        Ok(()) => Finding::ok("wasm limits", "each workload has a cgroup with limits of its own"),
        Err(why) => Finding::warn(
            "wasm limits",
            format!("workloads have no cgroups of their own: {why}; the engine alone keeps their limits"),
            "systemctl start holdfast-workloads.service, which comes with this version and takes cgroups of version 2; workloads \
             get theirs when they are next started",
        ),
    }
}

/// What doesn't need a configuration.
pub fn of_the_system() -> Vec<Finding> {
    with_clock(&Clock::new())
}

fn with_clock(clock: &Clock) -> Vec<Finding> {
    vec![time(&clock.now().time, Clock::is_synchronized()), systemd(), cgroups()]
}

fn configuration(path: &Path, config: &Config) -> Finding {
    let check = "configuration";
    if mode_of(path).is_some_and(|mode| mode & 0o022 != 0) {
        let advice = format!("chown root {0}; chmod 0644 {0}", path.display());
        return Finding::warn(check, format!("{} can be written by others", path.display()), advice);
    }
    Finding::ok(check, format!("{} is for {}", path.display(), config.device.name))
}

fn mode_of(path: &Path) -> Option<u32> {
    fs::metadata(path).ok().map(|metadata| metadata.mode())
}

fn secrets(config: &Config) -> Vec<Finding> {
    let (credentials, certificates) = match &config.source.place {
        Place::GitServer(server) => (server.credentials.as_ref(), server.ca_file.as_deref()),
        Place::GitFolder(_) => (None, None),
    };
    let registries = config.registries.values();
    let secrets = registries.clone().filter_map(|registry| registry.auth_file.as_deref());
    let secrets = credentials.map(Credentials::file).into_iter().chain(secrets);
    let public = registries.filter_map(|registry| registry.ca_file.as_deref());
    let public = certificates.into_iter().chain(public);
    secrets.map(|path| secret(path, false)).chain(public.map(|path| secret(path, true))).collect()
}

fn secret(path: &Path, public: bool) -> Finding {
    let check = "files";
    let shown = path.display();
    if let Err(error) = access(path, AccessFlags::R_OK) {
        return Finding::fail(
            check,
            format!("{shown} can't be read: {error}"),
            "put the file there, or correct its path",
        );
    }
    if !public && mode_of(path).is_some_and(|mode| mode & 0o077 != 0) {
        return Finding::warn(check, format!("{shown} can be read by others"), format!("chmod 0600 {shown}"));
    }
    Finding::ok(check, format!("{shown} is there"))
}

fn trust(config: &Config) -> Finding {
    let check = "trust";
    let Some(path) =
        config.trust.allowed_signers.as_deref().filter(|_| config.trust.mode == TrustMode::Signed)
    else {
        let message = "mode is \"none\": this box runs whatever its source says";
        return Finding::warn(check, message, "sign commits, and set mode = \"signed\"");
    };
    let shown = path.display();
    let advice =
        "put a line `PRINCIPAL namespaces=\"git\" ssh-ed25519 AAAA…` for each signer there (ssh-keygen(1))";
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return Finding::fail(check, format!("{shown} can't be read: {error}"), advice),
    };
    match AllowedSigners::parse(&text) {
        Err(error) => Finding::fail(check, format!("{shown}: {error}"), advice),
        Ok(signers) if signers.is_empty() => Finding::fail(check, format!("{shown} allows nobody"), advice),
        Ok(_) if mode_of(path).is_some_and(|mode| mode & 0o022 != 0) => Finding::fail(
            check,
            format!("{shown} can be written by others: whoever does decides what runs here"),
            format!("chown root {shown}; chmod 0644 {shown}"),
        ),
        Ok(signers) => Finding::ok(check, format!("{} signers in {shown}", signers.len())),
    }
}

fn time(time: &Time, is_synchronized: bool) -> Finding {
    let check = "clock";
    match time {
        Time::Known(now) => {
            let how = if is_synchronized {
                "synchronized"
            } else {
                "not synchronized, and nothing speaks against it"
            };
            Finding::ok(check, format!("it is {}, {how}", now.strftime("%Y-%m-%dT%H:%M:%SZ")))
        }
        Time::Unknown(doubt) => {
            let message = format!("{doubt}: windows are closed, and grace times stand still");
            match doubt.why {
                // Servers' certificates will look not yet valid.
                Suspicion::Behind => Finding::fail(check, message, doubt.unblock()),
                Suspicion::Ahead | Suspicion::Stood => Finding::warn(check, message, doubt.unblock()),
            }
        }
    }
}

fn systemd() -> Finding {
    if !Path::new("/run/systemd/system").is_dir() {
        return Finding::warn(
            "systemd",
            "systemd doesn't run here: no watchdog, and nobody starts the agent again",
            "let what starts services here run `holdfast run` and start it again when it ends",
        );
    }
    let journal = Path::new("/run/systemd/journal/socket").exists();
    Finding::ok(
        "systemd",
        if journal { "systemd runs, with a journal" } else { "systemd runs, without a journal" },
    )
}

fn cgroups() -> Finding {
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let has = |name: &str| controllers.split_whitespace().any(|controller| controller == name);
    if has("memory") && has("cpu") {
        return Finding::ok("cgroups", "version 2, with cpu and memory");
    }
    Finding::warn(
        "cgroups",
        "no cgroup version 2 with cpu and memory: limits of workloads are kept less exactly",
        "boot with systemd.unified_cgroup_hierarchy=1",
    )
}

fn state(config: &Config) -> Vec<Finding> {
    let dir = &config.state.dir;
    let shown = dir.display();
    // It is made at the first start: then what counts is the folder that it is made in.
    let Some(there) = dir.ancestors().find(|ancestor| ancestor.is_dir()) else {
        return vec![Finding::fail("state", format!("no folder leads to {shown}"), "correct [state] dir")];
    };
    vec![writable(dir, there), space(there, config.state.disk_budget)]
}

fn writable(dir: &Path, there: &Path) -> Finding {
    let check = "state";
    let shown = dir.display();
    if there != dir {
        return match access(there, AccessFlags::W_OK) {
            Ok(()) => Finding::ok(check, format!("{shown} isn't there yet; the first start makes it")),
            Err(error) => Finding::fail(
                check,
                format!("{shown} isn't there, and {} can't be written: {error}", there.display()),
                "make the folder, for root and with mode 0700, or run this as root",
            ),
        };
    }
    // Asking the system isn't enough: a failing disk turns read-only, a full one takes no file.
    let trial = dir.join(format!(".doctor-{}", std::process::id()));
    let written = fs::write(&trial, b"x").and_then(|()| fs::remove_file(&trial));
    if let Err(error) = written {
        let _ = fs::remove_file(&trial);
        let who = geteuid();
        return Finding::fail(
            check,
            format!("{shown} can't be written by user {who}: {error}"),
            "run this as root; if it is root, look at the disk (dmesg) and at its free space (df, df -i)",
        );
    }
    if mode_of(dir).is_some_and(|mode| mode & 0o077 != 0) {
        return Finding::warn(check, format!("{shown} is open to others"), format!("chmod 0700 {shown}"));
    }
    Finding::ok(check, format!("{shown} can be written"))
}

fn space(there: &Path, budget: u64) -> Finding {
    let check = "disk";
    let found = match statvfs(there) {
        Ok(found) => found,
        Err(error) => {
            return Finding::fail(check, format!("{}: {error}", there.display()), "look at the disk (dmesg)");
        }
    };
    // Both are of the width that the system's C library gives them.
    #[allow(clippy::useless_conversion)]
    let free = u64::from(found.blocks_available()).saturating_mul(u64::from(found.fragment_size()));
    let in_words = format!("{} MiB free for a budget of {}", free >> 20, format_size(budget));
    let advice = "free some space, or lower [state] disk_budget";
    if found.flags().contains(FsFlags::ST_RDONLY) {
        return Finding::fail(
            check,
            format!("{} is mounted read-only", there.display()),
            "look at the disk (dmesg)",
        );
    }
    if found.files() > 0 && found.files_available() < 1000 {
        return Finding::fail(
            check,
            "fewer than 1000 files can be made (df -i)",
            "remove small files that nobody needs",
        );
    }
    match free {
        ..0x0400_0000 => Finding::fail(check, in_words, advice),
        _ if free < budget / 4 => Finding::warn(check, in_words, advice),
        _ => Finding::ok(check, in_words),
    }
}

async fn source(config: &Config) -> Finding {
    let check = "source";
    let (what, asked) = match &config.source.place {
        Place::GitFolder(GitFolder { folder, .. }) => {
            let shown = folder.display();
            return match access(folder.as_path(), AccessFlags::R_OK) {
                Ok(()) => Finding::ok(check, format!("{shown} can be read")),
                Err(error) => Finding::fail(
                    check,
                    format!("{shown}: {error}"),
                    "correct [source] url, or bring the medium",
                ),
            };
        }
        Place::GitServer(server) => match &server.proxy {
            Some(proxy) => ("the proxy", proxy),
            None => ("the server", &config.source.url),
        },
    };
    let Some(address) = address_of(asked) else {
        return Finding::fail(check, format!("{asked} names no host"), "correct [source]");
    };
    match probe::tcp(&address, CONNECT).await {
        Ok(()) => Finding::ok(check, format!("{what} at {address} takes connections")),
        Err(why) => Finding::warn(
            check,
            why,
            "look at cable, address (ip addr), names (resolvectl query) and firewall; what runs goes on without",
        ),
    }
}

/// `host:port` of a URL.
fn address_of(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split('/').next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let port = match scheme {
        "https" => 443,
        "http" => 80,
        "ssh" => 22,
        _ => return None,
    };
    // An IPv6 address has colons of its own, in brackets.
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    (!host.is_empty()).then(|| if has_port { host.to_owned() } else { format!("{host}:{port}") })
}

fn drivers(config: &Config) -> Vec<Finding> {
    let fingerprints = agent::fingerprints(config);
    let podman = fingerprints.iter().find(|print| print.driver == DriverKind::Podman);
    let network = podman.map(|podman| firewall::finding(podman.version.as_deref()));
    let finding = |print: holdfast_drivers::Fingerprint| {
        let version = print.version.map(|version| format!(" {version}")).unwrap_or_default();
        let message = format!("{}{version}: {}", print.driver, print.detail);
        if print.usable {
            Finding::ok("driver", message)
        } else {
            Finding::warn("driver", message, format!("apps for {} are held until it is usable", print.driver))
        }
    };
    fingerprints.into_iter().map(finding).chain(network).collect()
}

async fn daemon(config: &Config) -> Finding {
    let check = "agent";
    let socket = config.api.socket.display();
    match Client::new(&config.api.socket).status().await {
        Ok(status) if status.converged => Finding::ok(check, "runs, and the box is converged"),
        Ok(_) => Finding::warn(check, "runs, and the box is not converged", "holdfast status"),
        Err(ClientError::NotRunning(_)) => Finding::warn(
            check,
            format!(
                "doesn't run: nobody answers at {socket}; what its unit would let it see and write is not known"
            ),
            "systemctl start holdfast",
        ),
        Err(error) => Finding::fail(check, error.to_string(), "run this as root; journalctl -u holdfast"),
    }
}

#[cfg(test)]
mod tests {
    use holdfast_core::clock::Doubt;

    use super::*;

    #[test]
    fn a_clock_that_is_not_trusted_is_told_with_the_reason() {
        let (shown, proven) =
            ("2099-01-01T00:00:00Z".parse().unwrap(), "2026-11-21T00:00:00Z".parse().unwrap());
        let found = |why| time(&Time::Unknown(Doubt { shown, proven, why }), false);
        assert_eq!(found(Suspicion::Behind).state, State::Fail);
        assert_eq!(found(Suspicion::Ahead).state, State::Warn);
        assert!(found(Suspicion::Ahead).message.contains("not trusted: it shows 2099"));
        assert_eq!(time(&Time::Known(proven), true).state, State::Ok);
        assert!(time(&Time::Known(proven), false).message.contains("not synchronized"));
    }

    #[test]
    fn the_address_of_a_source_is_found_with_its_port() {
        for (url, address) in [
            ("https://git.example/x.git", Some("git.example:443")),
            ("https://git.example:8443/x.git", Some("git.example:8443")),
            ("ssh://git@git.example/x.git", Some("git.example:22")),
            ("https://[::1]/x", Some("[::1]:443")),
            ("https://[::1]:8443/x", Some("[::1]:8443")),
            ("file:///x", None),
        ] {
            assert_eq!(address_of(url).as_deref(), address, "{url}");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_told_apart_from_one_that_is_not_there_yet() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let missing = folder.path().join("a/b");
        assert_eq!(writable(&missing, folder.path()).state, State::Ok);
        assert_eq!(writable(folder.path(), folder.path()).state, State::Ok);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(writable(Path::new("/proc/self"), Path::new("/proc/self")).state, State::Fail);
    }

    #[test]
    fn a_budget_that_the_disk_cannot_hold_is_told() {
        let folder = tempfile::tempdir().unwrap();
        assert_ne!(space(folder.path(), u64::MAX).state, State::Ok);
    }
}
