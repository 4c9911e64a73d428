//! A node that is asked over HTTP, on the port that it serves on: what powderhorn.vcl answers.

use std::time::Duration;

use serde_json::Value;
use ureq::http::{Request, StatusCode};

use crate::node::{Problem, find};

/// More than a status of thousands of peers takes.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

const NOT_ALLOWED: &str =
    "does not let this host in: add its address to acl powderhorn_purgers there";

pub struct Http {
    base: String,
    agent: ureq::Agent,
}

struct Answer {
    status: StatusCode,
    id: Option<String>,
    applied: Option<String>,
    body: String,
}

impl Http {
    pub fn new(url: &str, timeout: Duration) -> Http {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(timeout))
            // A node is asked itself: an answer from elsewhere would be about another one.
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .user_agent(concat!("powderhorn/", env!("CARGO_PKG_VERSION")))
            .build();
        let base = url.trim_end_matches('/');
        let base = match base.contains("://") {
            true => base.to_owned(),
            false => format!("http://{base}"),
        };
        let agent = config.new_agent();
        Http { base, agent }
    }

    pub fn status(&self) -> Result<Value, Problem> {
        let answer = self.ask("GET", "/.powderhorn/status.json", None)?;
        self.object(&answer, "verdict")
    }

    pub fn trace(&self, id: &str) -> Result<Value, Problem> {
        let answer = self.ask("GET", &format!("/.powderhorn/purge/{id}"), None)?;
        if answer.status == StatusCode::NOT_FOUND {
            return Err(Problem::new(format!("not the id of a purge: {id}")));
        }
        self.object(&answer, "missing")
    }

    pub fn purge(&self, url: &str, host: &str) -> Result<String, Problem> {
        let answer = self.ask("PURGE", url, Some(host))?;
        let base = &self.base;
        let text = answer.body.trim();
        match (answer.status.as_u16(), answer.id) {
            (200..=299, Some(id)) => Ok(match answer.applied {
                Some(applied) => format!("{id}\napplied on {applied} nodes\n"),
                None => format!("{id}\n"),
            }),
            (405, _) => Err(Problem::new(format!("{base} {NOT_ALLOWED}"))),
            (200..=299, None) => Err(Problem::new(format!(
                "{base} took the PURGE for a request like any other: its VCL has to include powderhorn.vcl"
            ))),
            (status, _) => Err(Problem::new(format!("{base} answered {status}: {text}"))),
        }
    }

    fn ask(&self, method: &str, path: &str, host: Option<&str>) -> Result<Answer, Problem> {
        let url = format!("{}{path}", self.base);
        let mut request = Request::builder().method(method).uri(&url);
        if let Some(host) = host {
            request = request.header("Host", host);
        }
        let failed = |error: &dyn std::fmt::Display| Problem::new(format!("{url}: {error}"));
        let request = request.body(()).map_err(|error| failed(&error))?;
        let mut response = self.agent.run(request).map_err(|error| failed(&error))?;
        let header = |name: &str| {
            let value = response.headers().get(name)?;
            Some(value.to_str().ok()?.to_owned())
        };
        let (id, applied) = (header("X-Powderhorn-Id"), header("X-Powderhorn-Applied"));
        let status = response.status();
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX);
        let body = body.lossy_utf8(true).read_to_string();
        Ok(Answer {
            status,
            id,
            applied,
            body: body.map_err(|error| failed(&error))?,
        })
    }

    fn object(&self, answer: &Answer, key: &str) -> Result<Value, Problem> {
        let base = &self.base;
        match answer.status.as_u16() {
            200 => {}
            403 | 405 => return Err(Problem::new(format!("{base} {NOT_ALLOWED}"))),
            status => {
                return Err(Problem::new(format!(
                    "{base} answered {status}: is it a node, and does its VCL include powderhorn.vcl?"
                )));
            }
        }
        let value: Value = serde_json::from_str(&answer.body).map_err(|_| {
            Problem::new(format!(
                "{base} answered with something else: its VCL has to include powderhorn.vcl"
            ))
        })?;
        find(&value, key)
            .cloned()
            .ok_or_else(|| Problem::new(format!("{base} answered without {key:?}: {value}")))
    }
}
