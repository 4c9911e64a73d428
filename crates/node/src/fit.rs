//! Answers in the room that there is: varnishd's command line, for one, has an end.

use std::fmt::Write;

use serde_json::{Map, Value};

/// The field that says what an answer has no room for.
const LEFT_OUT: &str = "left_out";
/// Room for the line that says so in a text.
const LAST_LINE_BYTES: usize = 64;

/// JSON in `room` bytes at most. If there are too many peers, streams and so on for that, the last of
/// them are left out, of the longest list first, and `left_out` says how many: lists have first what matters
/// most. `None` if that does not help, or the value is no object.
///
/// Each entry is measured once, whatever has to go: a node may know of 16,384 streams.
pub fn fit(value: &mut Value, room: usize) -> Option<String> {
    let fields = value.as_object_mut()?;
    fields.insert(LEFT_OUT.to_owned(), Map::new().into());
    let text = value.to_string();
    if text.len() <= room {
        return Some(text);
    }
    let mut bytes = text.len();
    drop(text);
    let fields = value.as_object_mut()?;
    let mut lists: Vec<_> = fields
        .iter_mut()
        .filter_map(|(name, field)| {
            let entries = field.as_array_mut()?;
            let sizes = entries.iter().map(|entry| entry.to_string().len());
            Some((name.clone(), sizes.collect::<Vec<_>>(), entries))
        })
        .collect();
    let mut left_out = Map::new();
    let mut told = "{}".len();
    while bytes + told - "{}".len() > room {
        let (name, sizes, entries) = lists.iter_mut().max_by_key(|(_, sizes, _)| sizes.len())?;
        // With the comma before it.
        bytes -= sizes.pop()? + usize::from(!sizes.is_empty());
        let gone = entries.len() - sizes.len();
        left_out.insert(name.clone(), gone.into());
        told = Value::Object(left_out.clone()).to_string().len();
    }
    for (_, sizes, entries) in &mut lists {
        entries.truncate(sizes.len());
    }
    fields.insert(LEFT_OUT.to_owned(), left_out.into());
    Some(value.to_string())
}

/// Text in `room` bytes at most. Of more, the last lines are left out, and it says how many: first comes
/// what matters most.
pub fn fit_text(text: String, room: usize) -> String {
    if text.len() <= room {
        return text;
    }
    let mut out = String::new();
    let mut lines = text.lines();
    for line in lines.by_ref() {
        if out.len() + line.len() + LAST_LINE_BYTES > room {
            break;
        }
        out.push_str(line);
        out.push('\n');
    }
    let _ = writeln!(out, "and {} lines more: raise cli_limit", 1 + lines.count());
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As many as a node knows at most, as `powderhorn.digest -j` tells them; entries differ in length.
    fn streams() -> Value {
        let stream = |n: u64| {
            json!({
                "stream": format!("{n:016x}.{n:x}.{n:016x}"),
                "own": n == 0,
                "held": (1..=1 + n % 7).map(|range| [range * 10, range * 10 + n]).collect::<Vec<_>>(),
                "lacking": n,
            })
        };
        json!({ "verdict": "a, [b]", "streams": (0..16_384).map(stream).collect::<Vec<_>>() })
    }

    #[test]
    fn of_thousands_of_streams_the_first_are_kept_for_which_there_is_room() {
        let all = streams();
        let total = all["streams"].as_array().expect("a list").len();
        for room in [200, 1_000, 48_000, 1_000_000] {
            let text = fit(&mut all.clone(), room).expect("it can be cut");
            assert!(text.len() <= room, "{} bytes in {room}", text.len());
            let cut: Value = serde_json::from_str(&text).expect("JSON");
            let kept = cut["streams"].as_array().expect("a list").len();
            assert_eq!(cut["left_out"], json!({ "streams": total - kept }));
            assert_eq!(cut["verdict"], all["verdict"]);
            let first = &all["streams"].as_array().expect("a list")[..=kept];
            assert_eq!(cut["streams"].as_array().expect("a list"), &first[..kept]);
            // One more would have been too many.
            let mut more = cut.clone();
            more["streams"] = first.into();
            more["left_out"] = json!({ "streams": total - kept - 1 });
            assert!(more.to_string().len() > room, "{kept} in {room}");
        }
    }

    #[test]
    fn the_longest_list_goes_first_and_what_is_no_list_stays() {
        let mut value = json!({ "a": [1, 2, 3, 4, 5, 6], "b": ["x", "y"], "c": {"d": [1, 2, 3]} });
        let whole = json!({
            "a": [1, 2, 3, 4, 5, 6], "b": ["x", "y"], "c": {"d": [1, 2, 3]}, "left_out": {}
        });
        let room = whole.to_string().len();
        assert_eq!(fit(&mut value.clone(), room), Some(whole.to_string()));
        let cut = json!({
            "a": [1, 2, 3], "b": ["x", "y"], "c": {"d": [1, 2, 3]}, "left_out": {"a": 3}
        });
        assert_eq!(fit(&mut value.clone(), room - 1), Some(cut.to_string()));
        let least =
            json!({ "a": [], "b": [], "c": {"d": [1, 2, 3]}, "left_out": {"a": 6, "b": 2} });
        let room = least.to_string().len();
        assert_eq!(fit(&mut value.clone(), room), Some(least.to_string()));
        assert_eq!(fit(&mut value, room - 1), None);
        assert_eq!(fit(&mut json!([1, 2, 3]), 1_000), None);
    }

    #[test]
    fn a_text_is_cut_at_a_line_and_says_so() {
        let lines: Vec<String> = (0..1_000).map(|n| format!("line {n}\n")).collect();
        let text = lines.concat();
        assert_eq!(fit_text(text.clone(), text.len()), text);
        let cut = fit_text(text.clone(), 500);
        assert!(cut.len() <= 500, "{cut}");
        let shown = cut.lines().count() - 1;
        let last = format!("and {} lines more: raise cli_limit\n", 1_000 - shown);
        assert!(cut.ends_with(&last), "{cut}");
        assert!(text.starts_with(cut.strip_suffix(&last).expect("its end")));
    }
}
