//! Who is asked for an image: the mirrors of its registry, then the registry.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::login::{Login, NoLogin};
use crate::config;
use crate::http::url::is_loopback;

/// Docker's own registry has two names: this one in references …
const DOCKER: &str = "docker.io";
/// … and this one in the network.
const DOCKER_HOST: &str = "registry-1.docker.io";

/// One server that speaks the distribution-spec.
#[derive(Clone, Debug)]
pub(super) struct Server {
    /// As references and agent.toml name it.
    pub(super) name: String,
    /// Whether it stands in for another one.
    pub(super) is_mirror: bool,
    /// `https://host:port`
    pub(super) base: String,
    pub(super) ca_file: Option<PathBuf>,
    auth_file: Option<PathBuf>,
}

/// Everybody who may have images of `registry`, in the order in which they are asked.
pub(super) fn servers(sections: &BTreeMap<String, config::Registry>, registry: &str) -> Vec<Server> {
    let mirrors = sections.get(registry).map_or(&[][..], |section| section.mirrors.as_slice());
    let mirrors = mirrors.iter().map(|mirror| Server::new(sections, mirror, true));
    mirrors.chain([Server::new(sections, registry, false)]).collect()
}

impl Server {
    fn new(sections: &BTreeMap<String, config::Registry>, name: &str, is_mirror: bool) -> Self {
        let section = sections.get(name);
        let scheme = if section.is_some_and(|section| section.plain_http) { "http" } else { "https" };
        let host = if name == DOCKER { DOCKER_HOST } else { name };
        Server {
            name: name.to_owned(),
            is_mirror,
            base: format!("{scheme}://{host}"),
            ca_file: section.and_then(|section| section.ca_file.clone()),
            auth_file: section.and_then(|section| section.auth_file.clone()),
        }
    }

    /// Whether it is asked without TLS.
    pub(super) fn is_plain(&self) -> bool {
        self.base.starts_with("http://")
    }

    /// Whether a secret may go to `url`, as far as listeners on the way are concerned.
    pub(super) fn may_send_secret_to(url: &str) -> bool {
        url.starts_with("https://") || is_loopback(crate::http::url::authority(url))
    }

    /// Who the box is to this server; the file is read now, so that it may be rotated. The error is for people.
    pub(super) fn login(&self) -> Result<Result<Login, NoLogin>, String> {
        let Some(path) = &self.auth_file else { return Ok(Err(NoLogin::NoFile)) };
        let found = super::auth_file::read(path, &self.names()).map_err(|why| {
            format!("auth_file {} of [registries.\"{}\"] cannot be used: {why}", path.display(), self.name)
        })?;
        Ok(found.ok_or_else(|| NoLogin::NoEntry(path.clone())))
    }

    /// What Docker's config.json may call it.
    fn names(&self) -> Vec<&str> {
        match self.name.as_str() {
            DOCKER => vec![DOCKER, "index.docker.io", DOCKER_HOST],
            name => vec![name],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(mirrors: &[&str], plain_http: bool) -> config::Registry {
        let mirrors = mirrors.iter().map(|mirror| (*mirror).to_owned()).collect();
        config::Registry { auth_file: None, ca_file: None, mirrors, plain_http }
    }

    #[test]
    fn mirrors_are_asked_first_and_each_in_its_own_way() {
        let sections = BTreeMap::from([
            ("docker.io".to_owned(), section(&["cache.local:5000", "other.example"], false)),
            ("cache.local:5000".to_owned(), section(&[], true)),
        ]);
        let bases: Vec<String> = servers(&sections, "docker.io").into_iter().map(|s| s.base).collect();
        assert_eq!(
            bases,
            ["http://cache.local:5000", "https://other.example", "https://registry-1.docker.io"]
        );
        let bases: Vec<String> = servers(&sections, "else.example").into_iter().map(|s| s.base).collect();
        assert_eq!(bases, ["https://else.example"]);
    }
}
