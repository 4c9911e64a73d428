//! The forms in which purges travel: what goes in comes out, what is not of the form is held as it
//! is, and several that belong together get one range of ids.

mod common;

use common::{Fleet, secs};
use powderhorn_protocol::PurgeError;
use powderhorn_protocol::bounds::{KEY_BYTES_MAX, MESSAGE_BYTES_MAX, OUTBOX_MAX};
use powderhorn_protocol::config::Config;
use powderhorn_protocol::purge::{
    BODY_BYTES_MAX, Ban, BanField, BanOperator, BanTest, FieldError, Host, Keys, Purge,
};
use proptest::prelude::*;

fn round_trip(purge: &Purge) {
    let (op, body) = purge.op();
    assert_eq!(&Purge::from_op(op, body), purge);
    assert!(purge.message_bytes_max() <= MESSAGE_BYTES_MAX);
}

#[test]
fn thousands_of_keys_become_few_messages_in_their_order() {
    let keys: Vec<Vec<u8>> = (0..5_000)
        .map(|i| format!("key-{i}").into_bytes())
        .collect();
    let packed = Keys::pack(keys.iter().map(Vec::as_slice)).unwrap();
    assert!((40..60).contains(&packed.len()), "{}", packed.len());
    let unpacked: Vec<&[u8]> = packed.iter().flat_map(Keys::iter).collect();
    assert_eq!(unpacked, keys.iter().map(Vec::as_slice).collect::<Vec<_>>());
    for keys in packed {
        round_trip(&Purge::Keys(keys.clone()));
        round_trip(&Purge::SoftKeys(keys));
    }
}

#[test]
fn the_longest_key_fits_and_a_longer_one_refuses_all() {
    let longest = vec![b'k'; KEY_BYTES_MAX];
    let packed = Keys::pack([b"a".as_slice(), &longest, b"b"]).unwrap();
    assert_eq!(packed.iter().flat_map(Keys::iter).count(), 3);
    packed
        .into_iter()
        .for_each(|keys| round_trip(&Purge::Keys(keys)));
    let longer = vec![b'k'; KEY_BYTES_MAX + 1];
    let error = Keys::pack([b"a".as_slice(), &longer]).unwrap_err();
    assert!(
        matches!(error, FieldError::TooLong { bytes: 1_025, .. }),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .starts_with("a key has 1025 bytes, and 1024 are possible: \"kkk")
    );
    assert!(matches!(
        Keys::pack([b"".as_slice()]),
        Err(FieldError::Empty(_))
    ));
    assert!(matches!(
        Keys::pack([b"a\0b".as_slice()]),
        Err(FieldError::Byte { byte: 0, .. })
    ));
    assert_eq!(Keys::pack([]), Ok(Vec::new()));
}

#[test]
fn a_ban_says_what_it_was_told() {
    let tests = [
        BanTest {
            field: BanField::Url,
            operator: BanOperator::Match,
            argument: b"^/news/",
        },
        BanTest {
            field: BanField::Host,
            operator: BanOperator::Equal,
            argument: b"example.com",
        },
        BanTest {
            field: BanField::Header(b"Content-Type"),
            operator: BanOperator::NotMatch,
            argument: b"text/",
        },
        BanTest {
            field: BanField::Header(b"x"),
            operator: BanOperator::NotEqual,
            argument: b"y",
        },
    ];
    let ban = Ban::new(&tests).unwrap();
    assert_eq!(ban.tests().collect::<Vec<_>>(), tests);
    round_trip(&Purge::Ban(ban));
}

#[test]
fn a_ban_that_no_cache_could_hold_is_refused() {
    let test = |field, argument| BanTest {
        field,
        operator: BanOperator::Match,
        argument,
    };
    let refused = |tests: &[BanTest<'_>]| Ban::new(tests).unwrap_err().to_string();
    assert_eq!(refused(&[]), "the ban is empty");
    assert_eq!(
        refused(&[test(BanField::Url, b"")]),
        "the ban's argument is empty"
    );
    assert!(refused(&[test(BanField::Url, b"a\nb")]).contains("0x0a"));
    assert!(refused(&[test(BanField::Header(b"a b"), b"x")]).contains("the header's name"));
    assert!(refused(&[test(BanField::Header(b"a:"), b"x")]).contains("0x3a"));
    assert!(refused(&[test(BanField::Header(&[b'a'; 101]), b"x")]).contains("101"));
    assert!(refused(&[test(BanField::Url, &[b'a'; BODY_BYTES_MAX])]).contains("the ban has"));
    let many = [test(BanField::Url, b"x".as_slice()); Ban::TESTS_MAX + 1];
    assert!(refused(&many).contains("9"));
}

#[test]
fn the_other_kinds_travel_too() {
    round_trip(&Purge::Digest([7; 32]));
    round_trip(&Purge::SoftDigest([7; 32]));
    round_trip(&Purge::Flush(Host::new(b"example.com").unwrap()));
    round_trip(&Purge::Everything);
    round_trip(&Purge::SoftEverything);
    assert!(Host::new(&[b'a'; 256]).is_err());
    assert!(Host::new(b"").is_err());
}

#[test]
fn purges_issued_together_get_one_range_of_ids_and_reach_everybody() {
    let mut fleet = Fleet::new(1, 3, &Config::default());
    fleet.settle();
    let keys: Vec<Vec<u8>> = (0..1_000)
        .map(|i| format!("key-{i}").into_bytes())
        .collect();
    let packed = Keys::pack(keys.iter().map(Vec::as_slice)).unwrap();
    let purges: Vec<Purge> = packed.into_iter().map(Purge::Keys).collect();
    let before = fleet.issue(0);
    let ids = fleet.issue_purges(0, purges.clone());
    assert_eq!(ids.first, before.seq + 1);
    assert_eq!(ids.last - ids.first + 1, purges.len() as u64);
    assert_eq!(fleet.issue(0).seq, ids.last + 1);
    fleet.converge(secs(5));
    fleet.assert_applied_once();
}

#[test]
fn purges_issued_together_are_issued_all_or_none() {
    let mut fleet = Fleet::new(1, 2, &Config::default());
    let now = fleet.now;
    let core = &mut fleet.nodes[0].core;
    let unknown = Purge::from_op(999, b"x");
    let refused = core.handle_purges(now, [Purge::Everything, unknown]);
    assert_eq!(refused, Err(PurgeError::Unsupported(999)));
    assert_eq!(core.handle_purges(now, []), Err(PurgeError::Nothing));
    let too_many = vec![Purge::Everything; OUTBOX_MAX as usize + 1];
    assert_eq!(core.handle_purges(now, too_many), Err(PurgeError::Busy));
    assert_eq!(core.stats().issued, 0);
    let ids = core.handle_purges(now, [Purge::Everything]).unwrap();
    assert_eq!((ids.first, ids.last), (1, 1));
}

proptest! {
    /// Whatever a body is, it is taken as it is or held as it is; nothing is lost by being read.
    #[test]
    fn any_op_comes_out_as_it_went_in(op in 0u16..12, body in prop::collection::vec(any::<u8>(), 0..80)) {
        let purge = Purge::from_op(op, &body);
        prop_assert_eq!(purge.op(), (op, &body[..]));
    }

    /// So do bodies that are almost right: one of the form, with one byte changed or cut off.
    #[test]
    fn damaged_ops_come_out_as_they_went_in(
        keys in prop::collection::vec("[a-z0-9/.]{1,20}", 1..20),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<bool>(),
        op in 3u16..6,
    ) {
        let packed = Keys::pack(keys.iter().map(|key| key.as_bytes())).unwrap();
        let mut body = Purge::Keys(packed[0].clone()).op().1.to_vec();
        let at = at.index(body.len());
        if cut {
            body.truncate(at);
        } else {
            body[at] = byte;
        }
        let purge = Purge::from_op(op, &body);
        prop_assert_eq!(purge.op(), (op, &body[..]));
        if let Purge::Keys(keys) = &purge {
            prop_assert!(keys.iter().all(|key| !key.is_empty()));
        }
    }
}
