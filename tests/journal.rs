//! An acknowledged purge survives its node, with real processes: varnishds whose caches are killed, whose
//! gossip is cut at that moment, and whose disks are full.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::{CONNECT_TIMEOUT, alone, served, start, version};
use powderhorn_fleet::fleet::{self, Fleet, ID_HEADER, START_TIMEOUT};
use powderhorn_fleet::http::Request;

const RECOVER_TIMEOUT: Duration = Duration::from_secs(60);

/// The kill that is meant is one whose signal is sent so soon after the last byte of the answer was read.
const AT_ONCE: Duration = Duration::from_millis(1);

/// Kills in a run; `POWDERHORN_KILLS` for another number.
fn kills() -> usize {
    match std::env::var("POWDERHORN_KILLS") {
        Ok(kills) => {
            let kills = kills.parse::<usize>();
            kills.expect("POWDERHORN_KILLS is a number").max(1)
        }
        Err(_) => 200,
    }
}

fn knows(fleet: &Fleet, node: usize, id: &str) -> bool {
    fleet::knows(&mut fleet.client(node), id).unwrap_or(false)
}

/// Waits until all nodes know all of these.
fn wait_known(fleet: &Fleet, ids: &[String], what: &str) {
    let begun = Instant::now();
    for node in 0..fleet.nodes.len() {
        let mut client = fleet.client(node);
        for id in ids {
            while !fleet::knows(&mut client, id).unwrap_or(false) {
                assert!(
                    begun.elapsed() < RECOVER_TIMEOUT,
                    "{what}: {id} is not on node {node}\n{}",
                    fleet.logs()
                );
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// The worst that can happen to an answered purge: nobody else has it, and its node's cache process dies
/// within a millisecond of the answer. Three nodes die in each round, each with a purge of its own, of an object that
/// all four have; what counts is that the fourth serves it no more.
#[test]
fn a_purge_that_was_answered_survives_kill_9_of_its_cache() {
    const NODES: usize = 4;
    let _alone = alone();
    let mut fleet = start(NODES);
    let wanted = kills();
    let (mut late, mut tried, mut gone) = (Vec::new(), 0, 0);
    let begun = Instant::now();
    for round in 0.. {
        if late.len() >= wanted {
            break;
        }
        assert!(
            tried < 3 * wanted,
            "{} of {tried} signals were sent within {AT_ONCE:?}: this machine is too slow, or too busy",
            late.len()
        );
        let survivor = round % NODES;
        let left = wanted - late.len();
        let dying: Vec<usize> = (0..NODES)
            .filter(|node| *node != survivor)
            .take(left)
            .collect();
        let urls: Vec<_> = (0..dying.len())
            .map(|n| format!("/object/{round}/{n}"))
            .collect();
        for url in &urls {
            for node in 0..NODES {
                assert_eq!(served(&fleet, node, url).0, version(1, url));
                assert_eq!(served(&fleet, node, url), (version(1, url), true));
            }
            fleet.origin.bump(url);
        }
        let relay = fleet.relay.as_ref().expect("a relay");
        dying.iter().for_each(|&node| relay.cut_node(node));
        let (mut ids, mut killed) = (Vec::new(), Vec::new());
        for (&node, url) in dying.iter().zip(&urls) {
            let varnish = &fleet.nodes[node].varnish;
            let child = varnish.worker().expect("a cache process");
            let mut client = fleet.client(node);
            let answer = client.send(&Request::purge(url));
            varnish.kill(child).expect("it was there");
            let sent = Instant::now();
            let answer = answer.expect("the purge is answered");
            let delay = sent - client.last_read().expect("there was an answer");
            tried += 1;
            late.extend(Some(delay).filter(|delay| *delay <= AT_ONCE));
            ids.push(fleet.purge_id(node, url, &answer).expect("an id"));
            killed.push((node, child));
        }
        for id in &ids {
            assert!(!knows(&fleet, survivor, id), "the cut does not hold");
        }
        for url in &urls {
            let stale = (version(1, url), true);
            assert_eq!(
                served(&fleet, survivor, url),
                stale,
                "the cut does not hold"
            );
        }
        let relay = fleet.relay.as_ref().expect("a relay");
        dying.iter().for_each(|&node| relay.heal_node(node));
        for (node, child) in killed {
            let restarted = fleet.nodes[node]
                .varnish
                .wait_restarted(child, START_TIMEOUT);
            restarted.expect("the manager starts another cache process");
        }
        wait_known(&fleet, &ids, &format!("round {round}"));
        // Those that died have nothing of what they had; the survivor must have lost it to the purge.
        for (url, node) in urls
            .iter()
            .flat_map(|url| (0..NODES).map(move |node| (url, node)))
        {
            assert_eq!(served(&fleet, node, url).0, version(2, url), "node {node}");
        }
        gone += urls.len();
    }
    late.sort();
    println!(
        "{} kills within {AT_ONCE:?} of the answer's last byte, of {tried}; median {:?}, most {:?}; {gone} objects are \
         gone where they were; {:.0?}",
        late.len(),
        late[late.len() / 2],
        late[late.len() - 1],
        begun.elapsed()
    );
    fleet.stop();
}

/// All processes of all nodes die at a moment, managers as well, as with the power of a site that no disk notices.
#[test]
fn a_fleet_that_dies_as_a_whole_still_has_its_purges() {
    let _alone = alone();
    let mut fleet = start(3);
    let relay = fleet.relay.as_ref().expect("a relay");
    for node in 0..3 {
        relay.cut_node(node);
    }
    let ids: Vec<String> = (0..30)
        .map(|n| {
            fleet
                .purge(n % 3, &format!("/object/{n}"))
                .expect("answered")
        })
        .collect();
    let nodes = fleet.nodes.iter_mut();
    nodes.for_each(|node| node.varnish.kill_all());
    let relay = fleet.relay.as_ref().expect("a relay");
    for node in 0..3 {
        relay.heal_node(node);
    }
    for node in &mut fleet.nodes {
        node.varnish.start_again().expect("varnishd starts again");
    }
    for node in &mut fleet.nodes {
        node.varnish.wait_ready(START_TIMEOUT).expect("it runs");
    }
    wait_known(&fleet, &ids, "after the end of all");
    fleet.stop();
}

/// Numbers that come out the same in each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % bound
    }
}

/// Purges by stream, as ids say it: the seqs, which are answered in their order.
type Answered = BTreeMap<String, u64>;

/// Sends purges, 50 at a time, until the node is gone.
fn purge_until_it_dies(fleet: &Fleet, node: usize, round: usize, answered: &Mutex<Answered>) {
    const PIPELINE: usize = 50;
    let mut client = fleet.client(node);
    for n in (0..).step_by(PIPELINE) {
        let url = |n: usize| format!("/sealed/{round}/{n}");
        let purges: Vec<_> = (n..n + PIPELINE).map(|n| Request::purge(url(n))).collect();
        // The last answers before the end are those that matter most.
        let (answers, result) = client.pipeline_until_error(&purges);
        let mut answered = answered.lock().unwrap_or_else(PoisonError::into_inner);
        for answer in answers {
            let id = answer.header(ID_HEADER).expect("each is taken").to_owned();
            let (stream, seq) = id.rsplit_once(':').expect("an id");
            answered.insert(stream.to_owned(), seq.parse().expect("a seq"));
        }
        if result.is_err() {
            return;
        }
    }
}

/// What a node lacks of what was answered: all of it must be held and applied.
fn lacking(fleet: &Fleet, node: usize, answered: &Answered) -> Option<String> {
    let digest = fleet.client(node).get("/.fleet/digest").ok()?.text();
    let whole = |stream: &str, last: u64| {
        let line = digest.lines().find(|line| line.starts_with(stream))?;
        let mut words = line.split(' ').skip_while(|word| *word != "held").skip(1);
        let held = words.next()?;
        let applied = words.nth(1)?;
        let from_first = |ranges: &str| {
            let range = ranges.split(',').next()?;
            let (first, to) = range.split_once('-').unwrap_or((range, range));
            Some(first == "1" && to.parse::<u64>().ok()? >= last)
        };
        Some(from_first(held)? && from_first(applied)?)
    };
    let mut missing = answered
        .iter()
        .filter(|(stream, last)| whole(stream, **last) != Some(true));
    let (stream, last) = missing.next()?;
    Some(format!(
        "1-{last} of {stream}, of which there is:\n{digest}"
    ))
}

fn wait_complete(fleet: &Fleet, node: usize, answered: &Answered) {
    let begun = Instant::now();
    while let Some(missing) = lacking(fleet, node, answered) {
        assert!(
            begun.elapsed() < RECOVER_TIMEOUT,
            "node {node} lacks {missing}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn set_journal(fleet: &Fleet, node: usize, line: &str) {
    let path = fleet.config(node);
    let config = fs::read_to_string(&path).expect("a config");
    let config = config.replacen("[journal]\n", &format!("[journal]\n{line}\n"), 1);
    fs::write(&path, config).expect("the config is written");
}

fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_some_and(|end| end == ending))
        .collect()
}

/// A log becomes a segment while purges come in, and the cache process dies in the middle of that. The smallest
/// journal is rewritten the most often: each 13,000 purges.
#[test]
fn a_kill_while_a_log_is_sealed_costs_no_answered_purge() {
    const INTERRUPTED: usize = 5;
    const ROUNDS_MAX: usize = 20;
    let _alone = alone();
    let mut fleet = start(2);
    fleet.nodes[0].varnish.kill_all();
    set_journal(&fleet, 0, "bytes = \"16MiB\"");
    fleet.nodes[0].varnish.start_again().expect("it starts");
    fleet.nodes[0]
        .varnish
        .wait_ready(START_TIMEOUT)
        .expect("it runs");
    // Nobody else has any of it: what is there afterwards comes from the disk.
    fleet.relay.as_ref().expect("a relay").cut_node(0);
    let (state, chance) = (fleet.state(0), &mut Chance(1));
    let answered = Mutex::new(Answered::new());
    let (mut rounds, mut interrupted) = (0, 0);
    while interrupted < INTERRUPTED {
        assert!(
            rounds < ROUNDS_MAX,
            "{interrupted} of {rounds} kills came while a log was sealed"
        );
        let child = fleet.nodes[0].varnish.worker().expect("a cache process");
        let pause = Duration::from_micros(chance.below(3_000));
        std::thread::scope(|scope| {
            scope.spawn(|| purge_until_it_dies(&fleet, 0, rounds, &answered));
            let begun = Instant::now();
            while files(&state, "tmp").is_empty() {
                if begun.elapsed() > RECOVER_TIMEOUT {
                    // Its thread ends with the node.
                    let _ = fleet.nodes[0].varnish.kill(child);
                    panic!("no log is sealed: {:?}", files(&state, "log"));
                }
                std::thread::sleep(Duration::from_micros(50));
            }
            std::thread::sleep(pause);
            fleet.nodes[0].varnish.kill(child).expect("it was there");
        });
        // Before the next process tidies up there is a segment that was not finished, or one with its log.
        let logs = files(&state, "log");
        let both = logs.iter().any(|log| log.with_extension("seg").exists());
        interrupted += usize::from(both || !files(&state, "tmp").is_empty());
        rounds += 1;
        let restarted = fleet.nodes[0].varnish.wait_restarted(child, START_TIMEOUT);
        restarted.expect("another cache process");
        let answered = answered.lock().unwrap_or_else(PoisonError::into_inner);
        wait_complete(&fleet, 0, &answered);
    }
    let answered = answered
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let purges: u64 = answered.values().sum();
    // Not each round has purges: a log that was left is sealed right after the start.
    assert!(answered.len() >= 3 && purges > 30_000, "{answered:?}");
    assert!(!files(&state, "seg").is_empty());
    fleet.relay.as_ref().expect("a relay").heal_node(0);
    wait_complete(&fleet, 1, &answered);
    println!(
        "{rounds} kills, {interrupted} while a log was sealed; {purges} purges answered, all are everywhere"
    );
    fleet.stop();
}

/// A small file system, until it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// `None` if nobody may mount here.
    fn new(dir: PathBuf) -> Option<Mounted> {
        fs::create_dir_all(&dir).expect("a directory");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m,mode=0750", "tmpfs"])
            .arg(&dir)
            .status();
        let mounted = mount.is_ok_and(|status| status.success());
        mounted.then(|| Mounted(dir))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: after a failure the journal may be open still.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A disk that fills up, and is emptied again, under a node that has to have its purges on disk.
#[test]
fn a_full_disk_is_told_to_clients_and_survived() {
    const REFUSED: usize = 20;
    let _alone = alone();
    let mut fleet = start(2);
    let status = |fleet: &Fleet| {
        fleet
            .client(0)
            .get("/.fleet/status")
            .expect("an answer")
            .text()
    };
    let counter = |fleet: &Fleet, name: &str| -> u64 {
        let json = fleet
            .client(0)
            .get("/.fleet/status.json")
            .expect("an answer");
        let text = json.text();
        let (_, rest) = text.split_once(&format!("\"{name}\":")).expect("a counter");
        let digits = rest
            .trim_start()
            .split(|c: char| !c.is_ascii_digit())
            .next();
        digits
            .and_then(|digits| digits.parse().ok())
            .expect("a number")
    };
    fleet.nodes[0].varnish.kill_all();
    let _ = fs::remove_dir_all(fleet.state(0));
    let Some(_mounted) = Mounted::new(fleet.state(0)) else {
        // Past the test runner, which shows nothing of tests that pass.
        let said = std::io::stderr().write_all(
            b"SKIPPED a_full_disk_is_told_to_clients_and_survived: nobody may mount a tmpfs here (a container needs \
            CAP_SYS_ADMIN), so no disk was full under varnishd\n",
        );
        return said.expect("stderr takes it");
    };
    set_journal(&fleet, 0, "require = true");
    let ballast = fleet.state(0).join("ballast");
    fs::write(&ballast, vec![1; 900 << 10]).expect("there is room");
    fleet.nodes[0].varnish.start_again().expect("it starts");
    fleet.nodes[0]
        .varnish
        .wait_ready(START_TIMEOUT)
        .expect("it runs");
    fleet
        .wait_connected(CONNECT_TIMEOUT)
        .expect("they meet again");
    let verdict = |fleet: &Fleet| status(fleet).lines().next().map(str::to_owned);
    let works = |fleet: &Fleet| verdict(fleet).is_some_and(|verdict| !verdict.contains("journal"));
    assert!(works(&fleet), "{}", status(&fleet));

    let cached = |fleet: &Fleet, node: usize, url: &str| {
        fleet::is_cached(&mut fleet.client(node), url).expect("an answer")
    };
    let url = |n: usize| format!("/refused/{n}");
    for (node, n) in (0..REFUSED).flat_map(|n| [(0, n), (1, n)]) {
        fleet.client(node).get(&url(n)).expect("an answer");
        assert!(cached(&fleet, node, &url(n)));
    }
    let mut ids = Vec::new();
    let mut client = fleet.client(0);
    let refused = loop {
        let url = format!("/taken/{}", ids.len());
        let answer = client.send(&Request::purge(&url)).expect("an answer");
        match fleet.purge_id(0, &url, &answer) {
            Ok(id) => ids.push(id),
            Err(error) => break error.to_string(),
        }
        assert!(ids.len() < 100_000, "a disk of 1 MiB does not fill up");
    };
    assert!(ids.len() > 100, "{} purges fit", ids.len());
    for n in 0..REFUSED {
        let answer = client.send(&Request::purge(url(n))).expect("an answer");
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(
            answer.text().contains("Purged, but not in the journal"),
            "{answer:?}"
        );
        assert_eq!(answer.header(ID_HEADER), None);
    }
    assert!(
        refused.contains("Purged, but not in the journal"),
        "{refused}"
    );
    // They are done all the same, here and elsewhere.
    for (node, n) in (0..REFUSED).flat_map(|n| [(0, n), (1, n)]) {
        let begun = Instant::now();
        while cached(&fleet, node, &url(n)) {
            assert!(
                begun.elapsed() < RECOVER_TIMEOUT,
                "{} stays on node {node}",
                url(n)
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let told = verdict(&fleet).unwrap_or_default();
    assert!(
        told.contains("does not work, purges are held in memory only")
            && told.contains("No space left"),
        "{told}"
    );
    assert_eq!(counter(&fleet, "journal_failed"), 1);
    assert!(counter(&fleet, "journal_write_errors") > 0);
    assert!(counter(&fleet, "not_journalled") > REFUSED as u64);
    let log = Command::new("varnishlog")
        .args(["-d", "-g", "raw", "-i", "Error", "-n"])
        .arg(fleet.nodes[0].varnish.workdir())
        .output()
        .expect("varnishlog runs");
    let log = String::from_utf8_lossy(&log.stdout).into_owned();
    assert!(
        log.contains("purges go on from memory") && log.contains("No space left"),
        "{log}"
    );

    // Room again, and the same process goes on, with what it could not write.
    let child = fleet.nodes[0].varnish.worker().expect("a cache process");
    fs::remove_file(&ballast).expect("it was there");
    let begun = Instant::now();
    while counter(&fleet, "journal_failed") != 0 {
        assert!(begun.elapsed() < RECOVER_TIMEOUT, "{}", status(&fleet));
        std::thread::sleep(Duration::from_millis(50));
    }
    fleet.relay.as_ref().expect("a relay").cut_node(0);
    ids.push(fleet.purge(0, "/again").expect("it is journalled"));
    assert!(works(&fleet), "{}", status(&fleet));
    assert_eq!(fleet.nodes[0].varnish.worker().ok(), Some(child));
    // What was refused has the numbers between these two.
    let last = ids.last().expect("an id").clone();
    let (stream, seq) = last.rsplit_once(':').expect("an id");
    let seq: u64 = seq.parse().expect("a seq");
    let answered = Answered::from([(stream.to_owned(), seq)]);
    assert!(seq > (ids.len() + REFUSED) as u64, "{last}");
    fleet.nodes[0].varnish.kill(child).expect("it was there");
    let restarted = fleet.nodes[0].varnish.wait_restarted(child, START_TIMEOUT);
    restarted.expect("another cache process");
    wait_complete(&fleet, 0, &answered);
    fleet.relay.as_ref().expect("a relay").heal_node(0);
    wait_complete(&fleet, 1, &answered);
    fleet.stop();
}
