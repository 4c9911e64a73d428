//! Which nodes and paths a scenario's words mean.

use powderhorn_protocol::bounds::NAME_BYTES_MAX;

use super::check::NODES_MAX;
use super::parts::{SitePath, SiteSpec, What};
use super::{PathSpec, Scenario, Wrong};
use crate::net::{Nodes, Path};

/// The group of the nodes that are in none of the file's.
const OTHERS: &str = "others";

impl Scenario {
    pub(super) fn paths(&self) -> Result<Vec<Vec<Path>>, Wrong> {
        let included = self.paths_included;
        paths(&self.site, &self.network, &self.local, &self.path, included)
    }

    pub(super) fn site_of(&self) -> Vec<usize> {
        let sites = self.site.iter().enumerate();
        sites
            .flat_map(|(at, site)| std::iter::repeat_n(at, site.nodes))
            .collect()
    }

    /// Groups' names, and the group of each node.
    pub(super) fn groups(&self) -> Result<(Vec<String>, Vec<usize>), Wrong> {
        if self.group.is_empty() {
            let names = self.site.iter().map(|site| site.name.clone()).collect();
            return Ok((names, self.site_of()));
        }
        let mut names = Vec::new();
        let mut group_of = vec![self.group.len(); self.nodes()];
        for (name, nodes) in &self.group {
            let key = format!("group.{name}");
            if name == OTHERS {
                let problem = "this is what the nodes of no group are called";
                return Err(Wrong::new(key, problem));
            }
            for node in self.select(&key, nodes)?.iter() {
                if let Some(other) = names.get(group_of[node]) {
                    let problem = format!("{} is in group {other} too", self.name_of(node));
                    return Err(Wrong::new(key, problem));
                }
                group_of[node] = names.len();
            }
            names.push(name.clone());
        }
        names.push(OTHERS.to_owned());
        Ok((names, group_of))
    }

    /// A node as the words of a scenario name it: "nyc/2".
    pub(super) fn name_of(&self, node: usize) -> String {
        let mut first = 0;
        for site in &self.site {
            if node < first + site.nodes {
                return format!("{}/{}", site.name, node - first);
            }
            first += site.nodes;
        }
        format!("node {node}")
    }

    /// The two halves of a fleet that only these nodes can both talk to.
    pub(super) fn halves(&self, bridge: &Nodes) -> [Nodes; 2] {
        [0, 1].map(|odd| Nodes::new(self.nodes(), |n| n % 2 == odd && !bridge.has(n)))
    }

    /// The nodes that words name: "*" all, "nyc" a site, "nyc/2" its third, "nyc/0-3" four of it. "!nyc"
    /// takes those away from what the other words name, or from all if there are only such words.
    pub(super) fn select(&self, key: &str, words: &[String]) -> Result<Nodes, Wrong> {
        let only_not = words.iter().all(|word| word.starts_with('!'));
        let mut chosen = vec![only_not && !words.is_empty(); self.nodes()];
        let mut taken = vec![false; self.nodes()];
        for word in words {
            let (not, name) = match word.strip_prefix('!') {
                Some(rest) => (true, rest),
                None => (false, word.as_str()),
            };
            let named = self.named(name).ok_or_else(|| {
                Wrong::new(
                    key,
                    format!("{word:?} names no nodes (a site, site/0, site/0-3, * or !…)"),
                )
            })?;
            let to = if not { &mut taken } else { &mut chosen };
            to[named].fill(true);
        }
        let nodes = Nodes::new(chosen.len(), |node| chosen[node] && !taken[node]);
        if nodes.iter().next().is_none() {
            return Err(Wrong::new(key, "names no nodes"));
        }
        Ok(nodes)
    }

    fn named(&self, name: &str) -> Option<std::ops::Range<usize>> {
        if name == "*" {
            return Some(0..self.nodes());
        }
        let (site, which) = name.split_once('/').unwrap_or((name, ""));
        let at = self.site.iter().position(|known| known.name == site)?;
        let begin: usize = self.site[..at].iter().map(|site| site.nodes).sum();
        let count = self.site[at].nodes;
        if which.is_empty() {
            return (name == site).then_some(begin..begin + count);
        }
        let (first, last) = which.split_once('-').unwrap_or((which, which));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last && last < count).then_some(begin + first..begin + last + 1)
    }

    /// The nodes that a fault is about: from and to, or the same twice.
    pub(super) fn fault_nodes(&self, at: usize) -> Result<(Nodes, Nodes), Wrong> {
        let key = |name: &str| format!("fault[{at}].{name}");
        match &self.fault[at].what {
            What::Cut { from, to, .. } | What::Path { from, to, .. } => Ok((
                self.select(&key("from"), from)?,
                self.select(&key("to"), to)?,
            )),
            What::Ring {} => {
                let all = Nodes::new(self.nodes(), |_| true);
                Ok((all.clone(), all))
            }
            What::Bridge { nodes }
            | What::Crash { nodes, .. }
            | What::Freeze { nodes }
            | What::SlowNode { nodes, .. }
            | What::SlowCache { nodes, .. }
            | What::WallClock { nodes, .. }
            | What::Burst { nodes, .. } => {
                let nodes = self.select(&key("nodes"), nodes)?;
                Ok((nodes.clone(), nodes))
            }
        }
    }
}

/// The paths between all sites. The first `included` of `given` are another file's: that file's own check
/// has found nothing wrong with them.
pub(super) fn paths(
    sites: &[SiteSpec],
    network: &PathSpec,
    local: &PathSpec,
    given: &[SitePath],
    included: usize,
) -> Result<Vec<Vec<Path>>, Wrong> {
    network.check("network")?;
    local.check("local")?;
    let between = network.over(Path::default());
    let count = sites.len();
    let mut paths = vec![vec![between; count]; count];
    for (at, row) in paths.iter_mut().enumerate() {
        row[at] = local.over(Path::default());
    }
    for (at, path) in given.iter().enumerate() {
        let key = |of: &str| format!("path[{}]{of}", at.saturating_sub(included));
        path.set.check_set(&key(".set"))?;
        let find = |name: &String| {
            let found = sites.iter().position(|site| site.name == *name);
            found.ok_or_else(|| Wrong::new(key(".between"), format!("no site {name}")))
        };
        let (one, other) = (find(&path.between[0])?, find(&path.between[1])?);
        // A file may say other things than the one that it includes, but not two of its own.
        let first = if at < included { 0 } else { included };
        let [a, b] = &path.between;
        let alike = |path: &SitePath| path.between == [&**a, b] || path.between == [&**b, a];
        if let Some(before) = given[first..at].iter().position(alike) {
            let problem = format!("path[{before}] is between {a} and {b}, too");
            return Err(Wrong::new(key(".between"), problem));
        }
        for (from, to) in [(one, other), (other, one)] {
            paths[from][to] = path.set.over(paths[from][to]);
        }
    }
    Ok(paths)
}

/// Nodes of all sites, and no overflow however many are asked for.
pub(super) fn nodes(sites: &[SiteSpec]) -> usize {
    let nodes = sites.iter().map(|site| site.nodes);
    nodes.fold(0, usize::saturating_add)
}

/// Sites that can be: not too large, each with a name of its own and a share of the purges.
pub(super) fn sites(sites: &[SiteSpec]) -> Result<(), Wrong> {
    let count = nodes(sites);
    if count > NODES_MAX {
        let problem = format!("a fleet has at most {NODES_MAX} nodes, not {count}");
        return Err(Wrong::new("site", problem));
    }
    for (at, site) in sites.iter().enumerate() {
        let name = &site.name;
        let visible = name.bytes().all(|byte| byte.is_ascii_graphic());
        let a_word = name == "*" || name.starts_with('!') || name.contains('/');
        if !visible || a_word || !(1..=NAME_BYTES_MAX).contains(&name.len()) {
            let problem = format!(
                "must be 1 to {NAME_BYTES_MAX} visible ASCII characters, not {name:?}; * alone, ! in front and / \
                 have meanings of their own"
            );
            return Err(Wrong::new(format!("site[{at}].name"), problem));
        }
        if site.nodes == 0 {
            let problem = "must be 1 or more";
            return Err(Wrong::new(format!("site[{at}].nodes"), problem));
        }
        if sites[at + 1..].iter().any(|other| other.name == site.name) {
            let problem = format!("there are two sites {}", site.name);
            return Err(Wrong::new(format!("site[{at}].name"), problem));
        }
        if !(site.weight > 0.0 && site.weight.is_finite()) {
            let problem = format!("must be a number of more than 0, not {}", site.weight);
            return Err(Wrong::new(format!("site[{at}].weight"), problem));
        }
    }
    Ok(())
}
