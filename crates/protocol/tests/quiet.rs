//! Quiet streams beside busy ones: who was away hears of them from digests alone, so each digest has room for some.

mod common;

use std::collections::BTreeSet;

use common::puppet::{Puppet, Tell, drain, put_message};
use common::{Fleet, make_core, ms, secs, start_of_time};
use powderhorn_protocol::Outcome;
use powderhorn_protocol::config::Config;
use powderhorn_protocol::id::{Epoch, MessageId, NodeId, StreamId};
use powderhorn_protocol::wire::{self, Datagram, Frame, Standing};

const NODE: u64 = 1_000_000;
const QUIET: u64 = 20;

fn stream(number: u64) -> StreamId {
    StreamId {
        node: NodeId(NODE + number),
        epoch: Epoch {
            stamp: 1,
            random: number,
        },
    }
}

/// How many of 20 quiet streams a node names within two minutes that knows of so many active ones and has
/// news of 40 nodes.
fn quiet_named(active: u64) -> usize {
    let start = start_of_time() + secs(10);
    let mut core = make_core(1, 0, 0, &Config::default(), start, start_of_time());
    let mut puppets: Vec<Puppet> = (1..41)
        .map(|number| Puppet::join(number, &mut core, start))
        .collect();
    for number in 0..active + QUIET {
        let id = MessageId {
            stream: stream(number),
            seq: 1,
        };
        puppets[0].say(&mut core, start, |out| {
            put_message(out, id, Tell::default())
        });
    }
    let mut seqs = vec![1; active as usize];
    let mut turns = (0..active as usize).cycle();
    let mut named = BTreeSet::new();
    for step in 1..4_800 {
        let now = start + ms(25 * step);
        // Each active stream changes every two seconds or so.
        for number in turns.by_ref().take(seqs.len().div_ceil(80)) {
            seqs[number] += 1;
            let id = MessageId {
                stream: stream(number as u64),
                seq: seqs[number],
            };
            puppets[0].say(&mut core, now, |out| put_message(out, id, Tell::default()));
        }
        core.handle_timeout(now);
        while let Some(delivery) = core.poll_delivery(now) {
            core.handle_applied(now, delivery.id, Outcome::Applied);
        }
        for transmit in drain(&mut core, now) {
            let datagram = Datagram::parse(&transmit.payload).expect("a datagram");
            for frame in datagram.frames() {
                let Frame::Digest(digest) = frame else {
                    continue;
                };
                let numbers = digest.entries().map(|entry| entry.stream.node.0 - NODE);
                // Until they count as quiet they are named in any case.
                named.extend(numbers.filter(|&number| step > 800 && number >= active));
            }
        }
        // Everybody tells of itself each second.
        let teller = step as usize % puppets.len();
        let node = puppets[teller].node;
        let mut body = Vec::new();
        let standing = Standing {
            nodes: 1,
            ..Standing::default()
        };
        standing.encode(&mut body);
        puppets[teller].say(&mut core, now, |out| {
            let mut entries = Vec::new();
            wire::put_news_entry(&mut entries, node, 0, &body);
            wire::put_news(out, 0, &entries);
        });
    }
    named.len()
}

#[test]
fn quiet_streams_are_named_however_many_are_active() {
    for active in [10, 15, 18, 25, 36, 60, 85, 125, 200] {
        assert_eq!(quiet_named(active), QUIET as usize, "{active} active");
    }
}

/// Of 40 nodes 20 issue all the time. One is cut off for a while, in which another one issues its only purge.
#[test]
fn the_only_purge_of_a_quiet_node_comes_soon_after_a_cut() {
    let mut fleet = Fleet::new(60, 40, &Config::default());
    fleet.settle();
    let mut issue_for = {
        let mut origins = (0..20).cycle();
        move |fleet: &mut Fleet, seconds: u64| {
            for origin in origins.by_ref().take(10 * seconds as usize) {
                fleet.issue(origin);
                fleet.run(ms(100));
            }
        }
    };
    let others: Vec<usize> = (0..39).collect();
    issue_for(&mut fleet, 6);
    fleet.cut(&[39], &others, true);
    issue_for(&mut fleet, 4);
    let quiet = fleet.issue(38);
    issue_for(&mut fleet, 20);
    fleet.cut(&[39], &others, false);
    issue_for(&mut fleet, 20);
    assert!(fleet.nodes[39].applied.contains_key(&quiet));
}
