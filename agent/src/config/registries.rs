//! `[registries."host:port"]`: from the file as written to [`Registry`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use toml::Spanned;

use super::check::resolve;
use super::error::Checker;
use super::{Registry, file};
use crate::http::url::is_loopback;

pub(super) fn check(
    c: &mut Checker<'_>,
    base: &Path,
    written: BTreeMap<Spanned<String>, file::Registry>,
) -> BTreeMap<String, Registry> {
    written.into_iter().map(|(host, registry)| check_one(c, base, host, registry)).collect()
}

fn check_one(
    c: &mut Checker<'_>,
    base: &Path,
    host: Spanned<String>,
    written: file::Registry,
) -> (String, Registry) {
    if let Err(why) = check_host(host.get_ref()) {
        c.report(Some(host.span()), why);
    }
    let mut seen = BTreeSet::from([host.get_ref().as_str()]);
    for mirror in &written.mirrors {
        if let Err(why) = check_host(mirror.get_ref()) {
            c.report(Some(mirror.span()), why);
        } else if !seen.insert(mirror.get_ref()) {
            c.report(
                Some(mirror.span()),
                "this is the registry itself, or a mirror that is already listed: remove it",
            );
        }
    }
    if let Some(auth) = &written.auth_file
        && written.plain_http
        && !is_loopback(host.get_ref())
    {
        c.report(
            Some(auth.span()),
            "a password is not sent without TLS, where everyone can read it: remove auth_file or plain_http",
        );
    }
    if let Some(ca) = written.ca_file.as_ref().filter(|_| written.plain_http) {
        c.report(Some(ca.span()), "ca_file has no effect with plain_http = true: remove one of them");
    }
    let registry = Registry {
        auth_file: written.auth_file.map(|path| resolve(base, path.into_inner())),
        ca_file: written.ca_file.map(|path| resolve(base, path.into_inner())),
        mirrors: written.mirrors.into_iter().map(Spanned::into_inner).collect(),
        plain_http: written.plain_http,
    };
    (host.into_inner(), registry)
}

/// A registry as references name it. The text isn't repeated: it may hold a password.
fn check_host(text: &str) -> Result<(), &'static str> {
    if text.contains("://") {
        return Err(
            "write host or host:port, without http:// or https://; for a registry without TLS write \
                    plain_http = true in its own [registries.\"host:port\"]",
        );
    }
    if text.contains('@') {
        return Err("credentials don't belong here: name a file in auth_file");
    }
    if text.contains('/') {
        return Err("write host or host:port, without a path: images keep their names on a mirror");
    }
    let (name, port) = match text.rsplit_once(':') {
        // An IPv6 address stands in brackets.
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (text, None),
    };
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let known = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-'),
    };
    let digits = |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    match known && port.is_none_or(digits) {
        true => Ok(()),
        false => Err("this is not host or host:port: write \"registry.example\" or \"cache.local:5000\""),
    }
}

#[cfg(test)]
mod tests {
    use super::check_host;
    use crate::config::{Config, Registry};

    fn parse(section: &str) -> Result<Config, String> {
        let text = format!(
            "[device]\nname = \"till-1\"\n[source]\nurl = \"https://git.example/x\"\n[trust]\nmode = \"signed\"\n{section}"
        );
        Config::parse(std::path::Path::new("/etc/holdfast/agent.toml"), &text).map_err(|e| e.to_string())
    }

    #[test]
    fn a_section_says_all_that_a_registry_needs() {
        let config = parse(
            "[registries.\"registry.example:5000\"]\nauth_file = \"registry.json\"\nca_file = \"/ca.pem\"\n\
             mirrors = [\"cache.local:5000\", \"[::1]:5000\"]\n",
        );
        let expected = Registry {
            auth_file: Some("/etc/holdfast/registry.json".into()),
            ca_file: Some("/ca.pem".into()),
            mirrors: vec!["cache.local:5000".to_owned(), "[::1]:5000".to_owned()],
            plain_http: false,
        };
        assert_eq!(config.unwrap().registries["registry.example:5000"], expected);
    }

    #[test]
    fn a_wrong_mirror_is_an_error_with_its_place() {
        let error = parse("[registries.\"a.example\"]\nmirrors = [\"b.example\", \"https://c.example\"]\n");
        let error = error.unwrap_err();
        assert!(error.starts_with("/etc/holdfast/agent.toml:8:25: write host or host:port"), "{error}");
        for twice in ["a.example", "b.example"] {
            let section = format!("[registries.\"a.example\"]\nmirrors = [\"b.example\", \"{twice}\"]\n");
            assert!(parse(&section).unwrap_err().contains("8:25: this is the registry itself"));
        }
    }

    #[test]
    fn a_wrong_host_is_an_error_with_its_place() {
        let error = parse("[registries.\"https://a.example\"]\n").unwrap_err();
        assert!(error.starts_with("/etc/holdfast/agent.toml:7:13: "), "{error}");
        for host in ["", "a.example:99999", "a.example:+80", "a b", "[::x]:1", ":5000", "a/b", "é"] {
            assert!(check_host(host).is_err(), "{host}");
        }
        for host in ["docker.io", "localhost:5000", "cache", "[::1]", "127.0.0.1:80"] {
            assert!(check_host(host).is_ok(), "{host}");
        }
        assert!(!parse("[registries.\"u:hunter2@a\"]\n").unwrap_err().contains("hunter2"));
    }

    #[test]
    fn a_password_goes_without_tls_only_where_nobody_listens() {
        let section =
            |host: &str| format!("[registries.\"{host}\"]\nauth_file = \"a.json\"\nplain_http = true\n");
        assert!(parse(&section("registry.example")).unwrap_err().contains("8:13: a password is not sent"));
        assert!(parse(&section("127.0.0.1:5000")).is_ok());
    }
}
