//! Spans of time as people write them: `250ms`, `1.5s`, `8m`, `2h`.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// Not a span of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a span of time such as 100us, 250ms, 1.5s, 8m, 2h")]
pub struct SpanError(String);

/// A span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A span of time, forwards or (`-1h`) backwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signed {
    span: Duration,
    back: bool,
}

impl Signed {
    /// In ms.
    pub fn ms(self) -> i64 {
        let ms = i64::try_from(self.span.as_millis()).unwrap_or(i64::MAX);
        if self.back { -ms } else { ms }
    }
}

impl FromStr for Span {
    type Err = SpanError;
    fn from_str(text: &str) -> Result<Self, SpanError> {
        let error = || SpanError(text.to_owned());
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let us = match &text[digits.len()..] {
            "us" | "µs" => 1.0,
            "ms" => 1e3,
            "s" => 1e6,
            "m" => 60e6,
            "h" => 3_600e6,
            _ => return Err(error()),
        };
        let number: f64 = digits.parse().map_err(|_| error())?;
        let us = number * us;
        // A century: no sum of a few of these overflows.
        if !(0.0..=3.2e15).contains(&us) {
            return Err(error());
        }
        Ok(Span(Duration::from_micros(us.round() as u64)))
    }
}

impl FromStr for Signed {
    type Err = SpanError;
    fn from_str(text: &str) -> Result<Self, SpanError> {
        let (back, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let span: Span = rest.parse()?;
        Ok(Signed { span: span.0, back })
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Signed {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_with_their_units() {
        let us = |text: &str| text.parse::<Span>().map(|span| span.0.as_micros());
        assert_eq!(us("250ms"), Ok(250_000));
        assert_eq!(us("1.5s"), Ok(1_500_000));
        assert_eq!(us("8m"), Ok(480_000_000));
        assert_eq!(us("100us"), Ok(100));
        for bad in ["", "5", "s", "-1s", "1d", "1e99h", "NaNs", "5 s"] {
            assert!(us(bad).is_err(), "{bad}");
        }
        assert_eq!("-1h".parse::<Signed>().map(Signed::ms), Ok(-3_600_000));
    }
}
