//! The VMOD.
