//! The avalanche: a seeded relay between the nodes' gossip sockets that loses, delays, reorders,
//! duplicates, corrupts and cuts, in user space and without privileges.
//!
//! For each ordered pair (i, j) the relay has a UDP port R(i→j) on loopback. Node i's config lists
//! it as the address of peer j. What i sends there goes on to j *from* R(j→i), which is the
//! address that j's config lists for i: each node sees its peers where it expects them, and no
//! node ever sees another's real address.
//!
//! What happens to the n-th datagram of a direction is a function of the seed, the direction, n
//! and the faults set at that moment, and of nothing else: the same seed makes the same decisions
//! for the same sequence of datagrams, and a change of one fault's rate moves no other fault.

use std::cmp::Ordering as Order;
use std::collections::BinaryHeap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::net::sockopt;

/// Datagrams that one direction may hold back at a time: 200 ms of delay at 40,000/s. More are
/// dropped and counted, so that a long delay cannot eat the machine.
pub const QUEUED_MAX: u64 = 8_192;
/// Datagrams read from one socket before the others get their turn.
const BURST_MAX: usize = 64;
/// Larger than any datagram a node sends (1,232 bytes), so that a too large one is seen as such.
const DATAGRAM_BYTES_MAX: usize = 2_048;
/// What the relay asks of the kernel per socket: the default holds 256 small datagrams.
const SOCKET_BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// What happens to the datagrams of one direction. The default is a perfect link.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Faults {
    /// Share of datagrams lost, 0 to 1.
    pub loss: f64,
    /// How long each datagram is held back.
    pub delay: Duration,
    /// Further hold-back, uniform between zero and this. More than the time between two datagrams
    /// reorders them.
    pub jitter: Duration,
    /// Share of datagrams that are held back by `reorder_by` on top and so overtaken.
    pub reorder: f64,
    /// See `reorder`.
    pub reorder_by: Duration,
    /// Share of datagrams that arrive twice.
    pub duplicate: f64,
    /// Share of datagrams in which one to three bits are flipped.
    pub corrupt: f64,
    /// Nothing passes, not even what was held back when the cut was made.
    pub cut: bool,
}

/// What one direction has seen so far, in datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LinkStats {
    /// Came in from the node.
    pub received: u64,
    /// Went out to the peer, duplicates included.
    pub forwarded: u64,
    /// Dropped by `loss`.
    pub lost: u64,
    /// Dropped by `cut`.
    pub cut: u64,
    /// Held back by `reorder_by`.
    pub reordered: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Sent with flipped bits.
    pub corrupted: u64,
    /// Dropped because [`QUEUED_MAX`] were held back already.
    pub overflowed: u64,
    /// Dropped because they came from elsewhere than the node that this port is for.
    pub strangers: u64,
    /// Dropped because the kernel refused to send them.
    pub send_errors: u64,
}

#[derive(Debug, Default)]
struct Counters {
    received: AtomicU64,
    forwarded: AtomicU64,
    lost: AtomicU64,
    cut: AtomicU64,
    reordered: AtomicU64,
    duplicated: AtomicU64,
    corrupted: AtomicU64,
    overflowed: AtomicU64,
    strangers: AtomicU64,
    send_errors: AtomicU64,
}

/// One direction: receives from node `from` and forwards to node `to`.
#[derive(Debug)]
struct Link {
    from: SocketAddr,
    to: SocketAddr,
    /// R(from→to).
    socket: UdpSocket,
    /// The link whose socket `to` knows as `from`'s: R(to→from).
    back: usize,
    /// The relay's thread holds this lock while it sends: after a cut has been set, nothing more
    /// passes.
    faults: Mutex<Faults>,
    counters: Counters,
}

#[derive(Debug)]
struct Shared {
    nodes: usize,
    seed: u64,
    links: Vec<Link>,
    wake: OwnedFd,
    stop: AtomicBool,
}

/// A running relay. Dropping it stops its thread; what it held back is gone.
#[derive(Debug)]
pub struct Avalanche {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Avalanche {
    /// Starts a relay between nodes that gossip from and to the given addresses. All links are
    /// perfect until [`Avalanche::set`].
    pub fn start(seed: u64, nodes: &[SocketAddr]) -> io::Result<Avalanche> {
        let pairs = || {
            let all = (0..nodes.len()).flat_map(|i| (0..nodes.len()).map(move |j| (i, j)));
            all.filter(|(i, j)| i != j)
        };
        let mut links = Vec::new();
        for (i, j) in pairs() {
            let (Some(&from), Some(&to)) = (nodes.get(i), nodes.get(j)) else {
                continue;
            };
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.set_nonblocking(true)?;
            // Beyond the system's limit with CAP_NET_ADMIN, up to it without.
            if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER_BYTES).is_err() {
                sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES)?;
            }
            let back = link_index(nodes.len(), j, i);
            let (faults, counters) = (Mutex::default(), Counters::default());
            links.push(Link {
                from,
                to,
                socket,
                back,
                faults,
                counters,
            });
        }
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let stop = AtomicBool::new(false);
        let shared = Arc::new(Shared {
            nodes: nodes.len(),
            seed,
            links,
            wake,
            stop,
        });
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &poll,
            &shared.wake,
            EventData::new_u64(u64::MAX),
            EventFlags::IN,
        )?;
        for (index, link) in shared.links.iter().enumerate() {
            epoll::add(
                &poll,
                &link.socket,
                EventData::new_u64(index as u64),
                EventFlags::IN,
            )?;
        }
        let thread = std::thread::Builder::new()
            .name("avalanche".into())
            .spawn({
                let shared = shared.clone();
                move || Relay::new(&shared).run(&poll)
            })?;
        Ok(Avalanche {
            shared,
            thread: Some(thread),
        })
    }

    /// The seed of every decision: what a failing test prints.
    pub fn seed(&self) -> u64 {
        self.shared.seed
    }

    /// What node `i`'s config lists as the address of its peer `j`.
    ///
    /// # Panics
    /// If there is no such pair; so do all methods that take one.
    pub fn address(&self, i: usize, j: usize) -> io::Result<SocketAddr> {
        self.link(i, j).socket.local_addr()
    }

    /// The faults of the direction from `i` to `j`, from now on.
    pub fn set(&self, i: usize, j: usize, faults: Faults) {
        *lock(&self.link(i, j).faults) = faults;
    }

    /// The same faults for all directions, from now on. Ends cuts too, unless `faults` has one.
    pub fn set_all(&self, faults: Faults) {
        self.shared
            .links
            .iter()
            .for_each(|link| *lock(&link.faults) = faults);
    }

    /// Lets nothing more pass from `i` to `j`; the other direction stays as it is.
    pub fn cut(&self, i: usize, j: usize) {
        lock(&self.link(i, j).faults).cut = true;
    }

    /// Ends a cut from `i` to `j`; the other faults of that direction are as before.
    pub fn heal(&self, i: usize, j: usize) {
        lock(&self.link(i, j).faults).cut = false;
    }

    /// Cuts a node off from all others, in both directions.
    pub fn cut_node(&self, node: usize) {
        self.peers(node).for_each(|peer| {
            self.cut(node, peer);
            self.cut(peer, node);
        });
    }

    /// Ends all cuts of a node, in both directions.
    pub fn heal_node(&self, node: usize) {
        self.peers(node).for_each(|peer| {
            self.heal(node, peer);
            self.heal(peer, node);
        });
    }

    /// What the direction from `i` to `j` has seen.
    pub fn stats(&self, i: usize, j: usize) -> LinkStats {
        self.link(i, j).counters.read()
    }

    /// The sum over all directions.
    pub fn stats_total(&self) -> LinkStats {
        let all = self.shared.links.iter().map(|link| link.counters.read());
        all.fold(LinkStats::default(), |a, b| LinkStats {
            received: a.received + b.received,
            forwarded: a.forwarded + b.forwarded,
            lost: a.lost + b.lost,
            cut: a.cut + b.cut,
            reordered: a.reordered + b.reordered,
            duplicated: a.duplicated + b.duplicated,
            corrupted: a.corrupted + b.corrupted,
            overflowed: a.overflowed + b.overflowed,
            strangers: a.strangers + b.strangers,
            send_errors: a.send_errors + b.send_errors,
        })
    }

    fn peers(&self, node: usize) -> impl Iterator<Item = usize> {
        (0..self.shared.nodes).filter(move |peer| *peer != node)
    }

    fn link(&self, i: usize, j: usize) -> &Link {
        let nodes = self.shared.nodes;
        assert!(
            i != j && i < nodes && j < nodes,
            "no link from {i} to {j} among {nodes} nodes"
        );
        &self.shared.links[link_index(nodes, i, j)]
    }
}

impl Drop for Avalanche {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Where the link from `i` to `j` is in the list: row by row without the diagonal.
fn link_index(nodes: usize, i: usize, j: usize) -> usize {
    i * (nodes - 1) + if j > i { j - 1 } else { j }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed)
}

impl Counters {
    fn read(&self) -> LinkStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LinkStats {
            received: get(&self.received),
            forwarded: get(&self.forwarded),
            lost: get(&self.lost),
            cut: get(&self.cut),
            reordered: get(&self.reordered),
            duplicated: get(&self.duplicated),
            corrupted: get(&self.corrupted),
            overflowed: get(&self.overflowed),
            strangers: get(&self.strangers),
            send_errors: get(&self.send_errors),
        }
    }
}

/// What is decided about one datagram.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Decision {
    lost: bool,
    reordered: bool,
    corrupted: bool,
    /// How long the datagram is held back.
    hold: Duration,
    /// How long its duplicate is held back, if it has one.
    duplicate: Option<Duration>,
}

/// Each question about a datagram has a random number of its own.
#[derive(Clone, Copy)]
enum Question {
    Loss = 1,
    Jitter,
    Reorder,
    Duplicate,
    DuplicateJitter,
    Corrupt,
    CorruptWhere,
}

/// 64 bits that depend on the seed, the direction, the datagram's number and the question alone.
/// The mixer is SplitMix64's; written out here because no crate promises the same numbers for ever.
fn random(seed: u64, link: usize, n: u64, question: Question) -> u64 {
    let mix = |z: u64| {
        let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    mix(mix(mix(mix(seed) ^ link as u64) ^ n) ^ question as u64)
}

fn decide(seed: u64, link: usize, n: u64, faults: &Faults) -> Decision {
    // The upper 53 bits as a number in [0, 1).
    let unit = |question| (random(seed, link, n, question) >> 11) as f64 / (1u64 << 53) as f64;
    let reordered = unit(Question::Reorder) < faults.reorder;
    let hold = faults.delay
        + if reordered {
            faults.reorder_by
        } else {
            Duration::ZERO
        };
    let duplicated = unit(Question::Duplicate) < faults.duplicate;
    Decision {
        lost: unit(Question::Loss) < faults.loss,
        reordered,
        corrupted: unit(Question::Corrupt) < faults.corrupt,
        hold: hold + faults.jitter.mul_f64(unit(Question::Jitter)),
        duplicate: duplicated
            .then(|| faults.delay + faults.jitter.mul_f64(unit(Question::DuplicateJitter))),
    }
}

/// Flips one to three bits, at places that the random number names.
fn flip_bits(random: u64, datagram: &mut [u8]) {
    let bits = datagram.len() as u64 * 8;
    if bits == 0 {
        return;
    }
    for flip in 0..=random % 3 {
        let bit = (random.rotate_left(16 * (flip as u32 + 1)) & 0xffff) % bits;
        if let Some(byte) = datagram.get_mut((bit / 8) as usize) {
            *byte ^= 1 << (bit % 8);
        }
    }
}

/// A datagram on its way. The heap gives the earliest first, and of those the first come.
struct Held {
    due: Instant,
    order: u64,
    link: usize,
    datagram: Vec<u8>,
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Order::Equal
    }
}
impl Eq for Held {}
impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}
impl Ord for Held {
    fn cmp(&self, other: &Self) -> Order {
        (other.due, other.order).cmp(&(self.due, self.order))
    }
}

/// The relay's thread.
struct Relay<'a> {
    shared: &'a Shared,
    held: BinaryHeap<Held>,
    held_per_link: Vec<u64>,
    order: u64,
}

impl<'a> Relay<'a> {
    fn new(shared: &'a Shared) -> Self {
        let held_per_link = vec![0; shared.links.len()];
        Relay {
            shared,
            held: BinaryHeap::new(),
            held_per_link,
            order: 0,
        }
    }

    fn run(mut self, poll: &OwnedFd) {
        let mut events = Vec::with_capacity(self.shared.links.len() + 1);
        while !self.shared.stop.load(Ordering::SeqCst) {
            let wait = self.held.peek().map(|held| {
                let wait = held.due.saturating_duration_since(Instant::now());
                Timespec {
                    tv_sec: wait.as_secs() as i64,
                    tv_nsec: wait.subsec_nanos().into(),
                }
            });
            events.clear();
            match epoll::wait(poll, spare_capacity(&mut events), wait.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                // The descriptors are ours and open: there is nothing to wait for any more.
                Err(_) => return,
            }
            self.release();
            for event in &events {
                let index = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
                if index < self.shared.links.len() {
                    self.receive(index);
                }
            }
        }
    }

    /// Sends what has been held back long enough.
    fn release(&mut self) {
        let now = Instant::now();
        while self.held.peek().is_some_and(|held| held.due <= now) {
            let Some(held) = self.held.pop() else { return };
            self.held_per_link[held.link] -= 1;
            let link = &self.shared.links[held.link];
            let faults = lock(&link.faults);
            if faults.cut {
                count(&link.counters.cut);
            } else {
                self.forward(link, &held.datagram);
            }
        }
    }

    fn receive(&mut self, index: usize) {
        let shared = self.shared;
        let link = &shared.links[index];
        let counters = &link.counters;
        let mut buffer = [0; DATAGRAM_BYTES_MAX];
        for _ in 0..BURST_MAX {
            let (length, from) = match link.socket.recv_from(&mut buffer) {
                Ok(received) => received,
                // Nothing more for now, or the echo of a send to a node that is down.
                Err(_) => return,
            };
            if from != link.from {
                count(&counters.strangers);
                continue;
            }
            let n = count(&counters.received);
            let Some(datagram) = buffer.get_mut(..length) else {
                continue;
            };
            let faults = lock(&link.faults);
            if faults.cut {
                count(&counters.cut);
                continue;
            }
            let decision = decide(shared.seed, index, n, &faults);
            if decision.lost {
                count(&counters.lost);
                continue;
            }
            if decision.corrupted {
                count(&counters.corrupted);
                flip_bits(
                    random(shared.seed, index, n, Question::CorruptWhere),
                    datagram,
                );
            }
            if decision.reordered {
                count(&counters.reordered);
            }
            if decision.duplicate.is_some() {
                count(&counters.duplicated);
            }
            for hold in [Some(decision.hold), decision.duplicate]
                .into_iter()
                .flatten()
            {
                if hold.is_zero() {
                    self.forward(link, datagram);
                } else if self.held_per_link[index] >= QUEUED_MAX {
                    count(&counters.overflowed);
                } else {
                    self.held_per_link[index] += 1;
                    self.order += 1;
                    self.held.push(Held {
                        due: Instant::now() + hold,
                        order: self.order,
                        link: index,
                        datagram: datagram.to_vec(),
                    });
                }
            }
        }
    }

    fn forward(&self, link: &Link, datagram: &[u8]) {
        let sent = self.shared.links[link.back]
            .socket
            .send_to(datagram, link.to);
        count(if sent.is_ok() {
            &link.counters.forwarded
        } else {
            &link.counters.send_errors
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(5);

    /// Two nodes and the relay between them.
    fn pair(seed: u64) -> (UdpSocket, UdpSocket, Avalanche) {
        let node = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (a, b) = (node(), node());
        a.set_read_timeout(Some(WAIT)).unwrap();
        b.set_read_timeout(Some(WAIT)).unwrap();
        let addrs = [a.local_addr().unwrap(), b.local_addr().unwrap()];
        let relay = Avalanche::start(seed, &addrs).unwrap();
        (a, b, relay)
    }

    fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < WAIT, "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn each_node_sees_its_peer_where_its_config_says() {
        let (a, b, relay) = pair(1);
        let mut buffer = [0; 100];
        a.send_to(b"there", relay.address(0, 1).unwrap()).unwrap();
        let (length, from) = b.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (&buffer[..length], from),
            (&b"there"[..], relay.address(1, 0).unwrap())
        );
        b.send_to(b"back", from).unwrap();
        let (length, from) = a.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (&buffer[..length], from),
            (&b"back"[..], relay.address(0, 1).unwrap())
        );
        // B's port is not A's to use.
        a.send_to(b"stranger", relay.address(1, 0).unwrap())
            .unwrap();
        eventually("the stranger is counted", || {
            relay.stats(1, 0).strangers == 1
        });
    }

    #[test]
    fn the_same_seed_makes_the_same_decisions() {
        let faults = Faults {
            loss: 0.3,
            jitter: Duration::from_millis(3),
            reorder: 0.1,
            reorder_by: Duration::from_millis(5),
            duplicate: 0.1,
            corrupt: 0.1,
            ..Faults::default()
        };
        let decisions = |seed, link, faults: &Faults| {
            (0..10_000)
                .map(|n| decide(seed, link, n, faults))
                .collect::<Vec<_>>()
        };
        let first = decisions(7, 3, &faults);
        assert_eq!(first, decisions(7, 3, &faults));
        assert_ne!(first, decisions(8, 3, &faults));
        assert_ne!(first, decisions(7, 4, &faults));
        let lost = first.iter().filter(|d| d.lost).count();
        assert!(
            (2_850..3_150).contains(&lost),
            "{lost} of 10,000 lost, 30 % asked"
        );
        // Another rate of one fault leaves the others alone.
        let more_loss = decisions(
            7,
            3,
            &Faults {
                loss: 0.9,
                ..faults
            },
        );
        assert!(
            first
                .iter()
                .zip(&more_loss)
                .all(|(a, b)| Decision { lost: b.lost, ..*a } == *b)
        );
    }

    #[test]
    fn loss_and_corruption_are_what_was_asked() {
        let (a, b, relay) = pair(42);
        relay.set(
            0,
            1,
            Faults {
                loss: 0.5,
                corrupt: 0.5,
                ..Faults::default()
            },
        );
        let to = relay.address(0, 1).unwrap();
        let (mut arrived, mut flipped) = (0, 0);
        let mut buffer = [0; 100];
        for n in 1..=2_000 {
            a.send_to(&[0; 64], to).unwrap();
            let settled = |stats: LinkStats| stats.lost + stats.forwarded == n;
            eventually("relayed", || settled(relay.stats(0, 1)));
            // Read as it comes: a socket's default buffer holds 256 datagrams.
            if relay.stats(0, 1).forwarded > arrived {
                let length = b.recv(&mut buffer).unwrap();
                arrived += 1;
                flipped += u64::from(buffer[..length] != [0; 64]);
            }
        }
        let stats = relay.stats(0, 1);
        assert!((900..1_100).contains(&stats.lost), "{stats:?}");
        // A flip of the same bit twice is a datagram unharmed: rare, and not none.
        assert!(
            flipped <= stats.corrupted && flipped + 10 > stats.corrupted,
            "{stats:?}"
        );
    }

    #[test]
    fn a_delay_holds_back_and_keeps_the_order() {
        let (a, b, relay) = pair(1);
        let delay = Duration::from_millis(50);
        relay.set(
            0,
            1,
            Faults {
                delay,
                ..Faults::default()
            },
        );
        let start = Instant::now();
        for n in 0..50u8 {
            a.send_to(&[n], relay.address(0, 1).unwrap()).unwrap();
        }
        let mut buffer = [0; 1];
        for n in 0..50u8 {
            b.recv(&mut buffer).unwrap();
            assert_eq!(buffer, [n]);
        }
        assert!(start.elapsed() >= delay);
    }

    #[test]
    fn reordering_and_duplicates() {
        let (a, b, relay) = pair(1);
        let reorder_by = Duration::from_millis(20);
        relay.set(
            0,
            1,
            Faults {
                reorder: 0.2,
                reorder_by,
                duplicate: 0.2,
                ..Faults::default()
            },
        );
        for n in 0..200u8 {
            a.send_to(&[n], relay.address(0, 1).unwrap()).unwrap();
        }
        eventually("all read", || relay.stats(0, 1).received == 200);
        let stats = relay.stats(0, 1);
        let mut seen = Vec::new();
        let mut buffer = [0; 1];
        for _ in 0..200 + stats.duplicated {
            b.recv(&mut buffer).unwrap();
            seen.push(buffer[0]);
        }
        assert!(!seen.is_sorted());
        seen.sort();
        seen.dedup();
        assert_eq!(seen, (0..200).collect::<Vec<_>>());
        assert!((20..60).contains(&stats.duplicated) && (20..60).contains(&stats.reordered));
    }

    #[test]
    fn a_cut_is_one_way_and_ends_with_its_heal() {
        let (a, b, relay) = pair(1);
        let mut buffer = [0; 10];
        // What was under way when the cut came does not arrive either.
        relay.set(
            0,
            1,
            Faults {
                delay: Duration::from_millis(20),
                ..Faults::default()
            },
        );
        a.send_to(b"under way", relay.address(0, 1).unwrap())
            .unwrap();
        eventually("read", || relay.stats(0, 1).received == 1);
        relay.cut(0, 1);
        a.send_to(b"lost", relay.address(0, 1).unwrap()).unwrap();
        eventually("both dropped", || relay.stats(0, 1).cut == 2);
        b.send_to(b"passes", relay.address(1, 0).unwrap()).unwrap();
        assert_eq!(a.recv(&mut buffer).unwrap(), 6);

        relay.cut_node(1);
        relay.heal_node(1);
        a.send_to(b"healed", relay.address(0, 1).unwrap()).unwrap();
        let length = b.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"healed");
    }

    #[test]
    fn a_perfect_link_costs_microseconds() {
        let (a, b, relay) = pair(1);
        let to = relay.address(0, 1).unwrap();
        let mut buffer = [0; 10];
        let mut took: Vec<_> = (0..1_000)
            .map(|_| {
                let start = Instant::now();
                a.send_to(b"x", to).unwrap();
                b.recv(&mut buffer).unwrap();
                start.elapsed()
            })
            .collect();
        took.sort();
        println!(
            "one way through the relay: p50 {:?}, p99 {:?}",
            took[500], took[990]
        );
        assert!(took[500] < Duration::from_millis(5));
    }

    #[test]
    fn a_drop_stops_it_at_once_whatever_is_held_back() {
        let (a, _b, relay) = pair(1);
        relay.set(
            0,
            1,
            Faults {
                delay: Duration::from_secs(3600),
                ..Faults::default()
            },
        );
        a.send_to(b"late", relay.address(0, 1).unwrap()).unwrap();
        eventually("read", || relay.stats(0, 1).received == 1);
        let start = Instant::now();
        drop(relay);
        assert!(start.elapsed() < WAIT);
    }
}
