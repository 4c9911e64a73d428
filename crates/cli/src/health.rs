//! A status as monitoring systems want it: one line, and an exit status. The plugins' guidelines name the four
//! statuses and the form of the figures after the bar.

use std::str::FromStr;

use serde_json::Value;

use crate::args::LimitArgs;
use crate::node::Problem;
use crate::show;

const OK: u8 = 0;
const WARNING: u8 = 1;
const CRITICAL: u8 = 2;
pub const UNKNOWN: u8 = 3;

/// A number of peers, or a share of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Share {
    Peers(u64),
    Percent(f64),
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Share, String> {
        let error = || "a number of peers, from 1 on, or a share of them such as 10%".to_owned();
        match text.strip_suffix('%') {
            Some(percent) => match percent.parse::<f64>() {
                Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(Share::Percent(percent)),
                _ => Err(error()),
            },
            None => match text.parse() {
                Ok(peers) if peers > 0 => Ok(Share::Peers(peers)),
                _ => Err(error()),
            },
        }
    }
}

impl Share {
    /// Of so many peers.
    fn of(self, peers: u64) -> u64 {
        match self {
            Share::Peers(n) => n,
            Share::Percent(percent) => (peers as f64 * percent / 100.0).ceil().max(1.0) as u64,
        }
    }
}

/// The line, and the exit status.
pub fn run(status: Result<Value, Problem>, limits: &LimitArgs) -> (String, u8) {
    match status {
        Ok(status) => judge(&status, limits),
        Err(problem) => (format!("POWDERHORN UNKNOWN - {problem}\n"), UNKNOWN),
    }
}

fn judge(status: &Value, limits: &LimitArgs) -> (String, u8) {
    let empty = Vec::new();
    let peers = status["peers"].as_array().unwrap_or(&empty);
    let left_out = show::peers_left_out(status);
    let all = (peers.len() as u64).saturating_add(left_out);
    let shown_down = peers.iter().filter(|peer| peer["state"] != "up").count() as u64;
    // Those that are down are the last to be left out, so some of the others are only if all of these are.
    let down = match status["peers_up"].as_u64() {
        Some(up) => all.saturating_sub(up),
        None if shown_down < peers.len() as u64 => shown_down,
        None => shown_down.saturating_add(left_out),
    };
    let figure = |name: &str| status[name].as_u64().unwrap_or(0);
    let wanted = figure("wanted");
    let waiting = figure("ready").saturating_add(figure("in_flight"));
    let mut worst = OK;
    let mut figures = Vec::new();

    let mut measure = |name: &str, value: u64, warning: u64, critical: u64| {
        if value >= critical {
            worst = worst.max(CRITICAL);
        } else if value >= warning {
            worst = worst.max(WARNING);
        }
        // The plugins' ranges alarm above the limit, ours from it on.
        let (warning, critical) = (warning.saturating_sub(1), critical.saturating_sub(1));
        figures.push(format!("{name}={value};{warning};{critical};0"));
    };
    let (down_warning, down_critical) = (limits.down_warning.of(all), limits.down_critical.of(all));
    measure("peers_down", down, down_warning, down_critical);
    let (warning, critical) = (limits.wanted_warning, limits.wanted_critical);
    measure("wanted", wanted, warning, critical);
    let (warning, critical) = (limits.waiting_warning, limits.waiting_critical);
    measure("waiting", waiting, warning, critical);
    // Null where nobody knows, which the verdict then says.
    if let Some(ms) = status.pointer("/reach/applied_ms").and_then(Value::as_u64) {
        let (warning, critical) = (limits.behind_warning, limits.behind_critical);
        measure("behind", ms / 1_000, warning, critical);
    }
    figures.push(format!("peers={all}"));

    // A thread that has ended purges nothing any more; all else here goes on working.
    let ended = |name: &str| {
        status[name]
            .as_str()
            .is_some_and(|state| state != "running")
    };
    if ended("runtime") || (ended("applier") && all > 0) {
        worst = CRITICAL;
    }
    // It serves until its process dies, and then not at all.
    if !status["key_error"].is_null() || !status["config_error"].is_null() {
        worst = CRITICAL;
    }
    let verdict = status["verdict"].as_str().unwrap_or("no verdict");
    // Nothing counts as fine because the node does not tell it.
    let fine = status["ok"].as_bool();
    let fine = fine.unwrap_or_else(|| verdict.starts_with("ok:"));
    // What the node itself finds amiss, and what earlier versions told only one by one.
    let failing = |value: &Value| value["error"].is_string();
    let named_twice = status["duplicate_names"].as_array();
    if !fine
        || figure("unsupported") > 0
        || failing(&status["journal"])
        || status["sources"]
            .as_array()
            .is_some_and(|list| list.iter().any(failing))
        || named_twice.is_some_and(|names| !names.is_empty())
    {
        worst = worst.max(WARNING);
    }
    let mut verdict = verdict.to_owned();
    if let Some(restart) = show::restart_due(status) {
        worst = worst.max(WARNING);
        verdict = format!("{verdict}; {restart}");
    }
    let name = ["OK", "WARNING", "CRITICAL"][usize::from(worst)];
    // A bar begins the figures, so there is no other one in the line.
    let verdict: String = verdict
        .chars()
        .map(|c| if c == '|' || c.is_control() { ' ' } else { c })
        .collect();
    let line = format!("POWDERHORN {name} - {verdict} | {}\n", figures.join(" "));
    (line, worst)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn limits() -> LimitArgs {
        LimitArgs {
            down_warning: Share::Peers(1),
            down_critical: Share::Percent(50.0),
            wanted_warning: 10,
            wanted_critical: 100,
            waiting_warning: 10,
            waiting_critical: 100,
            behind_warning: 30,
            behind_critical: 300,
        }
    }

    fn peers(up: usize, down: usize) -> Value {
        let states = ["up"].repeat(up).into_iter().chain(["silent"].repeat(down));
        states.map(|state| json!({ "state": state })).collect()
    }

    fn exit(status: Value) -> u8 {
        judge(&status, &limits()).1
    }

    #[test]
    fn peers_that_are_down_warn_and_then_alarm() {
        let with = |up, down| json!({"ok": true, "peers": peers(up, down)});
        assert_eq!(exit(with(0, 0)), OK);
        assert_eq!(exit(with(4, 0)), OK);
        assert_eq!(exit(with(3, 1)), WARNING);
        assert_eq!(exit(with(2, 2)), CRITICAL);
        assert_eq!(exit(with(2, 1)), WARNING);
        assert_eq!(exit(with(0, 1)), CRITICAL);
    }

    #[test]
    fn peers_that_are_left_out_count() {
        let with = |up, down, told: Option<u64>| {
            let status = json!({
                "ok": true, "peers": peers(up, down), "left_out": {"peers": 7}, "peers_up": told,
            });
            let (line, _) = judge(&status, &limits());
            let (_, figures) = line.split_once("| ").unwrap();
            figures.split(';').next().unwrap().to_owned() + &figures[figures.rfind(' ').unwrap()..]
        };
        assert_eq!(with(2, 1, None), "peers_down=1 peers=10\n");
        assert_eq!(with(0, 3, Some(6)), "peers_down=4 peers=10\n");
        // An earlier version does not tell how many of the others are up.
        assert_eq!(with(0, 3, None), "peers_down=10 peers=10\n");
    }

    #[test]
    fn what_is_missing_or_waits_counts_from_its_limit_on() {
        let with = |name: &str, n: u64| json!({"ok": true, "peers": [], name: n});
        for name in ["wanted", "ready", "in_flight"] {
            assert_eq!(exit(with(name, 9)), OK, "{name}");
            assert_eq!(exit(with(name, 10)), WARNING, "{name}");
            assert_eq!(exit(with(name, 99)), WARNING, "{name}");
            assert_eq!(exit(with(name, 100)), CRITICAL, "{name}");
        }
    }

    #[test]
    fn troubles_without_a_figure_count() {
        for (status, expected) in [
            (json!({"ok": true, "runtime": "running"}), OK),
            (json!({"ok": true, "runtime": "gave up"}), CRITICAL),
            (json!({"ok": true, "applier": "not started"}), OK),
            (
                json!({"ok": true, "applier": "ended", "peers": peers(3, 0)}),
                CRITICAL,
            ),
            (json!({"ok": true, "reach": {"applied_ms": 29_999}}), OK),
            (
                json!({"ok": true, "reach": {"applied_ms": 30_000}}),
                WARNING,
            ),
            (
                json!({"ok": true, "reach": {"applied_ms": 300_000}}),
                CRITICAL,
            ),
            (json!({"ok": true, "reach": {"applied_ms": null}}), OK),
            (json!({"ok": false}), WARNING),
            // Who does not tell has said it in the verdict, or not at all.
            (json!({"verdict": "ok: a single node"}), OK),
            (json!({"verdict": "ok: x", "ok": false}), WARNING),
            (
                json!({"verdict": "the journal in / does not work"}),
                WARNING,
            ),
            (json!({}), WARNING),
            (json!({"ok": true, "journal": {"error": null}}), OK),
            (
                json!({"ok": true, "journal": {"error": "disk full"}}),
                WARNING,
            ),
            (
                json!({"ok": true, "key_error": null, "config_error": null}),
                OK,
            ),
            (json!({"ok": false, "key_error": "no key"}), CRITICAL),
            (
                json!({"ok": false, "config_error": "a.toml:1: b"}),
                CRITICAL,
            ),
            (json!({"ok": true, "unsupported": 1}), WARNING),
            (json!({"ok": true, "duplicate_names": []}), OK),
            (
                json!({"ok": true, "duplicate_names": [{"name": "a"}]}),
                WARNING,
            ),
            (json!({"ok": true, "sources": [{"error": null}]}), OK),
            (
                json!({"ok": true, "sources": [{"error": "no such name"}]}),
                WARNING,
            ),
        ] {
            assert_eq!(exit(status.clone()), expected, "{status}");
        }
    }

    #[test]
    fn the_line_has_one_bar_and_the_figures_after_it() {
        let status = json!({"verdict": "a | b\nc", "peers": peers(1, 1), "wanted": 3});
        let (line, _) = judge(&status, &limits());
        assert_eq!(
            line,
            "POWDERHORN CRITICAL - a   b c | peers_down=1;0;0;0 wanted=3;9;99;0 waiting=0;9;99;0 peers=2\n"
        );
    }

    #[test]
    fn another_version_installed_than_loaded_warns_and_says_what_to_do() {
        let with = |installed: Value| {
            let verdict = "ok: a single node";
            let status =
                json!({"ok": true, "verdict": verdict, "version": "0.1.0", "installed": installed});
            judge(&status, &limits())
        };
        let (line, exit) = with("0.2.0".into());
        assert_eq!(exit, WARNING);
        let begin = "POWDERHORN WARNING - ok: a single node; installed 0.2.0, loaded 0.1.0: restart varnish |";
        assert!(line.starts_with(begin), "{line}");
        assert_eq!(with("0.1.0".into()).1, OK);
        assert_eq!(with(Value::Null).1, OK);
    }

    #[test]
    fn no_answer_is_unknown() {
        let (line, exit) = run(Err(Problem::new("nobody there")), &limits());
        assert_eq!(
            (line.as_str(), exit),
            ("POWDERHORN UNKNOWN - nobody there\n", UNKNOWN)
        );
    }

    #[test]
    fn shares_are_read_and_nothing_else() {
        assert_eq!("3".parse(), Ok(Share::Peers(3)));
        assert_eq!("12.5%".parse(), Ok(Share::Percent(12.5)));
        for wrong in ["0", "-1", "", "%", "0%", "101%", "nan%", "x"] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
    }
}
