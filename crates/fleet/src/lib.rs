//! powderhorn-fleet
