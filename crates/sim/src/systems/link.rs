//! Reliable links between nodes, as TCP makes them: what is sent arrives in order, and what comes after
//! a loss waits for its repair.
//!
//! After RFC 5681, 6298 and 6675, with Linux's numbers where they leave a choice: 10 segments at first,
//! half as many after a loss, one after a timeout; selective acknowledgements, a segment is lost when
//! three that were sent after it have arrived; a timeout is the round trip and at least 200 ms, and
//! doubles; every second segment is acknowledged at once, a lone one after 40 ms. Each message is written
//! at once (no Nagle); what has to wait shares segments then.
//!
//! Kinder than the real thing: a link is there without a handshake, the sender's memory has no bound,
//! and the application hears what was acknowledged, so that a link that broke is taken up again with
//! nothing lost but what a crashed node had in memory.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use powderhorn_protocol::time::Time;

use super::{MESSAGE_BYTES, MESSAGES_PER_DATAGRAM, Message, Out};

/// IPv4 and TCP with timestamps.
const TCP_BYTES: usize = 52;
/// A TLS 1.3 record without its content.
const TLS_BYTES: usize = 22;
/// A selective acknowledgement: one range.
const SACK_BYTES: usize = 12;

const WINDOW_FIRST: f64 = 10.0;
const ACK_DELAY: Duration = Duration::from_millis(40);
const TIMEOUT_FIRST: Duration = Duration::from_secs(1);
const TIMEOUT_SLACK_MIN: Duration = Duration::from_millis(200);
const TIMEOUT_MAX: Duration = Duration::from_secs(120);
/// Later segments that arrive before a missing one is held to be lost.
const OVERTAKEN: u32 = 3;

/// How much may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// What the network seems to bear, as TCP must.
    Reno,
    /// Anything: for arithmetic that leaves congestion control out.
    Free,
}

/// What travels on a link.
#[derive(Clone)]
pub enum Segment {
    /// Messages.
    Data {
        /// The connection.
        epoch: u32,
        /// Its segments are numbered from 0 on.
        seq: u64,
        /// Nothing was acknowledged yet: the receiver may not know of the connection.
        opening: bool,
        /// What is in it.
        messages: Rc<[Message]>,
    },
    /// What has arrived.
    Ack {
        /// The connection.
        epoch: u32,
        /// All before this.
        next: u64,
        /// And these.
        ahead: Rc<[u64]>,
    },
    /// The receiver knows nothing of this connection.
    Reset {
        /// The connection.
        epoch: u32,
    },
}

/// What a link wants to be woken for.
#[derive(Clone, Copy, Debug)]
pub enum LinkTimer {
    /// To see whether a segment to this node was not acknowledged in time.
    Timeout(usize),
    /// To acknowledge what came from this node.
    Ack(usize),
}

/// What links do to the world.
pub type LinkOut = Out<Segment, LinkTimer>;

struct Flight {
    messages: Rc<[Message]>,
    sent: Time,
    /// Number of its last transmission.
    transmission: u64,
    once: bool,
    overtaken: u32,
    sacked: bool,
    lost: bool,
}

struct Sender {
    epoch: u32,
    queue: VecDeque<Message>,
    flight: BTreeMap<u64, Flight>,
    next: u64,
    opening: bool,
    transmissions: u64,
    window: f64,
    threshold: f64,
    /// The window is what holds the sender back.
    limited: bool,
    /// A loss before this was answered by a smaller window already.
    recover: u64,
    /// The loss is not mended yet: the window does not grow.
    recovering: bool,
    round_trip: Option<(Duration, Duration)>,
    backoff: u32,
    deadline: Time,
    /// The earliest timer that is set.
    armed: Time,
}

#[derive(Default)]
struct Receiver {
    epoch: u32,
    next: u64,
    ahead: BTreeMap<u64, Rc<[Message]>>,
    unacknowledged: u32,
    armed: bool,
}

/// All links of a system.
pub struct Links {
    window: Window,
    senders: BTreeMap<(usize, usize), Sender>,
    receivers: BTreeMap<(usize, usize), Receiver>,
    epochs: u32,
}

impl Links {
    /// None so far: each is made by the first message.
    pub fn new(window: Window) -> Self {
        Links {
            window,
            senders: BTreeMap::new(),
            receivers: BTreeMap::new(),
            epochs: 0,
        }
    }

    /// Sends a message from one node to another.
    pub fn send(&mut self, from: usize, to: usize, message: Message, out: &mut LinkOut) {
        let sender = self.senders.entry((from, to)).or_insert_with(|| {
            self.epochs += 1;
            Sender::new(self.epochs)
        });
        sender.queue.push_back(message);
        sender.pump(self.window, from, to, out);
    }

    /// Takes a segment; the messages that are next in order.
    pub fn handle(
        &mut self,
        node: usize,
        from: usize,
        segment: Segment,
        out: &mut LinkOut,
    ) -> Vec<Message> {
        match segment {
            Segment::Data {
                epoch,
                seq,
                opening,
                messages,
            } => {
                let receiver = self.receivers.entry((node, from)).or_default();
                if epoch < receiver.epoch {
                    return Vec::new();
                }
                if epoch > receiver.epoch {
                    if !opening {
                        out.send(node, from, TCP_BYTES, Segment::Reset { epoch });
                        return Vec::new();
                    }
                    *receiver = Receiver {
                        epoch,
                        ..Receiver::default()
                    };
                }
                return receiver.take(node, from, seq, messages, out);
            }
            Segment::Ack { epoch, next, ahead } => {
                if let Some(sender) = self.senders.get_mut(&(node, from)) {
                    if sender.epoch == epoch {
                        sender.acknowledged(out.now, next, &ahead);
                        sender.pump(self.window, node, from, out);
                    }
                }
            }
            Segment::Reset { epoch } => {
                if let Some(sender) = self.senders.get_mut(&(node, from)) {
                    if sender.epoch == epoch {
                        self.epochs += 1;
                        sender.reopen(self.epochs);
                        sender.pump(self.window, node, from, out);
                    }
                }
            }
        }
        Vec::new()
    }

    /// It is time for what was asked for.
    pub fn handle_timer(&mut self, node: usize, timer: LinkTimer, out: &mut LinkOut) {
        match timer {
            LinkTimer::Timeout(to) => {
                if let Some(sender) = self.senders.get_mut(&(node, to)) {
                    if out.now < sender.armed {
                        // An earlier one took its place.
                        return;
                    }
                    sender.armed = Time::NEVER;
                    if sender.deadline <= out.now {
                        sender.time_out(out.now);
                    }
                    sender.pump(self.window, node, to, out);
                }
            }
            LinkTimer::Ack(from) => {
                if let Some(receiver) = self.receivers.get_mut(&(node, from)) {
                    receiver.armed = false;
                    if receiver.unacknowledged > 0 {
                        receiver.acknowledge(node, from, out);
                    }
                }
            }
        }
    }

    /// A node forgets all of its links.
    pub fn crash(&mut self, node: usize) {
        self.senders.retain(|(from, _), _| *from != node);
        self.receivers.retain(|(at, _), _| *at != node);
    }

    /// Messages of a node that were not acknowledged, all its links together.
    pub fn unacknowledged(&self, node: usize) -> usize {
        let senders = self.senders.range((node, 0)..=(node, usize::MAX));
        senders.map(|(_, sender)| sender.unacknowledged()).sum()
    }
}

impl Sender {
    fn new(epoch: u32) -> Self {
        Sender {
            epoch,
            queue: VecDeque::new(),
            flight: BTreeMap::new(),
            next: 0,
            opening: true,
            transmissions: 0,
            window: WINDOW_FIRST,
            threshold: f64::INFINITY,
            limited: false,
            recover: 0,
            recovering: false,
            round_trip: None,
            backoff: 0,
            deadline: Time::NEVER,
            armed: Time::NEVER,
        }
    }

    fn unacknowledged(&self) -> usize {
        let flight = self.flight.values().map(|flight| flight.messages.len());
        self.queue.len() + flight.sum::<usize>()
    }

    /// All that was not acknowledged goes over a new connection.
    fn reopen(&mut self, epoch: u32) {
        let mut queue: VecDeque<Message> = VecDeque::new();
        for flight in self.flight.values() {
            queue.extend(flight.messages.iter());
        }
        queue.append(&mut self.queue);
        let armed = self.armed;
        *self = Sender::new(epoch);
        self.queue = queue;
        self.armed = armed;
    }

    fn timeout(&self) -> Duration {
        let once = match self.round_trip {
            None => TIMEOUT_FIRST,
            Some((mean, deviation)) => mean + (deviation * 4).max(TIMEOUT_SLACK_MIN),
        };
        (once * 2u32.saturating_pow(self.backoff.min(16))).min(TIMEOUT_MAX)
    }

    /// Sends what the window allows: first what was lost, then what is new.
    fn pump(&mut self, window: Window, from: usize, to: usize, out: &mut LinkOut) {
        let under_way = |flight: &&Flight| !flight.sacked && !flight.lost;
        let mut pipe = self.flight.values().filter(under_way).count();
        loop {
            let lost = self.flight.iter().find(|(_, flight)| flight.lost);
            let seq = match lost {
                None if self.queue.is_empty() => None,
                None => Some(self.next),
                Some((seq, _)) => Some(*seq),
            };
            self.limited = window == Window::Reno && pipe as f64 >= self.window;
            let Some(seq) = seq.filter(|_| !self.limited) else {
                break;
            };
            if seq == self.next {
                let count = self.queue.len().min(MESSAGES_PER_DATAGRAM);
                let flight = Flight {
                    messages: self.queue.drain(..count).collect(),
                    sent: out.now,
                    transmission: 0,
                    once: true,
                    overtaken: 0,
                    sacked: false,
                    lost: false,
                };
                self.flight.insert(seq, flight);
                self.next += 1;
            }
            let (epoch, opening) = (self.epoch, self.opening);
            self.transmissions += 1;
            if let Some(flight) = self.flight.get_mut(&seq) {
                flight.once &= !flight.lost;
                flight.lost = false;
                flight.overtaken = 0;
                flight.sent = out.now;
                flight.transmission = self.transmissions;
                let messages = flight.messages.clone();
                let bytes = TCP_BYTES + TLS_BYTES + messages.len() * MESSAGE_BYTES;
                let data = Segment::Data {
                    epoch,
                    seq,
                    opening,
                    messages,
                };
                out.send(from, to, bytes, data);
            }
            pipe += 1;
            if self.deadline == Time::NEVER {
                self.deadline = out.now + self.timeout();
            }
        }
        if self.deadline < self.armed {
            self.armed = self.deadline;
            out.timer(from, self.deadline, LinkTimer::Timeout(to));
        }
    }

    fn acknowledged(&mut self, now: Time, next: u64, ahead: &[u64]) {
        self.opening = false;
        let mut arrived = Vec::new();
        let mut sample = None;
        let mut see = |flight: &Flight| {
            arrived.push(flight.transmission);
            if flight.once {
                sample = Some(now.since(flight.sent));
            }
        };
        let rest = self.flight.split_off(&next);
        for flight in std::mem::replace(&mut self.flight, rest).values() {
            if !flight.sacked {
                see(flight);
            }
        }
        for seq in ahead {
            if let Some(flight) = self.flight.get_mut(seq) {
                if !flight.sacked {
                    see(flight);
                    flight.sacked = true;
                    flight.lost = false;
                }
            }
        }
        if arrived.is_empty() {
            return;
        }
        if let Some(sample) = sample {
            self.measured(sample);
        }
        self.recovering &= next < self.recover;
        let mut fewer = false;
        for (seq, flight) in &mut self.flight {
            if flight.sacked || flight.lost {
                continue;
            }
            let later = arrived.iter().filter(|sent| **sent > flight.transmission);
            flight.overtaken += later.count() as u32;
            if flight.overtaken >= OVERTAKEN {
                flight.lost = true;
                fewer |= *seq >= self.recover;
            }
        }
        if fewer {
            self.threshold = (self.window / 2.0).max(2.0);
            self.window = self.threshold;
            self.recover = self.next;
            self.recovering = true;
        } else if self.limited && !self.recovering {
            let count = arrived.len() as f64;
            if self.window < self.threshold {
                self.window += count;
            } else {
                self.window += count / self.window;
            }
        }
        self.backoff = 0;
        self.deadline = if self.flight.is_empty() {
            Time::NEVER
        } else {
            now + self.timeout()
        };
    }

    fn measured(&mut self, sample: Duration) {
        self.round_trip = Some(match self.round_trip {
            None => (sample, sample / 2),
            Some((mean, deviation)) => (
                (mean * 7 + sample) / 8,
                (deviation * 3 + mean.abs_diff(sample)) / 4,
            ),
        });
    }

    fn time_out(&mut self, now: Time) {
        self.deadline = Time::NEVER;
        if self.flight.is_empty() {
            return;
        }
        if self.backoff == 0 {
            self.threshold = (self.window / 2.0).max(2.0);
        }
        self.window = 1.0;
        self.recover = self.next;
        self.recovering = false;
        for flight in self.flight.values_mut() {
            flight.lost = !flight.sacked;
        }
        self.backoff += 1;
        self.deadline = now + self.timeout();
    }
}

impl Receiver {
    fn take(
        &mut self,
        node: usize,
        from: usize,
        seq: u64,
        messages: Rc<[Message]>,
        out: &mut LinkOut,
    ) -> Vec<Message> {
        let mut ready = Vec::new();
        let in_order = seq == self.next && self.ahead.is_empty();
        if seq >= self.next {
            self.ahead.insert(seq, messages);
        }
        while let Some(messages) = self.ahead.remove(&self.next) {
            ready.extend(messages.iter());
            self.next += 1;
        }
        self.unacknowledged += 1;
        if !in_order || self.unacknowledged >= 2 {
            self.acknowledge(node, from, out);
        } else if !self.armed {
            self.armed = true;
            out.timer(node, out.now + ACK_DELAY, LinkTimer::Ack(from));
        }
        ready
    }

    fn acknowledge(&mut self, node: usize, from: usize, out: &mut LinkOut) {
        self.unacknowledged = 0;
        let ahead: Rc<[u64]> = self.ahead.keys().copied().collect();
        let sack = if ahead.is_empty() { 0 } else { SACK_BYTES };
        let ack = Segment::Ack {
            epoch: self.epoch,
            next: self.next,
            ahead,
        };
        out.send(node, from, TCP_BYTES + sack, ack);
    }
}
