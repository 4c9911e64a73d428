//! Lines end at the frame: they are cut to the unit square before they are drawn.

/// Corners of a line that keeps its height until the next point.
pub(super) fn stairs(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut stairs = Vec::with_capacity(points.len() * 2);
    for &(x, y) in points {
        if let Some(&(_, before)) = stairs.last() {
            stairs.push((x, before));
        }
        stairs.push((x, y));
    }
    stairs
}

/// The parts of a line that lie in the unit square.
pub(super) fn within_frame(points: &[(f64, f64)]) -> Vec<Vec<(f64, f64)>> {
    let mut runs: Vec<Vec<(f64, f64)>> = Vec::new();
    for pair in points.windows(2) {
        let Some((from, to)) = clip(pair[0], pair[1]) else {
            continue;
        };
        match runs.last_mut().filter(|run| run.last() == Some(&from)) {
            Some(run) => run.push(to),
            None => runs.push(vec![from, to]),
        }
    }
    runs
}

/// The part of a segment that lies in the unit square (Liang and Barsky's).
fn clip(from: (f64, f64), to: (f64, f64)) -> Option<((f64, f64), (f64, f64))> {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let (mut first, mut last) = (0.0, 1.0);
    for (along, room) in [
        (-dx, from.0),
        (dx, 1.0 - from.0),
        (-dy, from.1),
        (dy, 1.0 - from.1),
    ] {
        if along == 0.0 && room < 0.0 {
            return None;
        } else if along < 0.0 {
            first = f64::max(first, room / along);
        } else if along > 0.0 {
            last = f64::min(last, room / along);
        }
    }
    // The ends themselves are kept as they are, so that neighbours are seen to touch.
    let at = |part: f64| match part {
        0.0 => from,
        1.0 => to,
        part => (from.0 + part * dx, from.1 + part * dy),
    };
    (first <= last).then(|| (at(first), at(last)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_at_the_frame() {
        let runs = within_frame(&[(0.0, 0.5), (0.5, 0.5), (1.0, 1.5), (1.5, 0.5)]);
        assert_eq!(runs, [[(0.0, 0.5), (0.5, 0.5), (0.75, 1.0)]]);
        assert_eq!(within_frame(&[(0.0, 2.0), (1.0, 2.0)]).len(), 0);
    }

    #[test]
    fn stairs_keep_their_height() {
        let stairs = stairs(&[(0.0, 0.1), (0.5, 0.9)]);
        assert_eq!(stairs, [(0.0, 0.1), (0.5, 0.1), (0.5, 0.9)]);
    }
}
