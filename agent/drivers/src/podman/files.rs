//! Files that documents give: written to a folder in memory, one for each pod, and mounted into its containers.
//! After a reboot they are gone, and are written again with the pod.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_core::pod::{ConfigFile, FileContent};
use holdfast_core::release::SecretRef;
use holdfast_core::secret::SecretBytes;

use super::marks::PodId;

/// The folders of all pods.
#[derive(Clone, Debug)]
pub(super) struct Files {
    dir: PathBuf,
}

impl Files {
    pub(super) fn new(run_dir: &Path) -> Self {
        Files { dir: run_dir.join("files") }
    }

    /// The folder of one volume of a pod.
    pub(super) fn folder(&self, id: &PodId, volume: &str) -> PathBuf {
        self.dir.join(id.as_str()).join(volume)
    }

    /// Writes the files of a volume, each whole or not at all. Those that are there are left alone: a pod's id
    /// says what is in them.
    pub(super) fn write(
        &self,
        id: &PodId,
        volume: &str,
        files: &BTreeMap<String, ConfigFile>,
        open: impl Fn(&SecretRef) -> Result<SecretBytes, String>,
    ) -> io::Result<PathBuf> {
        let folder = self.folder(id, volume);
        private_dir(&self.dir)?;
        private_dir(&self.dir.join(id.as_str()))?;
        public_dir(&folder)?;
        for (path, file) in files {
            let path = folder.join(path);
            if path.exists() {
                continue;
            }
            if let Some(parent) = path.parent() {
                public_dir(parent)?;
            }
            match &file.content {
                FileContent::Text(text) => write_whole(&path, text.as_bytes(), file.mode)?,
                FileContent::Base64(text) => {
                    let bytes = STANDARD.decode(text).map_err(io::Error::other)?;
                    write_whole(&path, &bytes, file.mode)?;
                }
                FileContent::Secret(secret) => {
                    let bytes = open(secret).map_err(io::Error::other)?;
                    write_whole(&path, bytes.expose(), file.mode)?;
                }
            }
        }
        Ok(folder)
    }

    /// Removes what a pod had.
    pub(super) fn remove(&self, id: &PodId) -> io::Result<()> {
        match fs::remove_dir_all(self.dir.join(id.as_str())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// Nobody but the agent goes through here; containers see the folders below by their mounts.
fn private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn public_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut temp = path.as_os_str().to_owned();
    temp.push(".new");
    let temp = PathBuf::from(temp);
    let _ = fs::remove_file(&temp);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temp)?;
    file.write_all(bytes)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    fs::rename(&temp, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_their_bytes_and_permissions_and_go_with_their_pod() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path());
        let id = PodId::parse("0123456789abcdef").unwrap();
        let secret = SecretRef { name: "shop/keys".into(), key: "password".into() };
        let wanted = BTreeMap::from([
            ("a/page.html".to_owned(), ConfigFile { mode: 0o644, content: FileContent::Text("<p>".into()) }),
            ("logo".to_owned(), ConfigFile { mode: 0o600, content: FileContent::Base64("AAE=".into()) }),
            ("key".to_owned(), ConfigFile { mode: 0o400, content: FileContent::Secret(secret) }),
        ]);
        let open = |secret: &SecretRef| Ok(SecretBytes::new(secret.key.clone().into_bytes()));
        let folder = files.write(&id, "settings", &wanted, open).unwrap();
        assert_eq!(fs::read(folder.join("a/page.html")).unwrap(), b"<p>");
        assert_eq!(fs::read(folder.join("logo")).unwrap(), [0, 1]);
        assert_eq!(fs::read(folder.join("key")).unwrap(), b"password");
        assert_eq!(fs::metadata(folder.join("key")).unwrap().permissions().mode() & 0o777, 0o400);
        files.write(&id, "settings", &wanted, |_| Err("not again".into())).unwrap();
        files.remove(&id).unwrap();
        assert!(!folder.exists());
        files.remove(&id).unwrap();
    }
}
