use holdfast_core::digest::Digest;

use super::*;

/// Why podman starts no pod on the bridge on a box without iptables or nftables, in its own words: 4.3.1 with netavark 1.4,
/// and 5.4.2 with netavark 1.14, once as it is and once with `firewall_driver = "iptables"` in containers.conf.
const WITHOUT_FIREWALL: [&str; 3] = [
    "netavark: No such file or directory (os error 2)",
    "netavark: nftables error: unable to execute nft: No such file or directory (os error 2)",
    "netavark: iptables: No such file or directory (os error 2)",
];

#[test]
fn a_box_without_a_firewall_program_is_known_by_the_words_of_podman_4_and_5() {
    for said in WITHOUT_FIREWALL {
        assert!(lacks_a_firewall(said), "{said}");
        assert!(is_of_the_box(said), "{said}: no release is at fault");
    }
}

#[test]
fn what_else_goes_wrong_is_not_laid_on_a_missing_firewall_program() {
    for said in [
        "netavark: create veth pair: interface eth0 already exists on container namespace: Netlink error: File exists \
         (os error 17)",
        "crun: executable file `/nft` not found in $PATH: No such file or directory: OCI runtime attempted to invoke a \
         command that was not found",
        "runc: runc create failed: unable to start container process: exec: \"/iptables\": stat /iptables: no such file \
         or directory: OCI runtime attempted to invoke a command that was not found",
    ] {
        assert!(!lacks_a_firewall(said), "{said}");
    }
}

#[test]
fn a_release_is_blamed_for_what_it_asks_for_and_for_nothing_that_the_box_lacks() {
    for of_the_box in [
        "netavark: create veth pair: interface eth0 already exists on container namespace: Netlink error: File exists \
         (os error 17)",
        "aardvark-dns failed to start: Error from child process",
        "writing file `/var/lib/containers/x`: No space left on device",
        "mkdir /var/lib/containers/x: read-only file system",
        "crun: fork: Resource temporarily unavailable: OCI runtime error",
        "beginning container transaction: database is locked",
    ] {
        assert!(is_of_the_box(of_the_box), "{of_the_box}");
    }
    for of_the_release in [
        "crun: executable file `/nope` not found in $PATH: No such file or directory: OCI runtime attempted to invoke a \
         command that was not found",
        "runc: runc create failed: unable to start container process: exec: \"/nope\": permission denied: OCI permission \
         denied",
        "unable to find user nobody: no matching entries in passwd file",
        "sysctl net.core.somaxconn=1 can't be set since Network Namespace set to host: invalid argument",
    ] {
        assert!(!is_of_the_box(of_the_release), "{of_the_release}");
    }
}

#[test]
fn a_box_without_an_address_keeps_only_those_waiting_who_ask_for_it() {
    let container = |value: &str| -> Container<PinnedImage> {
        let container = serde_json::json!({
            "name": "web", "env": { "AT": value },
            "image": { "reference": "r.example/web:1", "digest": Digest::of(b"image") },
        });
        serde_json::from_value(container).unwrap()
    };
    let asking = container(holdfast_core::pod::HOST_IP);
    // The box is the reason, so it is tried again.
    let error = with_address(&asking, Vec::new).unwrap_err();
    assert!(matches!(&error, DriverError::Runtime(why) if why.starts_with("the box has no address yet")));
    let made = with_address(&asking, || vec!["198.51.100.7".parse().unwrap()]).unwrap();
    assert_eq!(made.env["AT"], EnvValue::Plain("198.51.100.7".to_owned()));
    let other = container("x");
    assert_eq!(*with_address(&other, || unreachable!()).unwrap(), other);
}
