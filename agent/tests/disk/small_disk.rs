//! A small file system under a box's state folder, which a test fills, starves of inodes, or has the kernel make
//! read-only.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::agent_box::AgentBox;
use crate::support::process::holders;

/// For how long a file system may be in use after all that is known to use it has ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// The file system. Dropped, it is gone.
pub(crate) struct SmallDisk {
    at: PathBuf,
    /// The file that is the medium, in a folder of its own; none for one in memory.
    medium: Option<tempfile::TempDir>,
}

impl SmallDisk {
    /// A file system in memory under the state folder of a box that was never started.
    pub(crate) fn in_memory(it: &AgentBox, options: &str) -> Self {
        let at = it.state();
        fs::create_dir(&at).unwrap();
        let options = format!("{options},mode=0700");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "holdfast-test"]).arg(&at));
        SmallDisk { at, medium: None }
    }

    /// An ext4 of 32 MiB that the kernel makes read-only at the first error, as it does on boxes.
    pub(crate) fn ext4(it: &AgentBox) -> Self {
        let (at, medium) = (it.state(), tempfile::tempdir().unwrap());
        fs::create_dir(&at).unwrap();
        let image = medium.path().join("image");
        File::create(&image).unwrap().set_len(32 << 20).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-O", "^has_journal"]).arg(&image));
        run(Command::new("mount").args(["-o", "loop,errors=remount-ro"]).arg(&image).arg(&at));
        SmallDisk { at, medium: Some(medium) }
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }

    /// Leaves not one free block.
    pub(crate) fn fill(&self) {
        let mut filler = File::options().create(true).append(true).open(self.filler()).unwrap();
        for size in [1 << 20, 65536, 4096, 1] {
            while filler.write_all(&vec![7; size]).is_ok() {}
        }
    }

    /// Leaves not one free inode.
    pub(crate) fn take_inodes(&self) {
        let folder = self.at.join("inodes");
        let _ = fs::create_dir(&folder);
        let mut paths = (0..).map(|n| folder.join(n.to_string()));
        while File::create(paths.next().unwrap()).is_ok() {}
    }

    /// There is room again.
    pub(crate) fn make_room(&self) {
        let _ = fs::remove_file(self.filler());
        let _ = fs::remove_dir_all(self.at.join("inodes"));
    }

    /// Has the kernel find an error on the medium, while files are open for writing: from here on all writes fail.
    pub(crate) fn fail(&self) {
        let device = printed(Command::new("findmnt").args(["-n", "-o", "SOURCE"]).arg(&self.at));
        let name = Path::new(device.trim()).file_name().unwrap().to_owned();
        let trigger = Path::new("/sys/fs/ext4").join(name).join("trigger_fs_error");
        fs::write(&trigger, "a test").unwrap();
        assert!(File::create(self.at.join("probe")).is_err(), "it is still written to");
    }

    /// Mounts it read-only or not, for an agent that doesn't run.
    pub(crate) fn remount(&self, how: &str) {
        run(Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&self.at));
    }

    /// Has whatever is opened from here on be on a read-only file system, under an agent that runs. (The kernel lets
    /// nobody but itself do more while files are open for writing.)
    pub(crate) fn cover(&self) {
        run(Command::new("mount").arg("--bind").arg(&self.at).arg(&self.at));
        run(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(&self.at));
    }

    /// Ends that.
    pub(crate) fn uncover(&self) {
        run(Command::new("umount").arg("-l").arg(&self.at));
    }

    /// Mends what [`SmallDisk::fail`] did, as somebody does who was sent there: newer kernels refuse a remount. No
    /// agent may run.
    pub(crate) fn mend(&self) {
        self.unmount();
        let image = self.medium.as_ref().unwrap().path().join("image");
        // 1: errors were found and corrected.
        let checked = Command::new("e2fsck").args(["-f", "-y"]).arg(&image).output().unwrap();
        assert!(matches!(checked.status.code(), Some(0 | 1)), "{checked:?}");
        run(Command::new("mount").arg("-o").arg("loop,errors=remount-ro").arg(&image).arg(&self.at));
    }
}

impl SmallDisk {
    /// Nobody has anything open there, or will soon. A look at a process' memory, which is anybody's to take, holds what
    /// that process had mapped for a moment longer than the process lives.
    fn unmount(&self) {
        let began = Instant::now();
        loop {
            let output = Command::new("umount").arg(&self.at).output().unwrap();
            if output.status.success() {
                return;
            }
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(began.elapsed() < PATIENCE, "{said}; held by {:#?}", holders(&self.at));
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Covers too.
        while Command::new("umount")
            .arg("-q")
            .arg("-l")
            .arg(&self.at)
            .status()
            .is_ok_and(|status| status.success())
        {}
        drop(self.medium.take());
    }
}

fn run(command: &mut Command) {
    printed(command);
}

fn printed(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}: apt-get install mount e2fsprogs"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "this test mounts file systems, for which it must be root: {command:?}: {said}"
    );
    String::from_utf8(output.stdout).unwrap()
}
