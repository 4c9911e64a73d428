//! To come.
use crate::Arguments;
use std::error::Error;
pub fn run(_: &Arguments) -> Result<bool, Box<dyn Error>> {
    Err("not there yet".into())
}
