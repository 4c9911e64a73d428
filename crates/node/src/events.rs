//! From the core's events to lines for people.

use log::Level;
use powderhorn_protocol::{Event, PeerId};

use crate::membership;
use crate::node::Shared;

/// Says what has happened.
pub(crate) fn tell(shared: &Shared, event: &Event) {
    let (peers, config) = (shared.peers(), shared.config());
    let who = |id: PeerId| {
        // It may have gone since.
        let gone = || "a former peer".to_owned();
        peers.get(id).map_or_else(gone, membership::who)
    };
    let own = &config.name;
    let notices = &shared.notices;
    match *event {
        Event::PeerUp(peer) => notices.say(Level::Info, format!("peer up: {}", who(peer))),
        // No error of this node's, and as common as restarts are: found beside the notice of its return.
        Event::PeerDown(peer) => notices.say(Level::Info, format!("peer silent: {}", who(peer))),
        Event::PeerRestarted(peer) => {
            notices.say(Level::Info, format!("peer restarted: {}", who(peer)));
        }
        Event::Reopened { from, to } => {
            let text = format!("another process speaks as this node: {from} is left for {to}");
            notices.say(Level::Error, text);
        }
        // These go on for as long as their cause does.
        Event::DuplicateNode {
            node,
            first,
            second,
        } => {
            let subject = format!("duplicate {node} {first:?} {second:?}");
            notices.say_now_and_then(&subject, Level::Error, || match first {
                None => format!("{} has this node's name, {own}", who(second)),
                Some(first) => format!("{} and {} have one name", who(first), who(second)),
            });
        }
        Event::UnsupportedOp(id, op) => {
            notices.say_now_and_then(&format!("op {op}"), Level::Warn, || {
                format!("purge {id} is of a later version (op {op}): relayed, not applied")
            });
        }
        Event::TooLongAway { messages } => {
            let text = format!(
                "this node was away for so long that {messages} purges have expired everywhere: its \
                 cache has been flushed"
            );
            notices.say(Level::Error, text);
        }
        Event::TooManyStreams(stream) => {
            notices.say_now_and_then("streams", Level::Error, || {
                format!("too many streams: {stream} is not followed")
            });
        }
    }
}
