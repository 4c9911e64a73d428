//! powderhorn-node
