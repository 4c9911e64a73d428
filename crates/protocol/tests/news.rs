//! News: what all know of each other is true, and fresh.

mod common;

use std::ops::Range;
use std::time::Duration;

use common::puppet::{Tell, holds};
use common::{Apply, Fleet, Link, WALL_MS, ms, node_id, secs, start_of_time};
use powderhorn_protocol::bounds::NEWS_STALE_MIN;
use powderhorn_protocol::config::Config;
use powderhorn_protocol::id::MessageId;
use powderhorn_protocol::wire::{self, Standing};
use powderhorn_protocol::{NewsView, PeerId};

fn views(fleet: &Fleet, viewer: usize) -> Vec<NewsView> {
    fleet.nodes[viewer].core.news(fleet.now).collect()
}

/// The time before which everything that anybody issued is applied at all nodes, as one of them knows; `None` if
/// it does not know that of all.
fn everywhere(fleet: &Fleet, viewer: usize) -> Option<Duration> {
    let core = &fleet.nodes[viewer].core;
    let all = fleet.nodes.len() as u64;
    let own = core.standing(fleet.now);
    let mut oldest = ms(own.complete_ms.filter(|_| own.nodes == all)?);
    let views = views(fleet, viewer);
    if views.len() as u64 + 1 < all {
        return None;
    }
    for view in views {
        let standing = view.standing;
        if view.age > core.news_stale() || standing.nodes < all {
            return None;
        }
        oldest = oldest.max(view.age + ms(standing.complete_ms?));
    }
    Some(oldest)
}

/// No node says of anything that it is everywhere before it is.
fn assert_true(fleet: &Fleet) {
    assert_true_of(fleet, 0..fleet.nodes.len());
}

/// The same, as far as it is about some nodes: the cache of one that starts again has nothing to be purged.
fn assert_true_of(fleet: &Fleet, nodes: Range<usize>) {
    for viewer in 0..fleet.nodes.len() {
        let Some(oldest) = everywhere(fleet, viewer) else {
            continue;
        };
        for (id, (_, issued, _)) in &fleet.issued {
            if fleet.now.since(*issued) <= oldest {
                continue;
            }
            for (index, node) in fleet
                .nodes
                .iter()
                .enumerate()
                .take(nodes.end)
                .skip(nodes.start)
            {
                assert!(
                    node.applied.contains_key(id),
                    "seed {}: node {viewer} holds all older than {oldest:?} for applied everywhere, but {id} \
                     of {:?} ago is not at node {index}",
                    fleet.seed,
                    fleet.now.since(*issued)
                );
            }
        }
    }
}

#[test]
fn all_know_that_all_have_all() {
    let mut fleet = Fleet::new(1, 5, &Config::default());
    fleet.settle();
    for n in 0..100 {
        fleet.issue(n % 5);
        fleet.run(ms(100));
        assert_true(&fleet);
    }
    fleet.run(secs(2));
    let oldest: Vec<_> = (0..5).map(|node| everywhere(&fleet, node)).collect();
    assert!(
        oldest
            .iter()
            .all(|oldest| oldest.is_some_and(|oldest| oldest < secs(4))),
        "{oldest:?}"
    );
}

#[test]
fn nobody_says_all_too_early_whatever_the_network_does() {
    let mut said = 0;
    for seed in 0..20 {
        let mut fleet = Fleet::new(seed, 4, &Config::default());
        fleet.all_links(Link {
            loss: 0.1 * (seed % 6) as f64,
            dup: 0.05,
            delay: ms(1 + 40 * (seed % 4)),
            jitter: ms(30),
            cut: false,
        });
        fleet.nodes[1].apply = Apply::Delayed(ms(300));
        fleet.nodes[2].apply = Apply::Flaky(0.5);
        fleet.run(secs(5));
        for n in 0..200 {
            fleet.issue(n % 3);
            match n {
                60 => fleet.cut(&[0, 1], &[2, 3], true),
                90 => fleet.cut(&[0, 1], &[2, 3], false),
                120 => fleet.freeze(3),
                130 => fleet.thaw_unnoticed(3),
                _ => {}
            }
            fleet.run(ms(100));
            assert_true(&fleet);
            said += u64::from(everywhere(&fleet, 0).is_some());
        }
    }
    assert!(said > 1_000, "only {said} times anything was said at all");
}

#[test]
fn no_news_is_not_good_news() {
    let mut fleet = Fleet::new(2, 5, &Config::default());
    fleet.settle();
    fleet.run(secs(5));
    assert!(everywhere(&fleet, 0).is_some());
    fleet.cut(&[4], &[0, 1, 2, 3], true);
    fleet.issue(0);
    let mut before = Duration::ZERO;
    for _ in 0..100 {
        fleet.run(ms(200));
        assert_true(&fleet);
        if let Some(oldest) = everywhere(&fleet, 0) {
            // What is said gets older with the news of the one that is cut off, and then is not said.
            assert!(oldest < NEWS_STALE_MIN + secs(8), "{oldest:?}");
            before = oldest;
        }
    }
    assert!(before > secs(8), "{before:?}");
    assert_eq!(everywhere(&fleet, 0), None);
    let own = fleet.nodes[0].core.standing(fleet.now);
    assert_eq!(own.nodes, 4);
    assert!(own.complete_ms.is_some_and(|ms| ms < 3_000), "{own:?}");
    fleet.cut(&[4], &[0, 1, 2, 3], false);
    fleet.run(secs(12));
    assert!(everywhere(&fleet, 0).is_some_and(|oldest| oldest < secs(4)));
}

#[test]
fn who_lacks_what_since_when_is_known() {
    let mut fleet = Fleet::new(3, 3, &Config::default());
    fleet.settle();
    fleet.nodes[2].apply = Apply::Hung;
    for _ in 0..7 {
        fleet.issue(1);
    }
    fleet.run(secs(6));
    for viewer in [0, 1] {
        let views = views(&fleet, viewer);
        let view = views.iter().find(|view| view.node == node_id(2));
        let lacking = view.and_then(|view| view.standing.lacking).expect("told");
        assert_eq!((lacking.count, lacking.node), (7, node_id(1)));
        assert!((2_000..6_100).contains(&lacking.since_ms), "{lacking:?}");
    }
    assert_true(&fleet);
}

#[test]
fn a_node_that_starts_again_is_believed_again() {
    let mut fleet = Fleet::new(4, 4, &Config::default());
    fleet.settle();
    for n in 0..20 {
        fleet.issue(n % 4);
    }
    fleet.run(secs(3));
    // Whatever its new stream's number, its news is newer.
    fleet.restart(3);
    fleet.issue(3);
    fleet.run(secs(6));
    for viewer in 0..4 {
        let oldest = everywhere(&fleet, viewer);
        assert!(oldest.is_some_and(|oldest| oldest < secs(4)), "{oldest:?}");
    }
}

/// What it issued in its last moment may be on its way yet, in a stream that its news says nothing of. But news
/// comes with digests, and these name that stream.
#[test]
fn of_a_node_that_starts_again_nothing_is_said_too_early() {
    let mut fleet = Fleet::new(5, 4, &Config::default());
    fleet.settle();
    fleet.run(secs(5));
    fleet.cut(&[0], &[2, 3], true);
    let (issued, id) = (fleet.now, fleet.issue(0));
    fleet.run(ms(50));
    assert!(fleet.nodes[1].applied.contains_key(&id));
    fleet.restart(0);
    fleet.cut(&[0], &[2, 3], false);
    // Node 1 alone has it, and nobody but the new node 0 hears of node 1.
    fleet.cut(&[1], &[2, 3], true);
    let mut said = 0;
    for round in 0..160 {
        if round == 30 {
            fleet.cut(&[1], &[2, 3], false);
        }
        fleet.run(ms(100));
        let missing = [2, 3]
            .iter()
            .any(|node| !fleet.nodes[*node].applied.contains_key(&id));
        for viewer in 0..4 {
            let oldest = everywhere(&fleet, viewer);
            let too_early = oldest.is_some_and(|oldest| fleet.now.since(issued) > oldest);
            assert!(
                !(missing && too_early),
                "node {viewer} after {round} rounds"
            );
            said += u32::from(too_early);
        }
    }
    assert!(said > 60, "it is said in the end: {said}");
}

/// Streams of earlier lives do not all fit into one digest, so after a cut it takes a while to hear of them; news of the
/// present ones comes at once.
#[test]
fn of_many_earlier_lives_nothing_is_said_too_early() {
    let mut fleet = Fleet::new(6, 5, &Config::default());
    fleet.settle();
    fleet.cut(&[4], &[0, 1, 2, 3], true);
    for life in 0..100 {
        for node in 0..4 {
            fleet.issue(node);
            fleet.run(ms(100));
            if life < 99 {
                fleet.restart_with_journal(node);
            }
        }
    }
    fleet.run(secs(20));
    fleet.cut(&[4], &[0, 1, 2, 3], false);
    let mut healed = None;
    for step in 0..600 {
        fleet.run(ms(50));
        assert_true_of(&fleet, 4..5);
        if healed.is_none() && fleet.lacking(4).is_empty() {
            healed = Some(step);
        }
        let said = (0..5).all(|node| everywhere(&fleet, node).is_some_and(|old| old < secs(4)));
        // And a second after the last of them has come it is said.
        assert!(said || healed.is_none_or(|healed| step < healed + 20));
    }
    assert!(healed.is_some());
}

/// It may be older than the cut, and than what all are said to have.
#[test]
fn what_is_lacking_of_a_node_that_lost_its_past_is_of_any_age() {
    let mut fleet = Fleet::new(8, 4, &Config::default());
    fleet.settle();
    fleet.cut(&[2], &[0, 1, 3], true);
    fleet.issue(3);
    fleet.run(secs(5));
    fleet.stop(3);
    fleet.run(secs(100));
    fleet.nodes[2].apply = Apply::Delayed(secs(15));
    // Node 3 is back and does not know of its past, as nobody tells it.
    fleet.start(3);
    fleet.cut(&[3], &[0, 1], true);
    fleet.cut(&[2], &[0, 1, 3], false);
    for _ in 0..100 {
        fleet.run(ms(100));
        assert_true_of(&fleet, 2..3);
    }
    assert_eq!(fleet.nodes[2].core.standing(fleet.now).complete_ms, None);
    fleet.run(secs(30));
    assert!(
        fleet.nodes[2]
            .core
            .standing(fleet.now)
            .complete_ms
            .is_some()
    );
}

/// It is lacking from the moment that it is heard of, and not from the next round on: until then others were told that all
/// is applied.
#[test]
fn what_a_digest_tells_of_an_earlier_life_is_lacking_at_once() {
    let mut fleet = Fleet::new(9, 3, &Config::default());
    fleet.settle();
    let mut later = fleet.add_puppet(0, 50);
    fleet.run(secs(5));
    let stream = later.stream();
    let now = fleet.now;
    let core = &mut fleet.nodes[0].core;
    let news = Standing {
        stream: 2,
        nodes: 4,
        ..Standing::default()
    };
    later.report(core, now, &news);
    assert!(core.standing(now).complete_ms.is_some());
    later.digest(core, now, 1, &[holds(stream, 1..=3)]);
    let standing = core.standing(now);
    assert_eq!(standing.complete_ms, None);
    assert_eq!(standing.lacking.map(|lacking| lacking.count), Some(3));
}

/// What cannot be applied is not applied, whoever says that it was issued.
#[test]
fn purges_of_unknown_kinds_are_not_applied() {
    for told in [true, false] {
        let mut fleet = Fleet::new(7, 3, &Config::default());
        fleet.settle();
        let mut later = fleet.add_puppet(0, 50);
        fleet.run(secs(5));
        let stream = later.stream();
        let now = fleet.now;
        let core = &mut fleet.nodes[0].core;
        assert!(core.standing(now).complete_ms.is_some());
        if told {
            let news = Standing {
                stream: 1,
                issued: 1,
                complete_ms: Some(0),
                nodes: 4,
                ..Standing::default()
            };
            later.report(core, now, &news);
        }
        let tell = Tell {
            op: 777,
            body: b"x",
            ..Tell::default()
        };
        later.tell(core, now, MessageId { stream, seq: 1 }, tell);
        fleet.run(secs(2));
        let standing = fleet.nodes[0].core.standing(fleet.now);
        assert_eq!(standing.flags, Standing::UNSUPPORTED);
        assert_eq!(standing.complete_ms, None, "told: {told}");
    }
}

/// Who has issued something, once, must not be waited for when that has expired everywhere.
#[test]
fn what_has_expired_is_not_waited_for() {
    let config = Config {
        retention: secs(60),
        join_margin: secs(5),
        ..Config::default()
    };
    let mut fleet = Fleet::new(10, 4, &config);
    fleet.settle();
    for _ in 0..5 {
        fleet.issue(1);
    }
    fleet.run(secs(100));
    fleet.restart(2);
    fleet.run(secs(20));
    for viewer in 0..4 {
        assert!(everywhere(&fleet, viewer).is_some_and(|oldest| oldest < secs(5)));
    }
    // Until all have forgotten the stream.
    fleet.run(secs(400));
    for viewer in 0..4 {
        assert!(everywhere(&fleet, viewer).is_some_and(|oldest| oldest < secs(5)));
    }
}

/// News that waited in a frozen node's socket is as old as it is.
#[test]
fn what_waited_in_a_socket_is_not_taken_for_new() {
    for seed in 0..5 {
        let mut fleet = Fleet::new(seed, 3, &Config::default());
        fleet.run(secs(10));
        fleet.freeze(2);
        fleet.run(secs(5));
        // From now on its socket is full.
        fleet.cut(&[2], &[0, 1], true);
        for n in 0..20 {
            fleet.issue(n % 2);
            fleet.run(secs(1));
        }
        fleet.thaw_unnoticed(2);
        for _ in 0..10 {
            assert_true(&fleet);
            fleet.run(ms(100));
        }
        fleet.cut(&[2], &[0, 1], false);
        for _ in 0..50 {
            assert_true(&fleet);
            fleet.run(ms(100));
        }
    }
}

#[test]
fn too_little_room_is_told() {
    let config = Config {
        retention_bytes: 20_000,
        ..Config::default()
    };
    let mut fleet = Fleet::new(5, 3, &config);
    fleet.settle();
    for _ in 0..400 {
        fleet.issue(0);
        fleet.run(ms(100));
    }
    let own = fleet.nodes[0].core.standing(fleet.now);
    let told = own.retention_ms.expect("no room for 400 purges");
    assert!((2_000..30_000).contains(&told), "{told}");
    let views = views(&fleet, 1);
    let view = views.iter().find(|view| view.node == node_id(0));
    assert!(view.is_some_and(|view| view.standing.retention_ms.is_some()));
    // The next life goes on to tell it, for what went is gone.
    fleet.restart_with_journal(0);
    let again = fleet.nodes[0].core.standing(fleet.now).retention_ms;
    assert_eq!(again, Some(told));
}

#[test]
fn health_and_clocks_are_told() {
    let mut fleet = Fleet::new(6, 3, &Config::default());
    let now = start_of_time();
    for (index, node) in fleet.nodes.iter_mut().enumerate() {
        node.core.set_wall(now, WALL_MS + 7_000 * index as u64);
    }
    fleet.nodes[2].core.set_health(Standing::JOURNAL_FAILS);
    fleet.run(secs(5));
    let of = |viewer: usize| {
        let views = views(&fleet, viewer);
        views.into_iter().find(|view| view.node == node_id(2))
    };
    for viewer in [0, 1] {
        let flags = of(viewer).map(|view| view.standing.flags);
        assert_eq!(flags, Some(Standing::JOURNAL_FAILS));
    }
    let peers = fleet.nodes[0].core.peers();
    let skews: Vec<_> = peers.map(|peer| peer.clock_skew_ms).collect();
    let off = |i: usize, ms: i64| skews[i].is_some_and(|skew| (skew - ms).abs() <= 20);
    assert!(off(0, 7_000) && off(1, 14_000), "{skews:?}");
}

#[test]
fn who_leaves_is_forgotten_and_the_others_are_not() {
    let mut fleet = Fleet::new(9, 8, &Config::default());
    fleet.run(secs(10));
    let mut left: Vec<usize> = (1..8).collect();
    for gone in [3, 7, 1] {
        left.retain(|index| *index != gone);
        let before: Vec<NewsView> = views(&fleet, 0);
        fleet.nodes[0].core.remove_peer(PeerId(gone as u32));
        let after = views(&fleet, 0);
        let kept: Vec<NewsView> = before
            .into_iter()
            .filter(|v| v.node != node_id(gone))
            .collect();
        assert_eq!(after, kept);
        assert_eq!(after.len(), left.len());
        fleet.run(secs(3));
        // What others say of it is not taken, either.
        assert_eq!(views(&fleet, 0).len(), left.len());
        let fresh = views(&fleet, 0).iter().all(|view| view.age < secs(5));
        assert!(fresh, "{:?}", views(&fleet, 0));
    }
}

/// News of nodes that are no peers takes no room, and none of the own node's comes from others.
#[test]
fn only_peers_are_news() {
    let mut fleet = Fleet::new(7, 2, &Config::default());
    fleet.settle();
    let mut puppet = fleet.add_puppet(0, 9);
    let now = fleet.now;
    let mut body = Vec::new();
    Standing::default().encode(&mut body);
    for batch in 0..100 {
        puppet.say(&mut fleet.nodes[0].core, now, |out| {
            let mut entries = Vec::new();
            for n in 0..40 {
                let node = powderhorn_protocol::id::NodeId(1_000 * batch + n);
                wire::put_news_entry(&mut entries, node, 5, &body);
            }
            wire::put_news_entry(&mut entries, node_id(0), 0, &body);
            wire::put_news(out, u64::MAX, &entries);
        });
    }
    assert!(views(&fleet, 0).iter().all(|view| view.node == node_id(1)));
    fleet.run(secs(2));
}

#[test]
fn in_a_large_fleet_news_is_seconds_old() {
    let mut fleet = Fleet::new(8, 100, &Config::default());
    fleet.run(secs(20));
    let oldest = (0..100).filter_map(|node| everywhere(&fleet, node));
    let mut oldest: Vec<_> = oldest.collect();
    oldest.sort();
    println!(
        "{} of 100 know, half within {:?}, all within {:?}",
        oldest.len(),
        oldest.get(50),
        oldest.last()
    );
    assert_eq!(oldest.len(), 100);
    assert!(oldest[99] < secs(20));
}

/// As many streams as just fill a digest's datagram.
#[test]
fn busy_streams_leave_room_for_news() {
    let mut fleet = Fleet::new(9, 100, &Config::default());
    fleet.run(secs(20));
    for _ in 0..15 {
        for issuer in 0..46 {
            fleet.issue(issuer);
        }
        fleet.run(secs(2));
    }
    let oldest = (0..100).filter_map(|node| everywhere(&fleet, node));
    let oldest: Vec<_> = oldest.collect();
    println!(
        "{} of 100 know, all within {:?}",
        oldest.len(),
        oldest.iter().max()
    );
    assert_eq!(oldest.len(), 100);
    assert!(oldest.iter().all(|oldest| *oldest < secs(20)));
}
