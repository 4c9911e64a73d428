//! One list out of three sources.

use super::*;
use crate::config::Discovery;
use crate::lookup::Answer;

fn name(text: &str) -> HostName {
    HostName::parse(text).expect(text)
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect(text)
}

fn listed(text: &str, name: &str) -> PeerConfig {
    let address = match text.parse::<SocketAddr>() {
        Ok(address) => address.into(),
        Err(_) => PeerAddress::Name(HostName::parse(text).expect(text)),
    };
    PeerConfig {
        name: name.into(),
        site: String::new(),
        address,
    }
}

fn config(peers: Vec<PeerConfig>, dns: &[&str]) -> Config {
    let discovery = Discovery {
        dns: dns.iter().map(|text| name(text)).collect(),
        ..Discovery::default()
    };
    Config {
        peers,
        discovery,
        ..Config::single_node()
    }
}

fn members(config: &Config, locals: &[&str]) -> Members {
    let locals = locals.iter().map(|text| address(text)).collect();
    Members::new(Time::from_us(0), config, locals)
}

fn leads_to(members: &mut Members, text: &str, ips: &[&str]) {
    let found = Ok(ips
        .iter()
        .map(|ip| ip.parse().expect("an address"))
        .collect());
    let name = name(text);
    let answer = Answer { name, found };
    let interval = members.interval();
    assert!(!members.lookups.answer(Time::from_us(0), interval, answer));
}

fn shown(members: &mut Members) -> Vec<String> {
    let show = |peer: Member| {
        let sources: Vec<String> = peer.sources.iter().map(ToString::to_string).collect();
        format!("{} {} ({})", peer.address, peer.name, sources.join(", "))
    };
    members.wanted().peers.into_iter().map(show).collect()
}

#[test]
fn sources_add_up_and_a_peer_of_several_is_one() {
    let peers = vec![listed("192.0.2.2:4277", ""), listed("b.test:4277", "b")];
    let config = config(peers, &["all.test:4277"]);
    let mut members = members(&config, &["192.0.2.1:4277"]);
    assert_eq!(shown(&mut members), ["192.0.2.2:4277  (static)"]);
    leads_to(&mut members, "b.test:4277", &["192.0.2.3"]);
    // This node itself is among them.
    let all = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"];
    leads_to(&mut members, "all.test:4277", &all);
    let expected = [
        "192.0.2.2:4277  (static, dns all.test:4277)",
        "192.0.2.3:4277 b (static, dns all.test:4277)",
        "192.0.2.4:4277  (dns all.test:4277)",
    ];
    assert_eq!(shown(&mut members), expected);
    // A source that goes takes with it what nobody else has.
    let without = super::tests::config(vec![listed("192.0.2.2:4277", "")], &["all.test:4277"]);
    members.set(Time::from_us(0), &without);
    assert_eq!(
        shown(&mut members)[1],
        "192.0.2.3:4277  (dns all.test:4277)"
    );
    members.set(Time::from_us(0), &super::tests::config(Vec::new(), &[]));
    assert!(shown(&mut members).is_empty());
}

/// A node has an address of each family and is one peer.
#[test]
fn of_a_name_with_both_families_the_first_that_is_listened_on_counts() {
    let config = config(Vec::new(), &["all.test:4277"]);
    let both = ["192.0.2.2", "2001:db8::2"];
    for (locals, found, expected) in [
        (
            &["192.0.2.1:4277", "[2001:db8::1]:4277"][..],
            &both[..],
            Some("192.0.2.2:4277"),
        ),
        (
            &["[2001:db8::1]:4277", "192.0.2.1:4277"],
            &both,
            Some("[2001:db8::2]:4277"),
        ),
        (
            &["192.0.2.1:4277", "[2001:db8::1]:4277"],
            &both[1..],
            Some("[2001:db8::2]:4277"),
        ),
        (&["192.0.2.1:4277"], &both[1..], None),
    ] {
        let mut members = members(&config, locals);
        leads_to(&mut members, "all.test:4277", found);
        let wanted = members.wanted();
        let places: Vec<_> = wanted.peers.iter().map(|p| p.address.to_string()).collect();
        assert_eq!(
            places,
            expected.map(str::to_owned).into_iter().collect::<Vec<_>>()
        );
        assert_eq!(wanted.unreachable.len(), usize::from(expected.is_none()));
    }
}

#[test]
fn this_node_is_known_by_its_addresses_only() {
    let peers = vec![
        listed("127.0.0.1:4277", "by the wildcard"),
        listed("127.0.0.1:4278", "another port"),
        listed("192.0.2.9:4277", "as others know it"),
        listed("198.51.100.2:4277", &Config::single_node().name),
    ];
    let config = Config {
        advertise: Some(address("192.0.2.9:4277")),
        ..config(peers, &[])
    };
    let mut members = members(&config, &["0.0.0.0:4277"]);
    // Twice, as what is known of an address is remembered.
    for _ in 0..2 {
        let wanted = members.wanted();
        let places: Vec<_> = wanted.peers.iter().map(|p| p.address.to_string()).collect();
        assert_eq!(places, ["127.0.0.1:4278", "198.51.100.2:4277"]);
    }
}

#[test]
fn beyond_the_most_peers_those_of_names_are_left_out_first() {
    let ip = |net: u8, n: usize| format!("10.{net}.{}.{}", n / 256, n % 256);
    let peers = (0..PEERS_MAX - 1)
        .map(|n| listed(&format!("{}:4277", ip(1, n)), ""))
        .collect();
    let config = config(peers, &["all.test:4277"]);
    let mut members = members(&config, &["192.0.2.1:4277"]);
    let found: Vec<String> = (0..5).map(|n| ip(0, n)).collect();
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    leads_to(&mut members, "all.test:4277", &found);
    let wanted = members.wanted();
    assert_eq!((wanted.peers.len(), wanted.left_out), (PEERS_MAX, 4));
    let named = wanted
        .peers
        .iter()
        .filter(|peer| peer.sources != [Source::Static]);
    assert_eq!(named.count(), 1);
}

/// Not everybody who writes the file replaces it whole.
#[test]
fn a_nodes_file_that_is_being_written_is_left_for_the_next_look() {
    let path = std::env::temp_dir().join(format!("powderhorn-nodes-{}", std::process::id()));
    let write = |text: &str| std::fs::write(&path, text).expect("a temporary file");
    write("[x]\na = 192.0.2.2\nb = 192.0.2.3\n");
    let mut config = config(Vec::new(), &[]);
    config.discovery.nodes_file = Some(path.clone());
    let mut members = members(&config, &["192.0.2.1:4277"]);
    let now = Time::from_us(0);
    // The first look does not wait: a node starts with what there is.
    assert!(matches!(members.poll_file(now), Some(Ok(2))));
    assert!(members.poll_file(now).is_none());
    assert_eq!(shown(&mut members).len(), 2);
    write("[x]\na = 192.0.2.2\n");
    assert!(
        members.poll_file(now).is_none(),
        "it was written to just now"
    );
    std::thread::sleep(Duration::from_millis(250));
    assert!(matches!(members.poll_file(now), Some(Ok(1))));
    assert_eq!(shown(&mut members), ["192.0.2.2:4277 a (file)"]);
    std::fs::remove_file(&path).expect("its removal");
    assert!(matches!(members.poll_file(now), Some(Err(_))));
    assert!(members.poll_file(now).is_none(), "said once");
    assert_eq!(shown(&mut members), ["192.0.2.2:4277 a (file)"]);
}
