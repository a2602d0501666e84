//! The parts of web addresses that decide who gets to see what.

/// The address as it may be shown: without user, password and query, which may hold a signature.
pub(crate) fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            format!("{scheme}://{host}{path}")
        }
        None => url.to_owned(),
    }
}

/// Scheme, host and port.
pub(crate) fn origin(url: &str) -> String {
    let (scheme, _) = url.split_once("://").unwrap_or((url, ""));
    let default = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    let authority = authority(url);
    format!("{scheme}://{}", authority.strip_suffix(default).unwrap_or(authority))
}

/// What is between `://` and the path.
pub(crate) fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// Whether two addresses are of the same server.
pub(crate) fn same_origin(one: &str, other: &str) -> bool {
    origin(one).eq_ignore_ascii_case(&origin(other))
}

/// Whether `host` or `host:port` is this machine itself, to which nobody listens on the way.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The value of a query parameter, so that nothing of it is taken for syntax (RFC 3986, section 2.3).
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_shown() {
        let url = "https://u:p@s3.example/blob?X-Amz-Signature=secret#x";
        assert_eq!(shown(url), "https://s3.example/blob");
    }

    #[test]
    fn the_loopback_is_told_from_what_only_looks_like_it() {
        for host in ["localhost:5000", "127.0.0.1", "127.9.9.9:80", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "128.0.0.1:5000", "[::2]:1", "registry:5000", ""] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn a_parameter_is_never_taken_for_syntax() {
        assert_eq!(escaped("repository:a/b:pull&x=1"), "repository%3Aa%2Fb%3Apull%26x%3D1");
    }
}
