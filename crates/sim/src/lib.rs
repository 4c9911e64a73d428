//! Powderhorn in a machine: the protocol's behaviour, computed rather than hoped for.
//!
//! Two kinds of models answer different questions.
//!
//! *Rounds.* One message among nodes that gossip in rounds, as in the analysis of *Bimodal
//! Multicast* (Birman et al., ACM Transactions on Computer Systems 17, 2, 1999). No clock, no
//! network, no production code: what the algorithm itself can do. [`recurrence`] has the averages,
//! exact however small they get; [`rounds`] has chance, by simulation and as a Markov chain;
//! [`converge`] answers for one point.
//!
//! *The fleet.* Thousands of nodes of the production core, `powderhorn-protocol`, on a simulated
//! network with a virtual clock: what the code does. The same seed gives the same run.
//!
//! [`figures`] draws both with [`plot`], each value beside the one that the paper or Powderhorn's
//! authors gave.
//!
//! Nothing in here reads a clock or draws ambient randomness: a result depends on the arguments and
//! the seed alone.
#![forbid(unsafe_code)]

pub mod converge;
pub mod figures;
pub mod fleet;
pub mod net;
pub mod planted;
pub mod plot;
pub mod queue;
pub mod record;
pub mod recurrence;
pub mod rounds;
pub mod scenario;
pub mod size;
pub mod span;
mod specs;
pub mod swarm;
pub mod systems;
