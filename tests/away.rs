//! A node that was away for longer than purges are kept, with real processes: it empties its cache, once, and nobody
//! else does.

mod common;

use std::time::{Duration, Instant};

use common::{alone, served, set_limit, start, version};
use powderhorn_fleet::fleet::{Fleet, START_TIMEOUT};

/// The shortest `limits.retention`.
const RETENTION: Duration = Duration::from_secs(60);
/// Ten seconds of evidence, and some for who is slow.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);
const AWAY: usize = 2;

fn flushed(fleet: &Fleet, node: usize) -> u64 {
    let answer = fleet.client(node).get("/.powderhorn/metrics");
    let text = answer.expect("the node answers").text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("powderhorn_flushed_total "));
    let value = line.and_then(|value| value.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no such figure in {text}"))
}

/// What it missed has expired at the two others, and after that these have started again: they know of it from their
/// journals.
#[test]
fn who_was_away_for_too_long_empties_its_cache_once() {
    let _alone = alone();
    let mut fleet = start(3);
    set_limit(&mut fleet, "retention", RETENTION);
    for node in 0..3 {
        for url in ["/purged", "/kept"] {
            assert_eq!(served(&fleet, node, url), (version(1, url), false));
        }
    }
    let relay = fleet.relay.as_ref().expect("a relay");
    relay.cut_node(AWAY);
    fleet.origin.bump_all();
    fleet.purge(0, "/purged").expect("the purge is taken");
    std::thread::sleep(RETENTION + Duration::from_secs(5));
    assert_eq!(
        served(&fleet, AWAY, "/purged"),
        (version(1, "/purged"), true),
        "the cut holds"
    );
    for node in [0, 1] {
        let varnish = &mut fleet.nodes[node].varnish;
        assert!(varnish.stop());
        varnish.start_again().expect("varnishd starts again");
        varnish.wait_ready(START_TIMEOUT).expect("it runs");
        assert_eq!(
            served(&fleet, node, "/kept"),
            (version(2, "/kept"), false),
            "its cache is new"
        );
    }
    fleet.origin.bump_all();
    fleet.relay.as_ref().expect("a relay").heal_node(AWAY);
    let healed = Instant::now();
    while flushed(&fleet, AWAY) == 0 {
        assert!(
            healed.elapsed() < FLUSH_TIMEOUT,
            "not emptied\n{}",
            fleet.logs()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    for url in ["/purged", "/kept"] {
        assert_eq!(served(&fleet, AWAY, url), (version(3, url), false));
        assert_eq!(served(&fleet, AWAY, url), (version(3, url), true));
    }
    // Neither again, nor elsewhere.
    std::thread::sleep(Duration::from_secs(15));
    assert_eq!([0, 1, 2].map(|node| flushed(&fleet, node)), [0, 0, 1]);
    for node in [0, 1] {
        assert_eq!(served(&fleet, node, "/kept"), (version(2, "/kept"), true));
    }
    assert_eq!(
        served(&fleet, AWAY, "/kept"),
        (version(3, "/kept"), true),
        "once"
    );
    fleet.stop();
}
