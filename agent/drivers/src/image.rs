//! Images on the box's disk, as drivers are given them: complete and checked; and the archive format in which
//! runtimes take them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_core::digest::Digest;
use holdfast_core::disk_trouble::Trouble;
use holdfast_core::pod::PinnedImage;
use serde_json::json;

use crate::DriverError;

/// How much of an archive is read at once, in bytes.
const CHUNK: usize = 256 << 10;
/// What a tar is counted in, and what ends it, in bytes.
pub(crate) const BLOCK: u64 = 512;
pub(crate) const END: u64 = 2 * BLOCK;

/// What an image is called in an index (image-spec, annotations.md).
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Where images come from.
#[async_trait]
pub trait ImageSource: Send + Sync {
    /// The image, whole and checked, on disk. Fetches what isn't there yet.
    async fn fetch(&self, image: &PinnedImage) -> Result<ImageOnDisk, ImageError>;
}

/// An image whose every part is on disk.
#[derive(Debug)]
pub struct ImageOnDisk {
    /// The manifest for this kind of machine, as it is signed for.
    pub manifest: Vec<u8>,
    /// What the manifest is.
    pub media_type: String,
    /// The image's configuration: its digest is the image's id in runtimes.
    pub config: Digest,
    /// The configuration and the layers.
    pub blobs: Vec<ImageBlob>,
    /// As long as this lives, nothing of it is removed.
    pub hold: Box<dyn Debug + Send + Sync>,
}

/// A part of an image.
#[derive(Clone, Debug)]
pub struct ImageBlob {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// The file that holds it.
    pub path: PathBuf,
}

/// Why there is no image.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ImageError {
    /// The image itself is the reason: asking again gives the same.
    #[error("{0}")]
    Wrong(String),
    /// The registry or the disk is the reason: it is worth another try.
    #[error("{0}")]
    Unreachable(String),
    /// The disk that it is kept on is the reason.
    #[error("{cause}")]
    Disk {
        /// What was being done, and why it failed.
        cause: String,
        /// What the disk said.
        trouble: Trouble,
    },
}

impl From<ImageError> for DriverError {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Wrong(cause) => DriverError::Release(cause),
            ImageError::Unreachable(cause) => DriverError::Runtime(cause),
            ImageError::Disk { cause, trouble } => DriverError::Disk { cause, trouble },
        }
    }
}

/// Room on the disk for what drivers keep outside of the pinned content.
pub trait SpaceAllocator: Send + Sync {
    /// Takes room for `bytes` that are to be written into `folder`, before the first of them is; what nobody needs may
    /// go for that. Or why there is none, and what helps, for people.
    fn take(&self, folder: &Path, bytes: u64) -> Result<Box<dyn SpaceAllocation>, String>;
}

/// Room that was taken. Dropped, what wasn't used of it is given back.
pub trait SpaceAllocation: Send {
    /// So many bytes more are on the disk now, and are counted there.
    fn used(&mut self, bytes: u64);
}

/// An image as an archive of an OCI image layout (image-spec, image-layout.md).
pub(crate) struct Archive<'a> {
    image: &'a ImageOnDisk,
    /// The files that aren't on disk: path and content.
    made: [(String, Vec<u8>); 3],
}

impl<'a> Archive<'a> {
    /// The archive of `image`, to whose manifest the index there adds these annotations: what the image is called.
    pub(crate) fn new(image: &'a ImageOnDisk, annotations: &[(&str, &str)]) -> Self {
        let digest = Digest::of(&image.manifest);
        let annotations: BTreeMap<_, _> = annotations.iter().copied().collect();
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": image.media_type,
                "digest": digest,
                "size": image.manifest.len(),
                "annotations": annotations,
            }],
        });
        let layout = json!({ "imageLayoutVersion": "1.0.0" });
        let made = [
            ("oci-layout".to_owned(), layout.to_string().into_bytes()),
            ("index.json".to_owned(), index.to_string().into_bytes()),
            (blob_path(&digest), image.manifest.clone()),
        ];
        Archive { image, made }
    }

    /// How large it is, in bytes.
    #[cfg(feature = "kubernetes")]
    pub(crate) fn size(&self) -> u64 {
        let made = self.made.iter().map(|(_, bytes)| bytes.len() as u64);
        let sizes = made.chain(self.blobs().map(|blob| blob.size));
        sizes.map(|size| BLOCK + size.next_multiple_of(BLOCK)).sum::<u64>() + END
    }

    /// Layers may be there twice; an archive has each once.
    fn blobs(&self) -> impl Iterator<Item = &ImageBlob> {
        let mut seen = BTreeSet::new();
        self.image.blobs.iter().filter(move |blob| seen.insert(blob.digest))
    }

    /// Hands it piece by piece to `send`, up to the first error.
    pub(crate) fn write(&self, send: &mut dyn FnMut(Bytes) -> io::Result<()>) -> io::Result<()> {
        for (path, bytes) in &self.made {
            let size = bytes.len() as u64;
            send(header(path, size)?)?;
            send(Bytes::copy_from_slice(bytes))?;
            send(padding(size))?;
        }
        for blob in self.blobs() {
            let about =
                |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", blob.path.display()));
            let mut file = File::open(&blob.path).map_err(about)?.take(blob.size);
            send(header(&blob_path(&blob.digest), blob.size)?)?;
            let mut left = blob.size;
            while left > 0 {
                let mut chunk = vec![0; CHUNK];
                let count = file.read(&mut chunk).map_err(about)?;
                if count == 0 {
                    return Err(about(io::Error::other("it is shorter than it was")));
                }
                chunk.truncate(count);
                left -= count as u64;
                send(chunk.into())?;
            }
            send(padding(blob.size))?;
        }
        send(Bytes::from(vec![0; END as usize]))
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.to_hex())
}

fn header(path: &str, size: u64) -> io::Result<Bytes> {
    let mut header = tar::Header::new_ustar();
    header.set_path(path)?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(Bytes::copy_from_slice(header.as_bytes()))
}

/// A tar's entries end at whole blocks.
fn padding(size: u64) -> Bytes {
    let rest = (BLOCK - size % BLOCK) % BLOCK;
    // Less than a block.
    Bytes::from(vec![0; rest as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_every_part_once_and_is_a_tar() {
        let dir = tempfile::tempdir().unwrap();
        let blob = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            ImageBlob { digest: Digest::of(bytes), size: bytes.len() as u64, path }
        };
        let (config, layer) = (blob("config", b"{}"), blob("layer", &[7; 1000]));
        let image = ImageOnDisk {
            manifest: b"manifest".to_vec(),
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            config: config.digest,
            blobs: vec![config.clone(), layer.clone(), layer.clone()],
            hold: Box::new(()),
        };
        let mut bytes = Vec::new();
        let it = Archive::new(&image, &[(REF_NAME, "localhost/holdfast/x:y")]);
        it.write(&mut |piece| {
            bytes.extend(piece);
            Ok(())
        })
        .unwrap();
        #[cfg(feature = "kubernetes")]
        assert_eq!(bytes.len() as u64, it.size());
        let mut archive = tar::Archive::new(&bytes[..]);
        let paths: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        let digest = Digest::of(b"manifest");
        assert_eq!(
            paths,
            [
                "oci-layout".to_owned(),
                "index.json".to_owned(),
                blob_path(&digest),
                blob_path(&config.digest),
                blob_path(&layer.digest)
            ]
        );
    }
}
