//! Answers in the room that there is: varnishd's command line, for one, has an end.

use std::fmt::Write;

use serde_json::{Map, Value, json};

/// The field that says what an answer has no room for.
const LEFT_OUT: &str = "left_out";
/// Room for the line that says so in a text.
const LAST_LINE_BYTES: usize = 64;

/// JSON in `room` bytes at most. If there are too many peers, sources and so on for that, the last of
/// them are left out, of the longest list first, and `left_out` says how many: lists have first what matters
/// most. `None` if that does not help, or the value is no object. Each entry is measured once.
pub fn fit(value: &mut Value, room: usize) -> Option<String> {
    let fields = value.as_object_mut()?;
    fields.insert(LEFT_OUT.to_owned(), Map::new().into());
    let text = value.to_string();
    if text.len() <= room {
        return Some(text);
    }
    let mut bytes = text.len();
    let fields = value.as_object_mut()?;
    let mut lists: Vec<_> = fields
        .iter_mut()
        .filter_map(|(name, field)| {
            let entries = field.as_array_mut()?;
            let sizes: Vec<_> = entries.iter().map(written).collect();
            Some((name.clone(), sizes, entries))
        })
        .collect();
    let mut first = true;
    while bytes > room {
        let (name, sizes, entries) = lists.iter_mut().max_by_key(|(_, sizes, _)| sizes.len())?;
        let before = entries.len() - sizes.len();
        // With the comma before it.
        bytes -= sizes.pop()? + usize::from(!sizes.is_empty());
        bytes += match before {
            0 => told(name, 1) + usize::from(!std::mem::take(&mut first)),
            _ => told(name, before + 1) - told(name, before),
        };
    }
    let mut left_out = Map::new();
    for (name, sizes, entries) in &mut lists {
        let gone = entries.len() - sizes.len();
        if gone > 0 {
            entries.truncate(sizes.len());
            left_out.insert(name.clone(), gone.into());
        }
    }
    fields.insert(LEFT_OUT.to_owned(), left_out.into());
    Some(value.to_string())
}

/// The same of an object with one list, whose entries are made only for as long as there is room for them: a
/// node may know of 16,384 streams, with thousands of ranges.
pub fn fit_list(
    name: &str,
    mut entries: impl ExactSizeIterator<Item = Value>,
    room: usize,
) -> Option<String> {
    let object = |list: Vec<Value>, left_out: Map<String, Value>| {
        json!({ LEFT_OUT: left_out, name: list }).to_string()
    };
    let mut bytes = object(Vec::new(), Map::new()).len();
    let (mut list, mut sizes) = (Vec::new(), Vec::new());
    let mut gone = 0;
    while let Some(entry) = entries.next() {
        let size = written(&entry) + usize::from(!list.is_empty());
        if bytes + size > room {
            gone = 1 + entries.len();
            break;
        }
        bytes += size;
        list.push(entry);
        sizes.push(size);
    }
    if gone == 0 {
        return (bytes <= room).then(|| object(list, Map::new()));
    }
    // That some are left out has to be told, too.
    while bytes + told(name, gone) > room {
        bytes -= sizes.pop()?;
        list.pop();
        gone += 1;
    }
    let left_out = [(name.to_owned(), gone.into())];
    Some(object(list, Map::from_iter(left_out)))
}

/// How many bytes a value takes.
fn written(value: &Value) -> usize {
    value.to_string().len()
}

/// How many bytes it takes to tell, in [`LEFT_OUT`], that so many entries of a list are left out.
fn told(name: &str, gone: usize) -> usize {
    format!("\"{name}\":{gone}").len()
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
    use super::*;

    /// As many as a node knows at most.
    const STREAMS: u64 = 16_384;

    /// One as `powderhorn.digest -j` tells it; they differ in length.
    fn stream(n: u64) -> Value {
        json!({
            "stream": format!("{n:016x}.{n:x}.{n:016x}"),
            "own": n == 0,
            "held": (1..=1 + n % 7).map(|range| [range * 10, range * 10 + n]).collect::<Vec<_>>(),
            "lacking": n,
        })
    }

    /// A range's iterator has a length only if that is a `usize`.
    fn streams() -> impl ExactSizeIterator<Item = Value> {
        (0..STREAMS as usize).map(|n| stream(n as u64))
    }

    #[test]
    fn of_thousands_of_streams_the_first_are_kept_for_which_there_is_room() {
        let all: Vec<Value> = streams().collect();
        for room in [200, 1_000, 48_000, 1_000_000] {
            let mut made = 0;
            let counted = streams().inspect(|_| made += 1);
            let text = fit_list("streams", counted, room).expect("it can be cut");
            assert!(text.len() <= room, "{} bytes in {room}", text.len());
            let cut: Value = serde_json::from_str(&text).expect("JSON");
            let kept = cut["streams"].as_array().expect("a list").len();
            assert_eq!(cut["left_out"], json!({ "streams": all.len() - kept }));
            assert_eq!(cut["streams"].as_array().expect("a list"), &all[..kept]);
            // One more would have been too many, and nobody made the others.
            let left_out = json!({ "streams": all.len() - kept - 1 });
            let more = json!({ "streams": all[..=kept], "left_out": left_out });
            assert!(more.to_string().len() > room, "{kept} in {room}");
            assert!(made <= kept + 2, "{made} made, {kept} kept");
        }
    }

    #[test]
    fn a_list_alone_is_cut_as_one_among_others_is() {
        for entries in [0, 1, 2, 3, 9, 10, 11, 12] {
            let some = || (0..entries).map(|n| stream(n as u64));
            let mut whole = json!({ "streams": some().collect::<Vec<_>>() });
            let bytes = fit(&mut whole.clone(), usize::MAX).map_or(0, |text| text.len());
            for room in 0..=bytes + 2 {
                let alone = fit_list("streams", some(), room);
                assert_eq!(alone, fit(&mut whole.clone(), room), "{entries} in {room}");
                assert!(alone.is_none_or(|text| text.len() <= room));
            }
            assert!(fit(&mut whole, bytes).is_some());
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
        let lines: Vec<_> = (0..1_000).map(|n| format!("line {n}\n")).collect();
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
