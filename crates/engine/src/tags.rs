//! Tags in regular expressions, and globs: what clients of other caches send, turned into what this one
//! does well.
//!
//! FOSHttpCache, API Platform and Magento ask for a ban by a regular expression over the header with an
//! object's tags. All that it says is "one of these tags, between commas". Taken as surrogate keys they
//! need no ban, and do not have to fit into one message.

/// The tags that a regular expression names, if it does nothing but name them; else `None`.
///
/// With *left* for `(^|,)` or `(^|\,)`, *right* for `(,|$)`, `($|,)` or the same with `\,`, these are:
///
/// - left `(a|b)` right, and left `a` right: FOSHttpCache, and API Platform up to 2;
/// - `(a|b)` right: API Platform. As it stands this also matches a tag that ends in `a`; what its
///   author means is the tag.
/// - `(`left `a` right`)|(`left `b` right`)`: Magento, and API Platform up to 2.
///
/// A tag is made of bytes that stand for themselves and of escaped punctuation; in the last form also of
/// dots, as Magento escapes nothing. One that a surrogate key cannot be (with a space or a comma in it,
/// or a quote before it) makes it `None`, as does anything else.
pub fn named(pattern: &[u8]) -> Option<Vec<Vec<u8>>> {
    let alone = || {
        let (left, rest) = skip_left(pattern);
        let (tags, rest) = group(rest).or_else(|| {
            let (tag, rest) = tag(rest, false)?;
            left.then(|| (vec![tag], rest))
        })?;
        skip_right(rest)?.is_empty().then_some(tags)
    };
    alone().or_else(|| each(pattern))
}

/// `(`left `a` right`)|(`left `b` right`)|…`
fn each(pattern: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut tags = Vec::new();
    let mut rest = pattern;
    loop {
        rest = rest.strip_prefix(b"(")?;
        let (true, after) = skip_left(rest) else {
            return None;
        };
        let (one, after) = tag(after, true)?;
        tags.push(one);
        rest = skip_right(after)?.strip_prefix(b")")?;
        if rest.is_empty() {
            return Some(tags);
        }
        rest = rest.strip_prefix(b"|")?;
    }
}

/// `(a|b)`, and what follows it.
fn group(pattern: &[u8]) -> Option<(Vec<Vec<u8>>, &[u8])> {
    let mut rest = pattern.strip_prefix(b"(")?;
    let mut tags = Vec::new();
    loop {
        let (one, after) = tag(rest, false)?;
        tags.push(one);
        match after.split_first()? {
            (b'|', after) => rest = after,
            (b')', after) => return Some((tags, after)),
            _ => return None,
        }
    }
}

/// Whether there is a *left*, and what follows it.
fn skip_left(pattern: &[u8]) -> (bool, &[u8]) {
    let lefts: [&[u8]; 2] = [b"(^|,)", b"(^|\\,)"];
    let after = lefts.iter().find_map(|left| pattern.strip_prefix(*left));
    (after.is_some(), after.unwrap_or(pattern))
}

/// What follows a *right*.
fn skip_right(pattern: &[u8]) -> Option<&[u8]> {
    let rights: [&[u8]; 4] = [b"(,|$)", b"($|,)", b"(\\,|$)", b"($|\\,)"];
    rights.iter().find_map(|right| pattern.strip_prefix(*right))
}

/// One tag, and what follows it.
fn tag(pattern: &[u8], dots: bool) -> Option<(Vec<u8>, &[u8])> {
    let mut tag = Vec::new();
    let mut rest = pattern;
    while let Some((&byte, after)) = rest.split_first() {
        let (byte, after) = match byte {
            b'\\' => {
                let (&escaped, after) = after.split_first()?;
                // Before a letter or a digit it means something else.
                escaped.is_ascii_punctuation().then_some((escaped, after))?
            }
            b'.' if dots => (byte, after),
            b'^' | b'$' | b'.' | b'|' | b'?' | b'*' | b'+' => break,
            b'(' | b')' | b'[' | b']' | b'{' | b'}' => break,
            byte => (byte, after),
        };
        if byte <= b' ' || byte == b',' || byte == 0x7f {
            return None;
        }
        tag.push(byte);
        rest = after;
    }
    (!tag.is_empty() && !tag.starts_with(b"\"")).then_some((tag, rest))
}

/// A glob as a regular expression (PCRE2) for the whole of a text: `*` stands for any bytes, and nothing
/// else is special.
///
/// Each piece between two stars is looked for where it comes first, and nowhere else: that finds what there
/// is to find, in time proportional to the text for each star. (A mere `.*` for each star would try
/// all places of all pieces.)
pub fn glob(text: &[u8]) -> Vec<u8> {
    let mut regex = b"^".to_vec();
    let mut pieces = text.split(|&byte| byte == b'*');
    regex.extend(escape(pieces.next().unwrap_or_default()));
    let mut pieces = pieces.peekable();
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            // What ends the text is looked for from its end.
            regex.extend(b".*");
            regex.extend(escape(piece));
        } else if !piece.is_empty() {
            regex.extend(b"(?>.*?");
            regex.extend(escape(piece));
            regex.push(b')');
        }
    }
    if !text.ends_with(b"*") {
        regex.push(b'$');
    }
    regex
}

/// `text` as a regular expression (PCRE2) that matches it and nothing else.
pub fn escape(text: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(text.len());
    for &byte in text {
        if byte.is_ascii_punctuation() {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(pattern: &str) -> Option<Vec<String>> {
        let tags = named(pattern.as_bytes())?;
        let text = |tag| String::from_utf8(tag).unwrap();
        Some(tags.into_iter().map(text).collect())
    }

    #[test]
    fn tags_are_read_out_of_what_clients_send() {
        for (pattern, tags) in [
            // FOSHttpCache 2 and 3.
            (r"(^|,)(category\-3|a\.b)(,|$)", vec!["category-3", "a.b"]),
            (r"(^|,)(one)(,|$)", vec!["one"]),
            // API Platform 2, one and two.
            (r"(^|\,)/foo($|\,)", vec!["/foo"]),
            (
                r"((^|\,)/foo($|\,))|((^|\,)/bar($|\,))",
                vec!["/foo", "/bar"],
            ),
            // API Platform 3 and 4.
            (r"(/foo)($|\,)", vec!["/foo"]),
            (r"(/foo/1|/bar\?a\=1)($|\,)", vec!["/foo/1", "/bar?a=1"]),
            // Magento.
            (r"((^|,)cat_p_1(,|$))", vec!["cat_p_1"]),
            (
                r"((^|,)cat_p(,|$))|((^|,)cms_b_a.b(,|$))",
                vec!["cat_p", "cms_b_a.b"],
            ),
            // Not ASCII, and characters that are special elsewhere.
            (r"(^|,)(ü|a;b|x=y|#1)(,|$)", vec!["ü", "a;b", "x=y", "#1"]),
        ] {
            let tags: Vec<String> = tags.into_iter().map(str::to_owned).collect();
            assert_eq!(names(pattern), Some(tags), "{pattern}");
        }
    }

    #[test]
    fn anything_else_is_left_to_a_ban() {
        for pattern in [
            "",
            ".*",
            "a",
            "a|b",
            "(a|b)",
            "(^|,)(a|b)",
            "(^|,)(a|b)(,|$)x",
            "x(^|,)(a|b)(,|$)",
            "(^|,)(a.b)(,|$)",
            "(^|,)(a*)(,|$)",
            "(^|,)(a|)(,|$)",
            "(^|,)()(,|$)",
            "(^|,)(,|$)",
            r"(^|,)(\d)(,|$)",
            r"(^|,)(a\",
            r"(^|,)(a\,b)(,|$)",
            "(^|,)(a,b)(,|$)",
            "(^|,)(a b)(,|$)",
            "(^|,)(\"a)(,|$)",
            "(^|,)((a)|b)(,|$)",
            "((^|,)a(,|$))|",
            "((^|,)a(,|$))|.*",
            "((^|,)a(,|$))((^|,)b(,|$))",
            "((^|,)a(,|$)|((^|,)b(,|$))",
            "a(,|$)",
            "a($|,)",
            "(?i)(^|,)(a)(,|$)",
        ] {
            assert_eq!(names(pattern), None, "{pattern}");
        }
    }

    /// The regular expression takes no object whose tags the keys would not take.
    #[test]
    fn the_tags_are_all_that_the_regular_expression_matches() {
        let pattern = r"(^|,)(a|b\.c)(,|$)";
        let regex = regex::Regex::new(pattern).unwrap();
        let tags = named(pattern.as_bytes()).unwrap();
        for header in ["a", "x,a", "a,x", "b.c", "x,b.c,y", "ab", "x", "bxc", "xa"] {
            let keys = header.split(',').any(|key| tags.contains(&key.into()));
            assert_eq!(regex.is_match(header), keys, "{header}");
        }
    }

    #[test]
    fn a_glob_matches_all_of_a_text_and_only_stars_are_special() {
        for (text, regex) in [
            ("", "^$"),
            ("*", "^.*"),
            ("**", "^.*"),
            ("/news/*", r"^\/news\/.*"),
            ("/a.b?c=*", r"^\/a\.b\?c\=.*"),
            ("*.css", r"^.*\.css$"),
            ("/a*b*c", r"^\/a(?>.*?b).*c$"),
            ("/a*b*", r"^\/a(?>.*?b).*"),
            ("/a**b", r"^\/a.*b$"),
            ("/plain", r"^\/plain$"),
        ] {
            let made = String::from_utf8(glob(text.as_bytes())).unwrap();
            assert_eq!(made, regex, "{text}");
        }
    }

    #[test]
    fn what_is_escaped_matches_itself_only() {
        let text = "/a.b*c(d)[e]{2}|^$\\E?+-#é";
        let pattern = String::from_utf8(escape(text.as_bytes())).unwrap();
        let regex = regex::Regex::new(&format!("^{pattern}$")).unwrap();
        assert!(regex.is_match(text));
        assert!(!regex.is_match("/aXb*c(d)[e]{2}|^$\\E?+-#é"));
    }
}
