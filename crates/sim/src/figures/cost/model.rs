//! What a fleet of any size should cost, computed from the protocol's bounds and a few bytes' worth of
//! measured constants, to be held against what fleets of up to a thousand nodes measure.

use std::time::Duration;

use powderhorn_protocol::bounds::{
    ACTIVE_ROUNDS, DIGEST_PARTS_MAX, NEWS_SHARE_PERCENT, PLAINTEXT_BYTES_MAX, REDUNDANT_AGE_MAX,
    REDUNDANT_MESSAGES_MAX,
};
use powderhorn_protocol::wire::{FRAME_HEAD_BYTES, HEADER_BYTES};

use crate::net::WIRE_OVERHEAD_BYTES;

/// An entry of a digest: the stream's name, where it ends and what of it is held.
pub const ENTRY_BYTES: f64 = 29.0;
/// What comes before the entries: header, frame, flags, round, echo.
const DIGEST_HEAD_BYTES: f64 = (HEADER_BYTES + FRAME_HEAD_BYTES + 1 + 6) as f64;
/// Room for entries in one datagram, less half an entry that would not fit.
const DIGEST_ROOM_BYTES: f64 = PLAINTEXT_BYTES_MAX as f64 - DIGEST_HEAD_BYTES - 24.0 - 28.0;
/// A node's entry in the news: its name, the news' age, and a standing in which nothing is lacking.
const NEWS_ENTRY_BYTES: f64 = 20.0;
/// What comes before these: frame and the sender's wall clock.
const NEWS_HEAD_BYTES: f64 = (FRAME_HEAD_BYTES + 6) as f64;

/// A fleet in which every node issues purges.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// Purges per second in all of the fleet.
    pub rate: f64,
    /// Between two digests of a node.
    pub round: Duration,
}

/// A round's digest of one node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Digest {
    /// Datagrams.
    pub datagrams: f64,
    /// Their bytes, without seal, UDP and IPv4.
    pub bytes: f64,
}

impl Model {
    /// Purges that each other node is sent by dissemination, for each node and second.
    pub fn disseminated(&self, nodes: f64) -> f64 {
        self.rate * (nodes - 1.0) / nodes
    }

    /// Streams that changed within the rounds that count as lately.
    pub fn active_streams(&self, nodes: f64) -> f64 {
        let lately = self.round.as_secs_f64() * f64::from(ACTIVE_ROUNDS);
        nodes * (1.0 - f64::exp(-self.rate * lately / nodes))
    }

    /// A digest names active streams, in up to four datagrams of which a quarter of one is kept for
    /// others, and quiet streams in the room that is left beside what is kept for news. These fill the rest.
    /// Beyond some size of the fleet it does not grow.
    pub fn digest(&self, nodes: f64) -> Digest {
        let most = DIGEST_PARTS_MAX as f64;
        let active = self.active_streams(nodes) * ENTRY_BYTES;
        let datagrams = (active / DIGEST_ROOM_BYTES).ceil().clamp(1.0, most);
        let active = active.min((most - 0.25) * DIGEST_ROOM_BYTES);
        let left = datagrams * DIGEST_ROOM_BYTES - active;
        let news = NEWS_HEAD_BYTES + nodes * NEWS_ENTRY_BYTES;
        let kept = news.min(DIGEST_ROOM_BYTES * NEWS_SHARE_PERCENT as f64 / 100.0);
        let quiet = (nodes * ENTRY_BYTES - active).clamp(0.0, (left - kept).max(0.0));
        Digest {
            datagrams,
            bytes: datagrams * DIGEST_HEAD_BYTES + active + quiet + news.min(left - quiet),
        }
    }

    /// The same on the wire, in bytes a second.
    pub fn digest_wire_bytes(&self, nodes: f64) -> f64 {
        let digest = self.digest(nodes);
        let bytes = digest.bytes + digest.datagrams * WIRE_OVERHEAD_BYTES as f64;
        bytes / self.round.as_secs_f64()
    }

    /// Messages in a datagram of dissemination: the new one, and those of its origin that it repeats.
    /// The more nodes there are, the fewer did each issue within the time in which they are repeated.
    pub fn messages(&self, nodes: f64) -> f64 {
        let mean = self.rate / nodes * REDUNDANT_AGE_MAX.as_secs_f64();
        let (mut chance, mut below, mut sum) = (f64::exp(-mean), 0.0, 0.0);
        for earlier in 0..REDUNDANT_MESSAGES_MAX {
            sum += chance * earlier as f64;
            below += chance;
            chance *= mean / (earlier + 1) as f64;
        }
        1.0 + sum + (1.0 - below) * REDUNDANT_MESSAGES_MAX as f64
    }
}

/// y = a + b x through points, by least squares.
pub fn line_through(points: &[(f64, f64)]) -> (f64, f64) {
    let count = points.len().max(1) as f64;
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(&|(x, _)| *x), mean(&|(_, y)| *y));
    let xy = mean(&|(at, value)| (at - x) * (value - y));
    let xx = mean(&|(at, _)| (at - x).powi(2));
    let b = if xx > 0.0 { xy / xx } else { 0.0 };
    (y - b * x, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: Model = Model {
        rate: 125.0,
        round: Duration::from_millis(250),
    };

    #[test]
    fn a_line_is_found_again() {
        let points = [1.0, 4.0, 9.0].map(|x: f64| (x, 3.0 + 2.0 * x));
        let (a, b) = line_through(&points);
        assert!((a - 3.0).abs() < 1e-9 && (b - 2.0).abs() < 1e-9, "{a}, {b}");
    }

    #[test]
    fn a_digest_saturates() {
        let [small, large, larger] = [20.0, 1_000.0, 10_000.0].map(|nodes| MODEL.digest(nodes));
        assert_eq!(small.datagrams, 1.0);
        assert_eq!(large, larger);
        let most = DIGEST_PARTS_MAX as f64;
        assert_eq!(large.datagrams, most);
        assert!(
            large.bytes <= most * PLAINTEXT_BYTES_MAX as f64,
            "{large:?}"
        );
    }

    #[test]
    fn a_busy_origin_repeats_as_much_as_it_may_and_a_quiet_one_nothing() {
        assert!((MODEL.messages(1.0) - 9.0).abs() < 1e-9);
        assert!((MODEL.messages(1e9) - 1.0).abs() < 1e-3);
    }
}
