//! The command line. Its texts are also the man pages.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::health::Share;

/// Looks after a fleet of Varnish caches that Powderhorn purges.
///
/// status, peers, purge, trace and check-health ask one node. Without options that is the varnishd on this host,
/// by varnishadm, which takes root or the right to read Varnish's secret. Other nodes are asked over HTTP (--url),
/// if their VCL includes powderhorn.vcl and its acl powderhorn_purgers has this host's address.
#[derive(Parser)]
#[command(name = "powderhorn", version, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Make a fleet key
    ///
    /// Writes 64 random hexadecimal digits to a new file that root may write and the group varnish may read, and
    /// nobody else. An existing file is never overwritten: to rotate keys, add the new one to the file as a second line on
    /// every node first. All nodes of a fleet need the same key, so copy the file.
    Keygen {
        /// The new file
        #[arg(default_value = "/etc/varnish/powderhorn.key")]
        file: PathBuf,
    },
    /// Check a configuration file
    ///
    /// Reads it as the VMOD does. A mistake is told with file, line and key, and the exit status is 1. What the VMOD
    /// would accept but a running Varnish would stumble over, such as a key that it may not read, is a warning.
    Check {
        /// The file
        #[arg(default_value = "/etc/varnish/powderhorn.toml")]
        file: PathBuf,
    },
    /// Show the state of the fleet, as a node sees it
    ///
    /// The first line is the verdict, then come the peers, those that need attention first.
    Status {
        #[command(flatten)]
        node: NodeArgs,
        /// Print all that the node tells, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the other nodes, those that need attention first
    Peers {
        #[command(flatten)]
        node: NodeArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Purge a URL on every node of the fleet
    ///
    /// Prints the purge's id. By varnishadm this takes a varnishd that was started with Powderhorn's commands (-E).
    Purge {
        #[command(flatten)]
        node: NodeArgs,
        /// A path with its query ("/news?page=2"), or all of it ("http://www.example.com/news")
        url: String,
        /// The host, as in the Host header; it may be left out if URL has it
        host: Option<String>,
    },
    /// Show where a purge has been applied, and who is missing
    ///
    /// By varnishadm this takes a varnishd that was started with Powderhorn's commands (-E).
    Trace {
        #[command(flatten)]
        node: NodeArgs,
        /// The id that the purge was answered with
        id: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check a node, as monitoring systems want it
    ///
    /// Prints one line with the verdict and figures, and exits with 0 (ok), 1 (warning), 2 (critical) or 3 (unknown:
    /// the node did not answer), as Nagios and its relatives expect.
    CheckHealth {
        #[command(flatten)]
        node: NodeArgs,
        #[command(flatten)]
        limits: LimitArgs,
    },
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print this command's man page, or write one for each subcommand
    #[command(hide = true)]
    Man {
        /// The directory for the pages
        dir: Option<PathBuf>,
    },
}

/// Which node to ask, and how.
#[derive(Args)]
#[command(next_help_heading = "Which node")]
pub struct NodeArgs {
    /// Ask the varnishd of this name or working directory, as varnishadm -n
    #[arg(short = 'n', value_name = "NAME")]
    pub name: Option<String>,
    /// Ask the varnishd whose management interface is here, as varnishadm -T
    #[arg(short = 'T', value_name = "ADDRESS:PORT")]
    pub address: Option<String>,
    /// The file with that varnishd's secret, as varnishadm -S
    #[arg(short = 'S', value_name = "FILE")]
    pub secret: Option<PathBuf>,
    /// How long to wait for an answer, in seconds
    #[arg(short = 't', value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub timeout: Duration,
    /// Ask over HTTP instead, on the port that the node serves on, such as http://cache-fra-07:6081
    #[arg(id = "node-url", long = "url", value_name = "URL", conflicts_with_all = ["name", "address", "secret"])]
    pub url: Option<String>,
}

/// When to warn, and when to alarm. A number of peers may be a share of them, such as 10%.
#[derive(Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Peers not heard of, from which on to warn
    #[arg(long, value_name = "PEERS", default_value = "1")]
    pub down_warning: Share,
    /// Peers not heard of, from which on it is critical
    #[arg(long, value_name = "PEERS", default_value = "50%")]
    pub down_critical: Share,
    /// Purges that are known and have not been received, from which on to warn
    #[arg(long, value_name = "PURGES", default_value = "1000")]
    pub wanted_warning: u64,
    /// Purges that are known and have not been received, from which on it is critical
    #[arg(long, value_name = "PURGES", default_value = "100000")]
    pub wanted_critical: u64,
    /// Purges that wait for the cache, from which on to warn
    #[arg(long, value_name = "PURGES", default_value = "1000")]
    pub waiting_warning: u64,
    /// Purges that wait for the cache, from which on it is critical
    #[arg(long, value_name = "PURGES", default_value = "100000")]
    pub waiting_critical: u64,
    /// Seconds by which the slowest node that is known of is behind with applying purges, from which on to warn
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    pub behind_warning: u64,
    /// Seconds by which the slowest node that is known of is behind, from which on it is critical
    #[arg(long, value_name = "SECONDS", default_value = "300")]
    pub behind_critical: u64,
}

/// Zero would be for ever in one of the two ways.
fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(n) if (0.1..=600.0).contains(&n) => Ok(Duration::from_secs_f64(n)),
        _ => Err("0.1 to 600 seconds".into()),
    }
}
