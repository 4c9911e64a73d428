//! A node that is asked: through varnishadm, or over HTTP.

use serde_json::Value;

use crate::adm::Adm;
use crate::args::NodeArgs;
use crate::http::Http;

/// Why there is no answer, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Problem(String);

impl Problem {
    pub fn new(text: impl Into<String>) -> Problem {
        Problem(text.into())
    }
}

pub enum Node {
    Adm(Adm),
    Http(Http),
}

impl Node {
    pub fn new(args: &NodeArgs) -> Node {
        match &args.url {
            Some(url) => Node::Http(Http::new(url, args.timeout)),
            None => Node::Adm(Adm::new(args)),
        }
    }

    /// The node's status, as JSON. It has a verdict; all else may differ from version to version.
    pub fn status(&self) -> Result<Value, Problem> {
        match self {
            Node::Adm(adm) => adm.status(),
            Node::Http(http) => http.status(),
        }
    }

    /// Purges, and returns what to print: the id in the first line.
    pub fn purge(&self, url: &str, host: &str) -> Result<String, Problem> {
        match self {
            Node::Adm(adm) => adm.purge(url, host),
            Node::Http(http) => http.purge(url, host),
        }
    }

    /// Where a purge has been applied, as JSON.
    pub fn trace(&self, id: &str) -> Result<Value, Problem> {
        // It goes into a command line and into a path. An id is stream:seq, or a range of them.
        let plain = |c: char| c.is_ascii_alphanumeric() || "-:.".contains(c);
        if id.is_empty() || id.len() > 200 || !id.chars().all(plain) {
            return Err(Problem::new(format!("not the id of a purge: {id:?}")));
        }
        match self {
            Node::Adm(adm) => adm.trace(id),
            Node::Http(http) => http.trace(id),
        }
    }
}

/// The object in an answer that has this key: answers differ in what is around it (varnishadm's list has a
/// header, and one object for each backend).
pub fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Object(map) if map.contains_key(key) => Some(value),
        Value::Object(map) => map.values().find_map(|value| find(value, key)),
        Value::Array(list) => list.iter().find_map(|value| find(value, key)),
        _ => None,
    }
}

/// What to purge: path and host.
pub fn target(url: &str, host: Option<&str>) -> Result<(String, String), Problem> {
    let whole = ["http://", "https://"]
        .iter()
        .find_map(|scheme| url.strip_prefix(scheme));
    let (path, host) = match (whole, host) {
        (None, Some(host)) => (url.to_owned(), host.to_owned()),
        (None, None) => {
            return Err(Problem::new(format!(
                "no host: powderhorn purge {url} www.example.com, or powderhorn purge http://www.example.com{url}"
            )));
        }
        (Some(rest), host) => {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let (in_url, path) = rest.split_at(end);
            let slash = if path.starts_with('/') { "" } else { "/" };
            let host = host.unwrap_or(in_url).to_owned();
            (format!("{slash}{path}"), host)
        }
    };
    let path = path.split('#').next().unwrap_or_default().to_owned();
    let visible = |text: &str| text.chars().all(|c| !c.is_control() && !c.is_whitespace());
    if !path.starts_with('/') || !visible(&path) {
        return Err(Problem::new(format!(
            "not a URL: {url:?}: a path begins with a slash, and has no spaces in it"
        )));
    }
    if host.is_empty() || !visible(&host) || host.contains(['/', '@']) {
        return Err(Problem::new(format!("not a host: {host:?}")));
    }
    Ok((path, host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_path_and_a_host() {
        let ok = |url, host| target(url, host).map_err(|e| e.to_string());
        let pair = |path: &str, host: &str| Ok((path.to_owned(), host.to_owned()));
        assert_eq!(ok("/a?b", Some("h")), pair("/a?b", "h"));
        assert_eq!(ok("http://h:81/a?b", None), pair("/a?b", "h:81"));
        assert_eq!(ok("https://h", None), pair("/", "h"));
        assert_eq!(ok("http://h?q", None), pair("/?q", "h"));
        assert_eq!(ok("http://h/a#top", None), pair("/a", "h"));
        assert_eq!(ok("http://h/a", Some("other")), pair("/a", "other"));
        for (url, host) in [
            ("/a", None),
            ("a", Some("h")),
            ("/a b", Some("h")),
            ("/a\r\n", Some("h")),
            ("/a", Some("")),
            ("/a", Some("h\nx")),
            ("http:///a", None),
            ("http://u@h/a", None),
        ] {
            assert!(target(url, host).is_err(), "{url:?} {host:?}");
        }
    }

    #[test]
    fn an_object_is_found_by_its_key_wherever_it_is() {
        let answer = serde_json::json!([3, ["x"], 1.5, {"boot.powderhorn": {"probe_details": {"verdict": "ok"}}}]);
        assert_eq!(find(&answer, "verdict").unwrap()["verdict"], "ok");
        assert_eq!(find(&answer, "missing"), None);
    }
}
