//! A tree of two layers, as in Sprinkler (H. Geng, R. van Renesse, "Sprinkler: Reliable Broadcast for
//! Geographically Dispersed Datacenters", Middleware 2013).
//!
//! Each site has a proxy. A node hands a purge to its proxy, the proxy sends it to the other sites'
//! proxies, over one reliable link for each pair of sites, and each proxy brings it to the nodes of its
//! own site. Little crosses the sea, and all of a site depends on its proxy and on its links.
//!
//! Simpler than the paper: its events have a total order for each proxy and are garbage-collected by
//! the application's word; here a proxy forgets an event when all to whom it sent it have it. Its proxies
//! may be replicated; here each site has one. Within a site there are reliable links, too, where the
//! paper's second layer is for thousands of nodes.

use super::link::{LinkOut, LinkTimer, Links, Segment, Window};
use super::{Message, System};

/// See the module's documentation.
pub struct Sprinkler {
    /// Each node's proxy, which is a node of its site.
    proxy_of: Vec<usize>,
    links: Links,
}

impl Sprinkler {
    /// A proxy for each site: its first node.
    pub fn new(site_of: &[usize]) -> Self {
        let first = |site: &usize| site_of.iter().position(|of| of == site).unwrap_or(0);
        Sprinkler {
            proxy_of: site_of.iter().map(first).collect(),
            links: Links::new(Window::Reno),
        }
    }

    fn is_proxy(&self, node: usize) -> bool {
        self.proxy_of[node] == node
    }

    /// A proxy passes on what it has from `from`.
    fn spread(&mut self, proxy: usize, from: usize, message: Message, out: &mut LinkOut) {
        let local = self.proxy_of[from] == proxy;
        for to in 0..self.proxy_of.len() {
            let near = self.proxy_of[to] == proxy && to != proxy && to != from;
            let far = local && self.is_proxy(to) && to != proxy;
            if near || far {
                self.links.send(proxy, to, message, out);
            }
        }
    }
}

impl System for Sprinkler {
    type Packet = Segment;
    type Timer = LinkTimer;

    fn issue(&mut self, node: usize, message: Message, out: &mut LinkOut) {
        if self.is_proxy(node) {
            self.spread(node, node, message, out);
        } else {
            self.links.send(node, self.proxy_of[node], message, out);
        }
    }

    fn handle(&mut self, node: usize, from: usize, segment: Segment, out: &mut LinkOut) {
        for message in self.links.handle(node, from, segment, out) {
            out.deliver(node, message);
            if self.is_proxy(node) {
                self.spread(node, from, message, out);
            }
        }
    }

    fn handle_timer(&mut self, node: usize, timer: LinkTimer, out: &mut LinkOut) {
        self.links.handle_timer(node, timer, out);
    }

    fn crash(&mut self, node: usize) {
        self.links.crash(node);
    }

    fn start(&mut self, _node: usize) {}

    fn memory_messages(&self, node: usize) -> usize {
        self.links.unacknowledged(node)
    }
}
