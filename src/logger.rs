//! The runtime's log lines go to Varnish's log: `varnishlog -g raw -i Error,Notice`.

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::shim::{self, Loudness};

struct VarnishLog;

impl Log for VarnishLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let loudness = match record.level() {
            Level::Error | Level::Warn => Loudness::Error,
            Level::Info => Loudness::Notice,
            Level::Debug | Level::Trace => Loudness::Debug,
        };
        shim::log(loudness, &record.args().to_string());
    }

    fn flush(&self) {}
}

/// Once per process; later calls change nothing.
pub fn install() {
    if log::set_logger(&VarnishLog).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}
