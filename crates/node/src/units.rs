//! Durations and sizes, as an operator writes them.

pub(crate) const MINUTE_MS: u64 = 60_000;
pub(crate) const DAY_MS: u64 = 86_400_000;
pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

/// Longest first where one ends in another.
pub(crate) const DURATION_UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", MINUTE_MS),
    ("h", 60 * MINUTE_MS),
    ("d", DAY_MS),
];
pub(crate) const BYTE_UNITS: [(&str, u64); 4] =
    [("KiB", KIB), ("MiB", MIB), ("GiB", GIB), ("B", 1)];

pub(crate) fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text.strip_prefix(digits)?.trim_start();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    digits.parse::<u64>().ok()?.checked_mul(*factor)
}

/// In the largest unit that fits without a rest.
pub(crate) fn in_units(value: u64, units: &[(&str, u64)]) -> String {
    let fits = |unit: &&(&str, u64)| value % unit.1 == 0 && value >= unit.1;
    let best = units.iter().filter(fits).max_by_key(|unit| unit.1);
    match best.or(units.first()) {
        Some((name, factor)) => format!("{}{name}", value / factor),
        None => value.to_string(),
    }
}
