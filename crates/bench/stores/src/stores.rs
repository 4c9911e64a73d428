//! The stores, each as it would be used: key (stream, seq), value (birth, op, body).

use std::ops::Bound;
use std::path::Path;
use std::time::Duration;

use fjall::compaction::{Fifo, Leveled, Strategy};
use heed::types::Bytes;
use powderhorn_journal::{Journal, JournalStore, Options, Wait};
use powderhorn_protocol::id::{Epoch, MessageId, NodeId, StreamId};
use powderhorn_protocol::purge::Purge;
use powderhorn_protocol::store::{Fetch, Held, Store};
use powderhorn_protocol::time::Time;
use redb::{Durability, TableDefinition};

use crate::Result;

pub const STREAMS: u64 = 5;
pub const NAMES: [&str; 5] = ["journal", "fjall-fifo", "fjall-leveled", "redb", "heed"];

pub struct Message {
    pub stream: u64,
    pub seq: u64,
    pub born_us: u64,
    pub digest: [u8; 32],
}

/// A number for the stream: shorter than its id, in the others' favour.
fn key(stream: u64, seq: u64) -> [u8; 10] {
    let mut key = [0; 10];
    key[..2].copy_from_slice(&(stream as u16).to_be_bytes());
    key[2..].copy_from_slice(&seq.to_be_bytes());
    key
}

fn value(message: &Message) -> [u8; 41] {
    let mut value = [0; 41];
    value[..8].copy_from_slice(&message.born_us.to_le_bytes());
    value[8] = 1;
    value[9..].copy_from_slice(&message.digest);
    value
}

pub trait Stored {
    /// Appends a lot; it survives the death of the process when this returns, as far as the store can.
    fn append(&mut self, lot: &[Message]) -> Result<()>;
    /// Waits until nothing is done in the background.
    fn settle(&mut self) -> Result<()> {
        Ok(())
    }
    /// Reads messages in a row; how many there were.
    fn range(&mut self, stream: u64, first: u64, count: u64) -> Result<u64>;
    /// Removes the older half of each stream; false if it cannot remove by stream.
    fn remove_halves(&mut self, next: &[u64]) -> Result<bool>;
}

pub fn open(name: &str, dir: &Path) -> Result<Box<dyn Stored>> {
    Ok(match name {
        "journal" => Box::new(Ours::open(dir)?),
        "fjall-fifo" => Box::new(Fjall::open(
            dir,
            Strategy::Fifo(Fifo::new(1 << 40, Some(86_400))),
        )?),
        "fjall-leveled" => Box::new(Fjall::open(dir, Strategy::Leveled(Leveled::default()))?),
        "redb" => Box::new(Redb::open(dir)?),
        "heed" => Box::new(Heed::open(dir)?),
        _ => return Err(format!("no store is called {name}").into()),
    })
}

struct Ours {
    store: JournalStore,
    journal: Journal,
}

fn stream_id(stream: u64) -> StreamId {
    StreamId {
        node: NodeId(stream),
        epoch: Epoch {
            stamp: 1,
            random: stream,
        },
    }
}

impl Ours {
    fn open(dir: &Path) -> Result<Ours> {
        let (store, journal, _) = Journal::open(Options {
            bytes_max: 8 << 30,
            ..Options::new(dir)
        })?;
        Ok(Ours { store, journal })
    }
}

impl Stored for Ours {
    fn append(&mut self, lot: &[Message]) -> Result<()> {
        for message in lot {
            let id = MessageId {
                stream: stream_id(message.stream),
                seq: message.seq,
            };
            let held = Held {
                born: Time::from_us(message.born_us as i64),
                issued_ms: message.born_us / 1_000,
                purge: Purge::Digest(message.digest),
            };
            self.store.insert(id, held);
        }
        let position = self.journal.position();
        let waited = self.journal.wait(position, Duration::from_secs(60));
        if waited != Wait::Written {
            return Err(format!("{waited:?}").into());
        }
        // What is done in the background is not to be left for later.
        while self.journal.counters().unsealed > 3 {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        while self.journal.counters().unsealed > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Files go a moment after they are not needed.
        std::thread::sleep(Duration::from_millis(500));
        Ok(())
    }

    fn range(&mut self, stream: u64, first: u64, count: u64) -> Result<u64> {
        let stream = stream_id(stream);
        let mut found = 0;
        for seq in first..first + count {
            loop {
                match self.store.get(MessageId { stream, seq }) {
                    Fetch::Held(_) => found += 1,
                    Fetch::Gone => {}
                    Fetch::Pending => {
                        // Another thread reads it.
                        std::thread::sleep(Duration::from_micros(20));
                        continue;
                    }
                }
                break;
            }
        }
        Ok(found)
    }

    fn remove_halves(&mut self, next: &[u64]) -> Result<bool> {
        for (stream, next) in next.iter().enumerate() {
            self.store.remove_below(stream_id(stream as u64), next / 2);
        }
        Ok(true)
    }
}

struct Fjall {
    keyspace: fjall::Keyspace,
    partition: fjall::PartitionHandle,
    fifo: bool,
}

impl Fjall {
    fn open(dir: &Path, strategy: Strategy) -> Result<Fjall> {
        let fifo = matches!(strategy, Strategy::Fifo(_));
        let keyspace = fjall::Config::new(dir).open()?;
        let options = fjall::PartitionCreateOptions::default().compaction_strategy(strategy);
        let partition = keyspace.open_partition("messages", options)?;
        Ok(Fjall {
            keyspace,
            partition,
            fifo,
        })
    }
}

impl Stored for Fjall {
    fn append(&mut self, lot: &[Message]) -> Result<()> {
        let mut batch = self.keyspace.batch();
        for message in lot {
            batch.insert(
                &self.partition,
                key(message.stream, message.seq),
                value(message),
            );
        }
        batch.commit()?;
        Ok(self.keyspace.persist(fjall::PersistMode::Buffer)?)
    }

    fn settle(&mut self) -> Result<()> {
        std::thread::sleep(Duration::from_secs(2));
        Ok(())
    }

    fn range(&mut self, stream: u64, first: u64, count: u64) -> Result<u64> {
        let mut found = 0;
        for entry in self
            .partition
            .range(key(stream, first)..key(stream, first + count))
        {
            entry?;
            found += 1;
        }
        Ok(found)
    }

    fn remove_halves(&mut self, next: &[u64]) -> Result<bool> {
        if self.fifo {
            return Ok(false);
        }
        for (stream, next) in next.iter().enumerate() {
            let seqs: Vec<u64> = (1..next / 2).collect();
            for lot in seqs.chunks(1_000) {
                let mut batch = self.keyspace.batch();
                for &seq in lot {
                    batch.remove(&self.partition, key(stream as u64, seq));
                }
                batch.commit()?;
            }
        }
        Ok(true)
    }
}

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("messages");

struct Redb {
    database: redb::Database,
    commits: u64,
}

/// redb gives pages free only at a commit that is synced, so one in so many is: without, 10 million
/// messages took 19 GB.
const SYNCED_ONE_IN: u64 = 20;

impl Redb {
    fn open(dir: &Path) -> Result<Redb> {
        let mut builder = redb::Database::builder();
        // As much as the journal's own.
        builder.set_cache_size(64 << 20);
        Ok(Redb {
            database: builder.create(dir.join("redb"))?,
            commits: 0,
        })
    }
}

impl Stored for Redb {
    fn append(&mut self, lot: &[Message]) -> Result<()> {
        let mut transaction = self.database.begin_write()?;
        self.commits += 1;
        if self.commits % SYNCED_ONE_IN != 0 {
            // The weakest that is not forgotten when the process dies.
            transaction.set_durability(Durability::Eventual);
        }
        {
            let mut table = transaction.open_table(TABLE)?;
            for message in lot {
                table.insert(&key(message.stream, message.seq)[..], &value(message)[..])?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn range(&mut self, stream: u64, first: u64, count: u64) -> Result<u64> {
        let transaction = self.database.begin_read()?;
        let table = transaction.open_table(TABLE)?;
        let mut found = 0;
        for entry in table.range(&key(stream, first)[..]..&key(stream, first + count)[..])? {
            entry?;
            found += 1;
        }
        Ok(found)
    }

    fn remove_halves(&mut self, next: &[u64]) -> Result<bool> {
        for (stream, next) in next.iter().enumerate() {
            let transaction = self.database.begin_write()?;
            {
                let mut table = transaction.open_table(TABLE)?;
                // One by one: retain_in() took 43 s for half a million.
                for seq in 1..next / 2 {
                    table.remove(&key(stream as u64, seq)[..])?;
                }
            }
            transaction.commit()?;
        }
        Ok(true)
    }
}

struct Heed {
    env: heed::Env,
    database: heed::Database<Bytes, Bytes>,
}

impl Heed {
    fn open(dir: &Path) -> Result<Heed> {
        let mut options = heed::EnvOpenOptions::new();
        options.map_size(16 << 30).max_dbs(1);
        // SAFETY: nobody else opens or changes these files, and without a sync only a power cut can lose what is
        // in them.
        let env = unsafe {
            options.flags(heed::EnvFlags::NO_SYNC);
            options.open(dir)?
        };
        let mut transaction = env.write_txn()?;
        let database = env.create_database(&mut transaction, Some("messages"))?;
        transaction.commit()?;
        Ok(Heed { env, database })
    }
}

impl Stored for Heed {
    fn append(&mut self, lot: &[Message]) -> Result<()> {
        let mut transaction = self.env.write_txn()?;
        for message in lot {
            let key = key(message.stream, message.seq);
            self.database.put(&mut transaction, &key, &value(message))?;
        }
        Ok(transaction.commit()?)
    }

    fn range(&mut self, stream: u64, first: u64, count: u64) -> Result<u64> {
        let transaction = self.env.read_txn()?;
        let (from, to) = (key(stream, first), key(stream, first + count));
        let mut found = 0;
        for entry in self.database.range(
            &transaction,
            &(Bound::Included(&from[..]), Bound::Excluded(&to[..])),
        )? {
            entry?;
            found += 1;
        }
        Ok(found)
    }

    fn remove_halves(&mut self, next: &[u64]) -> Result<bool> {
        for (stream, next) in next.iter().enumerate() {
            let mut transaction = self.env.write_txn()?;
            let (from, to) = (key(stream as u64, 1), key(stream as u64, next / 2));
            self.database.delete_range(
                &mut transaction,
                &(Bound::Included(&from[..]), Bound::Excluded(&to[..])),
            )?;
            transaction.commit()?;
        }
        Ok(true)
    }
}
