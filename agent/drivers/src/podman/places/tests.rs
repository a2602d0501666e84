use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;

use HostPathKind::{Any, BlockDevice, CharDevice, Directory, DirectoryOrCreate, File, FileOrCreate, Socket};

use super::*;

const KINDS: [HostPathKind; 8] =
    [Any, DirectoryOrCreate, Directory, FileOrCreate, File, Socket, CharDevice, BlockDevice];

/// In the kernel's folders, and where a name only begins like one of them.
const KERNELS: [&str; 4] =
    ["/dev/ttyUSB0", "/dev/serial/by-id/scale", "/proc/holdfast", "/sys/class/gpio/gpio7"];
const ELSEWHERE: [&str; 4] = ["/devices/ttyUSB0", "/srv/dev/ttyUSB0", "/system", "/processes"];

/// A `hostPath` by the way of one that nobody but the box writes, and by that of one in a folder that a workload writes.
fn both_ways(dir: &Path, name: &str, kind: HostPathKind) -> [io::Result<()>; 2] {
    let below = |name: &str| host_path_below(dir, Path::new(name), kind).map(drop);
    [host_path(&dir.join(name), kind), below(&format!("{name}-below"))]
}

#[test]
fn nothing_is_made_in_the_kernels_folders_of_what_may_be_anything() {
    for path in KERNELS {
        assert!(matches!(to_be_made(Path::new(path), Any), Made::Nothing), "{path}");
    }
    for path in ELSEWHERE {
        assert!(matches!(to_be_made(Path::new(path), Any), Made::Folder), "{path}");
    }
}

#[test]
fn every_other_type_says_by_itself_what_is_made() {
    for path in KERNELS.into_iter().chain(ELSEWHERE).map(Path::new) {
        for kind in KINDS.into_iter().filter(|kind| *kind != Any) {
            let as_said = match kind {
                DirectoryOrCreate => matches!(to_be_made(path, kind), Made::Folder),
                FileOrCreate => matches!(to_be_made(path, kind), Made::File),
                _ => matches!(to_be_made(path, kind), Made::Nothing),
            };
            assert!(as_said, "{kind:?} at {}", path.display());
        }
    }
}

#[test]
fn a_device_that_is_not_plugged_in_is_named_and_no_folder_stands_in_its_place() {
    for path in ["/dev/holdfast-scale", "/proc/holdfast-scale", "/sys/holdfast-scale"].map(Path::new) {
        let (base, rest) = (path.parent().unwrap(), Path::new(path.file_name().unwrap()));
        for kind in KINDS.into_iter().filter(|kind| ![DirectoryOrCreate, FileOrCreate].contains(kind)) {
            for said in [host_path(path, kind), host_path_below(base, rest, kind).map(drop)] {
                let error = said.unwrap_err();
                let expected =
                    if kind == Any { "connect the device, or load its driver" } else { "it must be" };
                assert!(
                    error.to_string().starts_with(&format!("{} does not exist on this box", path.display()))
                        && error.to_string().contains(expected),
                    "{kind:?}: {error}"
                );
            }
            assert!(!path.exists(), "{kind:?}");
        }
    }
}

#[test]
fn what_is_missing_elsewhere_is_made_where_its_type_says_so() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let [direct, below] = both_ways(dir.path(), "place", kind);
        for (said, name) in [(direct, "place"), (below, "place-below")] {
            let made = fs::symlink_metadata(dir.path().join(name));
            match kind {
                Any | DirectoryOrCreate => assert!(said.is_ok() && made.unwrap().is_dir(), "{kind:?}"),
                FileOrCreate => {
                    let made = made.unwrap();
                    assert!(said.is_ok() && made.is_file(), "{kind:?}");
                    assert_eq!(made.mode() & 0o777, FILE_MODE);
                }
                _ => {
                    let error = said.unwrap_err().to_string();
                    assert!(error.contains(&format!("it must be {}", word(kind))), "{kind:?}: {error}");
                    assert!(made.is_err(), "{kind:?}");
                }
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    host_path(&dir.path().join("deep/down"), DirectoryOrCreate).unwrap();
    assert_eq!(fs::metadata(dir.path().join("deep/down")).unwrap().mode() & 0o777, FOLDER_MODE);
}

#[test]
fn what_is_there_must_be_of_its_type_and_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("folder")).unwrap();
    fs::set_permissions(at("folder"), fs::Permissions::from_mode(0o711)).unwrap();
    fs::write(at("file"), "kept").unwrap();
    let _listener = UnixListener::bind(at("socket")).unwrap();
    let (dev, here) = (Path::new("/dev"), dir.path());
    for (base, name, fitting) in [
        (here, "folder", [Directory, DirectoryOrCreate].as_slice()),
        (here, "file", &[File, FileOrCreate]),
        (here, "socket", &[Socket]),
        (dev, "null", &[CharDevice]),
    ] {
        for kind in KINDS {
            for said in
                [host_path(&base.join(name), kind), host_path_below(base, Path::new(name), kind).map(drop)]
            {
                let fits = kind == Any || fitting.contains(&kind);
                assert_eq!(said.is_ok(), fits, "{name} as {kind:?}: {said:?}");
                if let Err(error) = said {
                    assert_eq!(error.to_string(), format!("it exists, but is not {}", word(kind)));
                }
            }
        }
    }
    assert_eq!(fs::metadata(at("folder")).unwrap().mode() & 0o777, 0o711);
    assert_eq!(fs::read(at("file")).unwrap(), b"kept");
}

#[test]
fn a_link_of_the_boxs_owner_is_followed_and_one_that_a_workload_could_have_made_is_not() {
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    symlink(outside.path(), dir.path().join("data")).unwrap();
    host_path(&dir.path().join("data"), Directory).unwrap();
    host_path(&dir.path().join("data/made"), DirectoryOrCreate).unwrap();
    assert!(outside.path().join("made").is_dir());
    for (rest, kind) in
        [("data", Directory), ("data/new", Any), ("data/new", DirectoryOrCreate), ("data/new", FileOrCreate)]
    {
        let error = host_path_below(dir.path(), Path::new(rest), kind).unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{rest} as {kind:?}: {error}");
    }
    assert!(!outside.path().join("new").exists());
}
