//! Container images: what manifests call them, and which machine they are for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Where images without a host are found.
const DEFAULT_REGISTRY: &str = "docker.io";

/// An image as manifests name it: `[host[:port]/]name[:tag][@sha256:…]` (distribution's reference grammar). A
/// name without a host is docker.io's, one without tag and digest has the tag `latest`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageReference {
    /// `host` or `host:port`, as `[registries]` of agent.toml names it.
    pub registry: String,
    /// The name within the registry, such as `library/nginx`.
    pub repository: String,
    /// The tag; what it names may change.
    pub tag: Option<String>,
    /// What nobody can change. With a tag beside it, the digest counts.
    pub digest: Option<Digest>,
}

/// A text that names no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an image: {why}; write registry.example/name@sha256:… or registry.example/name:tag")]
pub struct BadImageReference {
    text: String,
    why: &'static str,
}

impl ImageReference {
    /// The same image by its digest alone.
    pub fn pinned(&self, digest: Digest) -> Self {
        ImageReference { tag: None, digest: Some(digest), ..self.clone() }
    }
}

impl FromStr for ImageReference {
    type Err = BadImageReference;

    fn from_str(text: &str) -> Result<Self, BadImageReference> {
        let wrong = |why| BadImageReference { text: text.chars().take(200).collect(), why };
        if text.len() > 1000 {
            return Err(wrong("it is too long"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                (rest, Some(digest.parse().map_err(|_| wrong("its digest is not sha256 and 64 digits"))?))
            }
            None => (text, None),
        };
        let (registry, rest) = match rest.split_once('/') {
            Some((host, rest)) if is_host(host) => (host, rest),
            _ => (DEFAULT_REGISTRY, rest),
        };
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) if is_tag(tag) => (repository, Some(tag.to_owned())),
            Some(_) => return Err(wrong("its tag contains characters that are not allowed in a tag")),
            None => (rest, None),
        };
        if !is_host(registry) && registry != DEFAULT_REGISTRY {
            return Err(wrong("its host name is not valid"));
        }
        let official = registry == DEFAULT_REGISTRY && !repository.contains('/');
        let repository = if official { format!("library/{repository}") } else { repository.to_owned() };
        if !is_repository(&repository) {
            return Err(wrong("its name must be of a-z, 0-9, '.', '_', '-' and '/', 255 characters at most"));
        }
        let tag = if tag.is_none() && digest.is_none() { Some("latest".to_owned()) } else { tag };
        Ok(ImageReference { registry: registry.to_owned(), repository, tag, digest })
    }
}

/// Whether the part before the first slash is a host: it has a dot or a port, or is `localhost`.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        // An IPv6 address stands in brackets.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let named = |host: &str| {
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-')
    };
    let address = |host: &str| {
        host.strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok())
    };
    let marked = port.is_some() || host.contains('.') || host == "localhost" || address(host);
    marked && (named(host) || address(host)) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

fn is_repository(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let part = |part: &str| {
        let bytes = part.as_bytes();
        bytes.first().is_some_and(|b| alphanumeric(*b))
            && bytes.last().is_some_and(|b| alphanumeric(*b))
            && bytes.iter().all(|&b| alphanumeric(b) || b"._-".contains(&b))
    };
    text.len() <= 255 && text.split('/').all(part)
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = text.as_bytes();
    (1..=128).contains(&bytes.len())
        && word(bytes[0])
        && bytes.iter().all(|&b| word(b) || b == b'.' || b == b'-')
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl TryFrom<String> for ImageReference {
    type Error = BadImageReference;

    fn try_from(text: String) -> Result<Self, BadImageReference> {
        text.parse()
    }
}

impl From<ImageReference> for String {
    fn from(reference: ImageReference) -> String {
        reference.to_string()
    }
}

/// A kind of machine, in the words of the OCI image index (`platform`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// Such as `linux`.
    pub os: String,
    /// Such as `amd64` or `arm64`.
    pub architecture: String,
    /// Such as `v7` of `arm`.
    pub variant: Option<String>,
}

impl Platform {
    /// The one that this program was compiled for.
    pub fn of_this_program() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "x86" => ("386", None),
            other => (other, None),
        };
        Platform {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_named_as_people_write_them_and_print_in_full() {
        let digest = Digest::of(b"x");
        for (text, full) in [
            ("nginx", "docker.io/library/nginx:latest".to_owned()),
            ("grafana/grafana:10.1", "docker.io/grafana/grafana:10.1".to_owned()),
            ("registry.example/pos", "registry.example/pos:latest".to_owned()),
            ("localhost:5000/a/b_c:v1", "localhost:5000/a/b_c:v1".to_owned()),
            ("[::1]:5000/pos:1", "[::1]:5000/pos:1".to_owned()),
            (&format!("registry.example/pos@{digest}"), format!("registry.example/pos@{digest}")),
            (&format!("registry.example/pos:v1@{digest}"), format!("registry.example/pos:v1@{digest}")),
        ] {
            let reference: ImageReference = text.parse().unwrap();
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(full.parse::<ImageReference>().unwrap(), reference);
        }
    }

    #[test]
    fn what_names_no_image_is_refused() {
        for text in
            ["", "Nginx", "a//b", "x/../y", "pos:", "pos:a b", "pos@sha256:ab", "host.example:99999/x", "/x"]
        {
            assert!(text.parse::<ImageReference>().is_err(), "{text}");
        }
        // With the part that Docker's own images are in, it would be too long to be read back.
        assert!("n".repeat(250).parse::<ImageReference>().is_err());
    }
}
