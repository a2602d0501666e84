//! What podman sets up the network of a pod with. It is no part of podman, and distributions only recommend it: without
//! it podman answers, takes images, and starts no pod that has a network of its own.

use std::path::{Path, PathBuf};

use super::Finding;

/// Where programs of the system are, whatever the PATH of whoever asks.
const FOLDERS: [&str; 6] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"];
/// From this version on podman comes with a netavark that sets up nftables; before, with one that knows iptables alone.
const NFTABLES_SINCE: u64 = 5;

/// Whether pods of a podman of this version get a network.
pub(super) fn finding(version: Option<&str>) -> Finding {
    judge(version, &FOLDERS.map(PathBuf::from))
}

fn judge(version: Option<&str>, folders: &[PathBuf]) -> Finding {
    let check = "pod network";
    let has = |tool: &str| folders.iter().map(Path::new).any(|folder| folder.join(tool).is_file());
    let major = version.and_then(|version| version.split('.').next()?.parse::<u64>().ok());
    let (wanted, other) = match major {
        Some(major) if major < NFTABLES_SINCE => (("iptables", "iptables"), ("nft", "nftables")),
        _ => (("nft", "nftables"), ("iptables", "iptables")),
    };
    match (has(wanted.0), has(other.0)) {
        (true, _) => Finding::ok(check, format!("podman can set up the network of pods with {}", wanted.0)),
        // containers.conf may have another `firewall_driver` than podman has by itself.
        (false, true) => Finding::warn(
            check,
            format!("{} is not installed on this box, only {} is", wanted.0, other.0),
            format!("install {} unless firewall_driver in containers.conf says otherwise", wanted.1),
        ),
        (false, false) => Finding::fail(
            check,
            "neither nft nor iptables is installed on this box: only pods with hostNetwork can run",
            format!("install {}", wanted.1),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::State;
    use super::*;

    #[test]
    fn a_box_on_which_no_pod_gets_a_network_is_found_before_there_is_a_pod() {
        let dir = tempfile::tempdir().unwrap();
        let state = |version: Option<&str>| judge(version, &[dir.path().to_owned()]);
        let nothing = state(Some("5.4.2"));
        assert_eq!(nothing.state, State::Fail);
        assert_eq!(nothing.advice.as_deref(), Some("install nftables"));
        assert_eq!(state(Some("4.3.1")).advice.as_deref(), Some("install iptables"));
        fs::write(dir.path().join("nft"), "").unwrap();
        assert_eq!(state(Some("5.4.2")).state, State::Ok);
        assert_eq!(state(None).state, State::Ok);
        assert_eq!(state(Some("4.3.1")).state, State::Warn);
    }
}
