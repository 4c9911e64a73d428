//! Figure 5 of *Bimodal Multicast* (Birman et al., 1999): how many of 1,000 processes still lack a
//! message after each round, when the first multicast failed and when it reached 90 % of them.
//!
//! The settings are those of the paper's appendix A.6: fanout 1, 5 % of messages lost, 0.1 % of
//! processes crash in a round. The paper's own curves are in its PDF as vectors, from which the
//! crosses were read: a unit there is two processes on the left and 0.15 on the right.

use std::path::Path;

use super::{Effort, FigureError};
use crate::plot::{Axis, Check, Colour, Corner, Figure, Mark, Panel, Series};
use crate::recurrence::Recurrence;
use crate::rounds::{Exchange, Start};

/// Where the crosses come from.
pub const SOURCE: &str = "Bimodal Multicast, ACM TOCS 17(2), 1999, Fig. 5, read from its vectors";

/// The paper's left curve from the state before the first round on: its first multicast failed.
pub const FAILED: [f64; 20] = [
    997.1, 997.1, 994.2, 988.3, 979.5, 967.7, 941.3, 894.3, 815.0, 685.8, 515.4, 327.5, 174.8,
    79.3, 35.2, 14.7, 5.9, 2.9, 0.0, 0.0,
];

/// The paper's right curve: its first multicast reached 90 %.
pub const REACHED: [f64; 8] = [99.71, 42.50, 16.91, 6.62, 2.50, 0.74, 0.15, 0.15];

/// Processes without the message before the first round and after each of `rounds`, by the paper's
/// recurrence; `reached` is the share of the others that the first multicast reached.
pub fn lacking(reached: f64, rounds: usize) -> Vec<f64> {
    const PROCESSES: u32 = 1_000;
    let exchange = Exchange::of_the_paper(PROCESSES, 0.05);
    let holders = 1.0 + f64::from(PROCESSES - 1) * reached;
    let mut state = Recurrence::new(exchange, Start::holders(holders)).with_crashes(0.001);
    let mut lacking = vec![state.lacking()];
    for _ in 0..rounds {
        state.advance(1);
        lacking.push(state.lacking());
    }
    lacking
}

/// Draws the figure. Both efforts are the same.
pub fn draw(out: &Path, _effort: Effort) -> Result<(), FigureError> {
    let numbered = |values: &[f64]| -> Vec<(f64, f64)> {
        // The paper counts the state before any gossip as its round 1.
        let rounds = (1u32..).map(f64::from);
        rounds.zip(values.iter().copied()).collect()
    };
    let panel = |title: &str, (from, to): (f64, f64), most: f64, paper: &[f64], ours: &[f64]| {
        let x = Axis::linear("rounds, as the paper counts them", from, to);
        let mut panel = Panel::new(
            title,
            x,
            Axis::linear("processes without the message", 0.0, most),
        );
        panel.legend = Corner::TopRight;
        let line = Series::new("recurrence", Mark::Line, Colour::Blue, numbered(ours));
        let crosses = Series::new(
            "the paper's curve",
            Mark::Crosses,
            Colour::Black,
            numbered(paper),
        );
        panel.series = vec![line.unit("processes"), crosses.unit("processes")];
        panel
    };
    let check = |what: &str, ours: f64, reference: f64| {
        Check::new(what, "processes", ours, reference, SOURCE)
    };
    let failed = lacking(0.0, FAILED.len() - 1);
    let reached = lacking(0.9, REACHED.len() - 1);
    let mut checks = Vec::new();
    for at in [5, 10, 15] {
        let what = format!("without the message, multicast failed, round {}", at + 1);
        checks.push(check(&what, failed[at], FAILED[at]));
    }
    for at in [1, 3] {
        let what = format!(
            "without the message, multicast reached 90 %, round {}",
            at + 1
        );
        checks.push(check(&what, reached[at], REACHED[at]));
    }
    let figure = Figure {
        name: "e_paper_recurrence".to_owned(),
        title: "Figure 5 of Bimodal Multicast, by the recurrence of its appendix A.6".to_owned(),
        note: "1,000 processes, fanout 1, 5 % of messages lost, 0.1 % of processes crash in each round."
            .to_owned(),
        panels: vec![
            panel("The first multicast fails", (0.0, 20.0), 1_000.0, &FAILED, &failed),
            panel("It reaches 90 % of the processes", (1.0, 8.0), 100.0, &REACHED, &reached),
        ],
        checks,
    };
    Ok(figure.write(out)?)
}
