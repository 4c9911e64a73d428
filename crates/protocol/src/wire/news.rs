//! The frame of news: how far nodes have got, as they told it and others pass it on.

use super::bytes::{Reader, each, put_varint, varint_bytes};
use super::{Result, WireError};
use crate::bounds::NEWS_BODY_BYTES_MAX;
use crate::id::NodeId;

/// What the sender knows of some nodes, itself first.
#[derive(Clone, Copy, Debug)]
pub struct News<'a> {
    /// The sender's wall clock in ms since 1970; 0 if it does not tell. For the operator's eyes only.
    pub wall_ms: u64,
    pub(super) entries: &'a [u8],
}

impl<'a> News<'a> {
    pub(super) fn try_entries(&self) -> impl Iterator<Item = Result<NewsEntry<'a>>> + use<'a> {
        each(self.entries, |input| {
            let entry = NewsEntry::decode(input)?;
            Standing::decode(entry.body)?;
            Ok(entry)
        })
    }

    /// The entries, in the sender's order.
    pub fn entries(&self) -> impl Iterator<Item = NewsEntry<'a>> + use<'a> {
        each(self.entries, NewsEntry::decode).map_while(Result::ok)
    }
}

/// The news of one node.
#[derive(Clone, Copy, Debug)]
pub struct NewsEntry<'a> {
    /// Whose it is.
    pub node: NodeId,
    /// Milliseconds since it told this.
    pub age_ms: u64,
    /// What it told, with what later versions may have added: passed on as it is.
    pub body: &'a [u8],
}

/// Where a node stands, as it says itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The stream that its purges go to: the low 16 bits of the epoch's random ones.
    pub stream: u16,
    /// Some of [`Standing::FLAGS_KNOWN`].
    pub flags: u8,
    /// The last seq of that stream; 0 for none.
    pub issued: u64,
    /// Everything that was issued by any of `nodes` nodes longer than so many ms before is applied at this
    /// one; `None` if that cannot be said yet.
    pub complete_ms: Option<u64>,
    /// Of how many nodes it has fresh news, itself counted.
    pub nodes: u64,
    /// What it knows to exist and has not applied, if there is any.
    pub lacking: Option<Lacking>,
    /// It has no room for what is older than so many ms.
    pub retention_ms: Option<u64>,
    /// What it issued before it started again, as far as it holds anything of that.
    pub earlier: Option<Earlier>,
}

/// The streams that a node had before its present one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Earlier {
    /// The stamp of the oldest one's epoch, in ms since 1970.
    pub stamp: u64,
    /// The sum of their last seqs.
    pub issued: u64,
}

/// What a node lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lacking {
    /// How many messages.
    pub count: u64,
    /// Who issued those that have been lacking for longest.
    pub node: NodeId,
    /// Since how many ms.
    pub since_ms: u64,
}

impl Standing {
    /// Flag: [`Standing::lacking`] is there.
    const LACKING: u8 = 1;
    /// Flag: [`Standing::retention_ms`] is there.
    const RETENTION: u8 = 2;
    /// Flag: its cache fails to apply purges.
    pub const CACHE_FAILS: u8 = 4;
    /// Flag: its journal does not work.
    pub const JOURNAL_FAILS: u8 = 8;
    /// Flag: it holds purges of kinds that it does not know.
    pub const UNSUPPORTED: u8 = 16;
    /// Flag: [`Standing::earlier`] is there.
    pub const EARLIER: u8 = 32;

    /// The flags of this version that say something by themselves.
    pub const FLAGS_KNOWN: u8 = Self::CACHE_FAILS | Self::JOURNAL_FAILS | Self::UNSUPPORTED;

    pub(crate) fn decode(body: &[u8]) -> Result<Standing> {
        let mut input = Reader(body);
        let stream = input.u16()?;
        let flags = input.u8()?;
        Ok(Standing {
            stream,
            flags: flags & Self::FLAGS_KNOWN,
            issued: input.varint()?,
            complete_ms: input.varint()?.checked_sub(1),
            nodes: input.varint()?,
            lacking: if flags & Self::LACKING != 0 {
                Some(Lacking {
                    count: input.varint()?,
                    node: NodeId(input.u64()?),
                    since_ms: input.varint()?,
                })
            } else {
                None
            },
            retention_ms: if flags & Self::RETENTION != 0 {
                Some(input.varint()?)
            } else {
                None
            },
            earlier: if flags & Self::EARLIER != 0 {
                Some(Earlier {
                    stamp: input.varint()?,
                    issued: input.varint()?,
                })
            } else {
                None
            },
        })
    }

    /// Appends the body; at most [`NEWS_BODY_BYTES_MAX`] bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut flags = self.flags & Self::FLAGS_KNOWN;
        flags |= self.lacking.map_or(0, |_| Self::LACKING);
        flags |= self.retention_ms.map_or(0, |_| Self::RETENTION);
        flags |= self.earlier.map_or(0, |_| Self::EARLIER);
        out.extend_from_slice(&self.stream.to_le_bytes());
        out.push(flags);
        put_varint(out, self.issued);
        put_varint(out, self.complete_ms.map_or(0, |ms| ms.saturating_add(1)));
        put_varint(out, self.nodes);
        if let Some(lacking) = self.lacking {
            put_varint(out, lacking.count);
            out.extend_from_slice(&lacking.node.0.to_le_bytes());
            put_varint(out, lacking.since_ms);
        }
        if let Some(ms) = self.retention_ms {
            put_varint(out, ms);
        }
        if let Some(earlier) = self.earlier {
            put_varint(out, earlier.stamp);
            put_varint(out, earlier.issued);
        }
    }
}

impl<'a> NewsEntry<'a> {
    fn decode(input: &mut Reader<'a>) -> Result<NewsEntry<'a>> {
        let node = NodeId(input.u64()?);
        let age_ms = input.varint()?;
        let len = usize::from(input.u8()?);
        if len > NEWS_BODY_BYTES_MAX {
            return Err(WireError::OutOfRange("news length"));
        }
        let body = input.take(len)?;
        Ok(NewsEntry { node, age_ms, body })
    }

    /// What it told, as far as this version understands it. Most entries are no news: they are not looked into.
    pub fn standing(&self) -> Option<Standing> {
        Standing::decode(self.body).ok()
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_news_entry(out, self.node, self.age_ms, self.body);
    }
}

/// Appends the news of one node: `body` is what [`Standing::encode`] made, there or here.
pub fn put_news_entry(out: &mut Vec<u8>, node: NodeId, age_ms: u64, body: &[u8]) {
    out.extend_from_slice(&node.0.to_le_bytes());
    put_varint(out, age_ms);
    debug_assert!(body.len() <= NEWS_BODY_BYTES_MAX);
    out.push(body.len() as u8);
    out.extend_from_slice(body);
}

/// Bytes that [`put_news_entry`] appends.
pub fn news_entry_bytes(age_ms: u64, body: &[u8]) -> usize {
    8 + varint_bytes(age_ms) + 1 + body.len()
}

/// Appends a news frame of encoded entries.
pub fn put_news(out: &mut Vec<u8>, wall_ms: u64, entries: &[u8]) {
    super::frame(out, super::FRAME_NEWS, |out| {
        put_varint(out, wall_ms);
        out.extend_from_slice(entries);
    });
}
