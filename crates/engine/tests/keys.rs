//! Keys as headers and bodies have them.

use std::time::{Duration, Instant};

use powderhorn_engine::keys::{KeyHasher, split};
use proptest::prelude::*;

fn keys(value: &str) -> Vec<String> {
    split(value.as_bytes())
        .map(|key| String::from_utf8_lossy(&key).into_owned())
        .collect()
}

#[test]
fn spaces_commas_and_line_ends_separate_keys() {
    assert_eq!(keys("a b"), ["a", "b"]);
    assert_eq!(keys("a,b"), ["a", "b"]);
    assert_eq!(keys("a, b,\tc"), ["a", "b", "c"]);
    assert_eq!(keys(" ,a,,  b , "), ["a", "b"]);
    assert_eq!(keys("a\r\nb\n\nc\n"), ["a", "b", "c"]);
    assert_eq!(keys(""), [""; 0]);
    assert_eq!(keys(" ,\r\n"), [""; 0]);
}

#[test]
fn a_bare_key_may_hold_any_other_byte() {
    assert_eq!(
        keys("node:1;x=2 a\"b\" ü|(^"),
        ["node:1;x=2", "a\"b\"", "ü|(^"]
    );
    assert_eq!(
        split(b"\xff\x00 x").next().as_deref(),
        Some(&b"\xff\x00"[..])
    );
}

/// A list of strings, as RFC 9875 has it, with all that RFC 9651 lets a string hold.
#[test]
fn cache_groups_are_quoted() {
    assert_eq!(
        keys(r#""eurovision-results", "kylie-minogue""#),
        ["eurovision-results", "kylie-minogue"]
    );
    assert_eq!(keys(r#""b c", "d,e""#), ["b c", "d,e"]);
    assert_eq!(keys(r#""a\"b" "c\\d""#), [r#"a"b"#, r"c\d"]);
    assert_eq!(keys(r#""","a""#), ["a"]);
}

#[test]
fn parameters_are_ignored() {
    assert_eq!(keys(r#""a";x, "b"; y=1;z="q, r" , "c""#), ["a", "b", "c"]);
    assert_eq!(keys(r#""a";x=%"f%c3, g";y=:cHJl=:,b"#), ["a", "b"]);
    assert_eq!(keys(r#""a";x="open, b"#), ["a", "b"]);
    assert_eq!(keys(r#""a";, b"#), ["a", "b"]);
    assert_eq!(keys(r#""a"; "b""#), ["a", "b"]);
    assert_eq!(keys(r#""a";"#), ["a"]);
    assert_eq!(keys(r#""a";x="#), ["a"]);
}

#[test]
fn what_follows_a_string_is_the_next_key() {
    assert_eq!(keys(r#""a"b "c""d""#), ["a", "b", "c", "d"]);
}

#[test]
fn what_is_no_string_is_a_bare_key() {
    assert_eq!(keys(r#""a b"#), [r#""a"#, "b"]);
    assert_eq!(keys(r#"a ""#), ["a", "\""]);
    assert_eq!(keys(r#""a\n" b"#), [r#""a\n""#, "b"]);
    assert_eq!(keys("\"a\nb\""), ["\"a", "b\""]);
    assert_eq!(keys(r#""a\"#), [r#""a\"#]);
}

proptest! {
    #[test]
    fn any_bytes_give_keys_that_are_not_empty(value in prop::collection::vec(
        prop_oneof![Just(b'"'), Just(b'\\'), Just(b';'), Just(b'='), Just(b' '), Just(b','), any::<u8>()],
        0..200,
    )) {
        let mut length = 0;
        for key in split(&value) {
            prop_assert!(!key.is_empty());
            length += key.len();
        }
        prop_assert!(length <= value.len());
    }

    #[test]
    fn a_quoted_key_comes_back_as_it_was(names in prop::collection::vec("[ -~]{1,20}", 0..10)) {
        let quoted: Vec<String> = names
            .iter()
            .map(|name| format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\"")))
            .collect();
        prop_assert_eq!(keys(&quoted.join(", ")), names.clone());
        prop_assert_eq!(keys(&quoted.join("")), names.clone());
        prop_assert_eq!(keys(&quoted.join(";x;y=\"1, 2\" ")), names);
    }

    #[test]
    fn a_bare_key_comes_back_as_it_was(names in prop::collection::vec("[!#-+\\--~][!-+\\--~]{0,20}", 0..10)) {
        prop_assert_eq!(keys(&names.join(" ")), names.clone());
        prop_assert_eq!(keys(&names.join(",")), names);
    }
}

/// Bodies come from clients: a value that makes each key look at all the rest would take minutes here.
#[test]
fn takes_time_in_proportion_to_the_length() {
    for unit in [
        "\"",
        "\"\\\" ",
        "\"a\"; ",
        "\"a\";x=\"",
        "\"a\";x=\"\\\"",
        "\" \\",
        "\"a\"; x=\" \";",
        " \"\\\\\\",
    ] {
        let value = unit.repeat(500_000 / unit.len());
        let begun = Instant::now();
        let n = split(value.as_bytes()).count();
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{unit:?}: {n} keys"
        );
    }
}

#[test]
fn the_seed_and_the_case_make_a_difference() {
    let hasher = KeyHasher::new([1, 2]);
    assert_eq!(hasher.hash(b"a"), KeyHasher::new([1, 2]).hash(b"a"));
    assert_ne!(hasher.hash(b"a"), hasher.hash(b"A"));
    assert_ne!(hasher.hash(b"a"), KeyHasher::new([2, 1]).hash(b"a"));
    assert_ne!(
        hasher.hash(b"a").0 >> 64,
        u128::from(hasher.hash(b"a").low64())
    );
    assert_eq!(format!("{hasher:?}"), "KeyHasher { .. }");
}

/// The hash of the reference implementation's test vector (key 00 … 0f, message 00 … 0e).
#[test]
fn hashes_as_siphash_2_4_does() {
    let hasher = KeyHasher::new([0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]);
    let message: Vec<u8> = (0..15).collect();
    let expected = [
        0x54, 0x93, 0xe9, 0x99, 0x33, 0xb0, 0xa8, 0x11, 0x7e, 0x08, 0xec, 0x0f, 0x97, 0xcf, 0xc3,
        0xd9,
    ];
    assert_eq!(hasher.hash(&message).0.to_le_bytes(), expected);
}
