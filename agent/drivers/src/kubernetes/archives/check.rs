//! Whether an archive is complete: every part is there and matches its digest.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use holdfast_core::digest::Digest;
use holdfast_core::oci::{DOCUMENT_LIMIT, Document};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::image::{BLOCK, END};

/// How much is read at once, in bytes.
const CHUNK: usize = 64 << 10;

/// Reads the archive at `path` through, which must hold one whole image that the annotation `annotation` calls `name`.
/// An error says what is wrong with it.
pub(super) fn check(path: &Path, annotation: &str, name: &str) -> io::Result<()> {
    let mut file = File::open(path)?;
    check_end(&mut file)?;
    let mut archive = tar::Archive::new(BufReader::with_capacity(CHUNK, file));
    let (mut there, mut manifest, mut wanted) = (BTreeSet::new(), None, None);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.display().to_string();
        if path == "index.json" {
            manifest = Some(manifest_in(&small(&mut entry)?, annotation, name)?);
            continue;
        }
        let Some(digest) = digest_of_blob(&path) else { continue };
        let found = if manifest == Some(digest) {
            let bytes = small(&mut entry)?;
            wanted = Some(parts(&bytes)?);
            Digest::of(&bytes)
        } else {
            digest_of(&mut entry)?
        };
        if found != digest {
            return Err(io::Error::other(format!("the content of {path} doesn't match its digest")));
        }
        there.insert(digest);
    }
    let wanted = wanted.ok_or_else(|| io::Error::other("there is no manifest in it"))?;
    match wanted.iter().find(|digest| !there.contains(digest)) {
        Some(missing) => Err(io::Error::other(format!("{missing} is missing in it"))),
        None => Ok(()),
    }
}

/// A tar ends with two blocks of zeros.
fn check_end(file: &mut File) -> io::Result<()> {
    let size = file.seek(SeekFrom::End(0))?;
    let mut end = [1; END as usize];
    if size >= END {
        file.seek(SeekFrom::Start(size - END))?;
        file.read_exact(&mut end)?;
    }
    file.rewind()?;
    let ends = size % BLOCK == 0 && end.iter().all(|byte| *byte == 0);
    if ends { Ok(()) } else { Err(io::Error::other("it is truncated")) }
}

/// The digest of the manifest that the index leads to.
fn manifest_in(index: &[u8], annotation: &str, name: &str) -> io::Result<Digest> {
    let index: Value = serde_json::from_slice(index)?;
    let manifest = index.pointer("/manifests/0").unwrap_or(&Value::Null);
    let called = manifest.get("annotations").and_then(|all| all.get(annotation)).and_then(Value::as_str);
    if called != Some(name) {
        return Err(io::Error::other(format!("it calls its image {called:?}, and not {name}")));
    }
    let digest = manifest.get("digest").and_then(Value::as_str).and_then(|text| text.parse().ok());
    digest.ok_or_else(|| io::Error::other("its index leads to no manifest"))
}

/// What a manifest names.
fn parts(manifest: &[u8]) -> io::Result<BTreeSet<Digest>> {
    match Document::parse(manifest, None) {
        Ok(Document::Manifest(manifest)) => Ok(manifest.blobs().iter().map(|blob| blob.digest).collect()),
        Ok(Document::Index(_)) => Err(io::Error::other("it holds an index of images and not one image")),
        Err(error) => Err(io::Error::other(error.to_string())),
    }
}

fn digest_of_blob(path: &str) -> Option<Digest> {
    format!("sha256:{}", path.strip_prefix("blobs/sha256/")?).parse().ok()
}

/// All of a document.
fn small(entry: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.take(DOCUMENT_LIMIT as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > DOCUMENT_LIMIT {
        return Err(io::Error::other(format!("a document in it has more than {DOCUMENT_LIMIT} bytes")));
    }
    Ok(bytes)
}

fn digest_of(entry: &mut impl Read) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match entry.read(&mut chunk)? {
            0 => return Ok(Digest::from_bytes(hasher.finalize().into())),
            count => hasher.update(&chunk[..count]),
        }
    }
}
