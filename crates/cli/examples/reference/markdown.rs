//! A page for docs/.

use crate::pages::Page;

/// The page, with a word on where it comes from.
pub fn render(page: &Page) -> String {
    let mut out = format!(
        "# {}\n\n<!-- Made by `cargo run -p powderhorn-cli --example reference` from the sources: change it there. -->\n\n{}\n\n## {}\n",
        page.name, page.intro, page.entries_are
    );
    for entry in &page.entries {
        out.push_str(&format!("\n### `{}`\n\n{}\n", entry.head, entry.text));
    }
    for (heading, text) in &page.more {
        out.push_str(&format!("\n## {heading}\n\n{text}\n"));
    }
    out
}
