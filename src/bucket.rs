//! Objects in a bucket of S3, Google Cloud Storage or Azure: listed, read by range, and replaced only where they
//! still are what was read.
//!
//! Blocking, so that those who own files need not know of it; the requests run on threads of their own. Credentials
//! come from each cloud's usual environment variables, and no message repeats what could be one. What an object
//! holds, and under which key, is the callers' business.

use std::fmt;
use std::future::{Future, ready};
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, LazyLock, mpsc};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::{
    ClientConfigKey, Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, UpdateVersion,
};
use object_store::{PutPayload, RetryConfig};
use tokio::runtime::Runtime;

/// The longest that a request is tried again: a publish that fails is tried again later anyway.
const RETRY_TIMEOUT: Duration = Duration::from_mins(1);

/// The longest that a single request may take: [`PIECE`] bytes, on a slow line.
const TIMEOUT: &str = "2 minutes";

/// The longest that one may take that reads or writes more than that at once: a day of a large fleet.
const LONG_TIMEOUT: &str = "10 minutes";

/// How often a request is tried again at most: with its growing pauses, some seconds to half a minute.
const MOST_RETRIES: usize = 7;

/// What is read at once of an object that is read from one end to the other. (Tests have smaller ones.)
const PIECE: u64 = if cfg!(test) { 1 << 10 } else { 16 << 20 };

/// Ranges that are less apart are one request: fewer requests are worth more than fewer bytes.
const GAP: u64 = 4 * 1024;

/// Codes by which S3 and Azure refuse credentials, whatever the status, and whatever the library makes of it.
const REFUSED: [&str; 9] = [
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "InvalidAccessKeyId",
    "RequestTimeTooSkewed",
    "AccessDenied",
    "AuthenticationFailed",
    "AuthorizationFailure",
    "AuthorizationPermissionMismatch",
];

/// What is said of wrong settings, and what to do about them.
const HINTS: [(&str, &str); 6] = [
    ("URL scheme is not allowed", "for a server without TLS, set AWS_ALLOW_HTTP=true (or AZURE_ALLOW_HTTP)"),
    ("NoSuchBucket", "look at the bucket's name, and at AWS_ENDPOINT"),
    ("AuthorizationHeaderMalformed", "set AWS_REGION to the bucket's region"),
    ("PermanentRedirect", "set AWS_REGION to the bucket's region"),
    ("SignatureDoesNotMatch", "look at AWS_SECRET_ACCESS_KEY"),
    ("ContainerNotFound", "look at the container's name"),
];

/// A place in a bucket, below which all keys are.
#[derive(Clone)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    /// The store, for requests that may take long.
    patient: Arc<dyn ObjectStore>,
    url: String,
    prefix: Path,
}

/// What an object was at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(UpdateVersion);

/// An object, as a list names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its key below the place.
    pub key: String,
    /// Its length.
    pub bytes: u64,
}

/// An object that is read from one end to the other.
#[derive(Debug)]
pub struct ObjectReader {
    bucket: Bucket,
    key: String,
    /// Which version is read.
    pub version: Version,
    /// The last piece, which came first.
    end: Bytes,
    length: u64,
    /// The first byte after the piece at hand.
    at: u64,
    /// What of the piece at hand is not read yet.
    piece: Bytes,
}

/// What has to be true for an object to be written.
#[derive(Debug, Clone)]
pub enum Condition {
    /// There is none of that key.
    IsNew,
    /// It is still this one.
    Is(Version),
}

/// Why something in a bucket cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// What was given is no address in a bucket.
    #[error("{url:?} is no place in a bucket: {problem}")]
    Url {
        /// What was said.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The environment does not say enough, or says something wrong.
    #[error("cannot use {url}: {problem}; look at the {cloud} variables of the environment")]
    Settings {
        /// The place.
        url: String,
        /// How the cloud's variables begin.
        cloud: &'static str,
        /// What is missing.
        problem: String,
    },
    /// There is no such object.
    #[error("there is no {0}")]
    Absent(String),
    /// Somebody else has written it since it was read.
    #[error("{0} was replaced by another writer meanwhile: try again")]
    Replaced(String),
    /// The credentials do not let it be done.
    #[error("may not {action} {object}: the credentials are wrong, have expired, or lack the right ({said})")]
    Denied {
        /// What was tried.
        action: &'static str,
        /// On what.
        object: String,
        /// The server's word for it.
        said: String,
    },
    /// The server cannot be reached, or does not do it.
    #[error("cannot {action} {object}: {said}")]
    Failed {
        /// What was tried.
        action: &'static str,
        /// On what.
        object: String,
        /// What was said.
        said: String,
    },
}

impl Bucket {
    /// Whether a text is meant as an address in a bucket.
    #[must_use]
    pub fn is_url(text: &str) -> bool {
        text.contains("://")
    }

    /// A place in a bucket by its address: `s3://bucket/prefix`, `gs://…` or `az://container/prefix`. Nothing is
    /// asked yet.
    ///
    /// # Errors
    /// Where it is no such address, or the environment lacks what the cloud needs.
    pub fn open(url: &str) -> Result<Self, BucketError> {
        let url = url.trim_end_matches('/');
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        // What stands before an @ may be a password: it is not repeated.
        let said = if rest.contains('@') { format!("{scheme}://…") } else { url.to_owned() };
        let wrong = |problem| BucketError::Url { url: said.clone(), problem };
        if rest.contains(['@', '?', '#']) {
            return Err(wrong("it is a bucket and a prefix; credentials are set in the environment"));
        }
        if bucket.is_empty() {
            return Err(wrong("it names no bucket"));
        }
        let prefix = Path::parse(prefix).map_err(|_strange| wrong("its prefix has an empty or a strange segment"))?;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let retry = RetryConfig { max_retries: MOST_RETRIES, retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
        let address = format!("{scheme}://{bucket}");
        let settings =
            |cloud, error: &Error| BucketError::Settings { url: url.to_owned(), cloud, problem: said_by(error) };
        let open = |timeout: &str| -> Result<Arc<dyn ObjectStore>, BucketError> {
            let (key, address, retry) = (ClientConfigKey::Timeout, address.clone(), retry.clone());
            Ok(match scheme {
                "s3" | "s3a" => {
                    let builder = AmazonS3Builder::from_env().with_config(AmazonS3ConfigKey::Client(key), timeout);
                    let store = builder.with_url(address).with_retry(retry).build();
                    Arc::new(store.map_err(|error| settings("AWS_", &error))?)
                }
                "gs" => {
                    let builder = GoogleCloudStorageBuilder::from_env();
                    let builder = builder.with_config(GoogleConfigKey::Client(key), timeout);
                    let store = builder.with_url(address).with_retry(retry).build();
                    Arc::new(store.map_err(|error| settings("GOOGLE_", &error))?)
                }
                "az" | "azure" => {
                    let builder = MicrosoftAzureBuilder::from_env();
                    let builder = builder.with_config(AzureConfigKey::Client(key), timeout);
                    let store = builder.with_url(address).with_retry(retry).build();
                    Arc::new(store.map_err(|error| settings("AZURE_STORAGE_", &error))?)
                }
                _ => return Err(wrong("s3://, gs:// and az:// are known")),
            })
        };
        Ok(Self { store: open(TIMEOUT)?, patient: open(LONG_TIMEOUT)?, url: url.to_owned(), prefix })
    }

    /// A place in memory: what a test writes.
    #[must_use]
    pub fn in_memory() -> Self {
        let store: Arc<dyn ObjectStore> = Arc::new(object_store::memory::InMemory::new());
        Self { patient: Arc::clone(&store), store, url: "memory://test".to_owned(), prefix: Path::default() }
    }

    /// The address of the place.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Every object below a folder, in the order of the keys: those in `keys`, of which an empty bound is none.
    ///
    /// # Errors
    /// Where the server cannot be asked, or does not let it be listed.
    pub fn objects(&self, folder: &str, keys: &Range<String>) -> Result<Vec<Object>, BucketError> {
        let (store, folder, of) = (Arc::clone(&self.store), self.at(folder), self.of("list", folder));
        let own = folder.clone();
        let bound = |key: &String| (!key.is_empty()).then(|| self.at(key));
        let (first, end) = (bound(&keys.start), bound(&keys.end));
        let listed = run(async move {
            let listed = match &first {
                Some(first) => store.list_with_offset(Some(&folder), first),
                None => store.list(Some(&folder)),
            };
            let is_before = |meta: &ObjectMeta| end.as_ref().is_none_or(|end| meta.location < *end);
            listed.try_take_while(|meta| ready(Ok(is_before(meta)))).try_collect::<Vec<_>>().await
        });
        let mut objects: Vec<Object> = listed.map_err(of)?.iter().filter_map(|meta| self.object(meta, &own)).collect();
        objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    /// What stands right in a folder: the keys of folders, and objects.
    ///
    /// # Errors
    /// Where the server cannot be asked, or does not let it be listed.
    pub fn entries(&self, folder: &str) -> Result<(Vec<String>, Vec<Object>), BucketError> {
        let (store, folder, of) = (Arc::clone(&self.store), self.at(folder), self.of("list", folder));
        let own = folder.clone();
        let listed = run(async move { store.list_with_delimiter(Some(&folder)).await }).map_err(of)?;
        let folders = listed.common_prefixes.iter().filter_map(|path| self.key(path)).collect();
        Ok((folders, listed.objects.iter().filter_map(|meta| self.object(meta, &own)).collect()))
    }

    /// The last bytes of an object, with the length of all of it, and which version it is.
    ///
    /// # Errors
    /// Where there is none, or it cannot be read.
    pub fn end(&self, key: &str, length: u64) -> Result<(Bytes, u64, Version), BucketError> {
        let (store, path) = (Arc::clone(&self.store), self.at(key));
        let read = run(async move {
            let options = |range, if_match| GetOptions { range: Some(range), if_match, ..GetOptions::default() };
            let result = match store.get_opts(&path, options(GetRange::Suffix(length), None)).await {
                Err(error) if says_no_range(&error) => {
                    let meta = store.head(&path).await?;
                    if meta.size == 0 {
                        return Ok((Bytes::new(), 0, Version::of(&meta)));
                    }
                    let range = GetRange::Bounded(meta.size.saturating_sub(length)..meta.size);
                    store.get_opts(&path, options(range, meta.e_tag)).await?
                }
                result => result?,
            };
            let (size, version) = (result.meta.size, Version::of(&result.meta));
            Ok((result.bytes().await?, size, version))
        });
        let (end, size, version) = read.map_err(self.of("read", key))?;
        let mut end = self.check_lengths(key, std::slice::from_ref(&(size.saturating_sub(length)..size)), vec![end])?;
        Ok((end.pop().unwrap_or_default(), size, version))
    }

    /// Ranges of a version of an object, each not empty and inside it; those near each other in one request, and
    /// several requests at once.
    ///
    /// # Errors
    /// Where the object is another one now, or cannot be read.
    pub fn ranges(&self, key: &str, version: &Version, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, BucketError> {
        let is_large = ranges.iter().map(|range| range.end - range.start).sum::<u64>() > PIECE;
        let (store, path) = (Arc::clone(if is_large { &self.patient } else { &self.store }), self.at(key));
        let (asked, if_match) = (ranges.to_vec(), version.0.e_tag.clone());
        let read = run(async move {
            let fetch = |range: Range<u64>| {
                let options = GetOptions {
                    range: Some(GetRange::Bounded(range)),
                    if_match: if_match.clone(),
                    ..GetOptions::default()
                };
                let (store, path) = (Arc::clone(&store), path.clone());
                async move { store.get_opts(&path, options).await?.bytes().await }
            };
            object_store::coalesce_ranges(&asked, fetch, GAP).await
        });
        read.map_err(self.of("read", key)).and_then(|read| self.check_lengths(key, ranges, read))
    }

    fn check_lengths(&self, key: &str, ranges: &[Range<u64>], read: Vec<Bytes>) -> Result<Vec<Bytes>, BucketError> {
        let is_whole = |(range, bytes): (&Range<u64>, &Bytes)| bytes.len() as u64 == range.end - range.start;
        if ranges.iter().zip(&read).all(is_whole) {
            return Ok(read);
        }
        let (object, said) = (format!("{}/{key}", self.url), "fewer bytes came than were asked for".to_owned());
        Err(BucketError::Failed { action: "read", object, said })
    }

    /// An object for reading from one end to the other: one version of it, piece by piece.
    ///
    /// # Errors
    /// Where there is none, or it cannot be read.
    pub fn reader(&self, key: &str) -> Result<ObjectReader, BucketError> {
        let (end, length, version) = self.end(key, PIECE)?;
        Ok(ObjectReader { bucket: self.clone(), key: key.to_owned(), version, end, length, at: 0, piece: Bytes::new() })
    }

    /// Writes an object in one request: it is there as a whole or not at all.
    ///
    /// # Errors
    /// [`BucketError::Replaced`] where the condition does not hold; or where it cannot be written. Whether it then
    /// was written nobody knows.
    pub fn put(&self, key: &str, payload: Vec<Bytes>, condition: Condition) -> Result<Version, BucketError> {
        let is_large = payload.iter().map(|bytes| bytes.len() as u64).sum::<u64>() > PIECE;
        let (store, path) = (Arc::clone(if is_large { &self.patient } else { &self.store }), self.at(key));
        let mode = match condition {
            Condition::IsNew => PutMode::Create,
            Condition::Is(version) => PutMode::Update(version.0),
        };
        let payload: PutPayload = payload.into_iter().collect();
        let put = run(async move { store.put_opts(&path, payload, mode.into()).await });
        put.map(|put| Version(put.into())).map_err(self.of("write", key))
    }

    /// Removes an object; none is fine too.
    ///
    /// # Errors
    /// Where the server cannot be asked, or does not let it be removed.
    pub fn remove(&self, key: &str) -> Result<(), BucketError> {
        let (store, path) = (Arc::clone(&self.store), self.at(key));
        match run(async move { store.delete(&path).await }) {
            Err(Error::NotFound { .. }) => Ok(()),
            removed => removed.map_err(self.of("remove", key)),
        }
    }

    fn at(&self, key: &str) -> Path {
        let below = key.split('/').filter(|segment| !segment.is_empty());
        // Keys that others have made may have any letter: as they are listed, they are asked for.
        let whole: Vec<&str> =
            self.prefix.as_ref().split('/').filter(|part| !part.is_empty()).chain(below.clone()).collect();
        Path::parse(whole.join("/")).unwrap_or_else(|_strange| below.fold(self.prefix.clone(), Path::join))
    }

    fn key(&self, path: &Path) -> Option<String> {
        let segments: Vec<_> = path.prefix_match(&self.prefix)?.map(|part| part.as_ref().to_owned()).collect();
        Some(segments.join("/"))
    }

    /// An object that is listed; none for what a console puts there to show a folder.
    fn object(&self, meta: &ObjectMeta, folder: &Path) -> Option<Object> {
        (meta.location != *folder).then_some(())?;
        Some(Object { key: self.key(&meta.location)?, bytes: meta.size })
    }

    /// What an error of an action on an object means.
    fn of(&self, action: &'static str, key: &str) -> impl FnOnce(Error) -> BucketError + use<> {
        let object = format!("{}/{key}", self.url);
        move |error| match error {
            Error::NotFound { .. } if action != "list" => BucketError::Absent(object),
            Error::Precondition { .. } | Error::AlreadyExists { .. } => BucketError::Replaced(object),
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                BucketError::Denied { action, object, said: said_by(&error) }
            }
            error => match said_by(&error) {
                // S3 says of credentials that have expired that the request is a bad one.
                said if REFUSED.contains(&said.as_str()) => BucketError::Denied { action, object, said },
                said => BucketError::Failed { action, object, said },
            },
        }
    }
}

impl fmt::Debug for Bucket {
    // What the store holds are credentials.
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.debug_tuple("Bucket").field(&self.url).finish()
    }
}

impl Read for ObjectReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && self.at < self.length {
            let end_at = self.length - self.end.len() as u64;
            let next = if self.at < end_at { end_at.min(self.at + PIECE) } else { self.length };
            self.piece = if self.at < end_at {
                let read = self.bucket.ranges(&self.key, &self.version, std::slice::from_ref(&(self.at..next)));
                read.map_err(io::Error::other)?.concat().into()
            } else {
                self.end.clone()
            };
            self.at = next;
        }
        let length = buffer.len().min(self.piece.len());
        buffer[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}

impl Version {
    fn of(meta: &ObjectMeta) -> Self {
        Self(UpdateVersion { e_tag: meta.e_tag.clone(), version: meta.version.clone() })
    }
}

/// The threads that the requests run on: they wait more than they work.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).thread_name("bucket").enable_all().build();
    runtime.expect("a process can start two threads")
});

/// Waits for a request. The caller may itself be on a runtime, which must not be entered twice.
fn run<T: Send + 'static>(request: impl Future<Output = T> + Send + 'static) -> T {
    let (sender, receiver) = mpsc::sync_channel(1);
    RUNTIME.spawn(async move {
        let _ = sender.send(request.await);
    });
    receiver.recv().expect("the request does not panic")
}

/// Whether a range cannot be counted from the end: Azure never does so, others do not where the object has no byte.
fn says_no_range(error: &Error) -> bool {
    match error {
        Error::NotSupported { .. } => true,
        // S3 refuses such a range; others say nonsense of it.
        Error::Generic { .. } => [" 416 ", "CONTENT_RANGE"].iter().any(|said| error.to_string().contains(said)),
        _ => false,
    }
}

/// What the server or the network says, in one line and without what could be a credential: the server's code where
/// it gives one, else the innermost cause.
fn said_by(error: &Error) -> String {
    if let Error::InvalidPath { source } = error {
        // A key, which is no address.
        let said: String = source.to_string().escape_default().take(300).collect();
        return format!("an object with a key that cannot be asked for stands there: remove it ({said})");
    }
    let whole = error.to_string();
    let code = whole.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    let code = code.map(|(code, _)| code).filter(|code| code.chars().all(|letter| letter.is_ascii_alphanumeric()));
    let said = code.map_or_else(|| innermost(error), str::to_owned);
    match HINTS.iter().find(|(known, _)| *known == said) {
        Some((_, hint)) => format!("{said}: {hint}"),
        None => said,
    }
}

/// The innermost cause of an error, in one line and without what could be a credential.
fn innermost(error: &Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(cause) = inner.source() {
        inner = cause;
    }
    let line = inner.to_string();
    let words = line.split_whitespace().map(|word| if word.contains(['?', '=']) { "…" } else { word });
    let line = words.collect::<Vec<_>>().join(" ");
    let line: String = line.trim_end_matches(':').chars().filter(|letter| !letter.is_control()).take(200).collect();
    if line.is_empty() { "no reason was given".to_owned() } else { line }
}
