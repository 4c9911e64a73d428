//! Other configurations for nodes that run.

mod common;

use std::time::Duration;

use common::{TempDir, TestNode, all_up, eventually, fleet, free_addresses, peers, said};
use powderhorn_node::{Change, Config, Limits};

/// A fleet that has met, and a configuration of its first node to change.
fn started(dir: &TempDir, count: usize) -> (Vec<TestNode>, Vec<Config>) {
    let addresses = free_addresses("127.0.0.1", count);
    let configs = fleet(&addresses, &dir.key_file(&[1]));
    let nodes: Vec<_> = configs.iter().cloned().map(TestNode::start).collect();
    common::all_met(&nodes);
    (nodes, configs)
}

fn keys(changes: &[Change]) -> Vec<&str> {
    changes.iter().map(|change| change.key).collect()
}

#[test]
fn a_reload_changes_what_it_can_at_once() {
    let dir = TempDir::new();
    let (nodes, configs) = started(&dir, 3);
    let mut config = configs[0].clone();
    let gone = config.peers.pop().unwrap();
    config.limits.apply_batch = 7;
    config.limits.round = Duration::from_millis(20);
    let reload = nodes[0].node.reload(&config);
    assert_eq!(reload.pending, []);
    assert_eq!(
        keys(&reload.applied),
        ["peer", "limits.round", "limits.apply_batch"]
    );
    // Without waiting for anybody.
    assert_eq!(peers(&nodes[0]).len(), 1);
    assert!(said(&nodes[0], "limits.apply_batch: 64 -> 7"));
    assert!(said(&nodes[0], "(-127.0.0.1:"));
    assert_eq!(*nodes[0].node.config(), config);
    assert_eq!(nodes[0].counter("peers_up"), 1, "the core was not told");
    let rounds = nodes[0].counter("rounds");
    std::thread::sleep(Duration::from_millis(1_500));
    let rounds = nodes[0].counter("rounds") - rounds;
    // Six of the usual ones, or seventy.
    assert!(rounds > 15, "{rounds} rounds");
    let id = nodes[0].purge(1);
    eventually("who is left", || nodes[1].knows(id));
    // The second still has the third, so the third gets it in the end.
    eventually("by gossip", || nodes[2].knows(id));
    assert!(nodes[0].node.reload(&config).is_empty());

    config.peers.push(gone);
    nodes[0].node.reload(&config);
    eventually("back", || all_up(&nodes[0], 2));
    assert_eq!(nodes[0].counter("members_added"), 3);
}

/// In one edit: the new peer must not wait for a restart.
#[test]
fn a_reload_applies_what_it_can_and_names_the_rest() {
    let dir = TempDir::new();
    let (nodes, configs) = started(&dir, 3);
    let mut config = configs[0].clone();
    config.name = "other".into();
    config.limits.replay_window = 2_048;
    config.peers.pop();
    config.limits.apply_batch = 7;
    let asked = nodes[0].node.changes(&config);
    assert_eq!(
        *nodes[0].node.config(),
        configs[0],
        "asking changes nothing"
    );
    let reload = nodes[0].node.reload(&config);
    assert_eq!(reload, asked);
    assert_eq!(keys(&reload.applied), ["peer", "limits.apply_batch"]);
    assert_eq!(keys(&reload.pending), ["node.name", "limits.replay_window"]);
    let expected = Config {
        peers: config.peers.clone(),
        limits: Limits {
            replay_window: configs[0].limits.replay_window,
            ..config.limits.clone()
        },
        ..configs[0].clone()
    };
    assert_eq!(*nodes[0].node.config(), expected);
    assert!(all_up(&nodes[0], 1));
    // For as long as it is so, and said once.
    let told = "only a restart of Varnish changes node.name: \"node-0\" -> \"other\"; limits.replay_window: \
                65536 -> 2048";
    assert!(nodes[0].node.reload(&config).applied.is_empty());
    let status = nodes[0].node.status();
    assert_eq!(status.config_pending.as_deref(), Some(told));
    assert!(
        !status.ok && status.verdict.starts_with(told),
        "{}",
        status.verdict
    );
    let notices = status.notices.iter();
    let notices = notices.filter(|notice| notice.text.contains(told)).count();
    assert_eq!(notices, 1);
    assert!(nodes[0].node.reload(&expected).is_empty());
    assert_eq!(nodes[0].node.status().config_pending, None);
    // Of another fleet, or behind another socket, there are other peers: these stay until then.
    for moved in [
        Config {
            fleet: "another".into(),
            ..expected.clone()
        },
        Config {
            listen: free_addresses("127.0.0.1", 1),
            ..expected.clone()
        },
    ] {
        let moved = Config {
            peers: Vec::new(),
            ..moved
        };
        let reload = nodes[0].node.reload(&moved);
        assert_eq!((reload.applied.len(), reload.pending.len()), (0, 2));
        assert!(all_up(&nodes[0], 1));
    }
}

/// A mistake that the running node tolerates would have kept the cache down when its process died.
#[test]
fn a_config_file_that_no_start_could_use_is_told_until_it_is_mended() {
    let dir = TempDir::new();
    let key_file = dir.key_file(&[1]);
    let path = dir.0.join("n.toml");
    let listen = free_addresses("127.0.0.1", 1)[0];
    let good = format!(
        "[node]\nname = 'n'\nlisten = '{listen}'\n[fleet]\nkey_file = '{}'\n",
        key_file.display()
    );
    std::fs::write(&path, &good).unwrap();
    let node = TestNode::start(Config::load(&path).unwrap());
    let status = || node.node.status();
    let begins = |text: &str| status().verdict.starts_with(text);
    eventually("ok", || begins("ok: "));

    std::fs::write(&path, format!("{good}tpyo = 1\n")).unwrap();
    eventually("told", || {
        status()
            .config_error
            .is_some_and(|error| error.contains("n.toml:6: ") && error.contains("tpyo"))
    });
    let error = status().config_error.unwrap();
    assert!(!status().ok && begins(&format!("the cache would not start again: {error}; ")));
    let times = |what: &str| {
        let notices = status().notices;
        notices.iter().filter(|n| n.text.contains(what)).count()
    };
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!(times("would not start again"), 1, "once, not each second");

    // A file that it names is another one, and mending that one is enough.
    let other = dir.0.join("other.key");
    std::fs::write(&path, good.replace("powderhorn.key", "other.key")).unwrap();
    eventually("the other file", || {
        status()
            .config_error
            .is_some_and(|error| error.contains("other.key"))
    });
    common::write_keys(&other, &[1]);
    eventually("mended", || {
        begins("only a restart of Varnish changes fleet.key_file")
    });
    assert!(said(&node, "n.toml can be used again"));

    std::fs::remove_file(&path).unwrap();
    eventually("gone", || status().config_error.is_some());
    std::fs::write(&path, &good).unwrap();
    eventually("back", || begins("ok: "));
}

#[test]
fn a_changed_site_takes_effect_and_a_changed_name_is_shown() {
    let dir = TempDir::new();
    let (nodes, configs) = started(&dir, 2);
    let mut config = configs[0].clone();
    config.peers[0].name = "renamed".into();
    nodes[0].node.reload(&config);
    let status = nodes[0].node.status();
    assert_eq!(
        (&*status.peers[0].name, status.peers[0].state),
        ("renamed", "up")
    );
    let challenges = nodes[0].counter("challenges");
    config.peers[0].site = config.site.clone();
    nodes[0].node.reload(&config);
    assert_eq!(nodes[0].node.status().peers[0].site, config.site);
    eventually("met again", || all_up(&nodes[0], 1));
    assert!(
        nodes[0].counter("challenges") > challenges,
        "the core was not told"
    );
    assert_eq!(nodes[0].counter("members_removed"), 0);
    let id = nodes[1].purge(1);
    eventually("applied", || nodes[0].knows(id));
}

/// A peer that comes back knows this node already, and need not tell its name again.
#[test]
fn a_peer_whose_name_is_not_known_is_called_by_its_address() {
    let dir = TempDir::new();
    let (nodes, mut configs) = started(&dir, 2);
    let mut config = configs.swap_remove(0);
    let known = [config.peers[0].address.to_string(), configs[0].name.clone()];
    config.peers[0].name.clear();
    let without = Config {
        peers: Vec::new(),
        ..config.clone()
    };
    nodes[0].node.reload(&without);
    nodes[0].node.reload(&config);
    eventually("it says how it is", || {
        nodes[0].node.status().reach.known == 2
    });
    let from = nodes[0].node.status().reach.oldest_news_from.unwrap();
    assert!(known.contains(&from), "{from:?}");
    let verdict = nodes[0].node.status().verdict;
    assert!(!verdict.ends_with(", from "), "{verdict}");
    let id = nodes[1].purge(1);
    eventually("applied here", || nodes[0].knows(id));
    let streams = nodes[0].node.streams();
    let its = streams
        .iter()
        .find(|view| view.stream == id.stream.to_string());
    assert_eq!(its.map(|view| &view.node), Some(&from));
}

/// Peers come and go while purges pour in: nothing is lost, nothing panics.
#[test]
fn peers_come_and_go_under_load() {
    let dir = TempDir::new();
    let (nodes, configs) = started(&dir, 3);
    let without = Config {
        peers: configs[0].peers[..1].to_vec(),
        ..configs[0].clone()
    };
    let ids: Vec<_> = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let issue = |n| {
                std::thread::sleep(Duration::from_micros(300));
                nodes[n as usize % 3].purge(n)
            };
            (0..3_000).map(issue).collect()
        });
        while !load.is_finished() {
            nodes[0].node.reload(&without);
            nodes[0].node.reload(&configs[0]);
        }
        load.join().unwrap()
    });
    for node in &nodes {
        eventually("all applied", || ids.iter().all(|&id| node.knows(id)));
        assert_eq!(
            node.counter("runtime_panics") + node.counter("send_panics"),
            0
        );
    }
    let removed = nodes[0].counter("members_removed");
    assert!(removed > 10, "{removed}");
    assert_eq!(nodes[0].counter("members_added"), removed + 2);
    assert_eq!(nodes[0].node.status().peers.len(), 2);
}
