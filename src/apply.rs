//! Purges on their way into this cache: those of the fleet on a background thread of varnishd's, those
//! that VCL issues on the thread of their request.

use std::cell::Cell;
use std::ffi::CString;
use std::time::Duration;

use powderhorn_engine::cache::{self, BanError, BanLine, Objects};
use powderhorn_engine::index::ObjectId;
use powderhorn_node::{
    Applier, Cache, IDLE_MAX, IssueError, Job, MessageIds, Node, Outcome, Purge, boot_clock,
};

use crate::adopt::Adoption;
use crate::installed::Installed;
use crate::records::{self, Names};
use crate::shim::{self, BanOperator, BanTest, Mode, Object, Regex, Worker};
use crate::{counters, engine, errands, guard, runtime};

/// How long a batch that comes while the cache shuts down is held up, so that its retries do not
/// spin until the process ends.
const CLOSING_PAUSE: Duration = Duration::from_millis(20);

/// Starts the thread. It ends when the runtime stops.
pub fn start(mut applier: Applier) {
    shim::start_worker(c"powderhorn", move |worker| {
        applier.run(&mut Background {
            worker,
            adoption: Adoption::Due,
            names: Names::default(),
            installed: Installed::default(),
        });
    });
}

/// Sends purges to the fleet and applies them here, on the calling thread, whose own `worker` is: their ids, and what
/// became of them in this cache.
pub fn issue(
    node: &Node,
    worker: Worker,
    purges: &[Purge],
) -> Result<(MessageIds, Outcome), IssueError> {
    let ticket = node.issue_all(purges.to_vec())?;
    let ids = ticket.ids();
    // Should this panic, the ticket is dropped and the apply thread does it.
    let outcome = apply_issued(worker, purges);
    ticket.complete(outcome);
    if outcome == Outcome::Applied {
        records::issued(ids);
    }
    Ok((ids, outcome))
}

/// Applies purges that have just been issued, on the calling thread, whose own `worker` is.
pub fn apply_issued(worker: Worker, purges: &[Purge]) -> Outcome {
    let mut all = Outcome::Applied;
    records::begin();
    for purge in purges {
        if shim::closing() {
            return Outcome::Failed;
        }
        let Ok(engine) = engine::get() else {
            return Outcome::Failed;
        };
        let cache = VarnishCache::new(worker);
        let now = boot_clock();
        match engine.apply(&cache, purge, now, Duration::ZERO) {
            Outcome::Applied => records::note(purge, cache.objects(), now),
            Outcome::Failed => all = Outcome::Failed,
            Outcome::Unsupported if all == Outcome::Applied => all = Outcome::Unsupported,
            Outcome::Unsupported => {}
        }
    }
    all
}

struct Background {
    worker: Worker,
    adoption: Adoption,
    names: Names,
    installed: Installed,
}

impl Background {
    fn apply_one(&mut self, job: &Job) -> Outcome {
        match engine::get() {
            Ok(engine) if !shim::closing() => {
                let cache = VarnishCache::new(self.worker);
                let outcome = engine.apply(&cache, &job.purge, job.arrival, job.age);
                if outcome == Outcome::Applied {
                    self.names.record(job, cache.objects());
                }
                outcome
            }
            _ => Outcome::Failed,
        }
    }

    /// What goes on beside the purges; how long until there is more of it.
    fn work(&mut self) -> Duration {
        let Ok(engine) = engine::get() else {
            return IDLE_MAX;
        };
        engine::look_at_clock(engine);
        counters::refresh();
        if shim::closing() {
            return IDLE_MAX;
        }
        errands::run(self.worker);
        if let Ok(node) = runtime::node() {
            self.installed.look(node);
        }
        let cache = VarnishCache::new(self.worker);
        let adoption = self.adoption.work(engine, self.worker);
        let mass = engine.work(&cache, boot_clock());
        adoption.into_iter().chain(mass).min().unwrap_or(IDLE_MAX)
    }
}

impl Cache for Background {
    fn apply(&mut self, jobs: &mut [Job]) {
        for job in jobs.iter_mut() {
            job.outcome = guard::catch("apply", || self.apply_one(job)).unwrap_or(Outcome::Failed);
        }
        guard::catch("work", || self.work());
        self.worker.flush_stats();
        if shim::closing() {
            std::thread::sleep(CLOSING_PAUSE);
        }
    }

    fn idle(&mut self) -> Duration {
        guard::catch("work", || self.work()).unwrap_or(IDLE_MAX)
    }
}

/// Objects of varnishd's.
pub struct VarnishObjects;

impl Objects for VarnishObjects {
    fn kill(&self, object: ObjectId) {
        engine::object(object).kill();
    }

    fn soften(&self, object: ObjectId) {
        engine::object(object).soften();
    }
}

/// varnishd, for a thread with a worker.
pub struct VarnishCache {
    /// The thread's own.
    worker: Worker,
    /// Objects that went, or were softened, by it.
    objects: Cell<u64>,
}

impl VarnishCache {
    /// The cache, for the thread that `worker` is of.
    pub fn new(worker: Worker) -> VarnishCache {
        VarnishCache {
            worker,
            objects: Cell::new(0),
        }
    }

    /// Objects that were taken away or softened by this value; those that bans take are not known.
    pub fn objects(&self) -> u64 {
        self.objects.get()
    }

    fn count(&self, objects: u64) {
        self.objects.set(self.objects.get().saturating_add(objects));
    }
}

impl Objects for VarnishCache {
    fn kill(&self, object: ObjectId) {
        VarnishObjects.kill(object);
        self.count(1);
    }

    fn soften(&self, object: ObjectId) {
        VarnishObjects.soften(object);
        self.count(1);
    }
}

impl cache::Cache for VarnishCache {
    fn purge_digest(
        &self,
        digest: &[u8; 32],
        soft: bool,
        spare: Option<&mut dyn FnMut(ObjectId) -> bool>,
    ) -> u64 {
        let mode = if soft { Mode::Soft } else { Mode::Hard };
        let count = match spare {
            None => self.worker.purge_digest(digest, mode),
            Some(spare) => {
                let spare = |object: Object| spare(ObjectId(object.id()));
                self.worker.purge_digest_sparing(digest, mode, spare)
            }
        };
        let count = u64::from(count);
        self.count(count);
        count
    }

    fn ban(&self, tests: &[BanLine<'_>]) -> Result<(), BanError> {
        let tests: Vec<BanTest> = tests.iter().map(ban_test).collect::<Result<_, _>>()?;
        shim::ban(&tests).map_err(|error| match error {
            shim::BanError::Invalid(problem) => BanError::Invalid(problem),
            shim::BanError::Closing => BanError::NotNow(error.to_string()),
        })
    }

    fn live_bans(&self, at_most: u64) -> u64 {
        shim::bans_live(at_most)
    }

    fn regex(&self, pattern: &[u8]) -> Result<Box<dyn cache::Regex>, String> {
        let pattern = c_string(pattern).map_err(|e| e.to_string())?;
        shim::screen_regex(&pattern)
            .and_then(|()| Regex::new(&pattern))
            .map(|regex| Box::new(Compiled(regex)) as Box<dyn cache::Regex>)
            .map_err(|problem| format!("the regular expression {pattern:?} is refused: {problem}"))
    }
}

fn ban_test(test: &BanLine<'_>) -> Result<BanTest, BanError> {
    let operator = match test.operator {
        "==" => BanOperator::Equal,
        "!=" => BanOperator::NotEqual,
        "~" => BanOperator::Match,
        "!~" => BanOperator::NoMatch,
        ">" => BanOperator::Greater,
        other => return Err(BanError::Invalid(format!("no operator {other}"))),
    };
    Ok(BanTest {
        field: c_string(test.field.as_bytes())?,
        operator,
        value: c_string(&test.argument)?,
    })
}

fn c_string(bytes: &[u8]) -> Result<CString, BanError> {
    CString::new(bytes).map_err(|_| BanError::Invalid("there is a zero byte in it".to_owned()))
}

struct Compiled(Regex);

impl cache::Regex for Compiled {
    fn matches(&self, subject: &[u8]) -> Option<bool> {
        self.0.is_match(subject)
    }
}
