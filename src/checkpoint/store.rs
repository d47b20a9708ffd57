//! The object store that holds the checkpoints of a deployment.
//!
//! ```text
//! <url>/<name>/manifests/<epoch>.json
//! <url>/<name>/segments/<run>-<epoch>-<worker>-<kind>
//! <url>/<name>/runs/<number>-<run>.json
//! ```
//!
//! A segment is never written twice: its name holds a random number of the run. A manifest is written last,
//! as a whole.
//!
//! A run that will write takes over first: it adds itself to `runs` with the next number. One that finds a
//! later number there has been replaced, and neither writes a manifest nor deletes anything any more. `runs`
//! also holds the *generation*: a random name of the results that the checkpoints are of. A run that
//! continues them keeps it, one that starts over draws another. Checkpoints of another generation are never
//! used and never deleted but by hand or with `--fresh`.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path as FilePath;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use adtide_dataflows::model::Epoch;
use adtide_dataflows::operators::Watermarks;
use adtide_dataflows::{Memory, StateDelta};
use anyhow::{Context, anyhow, bail, ensure};
use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, ObjectStoreScheme, PutPayload};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use url::Url;

use super::segment::{self, Encoded};
use super::{Manifest, Segment};
use crate::connect::{Wait, redact};

/// A checkpoint that can't be used as it is; another one may.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Damage(pub String);

/// A run's turn with the checkpoints.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Claim {
    /// The name of its file.
    name: String,
    /// The results that its checkpoints are of.
    generation: String,
}

/// The checkpoints of one deployment. What passes by itself is tried again by the store's own client; what
/// comes back as an error has lasted for minutes. [`Damage`] is told apart: that is of one checkpoint only.
pub struct Store {
    store: Arc<dyn ObjectStore>,
    runtime: Runtime,
    /// For messages.
    place: String,
    /// Keeps names of different runs apart.
    run: String,
    /// What this run has drawn when it took over.
    claim: OnceLock<Claim>,
    written: AtomicU64,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.place).finish()
    }
}

impl Store {
    /// The checkpoints of `name` in a folder or at a URL: s3://, gs://, az://, file://, memory://.
    /// Credentials and endpoints come from the environment, by the names that the cloud's own tools use
    /// (`AWS_ACCESS_KEY_ID` and so on).
    ///
    /// # Errors
    /// There is no such kind of store, or it is not configured.
    pub fn open(url: &str, name: &str) -> anyhow::Result<Store> {
        let store: Arc<dyn ObjectStore> = match url.split_once("://") {
            None => local(FilePath::new(url))?,
            Some(("file", path)) => local(FilePath::new(path))?,
            Some(_) => {
                cloud(url).with_context(|| format!("checkpoints at {} (key checkpoint.url)", redact(url)))?
            }
        };
        let run = uuid::Uuid::new_v4().simple().to_string();
        Store::over(store, url, name, &run[..12])
    }

    /// The checkpoints of `name` in an object store of your own. No other run may ever have been called
    /// `run`.
    ///
    /// # Errors
    /// There is no room for threads.
    pub fn over(store: Arc<dyn ObjectStore>, place: &str, name: &str, run: &str) -> anyhow::Result<Store> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let store = Arc::new(PrefixStore::new(store, Path::from_iter([name])));
        let (place, run) = (format!("{}/{name}", redact(place)), run.to_owned());
        Ok(Store { store, runtime, place, run, claim: OnceLock::new(), written: AtomicU64::new(0) })
    }

    /// Where it is.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Writes what entered the state of a worker up to an epoch.
    ///
    /// # Errors
    /// The store can't be written.
    pub fn write(&self, epoch: Epoch, worker: usize, delta: &mut StateDelta) -> anyhow::Result<Vec<Segment>> {
        segment::encode(delta)?
            .into_iter()
            .map(|encoded| self.put(encoded, &format!("{epoch}-{worker}"), 0))
            .collect()
    }

    fn put(&self, encoded: Encoded, what: &str, level: u8) -> anyhow::Result<Segment> {
        let Encoded { kind, rows, greatest, bytes } = encoded;
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let label = serde_json::to_value(kind)?;
        let name = format!("{}-{number}-{what}-{}", self.run, label.as_str().unwrap_or_default());
        let segment = Segment {
            kind,
            rows,
            bytes: bytes.len() as u64,
            checksum: segment::checksum(&bytes).unwrap_or_default(),
            greatest,
            level,
            name,
        };
        self.write_file(&segment_path(&segment.name), bytes)?;
        Ok(segment)
    }

    /// Reads a segment.
    ///
    /// # Errors
    /// It is not there or damaged ([`Damage`]), or the store can't be read.
    pub fn read(&self, segment: &Segment) -> anyhow::Result<StateDelta> {
        let bytes = self.read_checked(segment)?;
        segment::decode(&bytes)
            .map_err(|error| self.damage(&segment_path(&segment.name), &format!("{error:#}")))
    }

    fn read_checked(&self, segment: &Segment) -> anyhow::Result<Bytes> {
        let path = segment_path(&segment.name);
        let bytes = self.read_file(&path)?;
        let is_same =
            bytes.len() as u64 == segment.bytes && segment::checksum(&bytes) == Some(segment.checksum);
        if !is_same {
            return Err(self.damage(&path, "it is not what was written: it was cut or replaced"));
        }
        segment::check(&bytes).map_err(|error| self.damage(&path, &format!("{error:#}")))?;
        Ok(bytes)
    }

    /// The generation of the run that wrote last; before the first, and of versions that knew none, the empty
    /// text.
    ///
    /// # Errors
    /// The store can't be read.
    pub fn generation(&self) -> anyhow::Result<String> {
        let Some(newest) = self.runs()?.pop() else { return Ok(String::new()) };
        let path = run_path(&newest);
        let claim: Claim = serde_json::from_slice(&self.read_file(&path)?)
            .map_err(|error| self.damage(&path, &format!("it is not what this version writes: {error}")))?;
        Ok(claim.generation)
    }

    /// Makes this the run that writes checkpoints: none that was started before it will any more. Its own are
    /// of this generation; None for a new one.
    ///
    /// # Errors
    /// The store can't be read or written.
    pub fn take_over(&self, generation: Option<String>) -> anyhow::Result<()> {
        let before = self.runs()?;
        let number = before.last().and_then(|name| name.split('-').next()?.parse::<u64>().ok()).unwrap_or(0);
        // Padded, so that names ascend.
        let name = format!("{:010}-{}.json", number + 1, self.run);
        let claim = Claim { name, generation: generation.unwrap_or_else(|| self.run.clone()) };
        self.write_file(&run_path(&claim.name), serde_json::to_vec(&claim)?)?;
        before.iter().try_for_each(|name| self.delete_file(&run_path(name)))?;
        // It is set once: a store is of one run.
        let _ = self.claim.set(claim);
        Ok(())
    }

    /// The runs that have taken over, in order.
    fn runs(&self) -> anyhow::Result<Vec<String>> {
        let mut runs = self.list("runs")?;
        runs.sort_unstable();
        Ok(runs)
    }

    /// Whether no other run has taken over.
    fn check_current(&self) -> anyhow::Result<()> {
        let Some(claim) = self.claim.get() else { return Ok(()) };
        let is_current = self.runs()?.pop().as_ref() == Some(&claim.name);
        ensure!(
            is_current,
            "another run has taken over the checkpoints in {}, so this one writes no more; give one of them another name (key \
             name) or place (key checkpoint.url)",
            self.place
        );
        Ok(())
    }

    /// Whether segments are there: another run may have deleted them before it was replaced.
    ///
    /// # Errors
    /// One is not, or the store can't be read.
    pub fn check_there(&self, segments: &[Segment]) -> anyhow::Result<()> {
        let there: BTreeSet<String> = self.list("segments")?.into_iter().collect();
        let missing = segments.iter().find(|segment| !there.contains(&segment.name));
        let missing = missing
            .map(|segment| self.damage(&segment_path(&segment.name), "it is not there any more; restart"));
        missing.map_or(Ok(()), Err)
    }

    /// Makes segments a checkpoint, of this run's generation.
    ///
    /// # Errors
    /// The store can't be written, or another run has taken over.
    pub fn commit(&self, manifest: &Manifest) -> anyhow::Result<()> {
        self.check_current()?;
        let generation = self.claim.get().map_or_else(String::new, |claim| claim.generation.clone());
        let manifest = Manifest { generation, ..manifest.clone() };
        self.write_file(&manifest_path(manifest.epoch), manifest.encode()?)
    }

    /// The epochs of the checkpoints, newest first.
    ///
    /// # Errors
    /// The store can't be read.
    pub fn manifests(&self) -> anyhow::Result<Vec<Epoch>> {
        let names = self.list("manifests")?;
        let epoch = |name: &String| name.strip_suffix(".json").and_then(|digits| digits.parse().ok());
        let mut epochs: Vec<Epoch> = names.iter().filter_map(epoch).collect();
        epochs.sort_unstable_by(|one, other| other.cmp(one));
        Ok(epochs)
    }

    /// A checkpoint's manifest.
    ///
    /// # Errors
    /// It is not there or damaged ([`Damage`]), or the store can't be read.
    pub fn load(&self, epoch: Epoch) -> anyhow::Result<Manifest> {
        let path = manifest_path(epoch);
        let bytes = self.read_file(&path)?;
        Manifest::decode(&bytes).map_err(|error| self.damage(&path, &format!("{error:#}")))
    }

    /// Reads every segment of a checkpoint, and says whether each is as it was written.
    ///
    /// # Errors
    /// One is not ([`Damage`]), or the store can't be read.
    pub fn verify(&self, manifest: &Manifest) -> anyhow::Result<()> {
        manifest.segments.iter().try_for_each(|segment| self.read_checked(segment).map(drop))
    }

    /// Writes segments of one kind as one of the next level, without what has expired; none, if all has.
    ///
    /// # Errors
    /// One can't be read, or the store can't be written.
    pub fn merge(
        &self,
        parts: &[Segment],
        forgotten: &Watermarks,
        memory: Memory,
    ) -> anyhow::Result<Option<Segment>> {
        let mut delta = StateDelta::default();
        for part in parts {
            delta.append(self.read(part)?);
        }
        delta.compact(forgotten, memory);
        let level = parts.iter().map(|part| part.level).max().unwrap_or(0) + 1;
        let encoded = segment::encode(&mut delta)?.into_iter().next();
        encoded.map(|encoded| self.put(encoded, &format!("level{level}"), level)).transpose()
    }

    /// Deletes the checkpoints of the epochs in `surplus`, and the segments that only they name, unless they
    /// are `live`.
    ///
    /// # Errors
    /// The store can't be read or written, or another run has taken over.
    pub fn prune(&self, surplus: &[Epoch], live: &[Segment]) -> anyhow::Result<()> {
        if surplus.is_empty() {
            return Ok(());
        }
        self.check_current()?;
        let mut needed: BTreeSet<String> = live.iter().map(|segment| segment.name.clone()).collect();
        let mut dropped = Vec::new();
        for epoch in self.manifests()? {
            let names = match self.load(epoch) {
                Ok(manifest) => manifest.segments.into_iter().map(|segment| segment.name).collect(),
                Err(error) if error.is::<Damage>() => Vec::new(),
                Err(error) => return Err(error),
            };
            if surplus.contains(&epoch) {
                self.delete_file(&manifest_path(epoch))?;
                dropped.extend(names);
            } else {
                needed.extend(names);
            }
        }
        let unneeded = dropped.into_iter().filter(|name| !needed.contains(name)).collect::<BTreeSet<_>>();
        unneeded.iter().try_for_each(|name| self.delete_file(&segment_path(name)))
    }

    /// Deletes the segments that no checkpoint names: those of runs that ended before they could make one.
    /// None, while a manifest is damaged. Nobody may be writing.
    ///
    /// # Errors
    /// The store can't be read or written.
    pub fn clear_orphans(&self) -> anyhow::Result<usize> {
        let mut needed = BTreeSet::new();
        for epoch in self.manifests()? {
            match self.load(epoch) {
                Ok(manifest) => needed.extend(manifest.segments.into_iter().map(|segment| segment.name)),
                // What it names can't be told from what nobody names.
                Err(error) if error.is::<Damage>() => return Ok(0),
                Err(error) => return Err(error),
            }
        }
        let orphans: Vec<_> =
            self.list("segments")?.into_iter().filter(|name| !needed.contains(name)).collect();
        orphans.iter().try_for_each(|name| self.delete_file(&segment_path(name)))?;
        Ok(orphans.len())
    }

    /// Deletes a checkpoint, and what only it needs.
    ///
    /// # Errors
    /// There is none of this epoch, or the store can't be written.
    pub fn delete(&self, epoch: Epoch) -> anyhow::Result<()> {
        if !self.manifests()?.contains(&epoch) {
            bail!(
                "there is no checkpoint of epoch {epoch} in {}; `adtide checkpoint list` shows those there are",
                self.place
            );
        }
        self.prune(&[epoch], &[])
    }

    /// Waits for the store, which may take minutes to read or write a segment, or to be back.
    fn wait<T>(&self, answer: impl Future<Output = T>) -> T {
        let mut answer = pin!(answer);
        let mut wait = Wait::patient(&self.place);
        self.runtime.block_on(async {
            loop {
                match timeout(Wait::LOOK, answer.as_mut()).await {
                    Ok(answer) => return answer,
                    Err(_) => wait.look(),
                }
            }
        })
    }

    fn write_file(&self, path: &Path, bytes: Vec<u8>) -> anyhow::Result<()> {
        let put = self.wait(self.store.put(path, PutPayload::from(bytes)));
        put.map(drop).map_err(said).with_context(|| format!("can't write {}/{path}", self.place))
    }

    fn read_file(&self, path: &Path) -> anyhow::Result<Bytes> {
        let read = self.wait(async { self.store.get(path).await?.bytes().await });
        match read {
            Ok(bytes) => Ok(bytes),
            Err(object_store::Error::NotFound { .. }) => Err(self.damage(path, "it is not there")),
            Err(error) => Err(said(error)).with_context(|| format!("can't read {}/{path}", self.place)),
        }
    }

    fn delete_file(&self, path: &Path) -> anyhow::Result<()> {
        match self.wait(self.store.delete(path)) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(said(error)).with_context(|| format!("can't delete {}/{path}", self.place)),
        }
    }

    /// The names in a folder.
    fn list(&self, folder: &str) -> anyhow::Result<Vec<String>> {
        let listed = self.wait(self.store.list_with_delimiter(Some(&Path::from(folder))));
        let listed = listed.map_err(said).with_context(|| format!("can't list {}/{folder}", self.place))?;
        Ok(listed.objects.iter().filter_map(|object| object.location.filename().map(str::to_owned)).collect())
    }

    fn damage(&self, path: &Path, what: &str) -> anyhow::Error {
        anyhow::Error::new(Damage(format!("{}/{path}: {what}", self.place)))
    }
}

/// An error of the store without its causes: its own text has them all already.
fn said(error: object_store::Error) -> anyhow::Error {
    anyhow!("{error}")
}

fn local(folder: &FilePath) -> anyhow::Result<Arc<dyn ObjectStore>> {
    let make = || -> anyhow::Result<LocalFileSystem> {
        std::fs::create_dir_all(folder)?;
        Ok(LocalFileSystem::new_with_prefix(folder)?.with_fsync(true))
    };
    let store = make()
        .with_context(|| format!("can't keep checkpoints in {} (key checkpoint.url)", folder.display()))?;
    Ok(Arc::new(store))
}

fn cloud(url: &str) -> anyhow::Result<Arc<dyn ObjectStore>> {
    let parsed = Url::parse(url).context("it is no URL")?;
    let (scheme, path) = ObjectStoreScheme::parse(&parsed)?;
    let store: Arc<dyn ObjectStore> = match scheme {
        ObjectStoreScheme::Memory => Arc::new(InMemory::new()),
        ObjectStoreScheme::AmazonS3
        | ObjectStoreScheme::GoogleCloudStorage
        | ObjectStoreScheme::MicrosoftAzure => remote(&scheme, url)?,
        _ => bail!("no store is known for it; want a folder, s3://BUCKET/PREFIX, gs://... or az://..."),
    };
    Ok(Arc::new(PrefixStore::new(store, path)))
}

#[cfg(not(feature = "object-stores"))]
fn remote(_: &ObjectStoreScheme, _: &str) -> anyhow::Result<Arc<dyn ObjectStore>> {
    bail!(
        "this adtide was built without object stores; build it with `cargo build --release --features object-stores`"
    )
}

#[cfg(feature = "object-stores")]
fn remote(scheme: &ObjectStoreScheme, url: &str) -> anyhow::Result<Arc<dyn ObjectStore>> {
    use std::time::Duration;

    use object_store::aws::AmazonS3Builder;
    use object_store::azure::MicrosoftAzureBuilder;
    use object_store::gcp::GoogleCloudStorageBuilder;
    use object_store::{BackoffConfig, RetryConfig};

    /// How long a transient error is retried.
    const PATIENCE: Duration = Duration::from_secs(120);
    // Its default gives up after ten attempts, which may be over in seconds.
    let backoff = BackoffConfig { init_backoff: Duration::from_millis(500), ..BackoffConfig::default() };
    let retry = RetryConfig { retry_timeout: PATIENCE, max_retries: usize::MAX, backoff };
    Ok(match scheme {
        ObjectStoreScheme::AmazonS3 => {
            Arc::new(AmazonS3Builder::from_env().with_url(url).with_retry(retry).build()?)
        }
        ObjectStoreScheme::GoogleCloudStorage => {
            Arc::new(GoogleCloudStorageBuilder::from_env().with_url(url).with_retry(retry).build()?)
        }
        _ => Arc::new(MicrosoftAzureBuilder::from_env().with_url(url).with_retry(retry).build()?),
    })
}

/// Padded, so that they are listed in order.
fn manifest_path(epoch: Epoch) -> Path {
    Path::from(format!("manifests/{epoch:020}.json"))
}

fn run_path(name: &str) -> Path {
    Path::from(format!("runs/{name}"))
}

fn segment_path(name: &str) -> Path {
    Path::from(format!("segments/{name}"))
}

#[cfg(test)]
mod tests;
