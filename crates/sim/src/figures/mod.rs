//! The figures: each module draws one, with [`crate::plot`].

use crate::plot::PlotError;
use crate::scenario::ScenarioError;

pub mod bursts;
pub mod convergence;
pub mod cost;
pub mod exchange;
pub mod footprint;
pub mod incidents;
pub mod latency;
pub mod paper_recurrence;
pub mod perturbed;
pub mod systems;
mod troubled;

/// How much work goes into a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Seconds, for tests: fewer runs and nodes, the same curves.
    Quick,
    /// What is published.
    Full,
}

impl Effort {
    /// The first for [`Effort::Quick`], the second for [`Effort::Full`].
    pub fn pick<T>(self, quick: T, full: T) -> T {
        match self {
            Effort::Quick => quick,
            Effort::Full => full,
        }
    }
}

/// A figure could not be drawn.
#[derive(Debug, thiserror::Error)]
pub enum FigureError {
    /// Its files could not be written.
    #[error(transparent)]
    Plot(#[from] PlotError),
    /// Its scenario cannot be run.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// Memory could not be measured.
    #[error("measuring memory: {0}")]
    Footprint(String),
    /// All were drawn, and what some show is not as it must be.
    #[error("marks were missed:\n{0}")]
    Missed(String),
    /// There is none of that name. Nothing was drawn.
    #[error("--only {0}: no such figure; there are {known}", known = names())]
    Unknown(String),
}

/// Which figures, and where to.
#[derive(Clone, Debug, clap::Args)]
pub struct FiguresArgs {
    /// The folder that they go to
    #[arg(long, default_value = "target/figures")]
    out: std::path::PathBuf,
    /// Seconds instead of minutes: fewer runs and nodes, the same curves
    #[arg(long)]
    quick: bool,
    /// Only these, by name
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

type Draw = fn(&std::path::Path, Effort) -> Result<(), FigureError>;

const FIGURES: &[(&str, Draw)] = &[
    ("convergence", convergence::draw),
    ("exchange", exchange::draw),
    ("paper-recurrence", paper_recurrence::draw),
    ("latency", latency::draw),
    ("incidents", incidents::draw),
    ("perturbed", perturbed::draw),
    ("bursts", bursts::draw),
    ("cost", cost::draw),
    ("systems", systems::draw),
];

fn names() -> String {
    let names: Vec<&str> = FIGURES.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

impl FiguresArgs {
    /// How many they are.
    pub fn count(&self) -> u64 {
        FIGURES.iter().filter(|(name, _)| self.wants(name)).count() as u64
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

/// Draws them all, and then says which marks were missed. `next` is told the name of each one before its turn.
pub fn run(args: &FiguresArgs, next: &mut dyn FnMut(&str)) -> Result<(), FigureError> {
    let known = |only: &String| FIGURES.iter().any(|(name, _)| name == only);
    if let Some(unknown) = args.only.iter().find(|only| !known(only)) {
        return Err(FigureError::Unknown(unknown.clone()));
    }
    let effort = if args.quick {
        Effort::Quick
    } else {
        Effort::Full
    };
    let mut missed = Vec::new();
    for (name, draw) in FIGURES.iter().filter(|(name, _)| args.wants(name)) {
        next(name);
        // The others are worth looking at all the same.
        match draw(&args.out, effort) {
            Err(FigureError::Plot(PlotError::Missed { name, what })) => {
                missed.push(format!("{name}: {what}"));
            }
            done => done?,
        }
    }
    if missed.is_empty() {
        return Ok(());
    }
    Err(FigureError::Missed(missed.join("\n")))
}
