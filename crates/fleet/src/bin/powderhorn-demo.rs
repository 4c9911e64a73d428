//! Three real varnishds, one PURGE: what a new user sees first.
//!
//! ```text
//! powderhorn-demo [libvmod_powderhorn.so]
//! ```
//!
//! Without an argument the VMOD is `POWDERHORN_VMOD` or lies next to this program;
//! `POWDERHORN_VCL_DIR` names the directory of powderhorn.vcl. `POWDERHORN_ENTER` (or the path
//! `POWDERHORN_CHROOT`) says how to get from the reader's shell to where this runs; it is put in
//! front of the commands that are printed. Exits 0 only if everything shown is as it should be.
#![forbid(unsafe_code)]

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use powderhorn_fleet::cleanup;
use powderhorn_fleet::fleet::{self, Fleet, FleetError, HOST, Plan};
use powderhorn_fleet::http::Request;

const NODES: usize = 3;
const URL: &str = "/";
/// How long the nodes may take to find each other.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a purge may take before the node counts as not purged: 20 rounds of anti-entropy.
const PURGE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the node that is cut off is watched: 8 rounds, in which it would recover if it could.
const STALE_WATCH: Duration = Duration::from_secs(2);
/// How long a node may take to recover after the cut.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(15);
/// Between two looks at a node: short against what is measured, long enough to leave two cores to
/// the varnishds.
const PROBE_INTERVAL: Duration = Duration::from_micros(100);

fn main() -> ExitCode {
    let terminal = std::io::stdout().is_terminal();
    let out = Out {
        colors: terminal && std::env::var_os("NO_COLOR").is_none(),
    };
    let Some(vmod) = std::env::args_os()
        .nth(1)
        .map(Into::into)
        .or_else(fleet::find_vmod)
    else {
        eprintln!(
            "powderhorn-demo: libvmod_powderhorn.so is not next to this program; \
             give its path as the argument or in POWDERHORN_VMOD"
        );
        return ExitCode::from(2);
    };
    let plan = Plan {
        nodes: NODES,
        relay_seed: Some(1),
        // A word instead of a path: the demo without Powderhorn, which must fail.
        vmod: Some(vmod).filter(|vmod| vmod.as_os_str() != "none"),
        vcl_dir: fleet::find_vcl_dir(),
    };
    let verdict = match run(&plan, &out, terminal) {
        Ok(verdict) => verdict,
        Err(error) => {
            eprintln!("powderhorn-demo: {error}");
            Verdict::default()
        }
    };
    out.say(&verdict.line());
    if verdict.all_true() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What the checks have found.
#[derive(Default)]
struct Verdict {
    purged: usize,
    recovered: usize,
    /// With node 3 cut off, the others were purged and node 3 was stale.
    cut_as_expected: bool,
    cleaned_up: bool,
}

impl Verdict {
    fn line(&self) -> String {
        let (purged, recovered) = (self.purged, self.recovered);
        format!("demo: {purged} of {NODES} nodes purged, {recovered} of 1 recovered")
    }

    fn all_true(&self) -> bool {
        self.purged == NODES && self.recovered == 1 && self.cut_as_expected && self.cleaned_up
    }
}

/// One node, seen by GETs: the cache header and the version in the body.
struct Look {
    hit: bool,
    version: Option<u64>,
}

impl std::fmt::Display for Look {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cache = if self.hit { "HIT " } else { "MISS" };
        match self.version {
            Some(version) => write!(f, "{cache} version {version}"),
            None => write!(f, "{cache} no content"),
        }
    }
}

fn look(fleet: &Fleet, node: usize) -> Result<Look, FleetError> {
    let response = fleet.client(node).get(URL)?;
    let body = response.text();
    let version = body
        .strip_prefix("version ")
        .and_then(|rest| rest.split(' ').next()?.parse().ok());
    Ok(Look {
        hit: fleet::is_hit(&response),
        version,
    })
}

fn run(plan: &Plan, out: &Out, terminal: bool) -> Result<Verdict, FleetError> {
    let begin = Instant::now();
    out.title("Powderhorn: a purge sent to one Varnish removes the object from all of them");
    let mut fleet = Fleet::start(plan)?;
    out.say("");
    out.say(&format!("   origin   http://{}", fleet.origin.addr()));
    for node in &fleet.nodes {
        out.say(&format!(
            "   {}   http://{}   gossip {}/udp   varnishd {}",
            node.name,
            node.varnish.addr(),
            node.gossip,
            node.varnish.manager().as_raw_nonzero(),
        ));
    }
    fleet.wait_connected(CONNECT_TIMEOUT)?;
    let up = begin.elapsed();
    out.say(&format!(
        "   up and gossiping through the relay after {:.1} s",
        up.as_secs_f64()
    ));

    let purged = purge_everywhere(&fleet, out)?;
    let cut_as_expected = purge_past_the_cut(&fleet, out)?;
    // A node that was not stale before has nothing to recover from.
    let recovered = usize::from(recover(&fleet, out)? && cut_as_expected);
    let mut verdict = Verdict {
        purged,
        recovered,
        cut_as_expected,
        cleaned_up: false,
    };
    if terminal {
        out.say("");
        out.title(&verdict.line());
        explain(&fleet, out);
        cleanup::wait_for_signal();
        out.say("");
    }

    let in_order = fleet.stop();
    let dir = fleet.dir().to_owned();
    drop(fleet);
    verdict.cleaned_up = in_order && !dir.exists();
    out.say("");
    out.say(match (in_order, dir.exists()) {
        (true, false) => "Three varnishds, origin and relay ended; their files are removed.",
        (false, _) => "A varnishd did not end in order and was killed.",
        (true, true) => "The work directory could not be removed.",
    });
    Ok(verdict)
}

/// Part 1: returns how many nodes were purged.
fn purge_everywhere(fleet: &Fleet, out: &Out) -> Result<usize, FleetError> {
    let before = fill(fleet)?;
    let version = fleet.origin.bump(URL);
    out.say("");
    out.title(&format!(
        "1. All caches hold {URL}; its content changes; PURGE {URL} goes to node-1"
    ));
    let purge = purge_and_watch(fleet, &[0, 1, 2], PURGE_TIMEOUT)?;
    out.say(&format!(
        "   node-1 answered 200 after {}, purge {}",
        ms(purge.answered),
        purge.id
    ));
    out.header();
    let mut purged = 0;
    for (node, (before, gone)) in before.iter().zip(&purge.gone).enumerate() {
        let after = look(fleet, node)?;
        let ok = before.hit && gone.is_some() && !after.hit && after.version == Some(version);
        purged += usize::from(ok);
        let verdict = if ok { "purged" } else { "not purged" };
        out.row(fleet, node, before, &applied(*gone), &after, ok, verdict);
    }
    Ok(purged)
}

/// Part 2: returns whether nodes 1 and 2 were purged and node 3 was not.
fn purge_past_the_cut(fleet: &Fleet, out: &Out) -> Result<bool, FleetError> {
    let before = fill(fleet)?;
    let version = fleet.origin.bump(URL);
    if let Some(relay) = &fleet.relay {
        relay.cut_node(2);
    }
    out.say("");
    out.title(&format!(
        "2. Node-3's gossip is cut; the content changes; PURGE {URL} goes to node-1"
    ));
    let sent = Instant::now();
    let mut purge = purge_and_watch(fleet, &[0, 1], PURGE_TIMEOUT)?;
    let mut stale_looks = 0;
    let mut client = fleet.client(2);
    while sent.elapsed() < STALE_WATCH {
        if !fleet::is_cached(&mut client, URL)? {
            purge.gone[2] = Some(sent.elapsed());
            break;
        }
        stale_looks += 1;
        std::thread::sleep(Duration::from_millis(1));
    }
    let dropped = fleet
        .relay
        .as_ref()
        .map_or(0, |relay| relay.stats_total().cut);
    out.say(&format!(
        "   the relay dropped {dropped} datagrams to and from node-3"
    ));
    out.header();
    let mut all_ok = true;
    for (node, (before, gone)) in before.iter().zip(&purge.gone).enumerate() {
        let after = look(fleet, node)?;
        let (ok, verdict) = if node == 2 {
            let ok = before.hit && gone.is_none() && after.hit && after.version == before.version;
            (
                ok,
                if ok {
                    "stale, as it must be"
                } else {
                    "not stale, though it was cut off"
                },
            )
        } else {
            let ok = before.hit && gone.is_some() && !after.hit && after.version == Some(version);
            (ok, if ok { "purged" } else { "not purged" })
        };
        all_ok &= ok;
        out.row(fleet, node, before, &applied(*gone), &after, ok, verdict);
    }
    let watched = STALE_WATCH.as_secs_f64();
    if all_ok {
        out.say(&format!(
            "   node-3 had the old object in {stale_looks} looks over {watched:.0} s"
        ));
    }
    Ok(all_ok && stale_looks > 0)
}

/// Part 3: returns whether node 3 recovered.
fn recover(fleet: &Fleet, out: &Out) -> Result<bool, FleetError> {
    out.say("");
    out.title("3. The cut is healed; nobody purges again: anti-entropy brings what node-3 missed");
    let before = look(fleet, 2)?;
    let healed = Instant::now();
    if let Some(relay) = &fleet.relay {
        relay.heal_node(2);
    }
    let gone = watch(fleet, 2, healed, RECOVERY_TIMEOUT, &AtomicBool::new(false))?;
    out.header();
    let after = look(fleet, 2)?;
    let new = after.version == Some(fleet.origin.version(URL));
    let ok = before.hit && gone.is_some() && !after.hit && new;
    let verdict = if ok { "recovered" } else { "not purged" };
    out.row(fleet, 2, &before, &applied(gone), &after, ok, verdict);
    if let Some(gone) = gone.filter(|_| ok) {
        out.say(&format!("   node-3 recovered {} after the heal", ms(gone)));
    }
    Ok(ok)
}

/// Makes each node hold the current content; returns what it says when asked once more.
fn fill(fleet: &Fleet) -> Result<Vec<Look>, FleetError> {
    (0..NODES)
        .map(|node| {
            look(fleet, node)?;
            look(fleet, node)
        })
        .collect()
}

struct Purge {
    id: String,
    /// From sending the PURGE to its response.
    answered: Duration,
    /// Per node: from sending the PURGE until the node no longer had the object.
    gone: Vec<Option<Duration>>,
}

/// Sends the PURGE to node 1 while one thread per watched node asks that node all the time.
fn purge_and_watch(
    fleet: &Fleet,
    watched: &[usize],
    timeout: Duration,
) -> Result<Purge, FleetError> {
    let mut purger = fleet.client(0);
    // Connected before the clock starts.
    purger.get("/.fleet/status")?;
    let give_up = AtomicBool::new(false);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let watchers: Vec<_> = watched
            .iter()
            .map(|&node| {
                let give_up = &give_up;
                (
                    node,
                    scope.spawn(move || watch(fleet, node, begin, timeout, give_up)),
                )
            })
            .collect();
        // They look a few times before anything happens.
        std::thread::sleep(Duration::from_millis(50));
        let sent = begin.elapsed();
        let id = purger
            .send(&Request::purge(URL))
            .map_err(FleetError::from)
            .and_then(|response| fleet.purge_id(0, URL, &response))
            .inspect_err(|_| give_up.store(true, Ordering::SeqCst));
        let answered = begin.elapsed() - sent;
        let mut gone = vec![None; NODES];
        for (node, watcher) in watchers {
            let result = watcher.join().unwrap_or(Ok(None))?;
            // Gone before it was purged is not purged.
            gone[node] = result.and_then(|gone| gone.checked_sub(sent));
        }
        Ok(Purge {
            id: id?,
            answered,
            gone,
        })
    })
}

/// Looks at a node on a connection of its own until it no longer has the object; returns how long
/// after `since` that was, or `None` at the timeout.
fn watch(
    fleet: &Fleet,
    node: usize,
    since: Instant,
    timeout: Duration,
    give_up: &AtomicBool,
) -> Result<Option<Duration>, FleetError> {
    let mut client = fleet.client(node);
    while since.elapsed() < timeout && !give_up.load(Ordering::SeqCst) {
        if !fleet::is_cached(&mut client, URL)? {
            return Ok(Some(since.elapsed()));
        }
        std::thread::sleep(PROBE_INTERVAL);
    }
    Ok(None)
}

fn applied(gone: Option<Duration>) -> String {
    gone.map_or("never".into(), ms)
}

fn ms(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    if ms < 10.0 {
        format!("{ms:.2} ms")
    } else {
        format!("{ms:.0} ms")
    }
}

/// What there is to try while the fleet is up.
fn explain(fleet: &Fleet, out: &Out) {
    let enter = std::env::var("POWDERHORN_ENTER")
        .ok()
        .filter(|enter| !enter.is_empty());
    let chroot = std::env::var("POWDERHORN_CHROOT")
        .ok()
        .filter(|path| !path.is_empty());
    let enter = enter.or_else(|| chroot.map(|path| format!("chroot {path}")));
    let enter = enter
        .map(|enter| enter.trim_end().to_owned() + " ")
        .unwrap_or_default();
    let [one, .., three] = fleet.nodes.as_slice() else {
        return;
    };
    let (one_url, three_url) = (one.varnish.addr(), three.varnish.addr());
    let workdir = three.varnish.workdir();
    let workdir = workdir.display();
    let origin = fleet.origin.addr();
    out.say("");
    out.title("The fleet stays up until Ctrl-C. In another terminal:");
    let get = |node: SocketAddr| format!("curl -i -H 'Host: {HOST}' http://{node}/news");
    let (get_one, get_three) = (get(one_url), get(three_url));
    out.say(&format!(
        "
   # What node-3 serves: a MISS, then a HIT
   {get_three}

   # New content at the origin, which node-3 does not notice
   curl -X POST http://{origin}/news

   # Until it is purged, at any node
   {get_one} -X PURGE
   {get_three}

   # A look inside node-3
   curl http://{three_url}/.fleet/status
   {enter}varnishadm -n {workdir} vcl.list
   {enter}varnishstat -n {workdir} -1 -f 'MAIN.cache_*' -f MAIN.n_obj_purged
   {enter}varnishlog -n {workdir} -g request"
    ));
}

/// Prints for people; a reader that has gone away (a closed pipe) does not stop the demo.
struct Out {
    colors: bool,
}

impl Out {
    fn say(&self, line: &str) {
        let mut stdout = std::io::stdout();
        let _ = writeln!(stdout, "{line}");
        let _ = stdout.flush();
    }

    fn title(&self, line: &str) {
        self.say(&self.paint("1", line));
    }

    fn header(&self) {
        let line = "   node     before            purge applied   after             ";
        self.say("");
        self.say(&self.paint("4", line));
    }

    #[expect(clippy::too_many_arguments, reason = "one per column")]
    fn row(
        &self,
        fleet: &Fleet,
        node: usize,
        before: &Look,
        applied: &str,
        after: &Look,
        ok: bool,
        verdict: &str,
    ) {
        let name = &fleet.nodes[node].name;
        let (before, after) = (before.to_string(), after.to_string());
        let verdict = self.paint(if ok { "32" } else { "31" }, verdict);
        self.say(&format!(
            "   {name:<8} {before:<17} {applied:>13}   {after:<17} {verdict}"
        ));
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colors {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}
