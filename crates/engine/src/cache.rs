//! The cache as the engine sees it: what varnishd does for it in production, and what a test's
//! recording cache does.

use std::borrow::Cow;

use crate::index::ObjectId;

/// What can be done to an object. All calls may come from several threads at a time.
pub trait Objects {
    /// Takes an object away: no lookup finds it after this returns. The object is registered, and
    /// stays alive for the call; the caller may hold a lock of the index.
    fn kill(&self, object: ObjectId);

    /// Ends an object's TTL now and leaves its grace and keep; does nothing to one that is stale
    /// already. Called as [`Objects::kill`] is.
    fn soften(&self, object: ObjectId);
}

/// What else the engine asks of a cache. All calls may come from several threads at a time.
pub trait Cache: Objects {
    /// Takes away (or softens) every variant of the object with this hash; how many there were. If
    /// there is `spare`, it is asked for each, with no lock held, and those for which it is true
    /// stay.
    fn purge_digest(
        &self,
        digest: &[u8; 32],
        soft: bool,
        spare: Option<&mut dyn FnMut(ObjectId) -> bool>,
    ) -> u64;

    /// Bans what passes all of `tests`, and is in the cache now: no lookup finds it after this
    /// returns.
    fn ban(&self, tests: &[BanLine<'_>]) -> Result<(), BanError>;

    /// How many bans objects have to be tested against; counts up to `at_most`.
    fn live_bans(&self, at_most: u64) -> u64;

    /// Compiles a regular expression as the cache's bans understand it. An error is for people, and
    /// also says so of an expression that may take too long.
    fn regex(&self, pattern: &[u8]) -> Result<Box<dyn Regex>, String>;
}

/// A compiled regular expression.
pub trait Regex: Send + Sync {
    /// Whether it matches in `subject`; `None` if that took too long to find out.
    fn matches(&self, subject: &[u8]) -> Option<bool>;
}

/// One test of a ban in the words of Varnish's `ban` command, each word apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BanLine<'a> {
    /// `obj.http.<name>`, `obj.status` or `obj.age`: what the ban lurker can test.
    pub field: Cow<'a, str>,
    /// `==`, `!=`, `~`, `!~` or `>`.
    pub operator: &'static str,
    /// What it is compared with; no control characters.
    pub argument: Cow<'a, [u8]>,
}

/// Why a ban was not added. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BanError {
    /// The cache will never take it, and says why.
    #[error("{0}")]
    Invalid(String),
    /// Not now: it shuts down, or has no memory. Try again.
    #[error("the cache takes no bans now: {0}")]
    NotNow(String),
}
