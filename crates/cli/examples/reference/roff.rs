//! A page for man(1), out of the little Markdown that documentation comments use: paragraphs, fenced code, lists and
//! `code`.

use crate::pages::Page;

/// The page. It has no date: the same sources make the same bytes.
pub fn render(page: &Page) -> String {
    let title = page.name.to_uppercase();
    let mut out = format!(
        ".TH \"{}\" {} \"\" \"powderhorn {}\" \"Powderhorn\"\n.SH NAME\n{} \\- {}\n.SH DESCRIPTION\n",
        quoted(&title),
        page.section,
        env!("CARGO_PKG_VERSION"),
        escaped(page.name),
        escaped(page.brief)
    );
    blocks(&mut out, &page.intro);
    heading(&mut out, page.entries_are);
    for entry in &page.entries {
        out.push_str(&format!(".SS \"{}\"\n", quoted(&escaped(&entry.head))));
        blocks(&mut out, &entry.text);
    }
    for (name, text) in &page.more {
        heading(&mut out, name);
        blocks(&mut out, text);
    }
    heading(&mut out, "See also");
    let bold = page.see_also.iter().map(|name| match name.split_once('(') {
        Some((name, section)) => format!("\\fB{}\\fR({section}", escaped(name)),
        None => escaped(name),
    });
    out.push_str(&bold.collect::<Vec<_>>().join(", "));
    out.push('\n');
    out
}

fn heading(out: &mut String, name: &str) {
    out.push_str(&format!(".SH \"{}\"\n", quoted(&name.to_uppercase())));
}

fn blocks(out: &mut String, text: &str) {
    let mut code = false;
    // Whether the next line of text begins a paragraph.
    let mut fresh = false;
    for line in text.lines() {
        if line.starts_with("```") {
            code = !code;
            out.push_str(if code {
                ".PP\n.RS 4\n.nf\n"
            } else {
                ".fi\n.RE\n"
            });
            fresh = !code;
        } else if code {
            let line = line_start(&escaped(line));
            out.push_str(if line.is_empty() { "\\&" } else { &line });
            out.push('\n');
        } else if line.trim().is_empty() {
            fresh = true;
        } else {
            let (item, line) = match line.strip_prefix("- ") {
                Some(rest) => (true, rest),
                None => (false, line),
            };
            if item {
                out.push_str(".IP \\(bu 2\n");
            } else if fresh {
                out.push_str(".PP\n");
            }
            fresh = false;
            out.push_str(&line_start(&inline(line.trim_start())));
            out.push('\n');
        }
    }
}

/// `code` is bold.
fn inline(line: &str) -> String {
    let mut out = String::new();
    for (index, part) in line.split('`').enumerate() {
        match index % 2 {
            1 => out.push_str(&format!("\\fB{}\\fR", escaped(part))),
            _ => out.push_str(&escaped(part)),
        }
    }
    out
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

/// For an argument of a macro.
fn quoted(text: &str) -> String {
    text.replace('"', "\"\"")
}

/// A line that begins with a dot or an apostrophe would be a command.
fn line_start(line: &str) -> String {
    match line.starts_with(['.', '\'']) {
        true => format!("\\&{line}"),
        false => line.to_owned(),
    }
}
