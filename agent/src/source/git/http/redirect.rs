//! Where a redirect may lead. Git follows one on the first request only, and then stays there.

use crate::http::url::{authority, origin, same_origin, shown as shown_url};
use crate::source::error::SourceError;

/// How many are followed in a row.
pub(crate) const MAX: usize = 5;

/// The base of the repository after a redirect of `base` + `tail` to `location`.
///
/// # Errors
/// When it leads away from HTTPS, to something that isn't a repository, or, with a secret in hand, to
/// another server.
pub(crate) fn follow(base: &str, tail: &str, location: &str, secret: bool) -> Result<String, SourceError> {
    let refuse = |why: &str| SourceError::Protocol {
        url: shown_url(base),
        why: format!(
            "it redirects to {:?}, {why}",
            shown_url(&location.chars().take(200).collect::<String>())
        ),
    };
    let target = match location.strip_prefix('/') {
        Some(rest) if !rest.starts_with('/') => format!("{}/{rest}", origin(base)),
        _ => location.to_owned(),
    };
    if base.starts_with("https://") && !target.starts_with("https://") {
        return Err(refuse("which is not https"));
    }
    if !target.starts_with("https://") && !target.starts_with("http://") {
        return Err(refuse("which is not a web address"));
    }
    if authority(&target).contains('@') {
        return Err(refuse("which names a user"));
    }
    if secret && !same_origin(&target, base) {
        return Err(refuse(
            "but the agent sends its password or token to source.url only: set source.url to the new address",
        ));
    }
    match target.strip_suffix(tail) {
        Some(base) => Ok(base.trim_end_matches('/').to_owned()),
        None => Err(refuse("which is not a Git repository (a login page?)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAIL: &str = "/info/refs?service=git-upload-pack";

    fn to(location: &str, secret: bool) -> Result<String, SourceError> {
        follow("https://a.example/x.git", TAIL, &format!("{location}{TAIL}"), secret)
    }

    #[test]
    fn a_moved_repository_is_followed() {
        assert_eq!(to("https://b.example/y.git", false).unwrap(), "https://b.example/y.git");
        assert_eq!(to("/y.git", true).unwrap(), "https://a.example/y.git");
        assert_eq!(to("https://A.example:443/y.git", true).unwrap(), "https://A.example:443/y.git");
    }

    #[test]
    fn a_secret_goes_to_no_other_server() {
        for other in
            ["https://b.example/y.git", "https://a.example:8443/y.git", "https://a.example.b.example/y.git"]
        {
            assert!(to(other, true).unwrap_err().to_string().contains("source.url only"), "{other}");
        }
    }

    #[test]
    fn a_redirect_never_leaves_https_or_git() {
        assert!(to("http://a.example/x.git", false).unwrap_err().to_string().contains("not https"));
        assert!(to("//b.example/x.git", false).is_err());
        assert!(to("https://u@a.example/x.git", false).is_err());
        let login = follow("https://a.example/x.git", TAIL, "https://a.example/login", false);
        assert!(login.unwrap_err().to_string().contains("login page"));
    }
}
