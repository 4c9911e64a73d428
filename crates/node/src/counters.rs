//! Counters of the runtime; those of the protocol are in [`powderhorn_protocol::stats::Stats`].

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $help:literal])+ $name:ident,)+) => {
        /// See each counter. All only grow.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[doc = $help])+ pub $name: AtomicU64,)+
        }

        impl Counters {
            /// Name, explanation and value of each.
            pub fn list(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((
                    stringify!($name),
                    concat!($($help),+).trim_start(),
                    self.$name.load(Ordering::Relaxed),
                ),)+]
            }
        }
    };
}

counters! {
    /// Datagrams sent, each peer counted.
    net_datagrams_out,
    /// Bytes of datagrams sent, sealing included.
    net_bytes_out,
    /// Datagrams received, whatever became of them.
    net_datagrams_in,
    /// Bytes of datagrams received, sealing included.
    net_bytes_in,
    /// Datagrams not sent because a send buffer was full.
    net_send_full,
    /// Datagrams not sent because a firewall or the system forbids it.
    net_send_forbidden,
    /// Datagrams not sent for want of a route, or because the network is down.
    net_send_unreachable,
    /// Datagrams not sent because the peer's host refuses them.
    net_send_refused,
    /// Datagrams not sent because they are larger than the path allows.
    net_send_too_big,
    /// Datagrams not sent for any other reason.
    net_send_errors,
    /// Errors reported by a socket on receiving.
    net_receive_errors,
    /// Datagrams dropped by the kernel because a receive buffer was full.
    net_kernel_drops,
    /// Datagrams dropped because they had waited while this node stood still: they would count as younger
    /// than they are.
    net_stood_still,
    /// Datagrams dropped because they came from an address that is no peer's.
    net_strangers,
    /// Datagrams dropped because they were too short or too long.
    seal_length,
    /// Datagrams dropped because they were of another version.
    seal_version,
    /// Datagrams dropped because their key is not in the key file.
    seal_unknown_key,
    /// Datagrams dropped because their seal was broken.
    seal_broken,
    /// Datagrams not sent because they could not be sealed.
    seal_failed,
    /// Times the key file was read again with success.
    keys_reloaded,
    /// Times the key file was read again and not usable; the keys before it stay in use.
    keys_reload_failed,
    /// Peers added, those of the start included.
    members_added,
    /// Peers removed while the node ran.
    members_removed,
    /// Times a source of members said what could not be used: an unfit nodes file, too many peers, or
    /// addresses of a family that is not listened on.
    members_source_errors,
    /// Lookups of names begun.
    dns_lookups,
    /// Lookups of names that failed, led nowhere or took too long; their peers stay.
    dns_failures,
    /// Purges answered before they were in the journal: it was too slow, or does not work.
    not_journalled,
    /// Requests that were not let wait for receipts, because too many did.
    waiters_refused,
    /// Panics caught while purges were applied; the batch was tried again.
    apply_panics,
    /// Purges whose issuer did not say what became of them here; they are applied by the applier.
    tickets_dropped,
    /// Panics caught while a purge was being sent by the thread that issued it.
    send_panics,
    /// Panics caught in the runtime; it went on.
    runtime_panics,
}
