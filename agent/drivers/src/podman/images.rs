//! Images are loaded into podman before anything stops. podman itself never asks a registry.

use std::collections::BTreeSet;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use holdfast_core::digest::Digest;
use holdfast_core::pod::PinnedImage;
use http_body_util::BodyExt;
use hyper::body::Frame;
use tokio::sync::mpsc;

use super::api::Api;
use super::client::Body;
use super::marks;
use crate::DriverError;
use crate::image::{Archive, ImageOnDisk, ImageSource, REF_NAME};
use crate::keyed_locks::KeyedLocks;

/// How many pieces of an archive wait.
const WAITING_CHUNKS: usize = 4;

/// The id of the image in podman's store, into which it is loaded if it isn't there.
pub(super) async fn ensure(
    api: &Api,
    source: &dyn ImageSource,
    loading: &KeyedLocks,
    image: &PinnedImage,
) -> Result<String, DriverError> {
    let name = marks::image_name(&image.reference, &image.digest);
    if let Some(found) = api.image(&name).await? {
        return Ok(found.id);
    }
    let turn = loading.lock_of(&name);
    let _turn = turn.lock().await;
    // Another app may have had it loaded meanwhile.
    if let Some(found) = api.image(&name).await? {
        return Ok(found.id);
    }
    let disk = source.fetch(image).await?;
    let bytes = disk.blobs.iter().map(|blob| blob.size).sum();
    tracing::info!(image = %image.reference, bytes, "an image is loaded into podman");
    let wanted = disk.config.to_hex();
    api.load(archive(disk, name.clone()), bytes).await.map_err(|error| {
        DriverError::Runtime(format!("the image {} can't be loaded: {error}", image.reference))
    })?;
    match api.image(&name).await? {
        Some(found) if found.id == wanted => Ok(found.id),
        Some(found) => Err(DriverError::Runtime(format!(
            "podman loaded the image {} as {} and not as {wanted}: remove {name} from its store",
            image.reference, found.id
        ))),
        None => Err(DriverError::Runtime(format!(
            "podman reported that it loaded the image {}, but does not have it",
            image.reference
        ))),
    }
}

/// Takes our names from images that no release needs; what has no other name goes.
pub(super) async fn collect(api: &Api, keep: &BTreeSet<Digest>) {
    let images = match api.images().await {
        Ok(images) => images,
        Err(error) => return tracing::debug!(%error, "images can't be tidied up"),
    };
    for name in images.iter().flat_map(|image| &image.names) {
        if marks::digest_of(name).is_some_and(|digest| !keep.contains(&digest)) {
            match api.delete_image(name).await {
                Ok(()) => tracing::info!(name, "an image that no release needs was removed"),
                // A container may still use it; it goes another time.
                Err(error) => tracing::debug!(name, %error, "an image can't be removed"),
            }
        }
    }
}

/// The image as an archive, as podman loads it.
fn archive(disk: ImageOnDisk, name: String) -> Body {
    let (sender, receiver) = mpsc::channel(WAITING_CHUNKS);
    tokio::task::spawn_blocking(move || {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        let archive = Archive::new(&disk, &[(REF_NAME, &name)]);
        let end = archive.write(&mut |bytes| sender.blocking_send(Ok(bytes)).map_err(gone));
        if let Err(error) = end {
            // podman sees the archive break off.
            let _ = sender.blocking_send(Err(error));
        }
    });
    Chunks(receiver).boxed()
}

/// A body that comes in pieces.
struct Chunks(mpsc::Receiver<io::Result<Bytes>>);

impl hyper::body::Body for Chunks {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
