//! What the doctor looks at, each a function of its own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use holdfast_core::clock::{Suspicion, Time};
use holdfast_core::runtime::{DriverName, Fingerprint};
use holdfast_core::verify::AllowedSigners;
use holdfast_store::anchor;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, access, geteuid};

use super::{Finding, State, firewall};
use crate::api::{Client, ClientError};
use crate::clock::Clock;
use crate::config::units::format_size;
use crate::config::{Config, Credentials, GitFolder, Place, TrustMode};
use crate::daemon as agent;
use crate::sandbox::{self, Kept, Unseen};
use holdfast_drivers::request;

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
    findings.extend(of_the_files(config).await);
    findings.push(source(config).await);
    findings.push(daemon(config).await);
    let of_the_agent = Client::new(&config.api.socket).doctor().await.unwrap_or_default();
    add_what_differs(&mut findings, of_the_agent);
    findings
}

/// What the agent's process finds, within the sandbox of its unit.
pub async fn of_the_agent(config: &Config) -> Vec<Finding> {
    let mut findings = of_the_files(config).await;
    findings.push(sandbox(sandbox::kept_from_us()));
    #[cfg(feature = "wasm")]
    if config.drivers.wasm.enabled {
        findings.push(workloads_cgroups(holdfast_drivers::wasm::cgroups()));
    }
    findings
}

/// What whoever looks may read, write and reach.
async fn of_the_files(config: &Config) -> Vec<Finding> {
    let mut findings = secrets(config);
    findings.push(trust(config));
    findings.extend(state(config));
    findings.extend(drivers(config).await);
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
fn sandbox(kept: Result<Kept, Unseen>) -> Finding {
    let check = "sandbox";
    let advice = "remove ProtectHome=, PrivateTmp=, ProtectSystem=strict and similar settings from the unit \
                  (systemctl edit holdfast), or don't use these paths: a file gate there always says that the box is in \
                  use, and the agent can't create anything there for workloads";
    match kept {
        Err(unseen) => Finding::warn(check, unseen.to_string(), advice),
        Ok(kept) if kept.is_empty() => {
            Finding::ok(check, "it sees the files of this box, and may write outside of the system's folders")
        }
        Ok(kept) => Finding::warn(check, format!("{kept}, because of its unit"), advice),
    }
}

#[cfg(feature = "wasm")]
fn workloads_cgroups(found: Result<(), String>) -> Finding {
    match found {
        Ok(()) => Finding::ok("wasm limits", "each workload has a cgroup with limits of its own"),
        Err(why) => Finding::warn(
            "wasm limits",
            format!("workloads have no cgroups of their own: {why}; only the engine enforces their limits"),
            "systemctl start holdfast-workloads.service, which comes with this version and needs cgroups of version 2; workloads \
             get theirs when they are next started",
        ),
    }
}

/// What doesn't need a configuration.
pub fn of_the_system() -> Vec<Finding> {
    with_clock(&Clock::new())
}

fn with_clock(clock: &Clock) -> Vec<Finding> {
    vec![
        time(&clock.now().time, Clock::is_synchronized()),
        systemd(Path::new("/run/systemd")),
        cgroups(Path::new("/sys/fs/cgroup")),
    ]
}

fn configuration(path: &Path, config: &Config) -> Finding {
    let check = "configuration";
    if mode_of(path).is_some_and(|mode| mode & 0o022 != 0) {
        let advice = format!("chown root {0}; chmod 0644 {0}", path.display());
        return Finding::warn(check, format!("{} can be written by others", path.display()), advice);
    }
    Finding::ok(check, format!("{} configures the device {}", path.display(), config.device.name))
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
    Finding::ok(check, format!("{shown} exists and can be read"))
}

fn trust(config: &Config) -> Finding {
    let check = "trust";
    let Some(path) =
        config.trust.allowed_signers.as_deref().filter(|_| config.trust.mode == TrustMode::Signed)
    else {
        let message = "mode is \"none\": this box applies every revision of its source, without checking a \
                       signature";
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
        Ok(signers) if signers.is_empty() => {
            Finding::fail(check, format!("{shown} lists no signers"), advice)
        }
        Ok(_) if mode_of(path).is_some_and(|mode| mode & 0o022 != 0) => Finding::fail(
            check,
            format!("{shown} can be written by others, who could then decide what runs on this box"),
            format!("chown root {shown}; chmod 0644 {shown}"),
        ),
        Ok(signers) => {
            let signers = signers.len();
            let plural = if signers == 1 { "" } else { "s" };
            Finding::ok(check, format!("{signers} signer{plural} in {shown}"))
        }
    }
}

fn time(time: &Time, is_synchronized: bool) -> Finding {
    let check = "clock";
    match time {
        Time::Known(now) => {
            let how = if is_synchronized { "synchronized" } else { "not synchronized, but plausible" };
            Finding::ok(check, format!("it is {}, {how}", now.strftime("%Y-%m-%dT%H:%M:%SZ")))
        }
        Time::Unknown(doubt) => {
            let message = format!(
                "{doubt}; until it is trusted, windows count as closed and grace times do not advance"
            );
            match doubt.why {
                // Servers' certificates will look not yet valid.
                Suspicion::Behind => Finding::fail(check, message, doubt.unblock()),
                Suspicion::Ahead | Suspicion::Stood => Finding::warn(check, message, doubt.unblock()),
            }
        }
    }
}

fn systemd(run: &Path) -> Finding {
    if !run.join("system").is_dir() {
        return Finding::warn(
            "systemd",
            "systemd is not running: there is no watchdog, and nothing restarts the agent",
            "have this system's service manager run `holdfast run` and restart it when it ends",
        );
    }
    let journal = run.join("journal/socket").exists();
    Finding::ok(
        "systemd",
        if journal { "systemd runs, with a journal" } else { "systemd runs, without a journal" },
    )
}

fn cgroups(root: &Path) -> Finding {
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    let has = |name: &str| controllers.split_whitespace().any(|controller| controller == name);
    if has("memory") && has("cpu") {
        return Finding::ok("cgroups", "version 2, with cpu and memory");
    }
    Finding::warn(
        "cgroups",
        "no cgroup version 2 with cpu and memory: limits of workloads are enforced less exactly",
        "boot with systemd.unified_cgroup_hierarchy=1",
    )
}

fn state(config: &Config) -> Vec<Finding> {
    let dir = &config.state.dir;
    let shown = dir.display();
    // It is made at the first start: then what counts is the folder that it is made in.
    let Some(there) = dir.ancestors().find(|ancestor| ancestor.is_dir()) else {
        return vec![Finding::fail(
            "state",
            format!("no parent folder of {shown} exists"),
            "correct [state] dir",
        )];
    };
    vec![writable(dir, there), space(there, config.state.disk_budget)]
}

fn writable(dir: &Path, there: &Path) -> Finding {
    let check = "state";
    let shown = dir.display();
    if there != dir {
        return match access(there, AccessFlags::W_OK) {
            Ok(()) => {
                Finding::ok(check, format!("{shown} doesn't exist yet; the agent creates it when it starts"))
            }
            Err(error) => Finding::fail(
                check,
                format!("{shown} doesn't exist, and {} can't be written: {error}", there.display()),
                "create the folder, owned by root and with mode 0700, or run this as root",
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
            "run this as root; if you are root, check the disk (dmesg) and its free space (df, df -i)",
        );
    }
    if mode_of(dir).is_some_and(|mode| mode & 0o077 != 0) {
        return Finding::warn(
            check,
            format!("{shown} can be accessed by others"),
            format!("chmod 0700 {shown}"),
        );
    }
    Finding::ok(check, format!("{shown} can be written"))
}

fn space(there: &Path, budget: u64) -> Finding {
    let check = "disk";
    let found = match statvfs(there) {
        Ok(found) => found,
        Err(error) => {
            return Finding::fail(check, format!("{}: {error}", there.display()), "check the disk (dmesg)");
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
            "check the disk (dmesg)",
        );
    }
    if found.files() > 0 && found.files_available() < 1000 {
        return Finding::fail(
            check,
            "fewer than 1000 inodes are free (df -i)",
            "remove files that are not needed",
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
                    "correct [source] url, or attach the medium",
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
    match request::tcp(&address, CONNECT).await {
        Ok(()) => Finding::ok(check, format!("{what} at {address} accepts connections")),
        Err(why) => Finding::warn(
            check,
            why,
            "check the cable, the address (ip addr), DNS (resolvectl query) and the firewall; workloads keep \
             running meanwhile",
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

async fn drivers(config: &Config) -> Vec<Finding> {
    let fingerprints = agent::fingerprints(config).await;
    let podman = fingerprints.iter().find(|print| print.driver == DriverName::PODMAN);
    let network = podman.map(|podman| firewall::finding(podman.version.as_deref()));
    let finding = |print: Fingerprint| {
        let can = print.abilities.filter(|_| print.usable).map(|can| format!(" ({can})")).unwrap_or_default();
        let message = format!("{}: {}{can}", print.title(), print.detail);
        if print.usable {
            Finding::ok("driver", message)
        } else {
            Finding::warn(
                "driver",
                message,
                format!("apps for {} are held until it can be used", print.driver),
            )
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
                "not running: nothing answers at {socket}, so what its unit lets it see and write can't be checked"
            ),
            "systemctl start holdfast",
        ),
        Err(error) => Finding::fail(check, error.to_string(), "run this as root; journalctl -u holdfast"),
    }
}

#[cfg(test)]
#[cfg(feature = "kubernetes")]
mod printed;
#[cfg(test)]
mod tests;
