//! The object store of the checkpoints: it fails, and loses its client in the middle of something.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::runtime::Runtime;

use crate::dice::Dice;

/// Effects that are left for a client that lives on.
const UNLIMITED: i64 = i64::MAX / 2;

#[derive(Debug)]
pub struct FaultyStore {
    inner: InMemory,
    /// After so many more writes and deletions the client dies.
    left: AtomicI64,
    /// Writes fail, one by one, while this is positive.
    failures: AtomicI64,
    /// What the write that the client dies in leaves behind.
    torn: Mutex<Option<Tear>>,
}

/// How an object is damaged.
#[derive(Clone, Copy, Debug)]
pub enum Tear {
    /// Only its first half is there.
    Cut,
    /// One byte of it is another.
    Flip,
}

impl Tear {
    pub fn draw(dice: &mut Dice) -> Tear {
        dice.one_of(&[Tear::Cut, Tear::Flip])
    }

    fn apply(self, bytes: &[u8]) -> Vec<u8> {
        let middle = bytes.len() / 2;
        match self {
            Tear::Cut => bytes[..middle].to_vec(),
            Tear::Flip => {
                bytes.iter().enumerate().map(|(at, byte)| byte.wrapping_add(u8::from(at == middle))).collect()
            }
        }
    }
}

impl FaultyStore {
    pub fn new() -> Arc<FaultyStore> {
        Arc::new(FaultyStore {
            inner: InMemory::new(),
            left: AtomicI64::new(UNLIMITED),
            failures: AtomicI64::new(0),
            torn: Mutex::default(),
        })
    }

    /// The client will die after some more effects, in a write perhaps that leaves something torn behind.
    pub fn die_after(&self, effects: i64, torn: Option<Tear>) {
        self.left.store(effects, Ordering::Relaxed);
        *self.torn.lock().unwrap_or_else(PoisonError::into_inner) = torn;
    }

    /// Whether the client has died.
    pub fn is_dead(&self) -> bool {
        self.left.load(Ordering::Relaxed) <= 0
    }

    /// There is a new client.
    pub fn revive(&self) {
        self.die_after(UNLIMITED, None);
    }

    /// The next writes will fail.
    pub fn fail(&self, writes: i64) {
        self.failures.store(writes, Ordering::Relaxed);
    }

    /// All objects in a folder, by name.
    pub fn names(&self, runtime: &Runtime, folder: &str) -> Vec<Path> {
        let listed = runtime.block_on(self.inner.list(Some(&Path::from(folder))).collect::<Vec<_>>());
        let mut names: Vec<_> = listed.into_iter().filter_map(|object| Some(object.ok()?.location)).collect();
        names.sort();
        names
    }

    /// How many objects there are, and their bytes.
    pub fn size(&self, runtime: &Runtime) -> (usize, u64) {
        let listed = runtime.block_on(self.inner.list(None).collect::<Vec<_>>());
        let sizes: Vec<_> = listed.into_iter().filter_map(|object| Some(object.ok()?.size)).collect();
        (sizes.len(), sizes.iter().sum())
    }

    /// Damages an object.
    pub fn tear(&self, runtime: &Runtime, path: &Path, tear: Tear) {
        let _ = runtime.block_on(async {
            let bytes = self.inner.get(path).await?.bytes().await?;
            self.inner.put(path, PutPayload::from(tear.apply(&bytes))).await
        });
    }

    /// One more effect; false if the client did not live to see it.
    fn takes_effect(&self) -> bool {
        self.left.fetch_sub(1, Ordering::Relaxed) > 0
    }
}

fn refused(what: &str) -> Error {
    Error::Generic { store: "simulated", source: what.to_owned().into() }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated")
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if self.failures.load(Ordering::Relaxed) > 0 {
            self.failures.fetch_sub(1, Ordering::Relaxed);
            return Err(refused("no write now"));
        }
        if self.takes_effect() {
            return self.inner.put_opts(location, payload, options).await;
        }
        let torn = self.torn.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(tear) = torn {
            let bytes: Vec<u8> = payload.iter().flat_map(|bytes| bytes.to_vec()).collect();
            self.inner.put_opts(location, PutPayload::from(tear.apply(&bytes)), options).await?;
        }
        Err(refused("the client is dead"))
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented {
            operation: "put_multipart_opts".to_owned(),
            implementer: self.to_string(),
        })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        if self.takes_effect() {
            return self.inner.delete_stream(locations);
        }
        futures_util::stream::iter([Err(refused("the client is dead"))]).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copy_opts".to_owned(), implementer: self.to_string() })
    }
}
