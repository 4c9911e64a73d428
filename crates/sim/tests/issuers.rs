//! A large fleet in which everybody issues, on bad links: see `scenarios/many-issuers.toml`.

use std::path::Path;

use powderhorn_sim::scenario::Scenario;

#[test]
fn the_last_purge_of_a_stream_arrives_soon_however_many_streams_there_are() {
    let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let scenario = Scenario::read(&scenarios.join("many-issuers.toml")).expect("a scenario");
    for seed in 1..=3 {
        let (report, _) = scenario
            .run(seed, &mut |_| ())
            .expect("a scenario that can be run");
        println!("seed {seed}: {:?}", report.groups);
        assert_eq!(report.coverage, 1.0, "seed {seed}");
        assert!(report.passed(), "seed {seed}: {:?}", report.checks);
    }
}
