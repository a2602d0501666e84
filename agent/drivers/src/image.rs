//! Images that the box holds, as drivers are given them: whole, checked, on its own disk; and the archive that
//! runtimes take them in.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_core::digest::Digest;
use holdfast_core::pod::PinnedImage;
use serde_json::json;

use crate::DriverError;

/// How much of an archive is read at once, in bytes.
const CHUNK: usize = 256 << 10;
/// What a tar is counted in.
const BLOCK: u64 = 512;

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
}

impl From<ImageError> for DriverError {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Wrong(cause) => DriverError::Release(cause),
            ImageError::Unreachable(cause) => DriverError::Runtime(cause),
        }
    }
}

/// The image as an archive of an OCI image layout (image-spec, image-layout.md), called by `name` there. It is handed
/// piece by piece to `send`, until that is no longer wanted.
pub(crate) fn write_archive(
    image: &ImageOnDisk,
    name: &str,
    send: &mut dyn FnMut(Bytes) -> bool,
) -> std::io::Result<()> {
    let digest = Digest::of(&image.manifest);
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": image.media_type,
            "digest": digest,
            "size": image.manifest.len(),
            "annotations": { "org.opencontainers.image.ref.name": name },
        }],
    });
    let small: [(String, Vec<u8>); 3] = [
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json".to_owned(), index.to_string().into_bytes()),
        (blob_path(&digest), image.manifest.clone()),
    ];
    for (path, bytes) in small {
        let size = bytes.len() as u64;
        if !(send(header(&path, size)?) && send(bytes.into()) && send(padding(size))) {
            return Ok(());
        }
    }
    // Layers may be there twice; an archive has each once.
    let mut sent = BTreeSet::new();
    for blob in image.blobs.iter().filter(|blob| sent.insert(blob.digest)) {
        let mut file = File::open(&blob.path)?.take(blob.size);
        if !send(header(&blob_path(&blob.digest), blob.size)?) {
            return Ok(());
        }
        let mut left = blob.size;
        while left > 0 {
            let mut chunk = vec![0; CHUNK];
            let count = file.read(&mut chunk)?;
            if count == 0 {
                return Err(std::io::Error::other(format!("{} is shorter than it was", blob.path.display())));
            }
            chunk.truncate(count);
            left -= count as u64;
            if !send(chunk.into()) {
                return Ok(());
            }
        }
        if !send(padding(blob.size)) {
            return Ok(());
        }
    }
    send(Bytes::from(vec![0; 2 * BLOCK as usize]));
    Ok(())
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.to_hex())
}

fn header(path: &str, size: u64) -> std::io::Result<Bytes> {
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
        write_archive(&image, "localhost/holdfast/x:y", &mut |piece| {
            bytes.extend(piece);
            true
        })
        .unwrap();
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
