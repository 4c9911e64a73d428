//! The reference pages can be made of the sources as they are: each function and each key is documented, and what is
//! documented is what is read.

#[path = "../examples/reference/markdown.rs"]
mod markdown;
#[path = "../examples/reference/pages.rs"]
mod pages;
#[path = "../examples/reference/roff.rs"]
mod roff;

use std::path::Path;

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The macros that the pages use; anything else at the start of a line would be a slip in the escaping.
fn only_known_macros(man: &str) {
    let known = [
        ".TH", ".SH", ".SS", ".PP", ".RS", ".RE", ".nf", ".fi", ".IP",
    ];
    for line in man.lines().filter(|line| line.starts_with(['.', '\''])) {
        let name = line.split(' ').next().unwrap_or_default();
        assert!(known.contains(&name), "{line}");
    }
    assert!(!man.contains('`'), "a backquote is left");
}

#[test]
fn each_function_is_on_the_page_of_the_vmod() {
    let page = pages::vcl(&root()).unwrap();
    let heads: Vec<&str> = page.entries.iter().map(|e| e.head.as_str()).collect();
    for head in [
        "VOID start([STRING config = single-node])",
        "STRING purge(STRING url, [STRING host = req.http.host], [BOOL soft = false])",
        "BOOL overtaken()",
        "DURATION max_staleness()",
    ] {
        assert!(heads.contains(&head), "{head} is not among {heads:#?}");
    }
    only_known_macros(&roff::render(&page));
    let markdown = markdown::render(&page);
    assert!(markdown.contains("\n### `VOID mark()`\n"), "{markdown}");
}

#[test]
fn each_key_is_on_the_page_of_the_configuration() {
    let page = pages::config(&root()).unwrap();
    let text = |key: &str| {
        let entry = page.entries.iter().find(|entry| entry.head == key);
        entry.map(|entry| entry.text.as_str()).unwrap_or_default()
    };
    assert!(text("journal.dir").contains("/var/lib/powderhorn"));
    assert!(text("purge.key_headers").contains("Surrogate-Key, xkey"));
    assert!(text("peer.address").contains("port"));
    only_known_macros(&roff::render(&page));
}

/// The pages in docs/ are what the sources say now.
#[test]
fn the_documents_are_up_to_date() {
    let pages = [
        ("docs/VCL.md", "vcl", pages::vcl(&root())),
        ("docs/CONFIGURATION.md", "config", pages::config(&root())),
    ];
    for (file, what, page) in pages {
        let there = std::fs::read_to_string(root().join(file)).unwrap();
        let same = there == markdown::render(&page.unwrap());
        assert!(
            same,
            "cargo run -p powderhorn-cli --example reference -- {what} markdown >{file}"
        );
    }
}
