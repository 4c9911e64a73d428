//! What nearly every fleet of the simulator is made of: numbered nodes that all know each other.

use std::time::Duration;

use powderhorn_protocol::config::Config;

use crate::fleet::NodeSpec;

/// What each node's machine booted before the next one's: no two boot clocks may be taken for each other.
const BOOTED_APART: Duration = Duration::from_secs(86_413);

impl NodeSpec {
    /// Node number `node` of a fleet, at a site, with these settings; it knows all others.
    pub fn numbered(node: usize, site: impl Into<String>, settings: Config) -> NodeSpec {
        NodeSpec {
            config: Config {
                name: format!("node-{node}"),
                site: site.into(),
                ..settings
            },
            peers: None,
            boot_ahead: BOOTED_APART * node as u32,
        }
    }
}
