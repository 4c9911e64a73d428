//! README.md does what it says: its configuration and its VCL make two varnishds that see each other, its
//! commands are run there, and its `make` targets are what `.ci/run` calls.
//!
//! All is taken out of README.md as it stands; only addresses and paths are another machine's. A command that
//! nobody runs fails the test, wherever it is written: between lines, or in one.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use powderhorn_fleet::cleanup::WorkDir;
use powderhorn_fleet::fleet::{START_TIMEOUT, find_vcl_dir, find_vmod};
use powderhorn_fleet::http::Client;
use powderhorn_fleet::origin::Origin;
use powderhorn_fleet::varnish::{Settings, Varnishd, free_udp_port};

const README: &str = include_str!("../README.md");
const MAKEFILE: &str = include_str!("../Makefile");
const CI: &str = include_str!("../.ci/run");

/// The host in README's purge: no name of a machine that there is.
const HOST: &str = "any-node";
/// How long two nodes may take to know how far each of them is.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// What README says to a shell or shows of its output, and blocks in other languages.
#[derive(Debug, Default)]
struct Readme {
    vcl: Vec<String>,
    toml: Vec<String>,
    commands: Vec<String>,
    verdicts: Vec<String>,
}

/// Takes README apart. What it does not know, it does not pass over.
fn readme() -> Readme {
    let mut all = Readme::default();
    let mut prose = String::new();
    let mut lines = README.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            let text = block.join("\n") + "\n";
            match language {
                "vcl" => all.vcl.push(text),
                "toml" => all.toml.push(text),
                "sh" => block.iter().for_each(|line| all.line(line)),
                // A picture.
                "" => assert!(text.contains('│'), "a block of no language:\n{text}"),
                other => panic!("a block of {other}, which nobody tries:\n{text}"),
            }
        } else if let Some(line) = line.strip_prefix("    ") {
            all.line(line);
        } else {
            let _ = writeln!(prose, "{line}");
        }
    }
    let spans = prose.split('`').skip(1).step_by(2);
    for span in spans.filter(|span| span.contains(char::is_whitespace)) {
        // `key = value` is in a configuration.
        if span.split_whitespace().nth(1) != Some("=") {
            all.commands.push(span.to_owned());
        }
    }
    all
}

impl Readme {
    /// A line of a shell, or the first line of the status.
    fn line(&mut self, line: &str) {
        if line.starts_with("ok: ") {
            self.verdicts.push(line.to_owned());
            return;
        }
        let command = line.split(" # ").next().unwrap_or_default().trim();
        if !command.is_empty() {
            self.commands.push(command.to_owned());
        }
    }
}

/// The targets that `.ci/run` makes, with all that these depend on.
fn made_by_ci() -> BTreeSet<&'static str> {
    let depends = |target: &str| {
        let mut rules = MAKEFILE.lines();
        let rule = rules.find_map(|line| line.strip_prefix(target)?.strip_prefix(':'));
        let rule = rule.unwrap_or_else(|| panic!("make {target}: no such target"));
        let (names, _) = rule.split_once("##").unwrap_or((rule, ""));
        names.split_whitespace()
    };
    let steps = CI
        .lines()
        .filter_map(|line| line.strip_prefix("step make "));
    let mut todo: Vec<&str> = steps
        .filter_map(|step| step.split_whitespace().next())
        .collect();
    let mut made = BTreeSet::new();
    while let Some(target) = todo.pop() {
        if made.insert(target) {
            todo.extend(depends(target));
        }
    }
    made
}

#[test]
fn each_make_target_is_one_that_ci_makes() {
    let made = made_by_ci();
    assert!(made.contains("test"), "{made:?}");
    let commands = readme().commands;
    let targets = commands
        .iter()
        .filter_map(|line| line.strip_prefix("make "));
    let mut seen = 0;
    for target in targets {
        assert!(made.contains(target), "make {target}: .ci/run does not");
        seen += 1;
    }
    assert!(seen > 2, "{commands:?}");
}

/// The programs that [`Pair::run`] lets a command begin with.
const PROGRAMS: [&str; 3] = ["curl", "powderhorn", "varnishadm"];

/// README's node and its peer, with README's VCL.
struct Pair {
    node: Varnishd,
    peer: Varnishd,
    dir: WorkDir,
    _origin: Origin,
}

/// `text` with each of these in the place of what README has, which must be there.
fn replaced(text: &str, with: &[(&str, String)]) -> String {
    with.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "no {from} in\n{text}");
        text.replace(from, to)
    })
}

/// The command `powderhorn`, which cargo puts where it puts the VMOD.
fn command_dir(vmod: &Path) -> PathBuf {
    let program = std::env::args_os().next().map(PathBuf::from);
    let program = program.unwrap_or_default();
    let own = program.ancestors().skip(1).take(2);
    let mut dirs = own.chain(vmod.parent());
    let found = dirs.find(|dir| dir.join("powderhorn").is_file());
    let found = found.expect("no command powderhorn: `cargo build --workspace`");
    std::path::absolute(found).expect("its path")
}

fn start(readme: &Readme) -> Pair {
    let dir = WorkDir::new("powderhorn-readme").expect("a directory for temporary files");
    let vmod = find_vmod().expect("no libvmod_powderhorn.so: `cargo build`, or POWDERHORN_VMOD");
    let vmod = std::path::absolute(vmod).expect("its path");
    let commands = command_dir(&vmod);
    let vmods = dir.path().join("vmods");
    std::fs::create_dir(&vmods).expect("a directory");
    // `import powderhorn;` takes the file's own name, and `powderhorn` is a command in PATH.
    for (from, to) in [
        (vmod, vmods.join("libvmod_powderhorn.so")),
        (commands.join("powderhorn"), dir.path().join("powderhorn")),
    ] {
        std::os::unix::fs::symlink(from, to).expect("a link");
    }
    let key = dir.path().join("powderhorn.key");
    run_in(
        dir.path(),
        &format!("powderhorn keygen {} 2>&1", key.display()),
    );
    let ports = [0; 2].map(|_| free_udp_port().expect("a UDP port"));
    let at = |n: usize| format!("127.0.0.1:{}", ports[n]);
    let origin = Origin::start().expect("the origin");
    let [toml] = readme.toml.as_slice() else {
        panic!("one configuration, not {:?}", readme.toml);
    };
    let names = ["cache-fra-01", "cache-lon-01"];
    let mut varnishds = [0, 1].map(|n: usize| {
        let own = dir.path().join(names[n]);
        std::fs::create_dir(&own).expect("a node's directory");
        let config = own.join("powderhorn.toml");
        // A node's name is that of its host, and its journal in /var/lib: here are two on one host.
        let here = format!(
            "name = \"{}\"\nlisten = \"{}\"\n\n[journal]\ndir = \"{}\"",
            names[n],
            at(n),
            own.join("state").display()
        );
        let text = replaced(
            toml,
            &[
                ("listen = \"0.0.0.0:4277\"", here),
                ("/etc/varnish/powderhorn.key", key.display().to_string()),
                ("192.0.2.8:4277", at(1 - n)),
                (
                    "name = \"cache-lon-01\"\nsite",
                    format!("name = \"{}\"\nsite", names[1 - n]),
                ),
            ],
        );
        std::fs::write(&config, text).expect("the configuration");
        run_in(
            dir.path(),
            &format!("powderhorn check {}", config.display()),
        );
        Varnishd::spawn(
            &own,
            settings(readme, names[n], &config, &vmods, origin.addr()),
        )
        .expect("varnishd starts")
    });
    for varnishd in &mut varnishds {
        varnishd.wait_ready(START_TIMEOUT).expect("README's VCL");
    }
    let [node, peer] = varnishds;
    let curl = format!("connect-to = \"{HOST}:80:{}\"\n", node.addr());
    std::fs::write(dir.path().join(".curlrc"), curl).expect("curl's settings");
    Pair {
        node,
        peer,
        dir,
        _origin: origin,
    }
}

fn settings(
    readme: &Readme,
    name: &str,
    config: &Path,
    vmods: &Path,
    origin: SocketAddr,
) -> Settings {
    let [vcl] = readme.vcl.as_slice() else {
        panic!("one VCL, not {:?}", readme.vcl);
    };
    let backend = format!(
        ".host = \"{}\"; .port = \"{}\";",
        origin.ip(),
        origin.port()
    );
    let vcl = replaced(
        vcl,
        &[
            ("/etc/varnish/powderhorn.toml", config.display().to_string()),
            (".host = \"192.0.2.80\";", backend),
        ],
    );
    Settings {
        name: name.to_owned(),
        vcl,
        vmod_dir: Some(vmods.to_owned()),
        vcl_dir: Some(find_vcl_dir()),
        storage: "16m".to_owned(),
        params: Vec::new(),
        extensions: Vec::new(),
    }
}

/// What a shell prints, which has to end well.
fn run_in(dir: &Path, command: &str) -> String {
    let path = std::env::var("PATH").expect("PATH");
    let output = Command::new("sh")
        .args(["-c", command])
        .env("PATH", format!("{}:{path}", dir.display()))
        .env("CURL_HOME", dir)
        .env("VARNISH_DEFAULT_N", dir.join("cache-fra-01/n"))
        .env("no_proxy", "*")
        .stdin(Stdio::null())
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Pair {
    fn run(&self, command: &str) -> String {
        let program = command.split_whitespace().next().unwrap_or_default();
        assert!(PROGRAMS.contains(&program), "{command}: nobody runs that");
        run_in(self.dir.path(), command)
    }

    /// Whether both have this page of README's host in their caches; it is there then.
    fn both_have(&self, url: &str) -> [bool; 2] {
        [&self.node, &self.peer].map(|varnishd| {
            let mut client = Client::new(varnishd.addr(), HOST, Duration::from_secs(10));
            let response = client.get(url).expect("the page");
            assert_eq!(response.status, 200);
            // Two numbers: this request's, and that of the one that fetched it.
            let ids = response.header("X-Varnish").expect("X-Varnish");
            ids.split_whitespace().count() == 2
        })
    }
}

/// A line with every number and the name at its end masked.
fn shape(line: &str) -> String {
    let (line, _) = line.rsplit_once(", from ").unwrap_or((line, ""));
    let mut shape = String::new();
    for c in line.chars() {
        match c.is_ascii_digit() || c == '.' {
            true if shape.ends_with('N') => {}
            true => shape.push('N'),
            false => shape.push(c),
        }
    }
    shape
}

#[test]
fn what_the_readme_says_is_so() {
    let readme = readme();
    let pair = start(&readme);
    let [verdict] = readme.verdicts.as_slice() else {
        panic!("one verdict, not {:?}", readme.verdicts);
    };
    let commands = readme.commands.iter();
    let commands: Vec<_> = commands
        .filter(|command| !command.starts_with("make "))
        .collect();
    for program in PROGRAMS {
        let mut begin = commands.iter().map(|command| command.split(' ').next());
        assert!(begin.any(|first| first == Some(program)), "no {program}");
    }
    for command in commands {
        if command.starts_with("curl -X PURGE ") {
            pair.both_have("/news");
            assert_eq!(pair.both_have("/news"), [true; 2]);
            let id = pair.run(command);
            let started = Instant::now();
            let known = format!("powderhorn trace --url http://{} {id}", pair.peer.addr());
            let everywhere = format!("{}: applied on 2 of 2 nodes", id.trim());
            while !pair.run(&known).starts_with(&everywhere) {
                assert!(started.elapsed() < PATIENCE, "{}", pair.run(&known));
                std::thread::sleep(POLL);
            }
            assert_eq!(pair.both_have("/news"), [false; 2], "after {command}");
            continue;
        }
        let started = Instant::now();
        loop {
            let answer = pair.run(command);
            let mut lines = answer.lines().map(|line| shape(line.trim()));
            if lines.any(|line| line == shape(verdict)) {
                break;
            }
            assert!(started.elapsed() < PATIENCE, "{command}:\n{answer}");
            std::thread::sleep(POLL);
        }
    }
}
