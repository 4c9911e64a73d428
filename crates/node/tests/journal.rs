//! What was acknowledged survives its node: the journal under a running node.

mod common;

use std::path::Path;
use std::time::Duration;

use common::{TempDir, TestNode, all_met, eventually, fleet, free_addresses, purge};
use powderhorn_journal::{Clock, Journal, Options, SystemClock};
use powderhorn_node::{Config, Journalled, MessageId, Node, StartError, node_id};
use powderhorn_protocol::Expired;
use powderhorn_protocol::id::{Epoch, StreamId};
use powderhorn_protocol::store::{Held, Store};

fn with_journal(mut config: Config, dir: &Path) -> Config {
    config.journal.dir = Some(dir.into());
    config.journal.bytes = 16 << 20;
    config
}

/// Two nodes' configurations, the first with a journal.
fn pair(dir: &TempDir) -> (Config, Config) {
    let addresses = free_addresses("127.0.0.1", 2);
    let mut configs = fleet(&addresses, &dir.key_file(&[1]));
    let second = configs.pop().unwrap();
    let first = with_journal(configs.pop().unwrap(), &dir.0.join("state"));
    (first, second)
}

#[test]
fn what_was_issued_while_cut_off_reaches_the_fleet_after_a_restart() {
    let dir = TempDir::new();
    let (first, second) = pair(&dir);
    let other = TestNode::start(second);
    let mut ids: Vec<MessageId> = Vec::new();
    let mut streams = Vec::new();
    for life in 0..3 {
        let node = TestNode::start_filtered(first.clone(), Box::new(|_| false));
        for n in 0..500 {
            ids.push(node.purge(life * 1_000 + n));
            assert_eq!(node.node.wait_journalled(), Journalled::Yes);
        }
        streams.push(ids.last().unwrap().stream);
        assert!(!other.knows(ids[0]));
        node.stop();
    }
    assert!(
        streams
            .windows(2)
            .all(|pair| pair[0].epoch.stamp < pair[1].epoch.stamp)
    );
    let node = TestNode::start(first);
    eventually("the purges of three lives", || {
        ids.iter().all(|&id| other.knows(id))
    });
    // They were in the journal, and the cache of this life may lack them too.
    eventually("applied here as well", || {
        ids.iter().all(|&id| node.knows(id))
    });
    eventually("all is well", || {
        other.node.status().verdict.starts_with("ok")
    });
}

#[test]
fn repairs_come_from_disk() {
    let dir = TempDir::new();
    let (first, second) = pair(&dir);
    let node = TestNode::start(first);
    let mut ids = Vec::new();
    for n in 0..100_000 {
        ids.push(node.purge(n));
    }
    eventually("rewritten as segments", || {
        node.counter("journal_segments") >= 4
    });
    let other = TestNode::start(second);
    eventually("recovered from disk", || other.knows(*ids.first().unwrap()));
    eventually("all of it", || ids.iter().all(|&id| other.knows(id)));
    assert!(node.counter("journal_blocks_read") > 0);
}

#[test]
fn every_answer_can_wait_for_the_disk() {
    let dir = TempDir::new();
    let (mut first, _) = pair(&dir);
    first.journal.fsync = true;
    first.journal.wait = Duration::from_secs(10);
    let node = TestNode::start(first.clone());
    let id = node.purge(1);
    assert_eq!(node.node.wait_journalled(), Journalled::Yes);
    node.stop();
    let node = TestNode::start(first);
    eventually("held again", || node.knows(id));
}

/// Lives that end right after a purge was answered: what is in the state directory at that moment is what the next
/// life finds. In how many of them the purge is gone.
fn lives_that_lose_a_purge(answered: fn(&TestNode) -> bool) -> usize {
    const LIVES: u32 = 20;
    let dir = TempDir::new();
    let (first, _) = pair(&dir);
    let mut lost = 0;
    for life in 0..LIVES {
        let state = dir.0.join(format!("state-{life}"));
        let crashed = dir.0.join(format!("crashed-{life}"));
        let config = with_journal(first.clone(), &state);
        let node = TestNode::start_filtered(config, Box::new(|_| false));
        let id = node.purge(life);
        assert!(answered(&node));
        copy(&state, &crashed);
        node.stop();
        let node = TestNode::start(with_journal(first.clone(), &crashed));
        let notices = node.node.status().notices;
        let found = |count| {
            let text = format!("{count} purges of earlier lives are in the journal");
            notices.iter().any(|notice| notice.text == text)
        };
        assert!(found(0) != found(1), "{notices:?}");
        if found(1) {
            eventually("held again", || node.knows(id));
        } else {
            lost += 1;
        }
    }
    lost
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn what_was_answered_is_there_at_that_moment() {
    let journalled = |node: &TestNode| node.node.wait_journalled() == Journalled::Yes;
    assert_eq!(lives_that_lose_a_purge(journalled), 0);
}

/// The planted bug, which the same lives have to show.
#[test]
fn an_answer_before_the_append_is_found_out() {
    let lost = lives_that_lose_a_purge(|_| true);
    assert!(lost > 0, "no purge is gone");
}

/// A stream of a node that is no peer.
fn elsewhere() -> StreamId {
    StreamId {
        node: node_id("elsewhere"),
        epoch: Epoch {
            stamp: 1,
            random: 1,
        },
    }
}

/// It is in the journal no more, and who was away is to hear of it from the next life, too.
#[test]
fn what_has_expired_is_told_from_life_to_life() {
    let dir = TempDir::new();
    let (first, _) = pair(&dir);
    let options = Options {
        bytes_max: first.journal.bytes,
        ..Options::new(first.journal.dir.clone().unwrap())
    };
    let now = SystemClock.boot();
    let stream = elsewhere();
    let expired = Expired {
        stream,
        below: 42,
        born: now - first.limits.retention - Duration::from_secs(5),
    };
    {
        let (_store, journal, recovered) = Journal::open(options.clone()).unwrap();
        assert_eq!(recovered.expired, []);
        journal.note_expired(vec![expired], None);
        assert!(journal.shutdown(Duration::from_secs(10)));
    }
    let path = options.dir.join("expired");
    for _ in 0..2 {
        let node = TestNode::start(first.clone());
        let streams = node.node.streams();
        let found = streams
            .iter()
            .find(|view| view.stream == stream.to_string());
        let found = found.map(|view| (view.floor, view.top));
        assert_eq!(found, Some((42, 41)));
        // This life has to note it again.
        std::fs::remove_file(&path).unwrap();
        node.stop();
        assert!(path.exists());
    }
    // A life may end so that it can note nothing any more.
    let node = TestNode::start_noting(first);
    std::fs::remove_file(&path).unwrap();
    eventually("noted", || path.exists());
    let crashed = dir.0.join("crashed");
    copy(&options.dir, &crashed);
    node.stop();
    let (_store, _journal, recovered) = Journal::open(Options::new(crashed)).unwrap();
    assert_eq!(recovered.expired, [expired]);
}

/// As after each restart of a node that has a day of purges: they are for others, and nothing waits.
#[test]
fn what_is_older_than_the_cache_does_not_wait_for_it() {
    let dir = TempDir::new();
    let (first, _) = pair(&dir);
    let config = Config {
        peers: Vec::new(),
        ..first
    };
    let old = config.limits.join_margin + Duration::from_secs(60);
    let (mut store, journal, _) = Journal::open(Options::new(dir.0.join("state"))).unwrap();
    let stream = elsewhere();
    for seq in 1..=3_000 {
        let message = Held {
            born: SystemClock.boot() - old,
            issued_ms: 0,
            purge: purge(7),
        };
        store.insert(MessageId { stream, seq }, message);
    }
    assert!(journal.shutdown(Duration::from_secs(10)));
    drop((store, journal));
    let node = TestNode::start_with(config, Duration::ZERO);
    let status = node.node.status();
    assert_eq!((status.held, status.ready, status.in_flight), (3_000, 0, 0));
    assert!(status.ok, "{}", status.verdict);
    assert_eq!(node.record.count(), 0);
}

/// A node whose journal was full told of its full retention after a restart, until it had to evict again.
#[test]
fn what_there_was_no_room_for_is_told_from_life_to_life() {
    let dir = TempDir::new();
    let (mut first, second) = pair(&dir);
    first.journal.bytes = Options::BYTES_MIN;
    let other = TestNode::start(second);
    let told_there = || {
        let peers = other.node.status().peers;
        peers[0].news.as_ref().and_then(|news| news.retention_ms)
    };
    let node = TestNode::start(first.clone());
    let began = std::time::Instant::now();
    for n in 0..100_000 {
        node.purge(n);
    }
    eventually("told", || node.node.status().reach.retention_ms.is_some());
    node.stop();
    // Now there is room, but what went is gone, also for the life after the next.
    first.journal.bytes = 64 << 20;
    for _ in 0..2 {
        let node = TestNode::start(first.clone());
        let told = node.node.status().reach.retention_ms;
        assert!(
            told.is_some_and(|ms| u128::from(ms) <= began.elapsed().as_millis()),
            "{told:?}"
        );
        all_met(std::slice::from_ref(&node));
        eventually("told there", || told_there() >= told);
        assert_eq!(node.counter("evicted"), 0);
        node.stop();
    }
    // What would have expired by now says nothing any more.
    first.limits.retention = Duration::from_secs(1);
    std::thread::sleep(first.limits.retention);
    let node = TestNode::start(first);
    assert_eq!(node.node.status().reach.retention_ms, None);
}

/// After an upgrade, say. What that version has left is not touched, so there is a way back.
#[test]
fn a_journal_of_another_version_is_said_and_purges_go_on() {
    let dir = TempDir::new();
    let (first, second) = pair(&dir);
    let state = dir.0.join("state");
    std::fs::create_dir(&state).unwrap();
    let log = state.join("0000000000000001.log");
    // The mark, version 9, and their checksum.
    let header = b"PHjrnl\r\n\x09\0\0\0\xce\xcb\xe4\x31";
    std::fs::write(&log, header).unwrap();
    let nodes = [TestNode::start(first), TestNode::start(second)];
    all_met(&nodes);
    let id = nodes[0].purge(1);
    let Journalled::No(reason) = nodes[0].node.wait_journalled() else {
        panic!("it was written");
    };
    eventually("applied there all the same", || nodes[1].knows(id));
    let status = nodes[0].node.status();
    for text in [&*reason, &status.verdict] {
        for part in ["another version", "format 9", "move all that is in"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    assert_eq!(status.journal.unwrap().state, "failed");
    assert_eq!(nodes[0].counter("journal_failed"), 1);
    assert_eq!(nodes[0].counter("not_journalled"), 1);
    let files: Vec<_> = std::fs::read_dir(&state).unwrap().collect();
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(std::fs::read(&log).unwrap(), header);
}

#[test]
fn a_state_directory_that_cannot_be_used_is_said_and_purges_go_on() {
    let dir = TempDir::new();
    let (mut first, second) = pair(&dir);
    let file = dir.0.join("file");
    std::fs::write(&file, "not a directory").unwrap();
    first.journal.dir = Some(file.clone());
    let nodes = [TestNode::start(first), TestNode::start(second)];
    all_met(&nodes);
    let id = nodes[0].purge(1);
    match nodes[0].node.wait_journalled() {
        Journalled::No(reason) => assert!(reason.contains("file"), "{reason}"),
        Journalled::Yes => panic!("there is no journal"),
    }
    eventually("applied there all the same", || nodes[1].knows(id));
    let status = nodes[0].node.status();
    assert!(
        status.verdict.contains("journal") && status.verdict.contains(&*file.to_string_lossy()),
        "{}",
        status.verdict
    );
    assert_eq!(status.journal.unwrap().state, "failed");
    assert_eq!(nodes[0].counter("journal_failed"), 1);
    assert_eq!(nodes[0].counter("not_journalled"), 1);
}

/// As after a clone was noticed, with the clock set back since, or without the file that has the last stamp: the
/// journal has epochs of this node that are later than its clock says. It took them for another process's.
#[test]
fn a_new_epoch_is_later_than_all_that_the_journal_has_of_this_node() {
    const HOUR_MS: u64 = 3_600_000;
    let dir = TempDir::new();
    let (first, second) = pair(&dir);
    let stamp = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_millis() as u64
        + HOUR_MS;
    let earlier = |name: &str, stamp| StreamId {
        node: node_id(name),
        epoch: Epoch { stamp, random: 1 },
    };
    let own = earlier(&first.name, stamp);
    let (mut store, journal, _) = Journal::open(Options::new(dir.0.join("state"))).unwrap();
    for stream in [own, earlier(&second.name, stamp + HOUR_MS)] {
        let message = Held {
            born: SystemClock.boot(),
            issued_ms: 0,
            purge: purge(7),
        };
        store.insert(MessageId { stream, seq: 1 }, message);
    }
    journal.store_stamp(stamp - HOUR_MS / 2).unwrap();
    drop((store, journal));
    let nodes = [TestNode::start(first), TestNode::start(second)];
    all_met(&nodes);
    let id = nodes[0].purge(1);
    assert_eq!(id.stream.epoch.stamp, stamp + 1);
    let old = MessageId {
        stream: own,
        seq: 1,
    };
    eventually("the earlier epoch's purge is everywhere", || {
        nodes.iter().all(|node| node.knows(old) && node.knows(id))
    });
    // Longer than some digests of the other, which name that epoch.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(nodes[0].counter("reopened"), 0);
}

#[test]
fn two_nodes_never_share_a_state_directory() {
    let dir = TempDir::new();
    let (first, second) = pair(&dir);
    let second = with_journal(second, &dir.0.join("state"));
    let running = TestNode::start(first);
    let Err(error) = Node::start(second.clone(), Duration::ZERO) else {
        panic!("started with another node's state");
    };
    assert!(matches!(error, StartError::Journal(_)));
    assert!(error.to_string().contains("state"), "{error}");
    running.stop();
    TestNode::start(second);
}

#[test]
fn a_damaged_journal_costs_what_is_damaged() {
    let dir = TempDir::new();
    let (first, _) = pair(&dir);
    let node = TestNode::start(first.clone());
    let ids: Vec<_> = (0..1_000).map(|n| node.purge(n)).collect();
    node.stop();
    // The end of each file is torn off, as by a power cut.
    for entry in std::fs::read_dir(dir.0.join("state")).unwrap() {
        let path = entry.unwrap().path();
        let len = std::fs::metadata(&path).unwrap().len();
        if path.is_file() && len > 1_000 {
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.set_len(len - 5).unwrap();
        }
    }
    let node = TestNode::start(first);
    eventually("all but the last", || {
        ids[..999].iter().all(|&id| node.knows(id))
    });
    let notices = node.node.status().notices;
    assert!(
        notices.iter().any(|notice| notice.text.contains("damaged")),
        "{notices:?}"
    );
}
