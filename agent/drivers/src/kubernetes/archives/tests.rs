//! Archives under crashes, damage, and disks without room.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::image::{ImageBlob, ImageError, SpaceAllocation};

/// An image of one layer, whose files are in a folder.
struct Images {
    dir: PathBuf,
    layer: Vec<u8>,
    fetched: AtomicU64,
}

impl Images {
    fn new(dir: &Path, layer: &[u8]) -> Arc<Self> {
        fs::create_dir_all(dir).unwrap();
        Arc::new(Images { dir: dir.to_owned(), layer: layer.to_vec(), fetched: AtomicU64::new(0) })
    }

    fn blob(&self, bytes: &[u8]) -> ImageBlob {
        let digest = Digest::of(bytes);
        let path = self.dir.join(digest.to_hex());
        fs::write(&path, bytes).unwrap();
        ImageBlob { digest, size: bytes.len() as u64, path }
    }

    fn manifest(&self) -> Vec<u8> {
        let descriptor = |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": Digest::of(bytes), "size": bytes.len() });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", b"{}"),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &self.layer)],
        });
        manifest.to_string().into_bytes()
    }

    fn image(&self, name: &str) -> PinnedImage {
        let digest = Digest::of(&self.manifest());
        PinnedImage { reference: format!("{name}@{digest}").parse().unwrap(), digest }
    }
}

#[async_trait]
impl ImageSource for Images {
    async fn fetch(&self, _: &PinnedImage) -> Result<ImageOnDisk, ImageError> {
        self.fetched.fetch_add(1, Ordering::Relaxed);
        let config = self.blob(b"{}");
        Ok(ImageOnDisk {
            manifest: self.manifest(),
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            config: config.digest,
            blobs: vec![config, self.blob(&self.layer)],
            hold: Box::new(()),
        })
    }
}

/// So much room in all, and what was used of it.
struct Rooms {
    limit: u64,
    taken: AtomicU64,
    used: Arc<AtomicU64>,
}

impl Rooms {
    fn of(limit: u64) -> Arc<Self> {
        Arc::new(Rooms { limit, taken: AtomicU64::new(0), used: Arc::default() })
    }
}

impl SpaceAllocator for Rooms {
    fn take(&self, _: &Path, bytes: u64) -> Result<Box<dyn SpaceAllocation>, String> {
        self.taken.fetch_add(bytes, Ordering::Relaxed);
        match bytes <= self.limit {
            true => Ok(Box::new(Used(Arc::clone(&self.used)))),
            false => Err(format!("{bytes} don't fit")),
        }
    }
}

struct Used(Arc<AtomicU64>);

impl SpaceAllocation for Used {
    fn used(&mut self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A node's folder, and an image.
struct Bench {
    dir: TempDir,
    images: Arc<Images>,
    image: PinnedImage,
}

const LAYER: [u8; 3000] = [7; 3000];

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::new(&dir.path().join("blobs"), &LAYER);
        let image = images.image("registry.example/pos");
        Bench { dir, images, image }
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("k3s/agent/images")
    }

    /// As after a start of the agent.
    fn archives(&self) -> Archives {
        self.archives_within(Rooms::of(u64::MAX))
    }

    fn archives_within(&self, room: Arc<Rooms>) -> Archives {
        Archives::new(self.folder(), self.images.clone(), room)
    }

    fn fetched(&self) -> u64 {
        self.images.fetched.load(Ordering::Relaxed)
    }

    fn place(&self) -> Place {
        Place::of(&self.folder(), &self.image)
    }

    fn check(&self) -> io::Result<()> {
        check::check(&self.place().path(), IMAGE_NAME, &self.place().image)
    }

    fn files(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.folder()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

#[tokio::test]
async fn an_image_is_put_into_the_folder_once_and_called_by_its_digest() {
    let bench = Bench::new();
    let tagged = bench.images.image("registry.example/pos:v1");
    let archives = bench.archives();
    archives.ensure(&bench.image).await.unwrap();
    archives.ensure(&bench.image).await.unwrap();
    // A tag beside the digest says nothing more.
    archives.ensure(&tagged).await.unwrap();
    bench.archives().ensure(&bench.image).await.unwrap();
    assert_eq!(bench.fetched(), 1);
    bench.check().unwrap();
    let hex = bench.image.digest.to_hex();
    assert_eq!(bench.place().image, format!("registry.example/pos@sha256:{hex}"));
    let files = bench.files();
    assert_eq!(files.len(), 1);
    let name = files.first().unwrap();
    assert!(name.starts_with(&format!("holdfast-{hex}-")) && name.ends_with(".tar"), "{name}");
}

#[tokio::test]
async fn one_image_under_two_names_is_there_under_both() {
    let bench = Bench::new();
    let other = bench.images.image("mirror.example/pos");
    let archives = bench.archives();
    archives.ensure(&bench.image).await.unwrap();
    archives.ensure(&other).await.unwrap();
    assert_eq!(bench.files().len(), 2);
    archives.collect(&[other.digest].into()).await;
    assert_eq!(bench.files().len(), 2);
    archives.collect(&BTreeSet::new()).await;
    assert_eq!(bench.files().len(), 0);
}

#[tokio::test]
async fn apps_that_share_an_image_have_it_written_once() {
    let bench = Bench::new();
    let archives = bench.archives();
    let (one, two) = tokio::join!(archives.ensure(&bench.image), archives.ensure(&bench.image));
    one.and(two).unwrap();
    assert_eq!(bench.fetched(), 1);
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_made_readable_for_k3s() {
    let bench = Bench::new();
    bench.archives().ensure(&bench.image).await.unwrap();
    let mode = fs::metadata(bench.folder()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
}

#[tokio::test]
async fn a_folder_that_can_not_be_made_says_what_helps() {
    let bench = Bench::new();
    fs::write(bench.dir.path().join("k3s"), b"a file").unwrap();
    let error = bench.archives().ensure(&bench.image).await.unwrap_err();
    assert!(matches!(&error, DriverError::Runtime(why) if why.contains("ReadWritePaths")), "{error}");
}

#[tokio::test]
async fn what_a_crash_left_half_written_is_never_a_tar_and_goes() {
    let bench = Bench::new();
    let archives = bench.archives();
    archives.ensure(&bench.image).await.unwrap();
    let whole = fs::read(bench.place().path()).unwrap();
    for written in (0..=whole.len()).step_by(500) {
        fs::remove_file(bench.place().path()).unwrap();
        fs::write(bench.place().unfinished(), &whole[..written]).unwrap();
        assert!(bench.files().iter().all(|name| !name.ends_with(".tar")));
        let archives = bench.archives();
        if written % 1000 == 0 {
            archives.collect(&[bench.image.digest].into()).await;
            assert_eq!(bench.files().len(), 0);
        }
        archives.ensure(&bench.image).await.unwrap();
        bench.check().unwrap();
        assert_eq!(bench.files().len(), 1);
    }
}

#[tokio::test]
async fn an_archive_that_was_cut_off_or_changed_is_made_anew() {
    let bench = Bench::new();
    bench.archives().ensure(&bench.image).await.unwrap();
    let (path, whole) = (bench.place().path(), fs::read(bench.place().path()).unwrap());
    let cut = (0..whole.len()).step_by(256).map(|length| whole[..length].to_vec());
    // Bytes that mean nothing, such as those between an entry's end and the next block, may change unseen. These are a
    // header's, the name in the index, the manifest's, and the layer's.
    let find = |text: &[u8]| whole.windows(text.len()).position(|window| window == text).unwrap();
    let manifest = whole.windows(6).rposition(|window| window == b"layers").unwrap();
    let layer = whole.iter().rposition(|byte| *byte != 0).unwrap();
    let changed = [0, find(b"registry.example/pos@"), manifest, layer].map(|at| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    });
    let other_name =
        String::from_utf8_lossy(&whole).replace("registry.example/pos@", "registry.example/war@");
    for bytes in cut.chain(changed).chain([other_name.into_bytes()]) {
        fs::write(&path, &bytes).unwrap();
        assert!(bench.check().is_err(), "{} of {}", bytes.len(), whole.len());
        bench.archives().ensure(&bench.image).await.unwrap();
        bench.check().unwrap();
    }
}

#[tokio::test]
async fn a_file_that_changed_under_a_running_agent_is_looked_at_again() {
    let bench = Bench::new();
    let archives = bench.archives();
    archives.ensure(&bench.image).await.unwrap();
    let size = fs::metadata(bench.place().path()).unwrap().len();
    fs::write(bench.place().path(), vec![0; size as usize]).unwrap();
    archives.ensure(&bench.image).await.unwrap();
    bench.check().unwrap();
    assert_eq!(bench.fetched(), 2);
    // k3s sees no change where the size is the same.
    assert_eq!(fs::metadata(bench.place().path()).unwrap().len(), size + BLOCK);
}

#[tokio::test]
async fn only_archives_of_ours_are_ever_removed() {
    let bench = Bench::new();
    let archives = bench.archives();
    archives.ensure(&bench.image).await.unwrap();
    let own = bench.files();
    let hex = "a".repeat(64);
    let foreign = [
        "k3s-airgap-images-amd64.tar.zst".to_owned(),
        ".cache.json".to_owned(),
        "holdfast.tar".to_owned(),
        format!("holdfast-{hex}.tar"),
        format!("holdfast-{hex}-0123456g.tar"),
        format!("holdfast-{hex}-01234567.tar.gz"),
        format!("my-holdfast-{hex}-01234567.tar"),
        format!(".holdfast-{hex}-01234567.tar"),
    ];
    for name in &foreign {
        fs::write(bench.folder().join(name), b"theirs").unwrap();
        assert!(!is_ours(OsStr::new(name)), "{name}");
    }
    for name in [format!("holdfast-{hex}-01234567.tar"), format!(".holdfast-{hex}-01234567.tar.partial")] {
        fs::write(bench.folder().join(&name), b"ours").unwrap();
        assert!(is_ours(OsStr::new(&name)), "{name}");
    }
    archives.collect(&[bench.image.digest].into()).await;
    let left: BTreeSet<String> = foreign.into_iter().chain(own).collect();
    assert_eq!(bench.files(), left);
}

#[tokio::test]
async fn what_is_being_written_is_not_tidied_away() {
    let bench = Bench::new();
    let archives = bench.archives();
    fs::create_dir_all(bench.folder()).unwrap();
    fs::write(bench.place().unfinished(), b"half").unwrap();
    let turn = archives.locks.lock_of(&bench.place().file_name).lock_owned().await;
    archives.collect(&BTreeSet::new()).await;
    assert_eq!(bench.files().len(), 1);
    drop(turn);
    archives.collect(&BTreeSet::new()).await;
    assert_eq!(bench.files().len(), 0);
}

#[tokio::test]
async fn room_is_asked_for_before_the_first_byte_and_no_less_than_is_used() {
    let bench = Bench::new();
    let room = Rooms::of(100);
    let error = bench.archives_within(room.clone()).ensure(&bench.image).await.unwrap_err();
    assert!(matches!(&error, DriverError::Runtime(why) if why.contains("don't fit")), "{error}");
    assert_eq!(bench.files().len(), 0);
    let enough = Rooms::of(u64::MAX);
    bench.archives_within(enough.clone()).ensure(&bench.image).await.unwrap();
    let size = fs::metadata(bench.place().path()).unwrap().len();
    assert_eq!(enough.taken.load(Ordering::Relaxed), size);
    assert_eq!(enough.used.load(Ordering::Relaxed), size);
    assert_eq!(room.used.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn an_image_that_can_not_be_read_leaves_nothing() {
    let bench = Bench::new();
    let disk = bench.images.fetch(&bench.image).await.unwrap();
    fs::write(&disk.blobs[1].path, b"short").unwrap();
    let error = write(&bench.place(), &disk, &*Rooms::of(u64::MAX)).unwrap_err();
    assert!(error.to_string().contains("shorter"), "{error}");
    assert_eq!(bench.files().len(), 0);
}

/// Set for the child that is killed: where it works.
const KILLED: &str = "HOLDFAST_TEST_ARCHIVES";

async fn write_until_killed(dir: &Path) {
    for number in 0u64.. {
        let images = Images::new(&dir.join("blobs"), &number.to_le_bytes().repeat(200_000));
        let archives = Archives::new(dir.join("images"), images.clone(), Rooms::of(u64::MAX));
        let image = images.image("registry.example/pos");
        archives.ensure(&image).await.unwrap();
        if number % 7 == 6 {
            archives.collect(&[image.digest].into()).await;
        }
    }
}

#[tokio::test]
async fn killed_at_any_moment_only_whole_archives_are_left() {
    if let Some(dir) = std::env::var_os(KILLED) {
        return write_until_killed(Path::new(&dir)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let files = || -> BTreeSet<PathBuf> {
        let entries = fs::read_dir(dir.path().join("images")).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    for round in 0..15 {
        let before = files();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "kubernetes::archives::tests::killed_at_any_moment_only_whole_archives_are_left",
            ])
            .env(KILLED, dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Somewhere in the middle of its work, wherever that is.
        let is_at_work = |now: BTreeSet<PathBuf>| {
            now != before && now.iter().any(|path| path.extension().is_some_and(|it| it == "tar"))
        };
        while !is_at_work(files()) {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(round * 1700));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        let mut whole = 0;
        for path in files() {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(is_ours(OsStr::new(name)), "{name}");
            if let Some(digest) = digest_in(name) {
                check::check(&path, IMAGE_NAME, &format!("registry.example/pos@{digest}")).unwrap();
                whole += 1;
            }
        }
        assert!(whole > 0, "nothing was written");
    }
}
