//! Files in the folder of results: made for their owner and group only, never through a symbolic link, and
//! replaced as a whole or not at all.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

/// What a new file allows at most; the umask takes away from it.
const MODE: u32 = 0o640;

/// How the name of a file begins that is not complete yet. After a crash one may be left.
const INCOMPLETE: &str = ".adtide-new-";

/// How to open a file, new or not. Where the name is a symbolic link opening fails: whoever may write to the
/// folder could otherwise have any other file of this user written to.
pub fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(MODE).custom_flags(OFlag::O_NOFOLLOW.bits());
    options
}

/// Makes a new file in place of one that may be there. Who has that one open keeps it as it is.
///
/// # Errors
/// The folder can't be written.
pub fn create(path: &Path) -> io::Result<File> {
    remove(path)?;
    options().write(true).create_new(true).open(path)
}

/// Takes the permissions away from a file that a new one would not have.
///
/// # Errors
/// It is not this user's.
pub fn restrict(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    fs::set_permissions(path, Permissions::from_mode(mode & MODE))
}

/// Removes a file, if it is there.
///
/// # Errors
/// The folder can't be written.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Gives a file this content in one step that a crash or a power failure either undoes as a whole or not at
/// all.
///
/// # Errors
/// The folder can't be written, or there is no room.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = folder(path);
    let builder = || {
        tempfile::Builder::new()
            .prefix(INCOMPLETE)
            .permissions(Permissions::from_mode(MODE))
            .tempfile_in(folder)
    };
    let mut file = builder()?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    sync_folder(path)
}

/// Makes a change of names in a file's folder last through a power failure.
///
/// # Errors
/// The folder can't be read.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder(path))?.sync_all()
}

/// Removes what [`replace`] has left in a folder when it was killed. Nobody else may be writing there.
///
/// # Errors
/// The folder can't be read or written.
pub fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(INCOMPLETE) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_is_not_for_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("progress");
        for content in ["one", "another"] {
            replace(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o007, 0);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing incomplete is left");
        fs::write(folder.path().join(format!("{INCOMPLETE}x")), "half").unwrap();
        sweep(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_symbolic_link_is_replaced_and_never_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (victim, link) = (folder.path().join("victim"), folder.path().join("link"));
        fs::write(&victim, "mine").unwrap();
        let relink = || {
            remove(&link).unwrap();
            std::os::unix::fs::symlink(&victim, &link).unwrap();
        };
        relink();
        assert!(options().write(true).create(true).truncate(true).open(&link).is_err());
        replace(&link, b"new").unwrap();
        relink();
        create(&link).unwrap().write_all(b"new").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
    }
}
