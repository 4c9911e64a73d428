//! What a message asks of a cache.
//!
//! A purge travels as an op code and a body (docs/DESIGN.md has them byte by byte). Keys, bans and
//! hosts are kept here in the form in which they travel, checked once, and read through iterators:
//! a message that is relayed is never taken apart and put together again.

use bytes::Bytes;

use crate::bounds::{KEY_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::wire::{MESSAGE_OVERHEAD_BYTES, Reader, put_varint};

/// Most bytes of an op's body: what [`MESSAGE_BYTES_MAX`] leaves.
pub const BODY_BYTES_MAX: usize = MESSAGE_BYTES_MAX - MESSAGE_OVERHEAD_BYTES;

/// Longest name of a header that a ban tests.
pub const HEADER_NAME_BYTES_MAX: usize = 100;

/// One invalidation. New kinds are new variants with a new op code; a node that does not know an
/// op code holds and relays the message as [`Purge::Unknown`].
///
/// A *soft* purge ends an object's TTL and leaves its grace and keep; the others take the object
/// away.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Purge {
    /// Every variant of the object with this hash: what `vcl_hash` made of the request, 32 bytes.
    Digest([u8; 32]),
    /// The same, softly.
    SoftDigest([u8; 32]),
    /// All objects that carry one of these surrogate keys.
    Keys(Keys),
    /// The same, softly.
    SoftKeys(Keys),
    /// All objects that pass the ban's tests.
    Ban(Ban),
    /// All objects of one host.
    Flush(Host),
    /// All objects.
    Everything,
    /// The same, softly.
    SoftEverything,
    /// An op of a later version, by its code or by the form of its body: held, relayed and
    /// reported, never applied.
    Unknown {
        /// The op code as received.
        op: u16,
        /// The op's body as received.
        body: Bytes,
    },
}

impl Purge {
    /// Op code of [`Purge::Digest`].
    pub const OP_DIGEST: u16 = 1;
    /// Op code of [`Purge::SoftDigest`].
    pub const OP_SOFT_DIGEST: u16 = 2;
    /// Op code of [`Purge::Keys`].
    pub const OP_KEYS: u16 = 3;
    /// Op code of [`Purge::SoftKeys`].
    pub const OP_SOFT_KEYS: u16 = 4;
    /// Op code of [`Purge::Ban`].
    pub const OP_BAN: u16 = 5;
    /// Op code of [`Purge::Flush`].
    pub const OP_FLUSH: u16 = 6;
    /// Op code of [`Purge::Everything`].
    pub const OP_EVERYTHING: u16 = 7;
    /// Op code of [`Purge::SoftEverything`].
    pub const OP_SOFT_EVERYTHING: u16 = 8;

    /// The purge that an op stands for; an op code that is not known here, or a known one whose
    /// body is not of this version's form, is [`Purge::Unknown`].
    pub fn from_op(op: u16, body: &[u8]) -> Purge {
        let known = match op {
            Self::OP_DIGEST => body.try_into().ok().map(Purge::Digest),
            Self::OP_SOFT_DIGEST => body.try_into().ok().map(Purge::SoftDigest),
            Self::OP_KEYS => Keys::parse(body).map(Purge::Keys),
            Self::OP_SOFT_KEYS => Keys::parse(body).map(Purge::SoftKeys),
            Self::OP_BAN => Ban::parse(body).map(Purge::Ban),
            Self::OP_FLUSH => Host::new(body).ok().map(Purge::Flush),
            Self::OP_EVERYTHING => body.is_empty().then_some(Purge::Everything),
            Self::OP_SOFT_EVERYTHING => body.is_empty().then_some(Purge::SoftEverything),
            _ => None,
        };
        known.unwrap_or_else(|| Purge::Unknown {
            op,
            body: Bytes::copy_from_slice(body),
        })
    }

    /// The op code and body that the purge travels as.
    pub fn op(&self) -> (u16, &[u8]) {
        match self {
            Purge::Digest(digest) => (Self::OP_DIGEST, digest),
            Purge::SoftDigest(digest) => (Self::OP_SOFT_DIGEST, digest),
            Purge::Keys(keys) => (Self::OP_KEYS, &keys.0),
            Purge::SoftKeys(keys) => (Self::OP_SOFT_KEYS, &keys.0),
            Purge::Ban(ban) => (Self::OP_BAN, &ban.0),
            Purge::Flush(host) => (Self::OP_FLUSH, &host.0),
            Purge::Everything => (Self::OP_EVERYTHING, &[]),
            Purge::SoftEverything => (Self::OP_SOFT_EVERYTHING, &[]),
            Purge::Unknown { op, body } => (*op, body),
        }
    }

    /// Most bytes that the purge can take as a message, its id included: what
    /// [`MESSAGE_BYTES_MAX`] is compared with.
    pub fn message_bytes_max(&self) -> usize {
        MESSAGE_OVERHEAD_BYTES + self.op().1.len()
    }
}

/// Why something cannot be purged. Nothing was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// There is nothing in it.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// It does not fit into a message.
    #[error("{what} has {bytes} bytes, and {bytes_max} are possible: {start:?}")]
    TooLong {
        /// Which field.
        what: &'static str,
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        bytes_max: usize,
        /// How it begins, for people.
        start: String,
    },
    /// It has a byte that no header and no cache can hold.
    #[error("{what} has a byte {byte:#04x} in it: {start:?}")]
    Byte {
        /// Which field.
        what: &'static str,
        /// The byte.
        byte: u8,
        /// How the field begins, for people.
        start: String,
    },
}

/// Checks one field: not empty, not too long, and printable (a zero byte would end a C string early,
/// a line break would end a header).
fn check(what: &'static str, field: &[u8], bytes_max: usize) -> Result<(), FieldError> {
    let start = || {
        let start = String::from_utf8_lossy(field.get(..40).unwrap_or(field));
        start.into_owned()
    };
    if field.is_empty() {
        return Err(FieldError::Empty(what));
    }
    if field.len() > bytes_max {
        return Err(FieldError::TooLong {
            what,
            bytes: field.len(),
            bytes_max,
            start: start(),
        });
    }
    let control = |byte: &u8| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f;
    match field.iter().copied().find(control) {
        None => Ok(()),
        Some(byte) => Err(FieldError::Byte {
            what,
            byte,
            start: start(),
        }),
    }
}

fn is_token_byte(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

/// Whether it can be the name of a header: a token of RFC 9110.
pub fn is_token(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(is_token_byte)
}

/// Appends a field with its length.
fn put_field(out: &mut Vec<u8>, field: &[u8]) {
    put_varint(out, field.len() as u64);
    out.extend_from_slice(field);
}

/// The length as the next field's, and so many bytes; `None` if there are fewer.
fn take_field<'a>(input: &mut Reader<'a>) -> Option<&'a [u8]> {
    let len = usize::try_from(input.varint().ok()?).ok()?;
    input.take(len).ok()
}

/// Surrogate keys, one at least, as many as fit into a message. Body: for each its length (varint)
/// and its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Keys(Bytes);

impl Keys {
    /// Packs keys into as few messages' worth as they need, in their order. A key is 1 to
    /// [`KEY_BYTES_MAX`] bytes without control characters; one that is not refuses them all.
    pub fn pack<'a>(keys: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Keys>, FieldError> {
        let mut packed = Vec::new();
        let mut body = Vec::new();
        for key in keys {
            check("a key", key, KEY_BYTES_MAX)?;
            let before = body.len();
            put_field(&mut body, key);
            if body.len() > BODY_BYTES_MAX {
                packed.push(Keys(Bytes::copy_from_slice(&body[..before])));
                body.drain(..before);
            }
        }
        if !body.is_empty() {
            packed.push(Keys(body.into()));
        }
        Ok(packed)
    }

    fn parse(body: &[u8]) -> Option<Keys> {
        let mut input = Reader(body);
        while !input.0.is_empty() {
            check("a key", take_field(&mut input)?, KEY_BYTES_MAX).ok()?;
        }
        (!body.is_empty()).then(|| Keys(Bytes::copy_from_slice(body)))
    }

    /// The keys.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut input = Reader(&self.0);
        std::iter::from_fn(move || take_field(&mut input))
    }
}

/// A host: 1 to 255 bytes, in the form in which objects carry it (lower case).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host(Bytes);

impl Host {
    /// Longest host, in bytes: a DNS name's limit.
    pub const BYTES_MAX: usize = 255;

    /// Checks a host's length and bytes; changes nothing of it.
    pub fn new(host: &[u8]) -> Result<Host, FieldError> {
        check("the host", host, Self::BYTES_MAX)?;
        Ok(Host(Bytes::copy_from_slice(host)))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What of an object a ban's test looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BanField<'a> {
    /// The URL that it was fetched for.
    Url,
    /// The host that it was fetched for.
    Host,
    /// A header of the response, by its name (1 to [`HEADER_NAME_BYTES_MAX`] bytes, a token of RFC
    /// 9110).
    Header(&'a [u8]),
}

/// How a ban's test compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BanOperator {
    /// The field is the argument, byte for byte.
    Equal,
    /// It is not, or is not there.
    NotEqual,
    /// The field is there and the argument, a regular expression (PCRE2), matches in it.
    Match,
    /// The field is there and it does not match.
    NotMatch,
}

/// One test of a ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BanTest<'a> {
    /// What is looked at.
    pub field: BanField<'a>,
    /// How it is compared.
    pub operator: BanOperator,
    /// With what: at least one byte, no control characters.
    pub argument: &'a [u8],
}

/// Tests that an object must pass, all of them, to be taken away: one at least, [`Ban::TESTS_MAX`]
/// at most. Body: for each test the field (1 URL, 2 host, 3 header, with its name as length and
/// bytes), the operator (1 `==`, 2 `!=`, 3 `~`, 4 `!~`), and the argument as length and bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ban(Bytes);

impl Ban {
    /// Most tests of one ban: more than any client in the field sends.
    pub const TESTS_MAX: usize = 8;

    /// Packs the tests. An error names what is wrong; that a regular expression is one is for the
    /// cache to say.
    pub fn new(tests: &[BanTest<'_>]) -> Result<Ban, FieldError> {
        let too_long = |what, bytes, bytes_max| FieldError::TooLong {
            what,
            bytes,
            bytes_max,
            start: String::new(),
        };
        if tests.is_empty() {
            return Err(FieldError::Empty("the ban"));
        }
        if tests.len() > Self::TESTS_MAX {
            return Err(too_long(
                "the list of a ban's tests",
                tests.len(),
                Self::TESTS_MAX,
            ));
        }
        let mut body = Vec::new();
        for test in tests {
            test.check()?;
            match test.field {
                BanField::Url => body.push(1),
                BanField::Host => body.push(2),
                BanField::Header(name) => {
                    body.push(3);
                    put_field(&mut body, name);
                }
            }
            body.push(match test.operator {
                BanOperator::Equal => 1,
                BanOperator::NotEqual => 2,
                BanOperator::Match => 3,
                BanOperator::NotMatch => 4,
            });
            put_field(&mut body, test.argument);
        }
        if body.len() > BODY_BYTES_MAX {
            return Err(too_long("the ban", body.len(), BODY_BYTES_MAX));
        }
        Ok(Ban(body.into()))
    }

    /// The body: equal bans have equal ones.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn parse(body: &[u8]) -> Option<Ban> {
        let mut input = Reader(body);
        let mut tests = 0;
        while !input.0.is_empty() {
            BanTest::take(&mut input)?.check().ok()?;
            tests += 1;
        }
        (1..=Self::TESTS_MAX)
            .contains(&tests)
            .then(|| Ban(Bytes::copy_from_slice(body)))
    }

    /// The tests.
    pub fn tests(&self) -> impl Iterator<Item = BanTest<'_>> {
        let mut input = Reader(&self.0);
        std::iter::from_fn(move || BanTest::take(&mut input))
    }
}

impl<'a> BanTest<'a> {
    fn check(&self) -> Result<(), FieldError> {
        if let BanField::Header(name) = self.field {
            let what = "the header's name";
            check(what, name, HEADER_NAME_BYTES_MAX)?;
            if let Some(&byte) = name.iter().find(|byte| !is_token_byte(byte)) {
                let start = String::from_utf8_lossy(name).into_owned();
                return Err(FieldError::Byte { what, byte, start });
            }
        }
        check("the ban's argument", self.argument, BODY_BYTES_MAX)
    }

    fn take(input: &mut Reader<'a>) -> Option<BanTest<'a>> {
        let field = match input.u8().ok()? {
            1 => BanField::Url,
            2 => BanField::Host,
            3 => BanField::Header(take_field(input)?),
            _ => return None,
        };
        let operator = match input.u8().ok()? {
            1 => BanOperator::Equal,
            2 => BanOperator::NotEqual,
            3 => BanOperator::Match,
            4 => BanOperator::NotMatch,
            _ => return None,
        };
        Some(BanTest {
            field,
            operator,
            argument: take_field(input)?,
        })
    }
}
