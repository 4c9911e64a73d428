//! Scenarios: a fleet, its network, its purges and what goes wrong when, as a TOML file.
//!
//! The files of this crate are in `scenarios/`; each says by itself what it is about. A run is decided by
//! the file and the seed, and ends with checks: each purge applied on each node that could hold the
//! object, and the marks that the file sets.

use std::collections::BTreeMap;
use std::io;
use std::path::Path as FilePath;

use serde::Deserialize;

use crate::span::Span;

mod check;
mod parts;
mod run;
mod select;

pub use parts::{Expect, Fault, NodeConfig, PathSpec, SitePath, SiteSpec, TrafficSpec};
pub use run::{Bound, Check, Report};

/// Why a scenario cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// Which.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// It is not TOML, or has keys or values that mean nothing here.
    #[error("{path}: {source}")]
    Toml {
        /// Which.
        path: String,
        /// What and where.
        source: Box<toml::de::Error>,
    },
    /// It asks for something that cannot be.
    #[error("{path}: {key}: {problem}")]
    Invalid {
        /// The file that the key is in.
        path: String,
        /// The key, as in `fault[2].nodes`.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// What is wrong with a file, before it is said which file that is.
#[derive(Debug)]
struct Wrong {
    key: String,
    problem: String,
}

impl Wrong {
    fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Wrong {
            key: key.into(),
            problem: problem.into(),
        }
    }

    fn within(self, path: &str) -> ScenarioError {
        ScenarioError::Invalid {
            path: path.to_owned(),
            key: self.key,
            problem: self.problem,
        }
    }
}

/// A scenario file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Where it was read, for errors.
    #[serde(skip)]
    file: String,
    /// A file with a world that several scenarios share, beside this one: sites, paths, `network` and
    /// `local`. What this file says of these itself comes on top.
    include: Option<String>,
    /// How many of `path` are the included file's.
    #[serde(skip)]
    paths_included: usize,
    /// Its name.
    pub name: String,
    /// What it shows, for people.
    #[serde(default)]
    pub about: String,
    /// Before anything is measured: sessions are proven, round trips learnt.
    #[serde(default = "parts::ten_seconds")]
    pub warm_up: Span,
    /// How long purges are issued and measured.
    pub duration: Span,
    /// How long the fleet has afterwards to apply what is still missing.
    #[serde(default = "parts::a_minute")]
    pub drain: Span,
    /// Steps of what is measured over time.
    #[serde(default = "parts::ten_seconds")]
    pub bin: Span,
    /// Settings of all nodes.
    #[serde(default)]
    pub config: NodeConfig,
    /// Between any two nodes, where no `path` says otherwise.
    #[serde(default)]
    pub network: PathSpec,
    /// Between nodes of one site, where `network` says otherwise.
    #[serde(default)]
    pub local: PathSpec,
    /// The sites: this file's, then the included ones.
    #[serde(default)]
    pub site: Vec<SiteSpec>,
    /// Between two sites, in both directions; each pair once in a file.
    #[serde(default)]
    pub path: Vec<SitePath>,
    /// The purges.
    pub traffic: TrafficSpec,
    /// What goes wrong.
    #[serde(default)]
    pub fault: Vec<Fault>,
    /// Groups to be told apart in what is measured; the sites, if there are none. Nodes of no group are
    /// the group "others".
    #[serde(default)]
    pub group: BTreeMap<String, Vec<String>>,
    /// Marks.
    #[serde(default)]
    pub expect: Vec<Expect>,
}

impl Scenario {
    /// Reads a file.
    pub fn read(path: &FilePath) -> Result<Scenario, ScenarioError> {
        let name = path.display().to_string();
        let text = read_text(&name)?;
        Scenario::parse(&name, &text)
    }

    /// Reads a file's text. `path` is for errors, and what it includes is looked for beside it.
    pub fn parse(path: &str, text: &str) -> Result<Scenario, ScenarioError> {
        Scenario::parse_with(path, text, &read_text)
    }

    /// The same; `read` gives the text of what it includes.
    pub fn parse_with(
        path: &str,
        text: &str,
        read: &dyn Fn(&str) -> Result<String, ScenarioError>,
    ) -> Result<Scenario, ScenarioError> {
        let mut scenario: Scenario = from_toml(path, text)?;
        scenario.file = path.to_owned();
        if let Some(include) = &scenario.include {
            let beside = FilePath::new(path).with_file_name(include);
            let beside = beside.display().to_string();
            let world: World = from_toml(&beside, &read(&beside)?)?;
            world.check().map_err(|wrong| wrong.within(&beside))?;
            scenario.add(world);
        }
        scenario.check().map_err(|wrong| wrong.within(path))?;
        Ok(scenario)
    }

    fn add(&mut self, world: World) {
        self.network = self.network.or(&world.network);
        self.local = self.local.or(&world.local);
        self.site.extend(world.site);
        self.paths_included = world.path.len();
        self.path.splice(0..0, world.path);
    }

    /// Nodes of all sites.
    pub fn nodes(&self) -> usize {
        select::nodes(&self.site)
    }
}

/// What a scenario can include.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct World {
    #[serde(default)]
    network: PathSpec,
    #[serde(default)]
    local: PathSpec,
    site: Vec<SiteSpec>,
    #[serde(default)]
    path: Vec<SitePath>,
}

impl World {
    fn check(&self) -> Result<(), Wrong> {
        select::sites(&self.site)?;
        select::paths(&self.site, &self.network, &self.local, &self.path, 0)?;
        Ok(())
    }
}

fn read_text(path: &str) -> Result<String, ScenarioError> {
    std::fs::read_to_string(path).map_err(|source| ScenarioError::Read {
        path: path.to_owned(),
        source,
    })
}

fn from_toml<T: for<'de> Deserialize<'de>>(path: &str, text: &str) -> Result<T, ScenarioError> {
    toml::from_str(text).map_err(|source| ScenarioError::Toml {
        path: path.to_owned(),
        source: Box::new(source),
    })
}
