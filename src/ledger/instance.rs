//! By which name a process is known to its consumer groups.
//!
//! A member that comes back under its name within the session gets its partitions back at once; one that
//! comes under a new name waits until the session of the dead one has ended. Two living members of one name
//! push each other out. So the name has to be stable over restarts and unique among processes: it is drawn
//! once and kept in a file, which is locked as long as the process lives, however that ends. A second process
//! finds the lock and takes the next file.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, bail};
use nix::fcntl::OFlag;
use tracing::warn;
use uuid::Uuid;

/// How many processes of a worker may share a folder.
const SLOTS: u32 = 256;

/// The name of a member, its own while this lives.
#[derive(Debug)]
pub struct Instance {
    /// None for a member without one: after a crash its partitions wait for the end of its session.
    pub id: Option<String>,
    _lock: Option<File>,
}

impl Instance {
    /// The configured name; if that is empty, one that is kept in `folder` for the worker `job` of the
    /// deployment `name`.
    pub fn take(configured: &str, folder: &Path, name: &str, job: &str) -> Instance {
        if !configured.is_empty() {
            return Instance { id: Some(configured.to_owned()), _lock: None };
        }
        match kept(folder, name, job) {
            Ok((id, lock)) => Instance { id: Some(id), _lock: Some(lock) },
            Err(error) => {
                warn!(
                    worker = job,
                    error = format!("{error:#}"),
                    "no name for the consumer group can be kept, so a restart after a crash waits for the session's end; set \
                     worker.instance, or make sink.data_dir writable"
                );
                Instance { id: None, _lock: None }
            }
        }
    }
}

fn kept(folder: &Path, name: &str, job: &str) -> anyhow::Result<(String, File)> {
    fs::create_dir_all(folder).with_context(|| format!("can't create the folder {}", folder.display()))?;
    for slot in 0..SLOTS {
        let path = folder.join(format!("member-{name}-{job}-{slot}"));
        let taken = take(&path).with_context(|| format!("can't use {}", path.display()))?;
        if let Some(taken) = taken {
            return Ok(taken);
        }
    }
    bail!("{} holds {SLOTS} members that live", folder.display())
}

/// The name in a file, which is drawn if there is none. None if another process has it.
fn take(path: &Path) -> anyhow::Result<Option<(String, File)>> {
    let mut open = OpenOptions::new();
    open.read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o640)
        .custom_flags(OFlag::O_NOFOLLOW.bits());
    let mut file = open.open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    let mut text = String::new();
    // What is no name, as after a crash in the middle of writing, is replaced.
    let known = Read::by_ref(&mut file)
        .take(100)
        .read_to_string(&mut text)
        .ok()
        .and_then(|_| text.trim().parse().ok());
    let id: Uuid = match known {
        Some(id) => id,
        None => {
            let id = Uuid::new_v4();
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            writeln!(file, "{id}")?;
            file.sync_all()?;
            id
        }
    };
    Ok(Some((id.to_string(), file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_stable_and_no_two_that_live_share_one() {
        let folder = tempfile::tempdir().unwrap();
        let take = |job| Instance::take("", folder.path(), "default", job);
        let (one, other) = (take("balance"), take("balance"));
        assert!(one.id.is_some() && other.id.is_some());
        assert_ne!(one.id, other.id);
        assert_ne!(take("budget").id, one.id);
        let first = one.id.clone();
        drop(one);
        assert_eq!(take("balance").id, first, "the first is free again, though the other lives");
        let slot = folder.path().join("member-default-balance-0");
        fs::write(&slot, "to").unwrap();
        let drawn = take("balance").id;
        assert_ne!(drawn, first);
        assert_eq!(take("balance").id, drawn, "what was torn is drawn anew once");
        assert_eq!(Instance::take("mine", folder.path(), "default", "balance").id.as_deref(), Some("mine"));
        fs::remove_file(&slot).unwrap();
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), &slot).unwrap();
        assert_eq!(take("balance").id, None);
        assert!(!folder.path().join("elsewhere").exists(), "a link was followed");
    }
}
