//! What sets the other systems of the talk apart from ours, as orderings that have to hold.

use std::time::Duration;

use powderhorn_sim::systems::cases::{self, Case, Fault, Load};
use powderhorn_sim::systems::link::Window;
use powderhorn_sim::systems::{Kind, Outcome, talk};

fn case(fault: Fault) -> Case {
    let all = cases::cases(true);
    let found = all.into_iter().find(|case| case.fault == fault);
    found.expect("each fault has a case")
}

fn run(kind: Kind, fault: Fault) -> Outcome {
    cases::run(kind, &case(fault), &Load::new(25.0), 7)
}

#[test]
fn one_lost_packet_holds_up_a_tcp_connection_and_none_of_ours() {
    let tcp = talk::over_tcp(Window::Free);
    println!("no congestion control: {tcp:?}");
    // A round trip of 400 ms to mend it, and all that comes meanwhile waits with it.
    assert!(tcp.messages >= 400 && tcp.most_ms >= 400.0, "{tcp:?}");
    assert!(tcp.sum_ms >= 80_000.0, "{tcp:?}");
    // The window is halved as well, and what comes faster than it opens again waits for it.
    let reno = talk::over_tcp(Window::Reno);
    println!("Reno: {reno:?}");
    assert!(reno.sum_ms > tcp.sum_ms && reno.messages > tcp.messages);
    let ours = talk::over_ours();
    println!("ours: {ours:?}");
    assert!(ours.messages <= 1 && ours.most_ms < 10.0, "{ours:?}");
}

#[test]
fn nothing_is_lost_while_all_is_well() {
    for kind in Kind::ALL {
        let got = run(kind, Fault::None);
        println!("{kind:?}: {} for each", got.datagrams_per_delivery);
        assert_eq!(got.lost_messages, 0, "{kind:?}");
    }
}

#[test]
fn acknowledgements_double_the_datagrams() {
    let acks = run(Kind::Acks, Fault::None);
    let each = acks.datagrams_per_delivery;
    assert!((1.99..2.05).contains(&each), "{each}");
}

#[test]
fn a_dead_node_fills_the_memory_of_who_is_responsible_for_it_and_not_ours() {
    let short = case(Fault::DeadNode);
    let long = Case {
        seconds: short.seconds + short.lasts,
        lasts: short.lasts * 2,
        ..short
    };
    let load = Load {
        retention: Duration::from_secs(20),
        ..Load::new(25.0)
    };
    let most = |kind, case: &Case| cases::run(kind, case, &load, 7);
    for kind in [Kind::Responsibility, Kind::Acks, Kind::Broker] {
        let (once, twice) = (most(kind, &short), most(kind, &long));
        let (once, twice) = (once.memory_messages_max, twice.memory_messages_max);
        println!("{kind:?}: {once}, {twice}");
        let ratio = twice as f64 / once as f64;
        assert!((1.7..2.3).contains(&ratio), "{kind:?}: {once}, {twice}");
    }
    // All of the purges that the dead node lacks, at the least.
    let kept = most(Kind::Responsibility, &short).memory_messages_max as f64;
    let missed = short.lasts as f64 * load.purges_per_second;
    assert!(kept > missed * 0.85, "{kept} of {missed}");

    let well = Case {
        fault: Fault::None,
        ..short
    };
    let ours = [&well, &short, &long].map(|case| most(Kind::Ours, case));
    let stored = ours.each_ref().map(|outcome| outcome.stored_messages_max);
    println!("ours: {stored:?}");
    for stored in stored {
        // Nothing is kept for anybody in particular, so this is all: twenty seconds of purges, give or take
        // chance and a round, whatever happens to others.
        assert!((450..650).contains(&stored), "{stored}");
    }
}

#[test]
fn the_broker_is_a_single_point_of_failure() {
    let broker = run(Kind::Broker, Fault::DeadHub);
    let ours = run(Kind::Ours, Fault::DeadHub);
    println!("{} ms against {} ms", broker.max_ms, ours.max_ms);
    // Nothing got through for the 12 s that it was gone.
    assert!(broker.max_ms > 10_000.0 || broker.lost_messages > 0);
    assert!(ours.max_ms < 1_500.0 && ours.lost_messages == 0);
}

#[test]
fn plumtree_prunes_most_of_its_payloads_and_loses_what_a_cut_kept_out() {
    let well = run(Kind::Plumtree, Fault::None);
    let payloads = well.payloads_per_delivery.expect("it is counted");
    // Flooding its overlay of five neighbours would send four. One tree for all origins is none of
    // them's own best, so it does not settle at one.
    assert!((1.0..2.0).contains(&payloads), "{payloads}");
    let cut = run(Kind::Plumtree, Fault::Cut);
    assert!(cut.lost_messages > 0);
}

#[test]
fn whoever_repeats_until_it_is_confirmed_loses_nothing_and_neither_do_we() {
    for fault in [Fault::Loss(0.1), Fault::Cut] {
        for kind in Kind::ALL {
            let got = run(kind, fault);
            let (lost, p99) = (got.lost_messages, got.p99_ms);
            println!("{kind:?}, {fault:?}: {lost} lost, p99 {p99} ms");
            if kind != Kind::Plumtree {
                assert_eq!(lost, 0, "{kind:?}, {fault:?}");
            }
        }
    }
}

#[test]
fn with_a_tenth_lost_ours_is_the_first_to_have_it_everywhere() {
    let ours = run(Kind::Ours, Fault::Loss(0.1)).p99_ms;
    for kind in Kind::ALL {
        let other = run(kind, Fault::Loss(0.1)).p99_ms;
        assert!(ours <= other, "{kind:?}: {other} ms against {ours} ms");
    }
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_one_another() {
    for kind in Kind::ALL {
        let traces = [7, 7, 8].map(|seed| {
            let outcome = cases::run(kind, &case(Fault::Loss(0.1)), &Load::new(25.0), seed);
            let json = serde_json::to_string(&outcome).expect("numbers and names");
            (outcome.trace, json)
        });
        assert_eq!(traces[0], traces[1], "{kind:?}");
        assert_ne!(traces[0].0, traces[2].0, "{kind:?}");
    }
}
