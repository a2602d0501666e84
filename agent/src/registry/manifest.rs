//! What an image is: its manifest, found by tag or digest, and through an index for the box's platform
//! (distribution-spec, "Pulling manifests").

use holdfast_core::digest::Digest;
use holdfast_core::image::{ImageReference, Platform};
use holdfast_core::oci::{DOCUMENT_LIMIT, Document, MEDIA_TYPES, Manifest};
use holdfast_store::content::Content;
use ureq::http::header;

use super::connection::Connection;
use super::error::{Reason, RegistryError};
use super::pull::{Pull, Stop};
use crate::http::allowance::Purpose;

/// How many indexes may lead to each other.
const MAX_DEPTH: usize = 3;

/// What an image is, for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The manifest's digest, which nobody can change.
    pub digest: Digest,
    /// The manifest as it came.
    pub bytes: Vec<u8>,
    /// The same, read.
    pub manifest: Manifest,
}

/// See [`super::Registries::resolve`].
pub(super) fn resolve(
    pull: &mut Pull<'_>,
    platform: &Platform,
    content: Option<&Content>,
) -> Result<Resolved, RegistryError> {
    let image = pull.image;
    let mut wanted = Wanted::of(image);
    for _ in 0..=MAX_DEPTH {
        let FetchedManifest { digest, bytes, document } = find(pull, &wanted, content)?;
        match document {
            Document::Manifest(manifest) => return Ok(Resolved { digest, bytes, manifest }),
            Document::Index(index) => {
                let chosen = index.choose(platform);
                let chosen = chosen
                    .map_err(|cause| RegistryError::NoPlatform { image: Box::new(image.clone()), cause })?;
                wanted = Wanted::Digest(chosen.digest);
            }
        }
    }
    Err(RegistryError::Unusable {
        image: Box::new(image.clone()),
        cause: holdfast_core::oci::BadManifest::Malformed(
            "its indexes refer to each other in a loop".to_owned(),
        ),
    })
}

/// The manifest of `image` that is called `digest`.
pub(super) fn by_digest(
    pull: &mut Pull<'_>,
    digest: Digest,
    content: &Content,
) -> Result<(Vec<u8>, Document), RegistryError> {
    let found = find(pull, &Wanted::Digest(digest), Some(content))?;
    Ok((found.bytes, found.document))
}

/// A document, whose digest was checked.
struct FetchedManifest {
    digest: Digest,
    bytes: Vec<u8>,
    document: Document,
}

enum Wanted {
    Digest(Digest),
    Tag(String),
}

impl Wanted {
    fn of(image: &ImageReference) -> Self {
        match (&image.digest, &image.tag) {
            (Some(digest), _) => Wanted::Digest(*digest),
            (None, Some(tag)) => Wanted::Tag(tag.clone()),
            (None, None) => Wanted::Tag("latest".to_owned()),
        }
    }
}

/// Finds a document on disk, if it can be known that it is the one, or else asks for it and pins it.
fn find(
    pull: &mut Pull<'_>,
    wanted: &Wanted,
    content: Option<&Content>,
) -> Result<FetchedManifest, RegistryError> {
    let Some(content) = content else { return fetch(pull, wanted) };
    let image = pull.image;
    if let Wanted::Digest(digest) = wanted
        && let Some(bytes) =
            content.read(digest, DOCUMENT_LIMIT as u64).map_err(RegistryError::disk(image))?
    {
        let document = Document::parse(&bytes, None)
            .map_err(|cause| RegistryError::Unusable { image: Box::new(image.clone()), cause })?;
        return Ok(FetchedManifest { digest: *digest, bytes, document });
    }
    let found = fetch(pull, wanted)?;
    content.put_expecting(found.digest, &found.bytes).map_err(RegistryError::disk(image))?;
    Ok(found)
}

fn fetch(pull: &mut Pull<'_>, wanted: &Wanted) -> Result<FetchedManifest, RegistryError> {
    let image = pull.image;
    let (what, name) = match wanted {
        Wanted::Digest(digest) => (format!("the manifest {digest} of {image}"), digest.to_string()),
        Wanted::Tag(tag) => (format!("the manifest of {image}"), tag.clone()),
    };
    let path = format!("/v2/{}/manifests/{name}", image.repository);
    pull.ask_everybody(&what, Purpose::Manifests, |connection| {
        ask(connection, &path, wanted).map_err(Stop::from)
    })
}

fn ask(connection: &mut Connection<'_>, path: &str, wanted: &Wanted) -> Result<FetchedManifest, Reason> {
    let headers = vec![
        ("accept".to_owned(), MEDIA_TYPES.join(", ")),
        ("accept-encoding".to_owned(), "identity".to_owned()),
    ];
    let response = connection.get(path, &headers, &[200])?;
    let text = |name: &str| response.headers().get(name)?.to_str().ok().map(str::to_owned);
    let said_type = text(header::CONTENT_TYPE.as_str());
    let said_digest = text("docker-content-digest");
    let bytes = connection.read_all(response, DOCUMENT_LIMIT)?;
    let got = Digest::of(&bytes);
    let expected = match wanted {
        Wanted::Digest(digest) => Some(*digest),
        // Another algorithm than ours can't be compared, and need not be.
        Wanted::Tag(_) => said_digest.and_then(|digest| digest.parse().ok()),
    };
    if let Some(expected) = expected.filter(|expected| *expected != got) {
        return Err(Reason::WrongDigest { expected, got });
    }
    let kind = said_type.as_deref().map(|kind| kind.split(';').next().unwrap_or_default().trim());
    let document = Document::parse(&bytes, kind)?;
    Ok(FetchedManifest { digest: got, bytes, document })
}
