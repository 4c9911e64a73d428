//! A large fleet in which everybody issues, on bad links: see `scenarios/many-issuers*.toml`.

use std::path::Path;

use powderhorn_sim::scenario::Scenario;

#[test]
fn the_last_purge_of_a_stream_arrives_soon_however_many_streams_there_are() {
    run("many-issuers.toml");
}

#[test]
fn the_only_purge_of_a_stream_is_pushed_to_who_knows_nothing_of_it() {
    run("many-issuers-half.toml");
}

fn run(name: &str) {
    let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let scenario = Scenario::read(&scenarios.join(name)).expect("a scenario");
    for seed in 1..=3 {
        let (report, _) = scenario
            .run(seed, &mut |_| ())
            .expect("a scenario that can be run");
        println!("{name}, seed {seed}: {:?}", report.groups);
        assert_eq!(report.coverage, 1.0, "{name}, seed {seed}");
        assert!(report.passed(), "{name}, seed {seed}: {:?}", report.checks);
    }
}
