//! powderhorn-protocol
